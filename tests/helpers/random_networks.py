"""Small random networks as hypothesis draws them: in-place layers, normalisations, outputs, precisions and defects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from hard_aug import Normalized

CHANNEL_MEANS, CHANNEL_STDS = (0.5, 0.4, 0.3), (0.25, 0.3, 0.2)
BODIES = ("linear", "convolutional", "residual")
STARTS = ("plain", "relu_", "sub_", "data.sub_", "clamp_")
NORMS = ("none", "batch", "frozen batch", "batch without statistics", "group", "layer")
WIDE, NARROW = torch.float32, (torch.float16, torch.bfloat16, torch.float64)
#: Networks that the library has to refuse, or to say that they teach nothing.
DEFECTS = (
    "body under no_grad",
    "all under no_grad",
    "detached",
    "rounded",
    "dead units",
    "zero head",
    "NaN weight",
    "huge logits",
    "masked class",
    "constant",
    "tuple",
    "dict",
    "labels",
    "one logit",
    "other classes",
    "no batch axis",
)
HIDDEN, CLASSES = 6, 4


@dataclass(frozen=True)
class NetworkPlan:
    """What `RandomNetwork` is built from.

    Attributes:
        body: one of `BODIES`.
        start: what it does to its images first, one of `STARTS`.
        norm: of the hidden layer, one of `NORMS`.
        dropout: after the hidden layer.
        dtype: of its parameters.
        casts: whether it casts images to that, as it has to.
        normalized: whether it is wrapped by `Normalized`.
        trainable: `requires_grad` of its parameters.
        training: its mode.
        gain: of the logits.
        defect: one of `DEFECTS`, or none.
        seed: of its weights.
    """

    body: str = "linear"
    start: str = "plain"
    norm: str = "none"
    dropout: bool = False
    dtype: torch.dtype = WIDE
    casts: bool = True
    normalized: bool = False
    trainable: bool = True
    training: bool = False
    gain: float = 1.0
    defect: str = ""
    seed: int = field(default=0, repr=False)

    @property
    def has_batch_statistics(self) -> bool:
        """Whether the hidden layer is normalised by the batch, in the network's mode."""
        return self.norm == "batch without statistics" or (self.norm == "batch" and self.training)

    def build(self, channels: int, side: int) -> nn.Module:
        """Build the network for images `(B, channels, side, side)`."""
        torch.manual_seed(self.seed)
        network: nn.Module = RandomNetwork(self, channels, side)
        if self.normalized:
            network = Normalized(network, CHANNEL_MEANS[:channels], CHANNEL_STDS[:channels])
        network.requires_grad_(self.trainable)
        network.train(self.training)
        if self.norm == "frozen batch":
            for module in network.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return network


class RandomNetwork(nn.Module):
    """Logits `(B, CLASSES)` for images `(B, C, H, W)`, as the plan says."""

    def __init__(self, plan: NetworkPlan, channels: int, side: int) -> None:
        super().__init__()
        self.plan = plan
        flat = plan.body == "linear"
        self.body: nn.Module = (
            nn.Linear(channels * side * side, HIDDEN) if flat else nn.Conv2d(channels, HIDDEN, 3, padding=1)
        )
        self.residual = nn.Conv2d(HIDDEN, HIDDEN, 3, padding=1) if plan.body == "residual" else None
        self.norm = _norm(plan.norm, flat=flat)
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout(0.3 if plan.dropout else 0.0)
        classes = {"one logit": 1, "other classes": CLASSES + 1}.get(plan.defect, CLASSES)
        self.head = nn.Linear(HIDDEN, classes)
        with torch.no_grad():
            self.head.weight *= 3 * plan.gain
            self._break(plan.defect)
        self.to(plan.dtype)

    def _break(self, defect: str) -> None:
        if defect == "zero head":
            self.head.weight.zero_()
        elif defect == "NaN weight":
            self.head.weight[0, 0] = torch.nan
        elif defect == "huge logits":
            self.head.weight *= 1e30
        elif defect == "dead units":
            self.body.bias -= 1e3  # type: ignore[operator]  # a layer's

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...] | dict[str, Tensor]:
        defect = self.plan.defect
        x = _started(images, self.plan.start)
        if self.plan.casts:
            x = x.to(self.plan.dtype)
        if defect == "rounded":
            x = (255 * x).round() / 255
        if defect == "detached":
            x = x.detach()
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and defect not in ("body under no_grad", "all under no_grad")
        ):
            x = self._features(x)
        with torch.set_grad_enabled(torch.is_grad_enabled() and defect != "all under no_grad"):
            logits: Tensor = self.head(x)
        if defect == "masked class":
            logits = logits.masked_fill(torch.arange(CLASSES) == 1, -torch.inf)
        if defect == "constant":
            logits = torch.zeros_like(logits)
        if defect == "labels":
            return logits.argmax(1)
        if defect == "no batch axis":
            return logits[0] if len(logits) else logits.sum(0)
        return {"tuple": (logits, x), "dict": {"logits": logits}}.get(defect, logits)

    def _features(self, x: Tensor) -> Tensor:
        if self.plan.body == "linear":
            x = x.flatten(1)
        x = self.norm(self.body(x))
        if self.residual is not None:
            x = x + self.residual(x)
        x = self.dropout(self.activation(x))
        return x if x.ndim == 2 else x.mean((2, 3))


def _started(images: Tensor, start: str) -> Tensor:
    if start == "relu_":
        return nn.functional.relu(images, inplace=True)
    if start == "sub_":
        return images.sub_(0.5)
    if start == "data.sub_":
        images.data.sub_(0.5)
    if start == "clamp_":
        return images.clamp_(0.1, 0.9).mul_(2)
    return images


def _norm(norm: str, *, flat: bool) -> nn.Module:
    batch_norm = nn.BatchNorm1d if flat else nn.BatchNorm2d
    if norm in ("batch", "frozen batch"):
        module = batch_norm(HIDDEN)
        nn.init.uniform_(module.running_mean, -0.1, 0.1)  # type: ignore[arg-type]  # it has them
        nn.init.uniform_(module.running_var, 0.5, 1.5)  # type: ignore[arg-type]
        return module
    if norm == "batch without statistics":
        return batch_norm(HIDDEN, track_running_stats=False)
    if norm == "group":
        return nn.GroupNorm(2, HIDDEN)
    if norm == "layer":
        return nn.GroupNorm(1, HIDDEN)
    return nn.Identity()


def mostly(usual: Any, *others: Any, one_in: int = 4) -> st.SearchStrategy[Any]:
    """Draw one of `others` in one of `one_in` cases and else `usual`, to which hypothesis shrinks."""
    rest = st.sampled_from(others)
    return st.integers(1, one_in).flatmap(lambda number: rest if number == one_in else st.just(usual))


def network_plans(*, training: bool) -> st.SearchStrategy[NetworkPlan]:
    """Draw plans of networks that are mostly in the given mode."""
    return st.builds(
        NetworkPlan,
        body=st.sampled_from(BODIES),
        start=mostly(*STARTS),
        norm=st.sampled_from(NORMS),
        dropout=st.booleans(),
        dtype=mostly(WIDE, *NARROW, one_in=5),
        casts=mostly(True, False, one_in=8),
        normalized=mostly(False, True),
        trainable=mostly(True, False) if training else st.booleans(),
        training=mostly(training, not training),
        gain=mostly(1.0, 0.01, 30.0),
        defect=mostly("", *DEFECTS, one_in=8),
        seed=st.integers(0, 999),
    )
