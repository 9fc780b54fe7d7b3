"""Invariance: the cost of changing the teacher's prediction, `I = KL(teacher(reference) || teacher(hard))`, in nats.

The augmenter maximises `D - cost(I)`, where D is the disagreement:

| class | cost(I) |
|---|---|
| `Penalty` | `weight * I` |
| `Constraint` | `multiplier * I`, where the multiplier is the dual variable of `E[I] <= epsilon` |
| `KeepRate` | `multiplier * I`, where the multiplier follows a wished fraction of predictions that are kept |
| `Hinge` | `weight * max(0, I - epsilon)`, per sample |
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from hard_aug.ops.divergence import kl_divergence
from hard_aug.utils.checks import check_nonnegative, check_positive_number, is_number
from hard_aug.utils.float32 import Float32Module
from hard_aug.utils.settings_repr import describe_settings

#: Smallest multiplier of `KeepRate`, which multiplies it: at 0 it would stay.
MIN_MULTIPLIER = 0.01


def teacher_divergence(*, reference_logits: Tensor, hard_logits: Tensor) -> Tensor:
    """Compute `KL(softmax(reference) || softmax(hard))` per sample at temperature 1.

    Args:
        reference_logits: `(B, K)`, the teacher's on the clean images (see `Transform.reference`).
        hard_logits: `(B, K)`, the teacher's on the hard images.

    Returns:
        `(B,)`, in nats, at least float32.
    """
    return kl_divergence(teacher_logits=reference_logits, student_logits=hard_logits)


class Invariance(Float32Module, ABC):
    """The cost of changing the teacher's prediction, with a multiplier that may be learned. It is float32.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import Invariance
        >>> class Growing(Invariance):
        ...     def __init__(self, rate=0.5):
        ...         super().__init__()
        ...         self.rate = rate
        ...         self.register_buffer("multiplier", torch.tensor(1.0))
        ...
        ...     def update(self, mean_divergence, kept_rate):
        ...         self.multiplier.add_(self.rate)
        >>> invariance = Growing()
        >>> invariance.update(torch.tensor(0.1), torch.tensor(0.9))
        >>> invariance, invariance.cost(torch.tensor([0.0, 2.0]))
        (Growing(rate=0.5), tensor([0., 3.]))
    """

    multiplier: Tensor

    def cost(self, divergence: Tensor) -> Tensor:
        """Compute the differentiable cost `(B,)` of the teacher divergence `I`, `(B,)`."""
        # A multiplier of 0 is no cost at all, also where the divergence is infinite.
        return torch.where(self.multiplier > 0, self.multiplier * divergence, 0.0)

    @abstractmethod
    def update(self, mean_divergence: Tensor, kept_rate: Tensor) -> None:
        """Update the buffers after a policy update, without synchronising with the device.

        Nothing is updated after one in which all draws were uniform.

        Args:
            mean_divergence: mean of `I` over the policy's own draws in all processes, nats, a finite scalar.
            kept_rate: fraction of these draws on which the teacher's prediction is that of the reference, a scalar in
                [0, 1].
        """

    def extra_repr(self) -> str:
        """Format the settings."""
        return describe_settings(self)


class Penalty(Invariance):
    """A penalty with a fixed weight.

    Args:
        weight: The multiplier, at least 0.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import Penalty
        >>> Penalty(2.0).cost(torch.tensor([0.0, 0.5]))
        tensor([0., 1.])
    """

    def __init__(self, weight: float = 8.0) -> None:
        super().__init__()
        check_nonnegative(weight=weight)
        self.weight = float(weight)
        self.register_buffer("multiplier", _scalar(self.weight), persistent=False)  # a setting, not a state

    def update(self, mean_divergence: Tensor, kept_rate: Tensor) -> None:
        """Do nothing: the multiplier is fixed."""


class Hinge(Penalty):
    """No cost up to `epsilon` and a fixed weight beyond it, per sample.

    A mean can hide a few images that the transform has destroyed; a limit per sample can't. It is the default with
    `Search`.

    Args:
        epsilon: Divergence of the teacher's prediction that is free of cost, nats, at least 0.
        weight: Cost per nat beyond it, at least 0.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import Hinge
        >>> Hinge(0.5, weight=2.0).cost(torch.tensor([0.25, 1.0]))
        tensor([0., 1.])
    """

    def __init__(self, epsilon: float = 0.1, *, weight: float = 8.0) -> None:
        super().__init__(weight)
        check_nonnegative(epsilon=epsilon)
        self.epsilon = float(epsilon)

    def cost(self, divergence: Tensor) -> Tensor:
        """See `Invariance.cost`."""
        return super().cost((divergence - self.epsilon).clamp(min=0))


class Constraint(Invariance):
    """The constraint `E[I] <= epsilon`, enforced by dual ascent on a moving mean of `I`.

    After each policy update `m <- decay m + (1 - decay) mean(I)`, and `multiplier <- clamp(multiplier + rate
    (m - epsilon) / epsilon, 0, maximum)`.

    Args:
        epsilon: Largest mean divergence of the teacher's prediction, nats, above 0.
        rate: Step size of the dual variable.
        decay: Decay of the moving mean, in [0, 1).
        initial: Initial multiplier.
        maximum: Upper bound of the multiplier.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import Constraint
        >>> constraint = Constraint(epsilon=0.1, rate=0.5, decay=0.5)
        >>> constraint.update(torch.tensor(0.3), torch.tensor(1.0))  # the moving mean is 0.2, twice epsilon
        >>> constraint.multiplier
        tensor(1.5000)
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
        check_positive_number(epsilon=epsilon)
        if not (rate > 0 and 0 <= decay < 1 and 0 <= initial <= maximum):
            raise ValueError(
                f"rate={rate}, decay={decay}, initial={initial}, maximum={maximum}: expected rate > 0, 0 <= decay < 1 "
                "and 0 <= initial <= maximum"
            )
        self.epsilon, self.rate, self.decay = float(epsilon), float(rate), float(decay)
        self.initial, self.maximum = float(initial), float(maximum)
        self.register_buffer("multiplier", _scalar(self.initial))
        self.register_buffer("moving_mean", _scalar(self.epsilon))

    @torch.no_grad()
    def update(self, mean_divergence: Tensor, kept_rate: Tensor) -> None:
        """See `Invariance.update`."""
        self.moving_mean.lerp_(mean_divergence.to(self.moving_mean), 1 - self.decay)
        step = self.rate * (self.moving_mean - self.epsilon) / self.epsilon
        self.multiplier.add_(step).clamp_(0, self.maximum)


