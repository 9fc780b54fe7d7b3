"""A pool of generated hard images of several generations, and when to generate new ones.

| class | decides |
|---|---|
| `Replay` | what fraction of the hard images is of older generations, against forgetting |
| `Refresh` | when to generate new images: every k epochs, on a plateau, or never |
"""

from __future__ import annotations

import logging
import math
import operator
from dataclasses import fields
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from hard_aug.data.hard_images import HardImages
from hard_aug.utils.checks import as_seed, check_integer, check_nonnegative, check_unit_interval, is_integer
from hard_aug.utils.settings_repr import SettingsRepr

logger = logging.getLogger(__name__)


class Replay(SettingsRepr, Dataset[Any]):
    """Pool of hard images of several generations: the newest is kept whole, older images are evicted to make room.

    As a `torch.utils.data.Dataset` it holds the `(image, label)` pairs of its current images; `draw` returns rows of a
    batch or an epoch, for the `sampler` of a `DataLoader`.

    Args:
        capacity: images at most; None: no limit.
        old_fraction: fraction of the draws, in [0, 1], that is of older generations once there are any; the rest is of
            the newest.
        eviction: `random`: any older image is equally likely to be evicted; `fifo`: the oldest are evicted first.
        seed: of the random eviction.

    Attributes:
        images: all images of the pool, older generations first; None if it is empty.
        generations: number of generations added.
        older: number of rows, from the first on, that are older than the newest generation.

    Raises:
        ValueError: a setting outside its range.

    Example:
        >>> import torch
        >>> from hard_aug.data import HardImages, Replay
        >>> hard = HardImages(
        ...     images=torch.zeros(4, 1, 8, 8, dtype=torch.uint8),
        ...     labels=torch.tensor([0, 1, 0, 1]),
        ...     soft_labels=torch.full((4, 2), 0.5),
        ...     seeds=torch.arange(4),
        ...     scores_before=torch.zeros(4),
        ...     scores_after=torch.ones(4),
        ...     accepted=torch.tensor([True, True, True, False]),
        ...     source=torch.full((4,), -1),
        ... )
        >>> pool = Replay(capacity=5)
        >>> pool.add(hard)
        >>> pool.add(hard)
        >>> len(pool), pool.older
        (5, 2)
        >>> rows = pool.draw(20, torch.Generator().manual_seed(0))
        >>> loader = torch.utils.data.DataLoader(pool, batch_size=10, sampler=rows.tolist())
        >>> [tuple(images.shape) for images, labels in loader]
        [(10, 1, 8, 8), (10, 1, 8, 8)]
    """

    def __init__(
        self,
        *,
        capacity: int | None = None,
        old_fraction: float = 0.5,
        eviction: Literal["random", "fifo"] = "random",
        seed: int = 0,
    ) -> None:
        check_integer(capacity=capacity)
        check_unit_interval(old_fraction=old_fraction)
        if eviction not in ("random", "fifo"):
            raise ValueError(f"eviction={eviction!r}: expected 'random' or 'fifo'")
        self.capacity, self.old_fraction, self.eviction, self.seed = capacity, old_fraction, eviction, seed
        self.images: HardImages | None = None
        self.generations = self.older = 0
        self._generator = torch.Generator().manual_seed(as_seed(seed))

    def __len__(self) -> int:
        return 0 if self.images is None else len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if self.images is None:
            raise IndexError("the pool is empty")
        return self.images[index]

    def add(self, images: HardImages) -> None:
        """Add a new generation without its rejected images; if all are rejected, log that and change nothing.

        Args:
            images: of the new generation.

        Raises:
            ValueError: images of another shape or number of classes than those of the pool, or more than it can hold.
        """
        new = images.select(images.accepted)
        if not len(new):
            logger.warning("none of %d new hard images is accepted: the pool is unchanged", len(images))
            return
        if self.capacity is not None and len(new) > self.capacity:
            raise ValueError(f"{len(new)} new images: the pool holds {self.capacity}; set capacity={len(new)} or more")
        if self.images is None:
            self.images, self.generations = new, 1
            return
        if _kind(new) != _kind(self.images):
            raise ValueError(f"new images of {_kind(new)}: the pool has {_kind(self.images)}; use another pool")
        kept = len(self) if self.capacity is None else min(len(self), self.capacity - len(new))
        rows = torch.arange(len(self) - kept, len(self), device="cpu")
        if self.eviction == "random" and kept < len(self):
            rows = torch.randperm(len(self), generator=self._generator, device="cpu")[:kept].sort().values
        device = self.images.images.device
        self.images = HardImages.cat((self.images.select(rows.to(device)), new.to(device)))
        self.generations, self.older = self.generations + 1, kept

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw rows of the pool, with replacement, uniformly within older and newest images.

        Args:
            count: number of rows.
            generator: on the CPU.

        Returns:
            `(count,)` int64, on the CPU.

        Raises:
            ValueError: an empty pool.
        """
        if not len(self):
            raise ValueError("no hard images to draw from: add() accepted ones first")
        chance, place = torch.rand(2, count, generator=generator, dtype=torch.float64, device="cpu")
        old = (chance < self.old_fraction) & (self.older > 0)
        first = torch.where(old, 0, self.older)
        return first + (place * torch.where(old, self.older, len(self) - self.older)).long()  # type: ignore[no-any-return]

    def state_dict(self) -> dict[str, Any]:
        """Return the state, including the images: they depend on all former generations."""
        held = self.images
        return {
            "images": None if held is None else {field.name: getattr(held, field.name) for field in fields(held)},
            "generations": self.generations,
            "older": self.older,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`.

        Raises:
            ValueError: it is not one of a pool; nothing is changed then.
        """
        try:
            images = None if state["images"] is None else HardImages(**state["images"])
            generations, older = (operator.index(state[key]) for key in ("generations", "older"))
            if not 0 <= older <= (0 if images is None else len(images)) or generations < (images is not None):
                raise ValueError(f"generations={generations}, older={older}")
            self._generator.set_state(state["generator"])
        except Exception as error:  # of many kinds
            raise ValueError(f"expected a state of Replay.state_dict(), got another one ({error})") from error
        self.images, self.generations, self.older = images, generations, older


