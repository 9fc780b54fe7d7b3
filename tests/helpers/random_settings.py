"""Random settings of a `HardAugmenter` and of its calls, as hypothesis draws them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.objectives import (
    KL,
    ConfidenceGap,
    ConfidenceMargin,
    ConfidenceRatio,
    Constraint,
    DecisionMaskedKL,
    Hinge,
    JensenShannon,
    LogitMSE,
    Penalty,
    ResponseChange,
    ReverseKL,
)
from hard_aug.policies import Conditional, Gaussian, Generator, Search, Uniform
from hard_aug.schedules import Alternating, Joint, Threshold
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, PatchMix, Perspective, Transform
from tests.helpers.random_networks import CHANNEL_MEANS, CHANNEL_STDS, CLASSES, NetworkPlan, mostly, network_plans

#: Each takes the number of channels and the side of the images.
TRANSFORMS: dict[str, Callable[[int, int], Transform]] = {
    "affine": lambda channels, side: Affine(),
    "translation": lambda channels, side: Affine(rotation=None, scale=None, shear=None),
    "color": lambda channels, side: Color() if channels == 3 else Color(saturation=None, hue=None),
    "hue": lambda channels, side: Color(),
    "elastic": lambda channels, side: Elastic(control=4),
    "filter": lambda channels, side: Filter(),
    "motion": lambda channels, side: Filter(motion_blur=0.5, solarize=0.5, noise=None, blur=None),
    "perspective": lambda channels, side: Perspective(),
    "patch mix": lambda channels, side: PatchMix(image_size=side, patch_size=side // 2),
    "blend": lambda channels, side: PatchMix(image_size=side, patch_size=side, mode="relaxed"),
}
#: Each takes the transform and the number of channels.
POLICIES: dict[str, Callable[[Transform, int], Any]] = {
    "default": lambda transform, channels: None,
    "gaussian": lambda transform, channels: Gaussian(transform.spec, std=0.5),
    "generator": lambda transform, channels: Generator(transform.spec, width=4),
    "conditional": lambda transform, channels: Conditional(transform.spec, channels=channels, width=2),
    "uniform": lambda transform, channels: Uniform(transform.spec),
    "search": lambda transform, channels: Search(transform.spec, candidates=2),
    "ascent": lambda transform, channels: Search(transform.spec, candidates=1, steps=1),
    "search of a learner": lambda transform, channels: Search(
        transform.spec, candidates=2, proposal=Gaussian(transform.spec)
    ),
}
LEARNERS = ("default", "gaussian", "generator", "conditional", "search of a learner")
OBJECTIVES = (
    KL(),
    KL(temperature=1.0),
    ReverseKL(),
    JensenShannon(),
    LogitMSE(),
    DecisionMaskedKL(),
    ResponseChange(),
    ConfidenceGap(target="teacher"),
    ConfidenceRatio(target="teacher"),
    ConfidenceMargin(),
    ConfidenceGap(2.0),
)
INVARIANCES: dict[str, Callable[[], Any]] = {
    "default": lambda: None,
    "penalty": lambda: Penalty(1.0),
    "none": lambda: Penalty(0.0),
    "hinge": lambda: Hinge(0.5),
    "constraint": lambda: Constraint(),
}
SCHEDULES = (
    Alternating(),
    None,
    Alternating(every=2, fraction=0.3),
    Alternating(steps=2, fraction=0.01),
    Joint(),
    Joint(every=2, fraction=0.5),
    Threshold(max_steps=2),
    Threshold(fraction=0.5, max_idle_calls=1),
)
EXPLORATIONS = (
    Exploration(entropy_weight=0.0, min_variance=None),
    Exploration(min_variance=None),
    None,
    Exploration(min_variance=0.9, min_uniform_fraction=0.5),
)
NORMALIZATIONS = ("none", "loader", "per network")
IMAGE_FAULTS = ("NaN", "too bright", "bytes", "channels last", "no batch axis", "one channel more")
LABELS = ("right", "none", "out of range", "too few", "floating point")


@dataclass(frozen=True)
class Setup:
    """Networks, settings of an augmenter, and how it is called.

    Attributes:
        teacher: plan of the teacher.
        student: plan of the student.
        channels: of the images.
        side: of the images, pixels.
        transforms: keys of `TRANSFORMS`, in order.
        policy: key of `POLICIES`.
        objective: one of `OBJECTIVES`.
        invariance: key of `INVARIANCES`.
        schedule: None: the default.
        exploration: None: the default.
        hard_fraction: see `HardAugmenter`; so are the next four.
        warmup_calls: number of calls.
        batch_norm: mode.
        normalization: one of `NORMALIZATIONS`.
        out_of_range: "raise" or "clamp".
        rows: size of the batch.
        labels: one of `LABELS`.
        dtype: of the images.
        memory_format: of the images.
        fault: of the images, one of `IMAGE_FAULTS` or none.
        gradients: the caller's grad mode.
        default_dtype: of torch.
        autocast: whether the caller's loop runs under autocast in bfloat16.
        own_loss: whether the loop writes its own loss of `hard.images`.
        seed: of images and labels.
    """

    teacher: NetworkPlan = field(default_factory=lambda: NetworkPlan(seed=1))
    student: NetworkPlan = field(default_factory=lambda: NetworkPlan(seed=2, training=True))
    channels: int = 1
    side: int = 8
    transforms: tuple[str, ...] = ("affine",)
    policy: str = "default"
    objective: Any = OBJECTIVES[0]
    invariance: str = "default"
    schedule: Any = None
    exploration: Exploration | None = None
    hard_fraction: float = 1.0
    warmup_calls: int = 0
    batch_norm: str = "shared"
    normalization: str = "none"
    out_of_range: str = "raise"
    rows: int = 4
    labels: str = "right"
    dtype: torch.dtype = torch.float32
    memory_format: torch.memory_format = torch.contiguous_format
    fault: str = ""
    gradients: bool = True
    default_dtype: torch.dtype = torch.float32
    autocast: bool = False
    own_loss: bool = False
    seed: int = field(default=0, repr=False)

    @property
    def networks(self) -> tuple[NetworkPlan, NetworkPlan]:
        """Both plans, the teacher's first."""
        return self.teacher, self.student

    @property
    def is_sound(self) -> bool:
        """Whether nothing in it is a reason to refuse: neither a defect nor the smallest batches."""
        images = self.rows >= 4 and not self.fault and (self.labels in ("right", "none"))
        labels = self.labels == "right" or not self.objective.requires_labels
        dtypes = all(plan.casts or plan.dtype == self.dtype for plan in self.networks)
        if self.autocast:  # not every layer of another type works under it
            dtypes = self.dtype == torch.float32 and all(plan.dtype == torch.float32 for plan in self.networks)
        few = self.hard_fraction < 1 or getattr(self.schedule, "fraction", 0.25) < 1
        statistics = not any(plan.norm == "batch without statistics" for plan in self.networks) or not few
        statistics = statistics and (self.batch_norm == "shared" or not self.student.has_batch_statistics)
        colors = self.channels == 3 or "hue" not in self.transforms
        parts = images and labels and dtypes and statistics and colors
        return parts and not any(plan.defect for plan in self.networks)

    @property
    def evaluates(self) -> bool:
        """Whether calls are as those of a trainer that evaluates, which may change nothing."""
        return not self.student.training and not self.gradients

    @property
    def draws_uniformly(self) -> bool:
        """Whether some draws may be uniform; these give the policy no gradient."""
        return (self.exploration or Exploration()).is_active

    @property
    def learns(self) -> bool:
        """Whether the policy has parameters."""
        return self.policy in LEARNERS

    def is_due(self, call: int) -> bool:
        """Whether call number `call` has to change the policy, whatever the networks predict."""
        call -= self.warmup_calls
        every = 6 if self.schedule is None and self.policy != "search of a learner" else 1
        every = getattr(self.schedule, "every", every)
        sure = not isinstance(self.schedule, Threshold) or call == 0
        sure = sure and not (isinstance(self.schedule, Joint) and self.own_loss)  # which it can't watch
        sure = sure and not isinstance(self.objective, DecisionMaskedKL)  # 0 where the networks disagree already
        return self.learns and call >= 0 and call % every == 0 and self.rows > 0 and sure and not self.evaluates

    def normalization_of(self, network: str) -> tuple[Tensor, Tensor] | None:
        """What images for the "teacher" or the "student" are normalised with outside of it; None: they are not."""
        if self.normalization == "none" or getattr(self, network).normalized:
            return None
        shift = 0.1 if self.normalization == "per network" and network == "teacher" else 0.0
        mean, std = _per_channel(self.channels)
        return mean + shift, std

    def augmenter(self, teacher: nn.Module, student: nn.Module) -> HardAugmenter:
        """Build the augmenter; its errors are those of the settings."""
        stages = [TRANSFORMS[name](self.channels, self.side) for name in self.transforms]
        transform = stages[0] if len(stages) == 1 else Compose(*stages)
        mean, std = CHANNEL_MEANS[: self.channels], CHANNEL_STDS[: self.channels]
        normalization: Any = {
            "none": None,
            "loader": (mean, std),
            "per network": {"teacher": ([value + 0.1 for value in mean], std), "student": (mean, std)},
        }[self.normalization]
        return HardAugmenter(
            teacher=teacher,
            student=student,
            transform=transform,
            policy=POLICIES[self.policy](transform, self.channels),
            objective=self.objective,
            invariance=INVARIANCES[self.invariance](),
            schedule=self.schedule,
            exploration=self.exploration,
            hard_fraction=self.hard_fraction,
            warmup_calls=self.warmup_calls,
            batch_norm=self.batch_norm,  # type: ignore[arg-type]  # one of them
            normalization=normalization,
            **({} if self.out_of_range == "raise" else {"out_of_range": self.out_of_range}),
            seed=self.seed,
        )

    def images(self, call: int) -> Tensor:
        """Draw the images of a call: in [0, 1], or as a loader normalises them, or faulty."""
        generator = torch.Generator().manual_seed(self.seed + call)
        shape = (self.rows, self.channels + (self.fault == "one channel more"), self.side, self.side)
        images = torch.rand(shape, generator=generator, dtype=torch.float32)
        if self.fault == "too bright":
            images = images * 1.5
        if self.fault == "NaN":
            images.flatten()[:1] = torch.nan
        if self.normalization != "none" and self.fault != "one channel more":
            mean, std = _per_channel(self.channels)
            images = (images - mean) / std
        images = images.to(self.dtype, memory_format=self.memory_format)
        if self.fault == "bytes":
            return (255 * images.clamp(0, 1)).to(torch.uint8)
        if self.fault == "channels last":
            return images.movedim(1, -1).contiguous()
        return images[0] if self.fault == "no batch axis" and self.rows else images

    def targets(self) -> Tensor | None:
        """Make the labels of a call: right ones, none, or faulty."""
        if self.labels == "none":
            return None
        labels = torch.arange(self.rows) % CLASSES
        if self.labels == "out of range":
            return labels + CLASSES
        if self.labels == "too few":
            return labels[1:]
        return labels.to(torch.float32) if self.labels == "floating point" else labels


