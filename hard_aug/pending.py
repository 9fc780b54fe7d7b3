"""Pending: a micro-batch of the `Joint` schedule between its call and the augmenter's step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hard_aug.transforms import Context


@dataclass(slots=True)
class Pending:
    """What is needed to finish one micro-batch's ascent once the user's backward has run.

    The leaf's gradient is that of the user's total loss. `HardBatch.loss` also notes the gradient that reached its own
    value, which is every factor outside it at once: GradScaler's, the division by the number of micro-batches, a
    weight in a sum of losses. Dividing by it gives the exact gradient of the hard view's mean, whatever those were.

    Attributes:
        images: `(n, C, H, W)`, the share of the clean batch that the policy learns from.
        u: `(n, P)` with a graph to the policy.
        context: of the transform.
        reference_logits: `(n, K)`, the teacher's on the clean share.
        batch: B, the size of the whole micro-batch.
        image_gradient: `(n, C, H, W)`, captured.
        outer_gradient: scalar, of the loss; None where the user computed the loss.
        hard_weight: of the hard view in the loss.
        student_logits: `(n, K)`, of the loss's own forward.
    """

    images: Tensor
    u: Tensor
    context: Context
    reference_logits: Tensor
    batch: int
    image_gradient: Tensor | None = None
    outer_gradient: Tensor | None = None
    hard_weight: float = 1.0
    student_logits: Tensor | None = None

    def watch(self, leaf: Tensor) -> None:
        """Capture the gradient of `leaf`, `(B, C, H, W)`, during the user's backward."""

        def capture(gradient: Tensor) -> None:
            share = gradient[: len(self.images)].detach().clone()
            self.image_gradient = share if self.image_gradient is None else self.image_gradient + share

        leaf.register_hook(capture)  # type: ignore[no-untyped-call]  # untyped in torch

    def observe(self, loss: Tensor, student_logits: Tensor, temperature: float, hard_weight: float) -> None:
        """Take note of `HardBatch.loss`."""
        self.student_logits = student_logits[: len(self.images)]
        self.hard_weight = hard_weight

        def capture(gradient: Tensor) -> None:
            noted = gradient.detach().clone()
            self.outer_gradient = noted if self.outer_gradient is None else self.outer_gradient + noted

        if loss.requires_grad:
            loss.register_hook(capture)  # type: ignore[no-untyped-call]  # untyped in torch

    @property
    def ready(self) -> bool:
        """Whether a backward has reached the hard images with a weight."""
        return self.image_gradient is not None and (self.outer_gradient is None or self.hard_weight > 0)

    def per_sample_gradient(self) -> Tensor:
        """`(n, C, H, W)` float32: of each sample's own loss on its hard image."""
        if self.image_gradient is None:
            raise RuntimeError("no backward has reached the hard images; call loss.backward() before augmenter.step()")
        gradient = self.image_gradient.to(torch.promote_types(self.image_gradient.dtype, torch.float32))
        if self.outer_gradient is None:  # a loss of the user's own; `HardBatch.loss`, if called, was only looked at
            return gradient * self.batch
        return gradient / self.outer_gradient.to(gradient.dtype) * (self.batch / self.hard_weight)


class Accumulated:
    """Sums over the samples since the last step, ready for an ascent.

    Attributes:
        exact: gradients of the policy's parameters, free of any outer factor.
        scaled: those of losses of the user's own, still carrying the user's gradient scale.
        change: of the teacher's answer, `I`.
        count: how many samples.
    """

    def __init__(self, parameters: list[Tensor]) -> None:
        self.exact = [torch.zeros_like(p) for p in parameters]
        self.scaled = [torch.zeros_like(p) for p in parameters]
        self.change = torch.zeros((), device=parameters[0].device) if parameters else torch.zeros(())
        self.count = 0

    def add(self, *, exact: list[Tensor], scaled: list[Tensor] | None, change: Tensor, count: int) -> None:
        """Add one micro-batch's sums."""
        self.exact = [a + b for a, b in zip(self.exact, exact, strict=True)]
        if scaled is not None:
            self.scaled = [a + b for a, b in zip(self.scaled, scaled, strict=True)]
        self.change = self.change + change
        self.count += count

    def means(self, scale: float) -> tuple[list[Tensor], Tensor]:
        """Gradients of the batch mean, with the user's scale taken out, and the mean change."""
        gradients = [(e + s / scale) / self.count for e, s in zip(self.exact, self.scaled, strict=True)]
        return gradients, self.change / self.count

    def state_dict(self) -> dict[str, Any]:
        """Copies of the sums."""
        return {
            "exact": [g.clone() for g in self.exact],
            "scaled": [g.clone() for g in self.scaled],
            "change": self.change.clone(),
            "count": self.count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        for own, given in zip((*self.exact, *self.scaled), (*state["exact"], *state["scaled"]), strict=True):
            own.copy_(given)
        self.change, self.count = self.change.new_tensor(float(state["change"])), int(state["count"])