class Refresh(SettingsRepr):
    """Schedule of generating hard images again: every so many epochs, on a plateau, or (by default) never.

    Args:
        every: epochs from one time to the next.
        patience: epochs in a row without a value that is better than the best by more than `min_delta`. The count
            restarts after each time; the best value stays.
        min_delta: at least 0.
        mode: whether a high value (`max`, an accuracy) or a low one (`min`, a loss) is better.

    Attributes:
        best: the best value so far; None: none yet.
        waited: epochs since the best value or the last time.

    Raises:
        ValueError: a setting outside its range, or both `every` and `patience`.

    Example:
        >>> from hard_aug.data import Refresh
        >>> refresh = Refresh(patience=2)
        >>> [refresh.is_due(epoch, accuracy) for epoch, accuracy in enumerate([0.5, 0.6, 0.6, 0.6, 0.7], start=1)]
        [False, False, False, True, False]
    """

    def __init__(
        self,
        *,
        every: int | None = None,
        patience: int | None = None,
        min_delta: float = 0.0,
        mode: Literal["max", "min"] = "max",
    ) -> None:
        if every is not None and patience is not None:
            raise ValueError(f"every={every} and patience={patience}: expected one of them; leave the other None")
        check_integer(every=every, patience=patience)
        check_nonnegative(min_delta=min_delta)
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r}: expected 'max' or 'min'")
        self.every, self.patience, self.min_delta, self.mode = every, patience, min_delta, mode
        self.best: float | None = None
        self.waited = 0

    def is_due(self, epoch: int, value: float | None = None) -> bool:
        """Return whether to generate now; call it once at the end of each epoch.

        Args:
            epoch: number of finished epochs; never due at 0.
            value: validation metric, required with `patience`; NaN counts as no improvement.

        Raises:
            ValueError: a negative epoch, or `patience` without a value.
        """
        check_integer(0, epoch=epoch)
        if self.every is not None:
            return epoch > 0 and epoch % self.every == 0
        if self.patience is None:
            return False
        if value is None:
            raise ValueError(f"patience={self.patience} requires a value at each epoch: is_due(epoch, value)")
        gain = math.inf if self.best is None else value - self.best if self.mode == "max" else self.best - value
        if gain > self.min_delta and not math.isnan(value):
            self.best, self.waited = value, 0
            return False
        self.waited += epoch > 0
        if self.waited < self.patience:
            return False
        self.waited = 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Return the best value and the number of epochs without an improvement."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`.

        Raises:
            ValueError: it is not one of a `Refresh`; nothing is changed then.
        """
        best, waited = state.get("best"), state.get("waited")
        if not is_integer(waited) or int(waited) < 0 or not isinstance(best, float | int | None) or best != best:
            raise ValueError(f"expected a state of Refresh.state_dict(), got {state}")
        self.best, self.waited = best, int(waited)


def _kind(images: HardImages) -> str:
    channels, height, width = images.shape
    return f"{channels} x {height} x {width} and {images.soft_labels.shape[1]} classes"
