"""Invariance: keep the teacher's answer. `I = KL(teacher(reference) || teacher(hard))`, in nats.

The augmenter ascends `D - cost(I)`:

| class | cost(I) |
|---|---|
| `Penalty` | `weight * I` |
| `Constraint` | `multiplier * I`, the multiplier being the dual variable of `E[I] <= epsilon` |
| `Hinge` | `weight * max(0, I - epsilon)` for each sample by itself |
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from hard_aug.ops.divergence import kl_divergence


def teacher_change(*, reference_logits: Tensor, hard_logits: Tensor) -> Tensor:
    """`KL(softmax(reference) || softmax(hard))` per sample, `(B,)`, at temperature 1, in nats."""
    return kl_divergence(teacher_logits=reference_logits, student_logits=hard_logits)


class Invariance(nn.Module, ABC):
    """How strongly the teacher's answer is kept."""

    multiplier: Tensor

    def cost(self, change: Tensor) -> Tensor:
        """`(B,)` from `I`, `(B,)`, with a graph to it."""
        return self.multiplier * change

    @abstractmethod
    def update(self, mean_change: Tensor) -> None:
        """Take note of the mean of `I` over the batch of one ascent, a scalar."""


class Penalty(Invariance):
    """A fixed multiplier.

    Args:
        weight: the multiplier, at least 0.
    """

    def __init__(self, weight: float = 8.0) -> None:
        super().__init__()
        if not (weight >= 0 and math.isfinite(weight)):
            raise ValueError(f"weight={weight}: wanted a number of at least 0")
        self.register_buffer("multiplier", torch.tensor(float(weight)), persistent=False)  # a setting, not a state

    def update(self, mean_change: Tensor) -> None:
        """A fixed multiplier learns nothing."""


class Hinge(Penalty):
    """Nothing for changes of up to `epsilon`, a fixed price beyond, for each sample by itself.

    A mean can hide a few destroyed images; this can not. It is what `Search` works under.

    Args:
        epsilon: the change of the teacher's answer that is free, nats, at least 0.
        weight: the price of a nat beyond, at least 0.
    """

    def __init__(self, epsilon: float = 0.1, *, weight: float = 8.0) -> None:
        super().__init__(weight)
        if not (epsilon >= 0 and math.isfinite(epsilon)):
            raise ValueError(f"epsilon={epsilon}: wanted a number of nats of at least 0")
        self.epsilon = float(epsilon)

    def cost(self, change: Tensor) -> Tensor:
        return self.multiplier * (change - self.epsilon).clamp(min=0)


class Constraint(Invariance):
    """`E[I] <= epsilon`, by dual ascent on a moving mean of `I`.

    After each ascent `m <- decay m + (1 - decay) mean(I)`, and `multiplier <- clamp(multiplier + rate (m - epsilon) /
    epsilon, 0, maximum)`.

    Args:
        epsilon: the largest mean change of the teacher's answer, nats, above 0.
        rate: step of the dual variable.
        decay: of the moving mean, in [0, 1).
        initial: the multiplier at the start.
        maximum: bound of the multiplier.
    """

    moving_mean: Tensor

    def __init__(
        self,
        epsilon: float = 0.1,
        *,
        rate: float = 0.02,
        decay: float = 0.9,
        initial: float = 1.0,
        maximum: float = 100.0,
    ) -> None:
        super().__init__()
        if not (epsilon > 0 and math.isfinite(epsilon)):
            raise ValueError(f"epsilon={epsilon}: wanted a positive number of nats")
        if not (rate > 0 and 0 <= decay < 1 and 0 <= initial <= maximum):
            raise ValueError(
                f"rate={rate}, decay={decay}, initial={initial}, maximum={maximum}: wanted rate > 0, 0 <= decay < 1 "
                "and 0 <= initial <= maximum"
            )
        self.epsilon, self.rate, self.decay, self.maximum = epsilon, rate, decay, maximum
        self.register_buffer("multiplier", torch.tensor(float(initial)))
        self.register_buffer("moving_mean", torch.tensor(float(epsilon)))

    @torch.no_grad()
    def update(self, mean_change: Tensor) -> None:
        self.moving_mean.lerp_(mean_change.to(self.moving_mean), 1 - self.decay)
        step = self.rate * (self.moving_mean - self.epsilon) / self.epsilon
        self.multiplier.add_(step).clamp_(0, self.maximum)
