"""Views by random augmentations: of the augmenter's transform, of the task's own, and of torchvision's."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from experiments.methods.base import RandomViews, SeededViews
from hard_aug.transforms import Transform

if TYPE_CHECKING:
    from experiments.methods.factory import MethodContext


def finished_transform(transform: Transform | Callable[..., Transform], context: MethodContext) -> Transform:
    """Return a configured transform; one that is made from the training images is `_partial_` until here."""
    return transform if isinstance(transform, Transform) else transform(images=context.splits.train)


def build_random(
    teacher: nn.Module,
    student: nn.Module,
    *,
    transform: Transform | Callable[..., Transform],
    scale: float,
    temperature: float,
    seed: int,
    context: MethodContext,
) -> RandomViews:
    """Build random augmentation; see `RandomViews`, whose arguments these are, and `finished_transform`."""
    made = finished_transform(transform, context)
    return RandomViews(teacher, student, made, temperature=temperature, scale=scale, seed=seed)


def oracle_views(
    teacher: nn.Module, student: nn.Module, *, temperature: float, seed: int, context: MethodContext
) -> RandomViews:
    """Build random augmentation by the task's own transform: an upper bound that uses the true invariance.

    Raises:
        ValueError: the task has no known invariance.
    """
    transform, scale = context.task.oracle(context.splits.train.shape[-1])
    return RandomViews(teacher, student, transform, temperature=temperature, scale=scale, seed=seed)


@contextmanager
def seeded_from(generator: torch.Generator) -> Iterator[None]:
    """Seed torch's global CPU generator by a number of `generator` within the block; its state is restored.

    For transforms that accept no generator.
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would also reseed the GPUs' generators
        yield


class DrawnViews(SeededViews):
    """The second view is made by an augmentation that draws from torch's global generator."""

    @abstractmethod
    def draw(self, images: Tensor) -> Tensor:
        """Return views `(B, C, H, W)` in [0, 1] of `images`; may use the global generator, see `seeded_from`."""

    def second_view(self, images: Tensor, labels: Tensor) -> Tensor:
        """See `TwoViewMethod.second_view`."""
        with seeded_from(self._generator):
            return self.draw(images)