def _per_channel(channels: int) -> tuple[Tensor, Tensor]:
    return tuple(  # type: ignore[return-value]  # two of them
        torch.tensor(values[:channels], dtype=torch.float64)[:, None, None] for values in (CHANNEL_MEANS, CHANNEL_STDS)
    )


@functools.cache
def setups() -> st.SearchStrategy[Setup]:
    """Draw setups, of which about a third are sound."""
    return st.builds(
        Setup,
        teacher=network_plans(training=False),
        student=network_plans(training=True),
        channels=st.sampled_from((1, 3)),
        side=st.sampled_from((8, 10, 16)),
        transforms=st.lists(st.sampled_from(sorted(TRANSFORMS)), min_size=1, max_size=3).map(tuple),
        policy=st.sampled_from((*LEARNERS, *LEARNERS, *sorted(POLICIES.keys() - set(LEARNERS)))),
        objective=mostly(*OBJECTIVES),
        invariance=st.sampled_from(sorted(INVARIANCES)),
        schedule=st.sampled_from(SCHEDULES),
        exploration=st.sampled_from(EXPLORATIONS),
        hard_fraction=mostly(1.0, 0.5, 0.1),
        warmup_calls=mostly(0, 1, one_in=6),
        batch_norm=st.sampled_from(("shared", "frozen", "split")),
        normalization=st.sampled_from(NORMALIZATIONS),
        out_of_range=mostly("raise", "clamp"),
        rows=mostly(4, 5, 3, 2, 1, 0),
        labels=mostly(*LABELS, one_in=8),
        dtype=mostly(torch.float32, torch.float16, torch.bfloat16, torch.float64),
        memory_format=st.sampled_from((torch.contiguous_format, torch.channels_last)),
        fault=mostly("", *IMAGE_FAULTS, one_in=8),
        gradients=mostly(True, False, one_in=6),
        default_dtype=mostly(torch.float32, torch.float64, torch.bfloat16),
        autocast=mostly(False, True, one_in=6),
        own_loss=mostly(False, True),
        seed=st.integers(0, 999),
    ).flatmap(lambda setup: mostly(_compatible(setup), setup, one_in=8))


def _compatible(setup: Setup) -> Setup:
    """Change what parts of the augmenter can't be combined with others."""
    if not setup.learns or setup.policy == "search of a learner":
        if setup.schedule is not None and not isinstance(setup.schedule, Alternating):
            setup = replace(setup, schedule=Alternating())
        if setup.invariance == "constraint":
            setup = replace(setup, invariance="hinge")
    mixes = any(name in ("patch mix", "blend") for name in setup.transforms)
    is_kl = isinstance(setup.objective, KL)
    one_class = setup.objective.requires_one_class or setup.objective.requires_student_reference
    if not is_kl and (isinstance(setup.schedule, Joint | Threshold) or (mixes and one_class)):
        setup = replace(setup, objective=KL())
    if "hue" in setup.transforms and setup.channels == 1:
        setup = replace(setup, channels=3)
    return setup