class KeepRate(Invariance):
    """A multiplier that follows a wished fraction of kept predictions: hard images of the same class for the teacher.

    A prediction is kept if the teacher's top class on the hard image is that on the clean image (for mixed images, that
    of the mix of its predictions). After each policy update `m <- decay m + (1 - decay) kept` and `multiplier <-
    clamp(multiplier exp(gain (rate - m)), 0.01, maximum)`. Both start neutral: `m` at `rate`. Where every draw keeps
    its prediction, the multiplier ends at 0.01 and the fraction is above `rate`.

    Args:
        rate: Wished fraction, in (0, 1).
        gain: How much the multiplier's logarithm grows in one update, for each unit by which `m` is below `rate`.
        decay: Decay of the moving mean, in [0, 1).
        initial: Initial multiplier, in [0.01, maximum].
        maximum: Upper bound of the multiplier.

    Attributes:
        multiplier: Weight of `I`, a scalar.
        moving_mean: The fraction of kept predictions over about the last `1 / (1 - decay)` updates, a scalar.

    Raises:
        ValueError: If a setting is out of range.

    Example:
        >>> import torch
        >>> from hard_aug.objectives import KeepRate
        >>> invariance = KeepRate(0.9, gain=1.0, decay=0.5, initial=8.0)
        >>> invariance.update(torch.tensor(0.3), torch.tensor(0.5))  # the moving mean is 0.7
        >>> round(float(invariance.multiplier), 3)  # 8 exp(0.2)
        9.771
    """

    moving_mean: Tensor

    def __init__(
        self,
        rate: float = 0.9,
        *,
        gain: float = 0.3,
        decay: float = 0.9,
        initial: float = 8.0,
        maximum: float = 100.0,
    ) -> None:
        super().__init__()
        if not (is_number(rate) and 0 < rate < 1):
            raise ValueError(f"rate={rate}: expected a fraction of kept predictions in (0, 1), such as rate=0.9")
        check_positive_number(gain=gain, maximum=maximum)
        if not (0 <= decay < 1 and MIN_MULTIPLIER <= initial <= maximum):
            raise ValueError(
                f"decay={decay}, initial={initial}, maximum={maximum}: expected 0 <= decay < 1 and "
                f"{MIN_MULTIPLIER} <= initial <= maximum"
            )
        self.rate, self.gain, self.decay = float(rate), float(gain), float(decay)
        self.initial, self.maximum = float(initial), float(maximum)
        self.register_buffer("multiplier", _scalar(self.initial))
        self.register_buffer("moving_mean", _scalar(self.rate))

    @torch.no_grad()
    def update(self, mean_divergence: Tensor, kept_rate: Tensor) -> None:
        """See `Invariance.update`."""
        self.moving_mean.lerp_(kept_rate.to(self.moving_mean), 1 - self.decay)
        step = self.gain * (self.rate - self.moving_mean)
        self.multiplier.mul_(step.exp()).clamp_(MIN_MULTIPLIER, self.maximum)


def _scalar(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float32, device="cpu")
