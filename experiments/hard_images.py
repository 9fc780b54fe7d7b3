"""Training on generated hard images beside real ones: how many, from which generation, and when to make new ones.

| name | what it settles | after |
|---|---|---|
| `Mixed` | each slot of a batch is a hard image with probability `ratio` | DA-Fusion (arXiv:2302.07944) |
| `Replay` | which share of them is of older generations, against forgetting | pools of data-free distillation |
| `Refresh` | when to make new ones: every k epochs, on a plateau, never | |
"""

from __future__ import annotations

import hashlib
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal

import torch
from torch import Tensor

from experiments.data import Part
from experiments.shards import HardImages, Store
from experiments.training import Batches

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MixedPart(Part):
    """Real and hard images.

    Attributes:
        soft_labels: `(N, K)` float32, the teacher's stored probabilities. Real images have none: their rows are NaN, so
            use `soft_labels[hard]`.
        hard: `(N,)` bool, which rows are hard images.
    """

    soft_labels: Tensor
    hard: Tensor

    def to(self, device: torch.device) -> MixedPart:
        """The same on another device."""
        return MixedPart(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __getitem__(self, index: Tensor | slice) -> MixedPart:
        return MixedPart(*(getattr(self, field.name)[index] for field in fields(self)))


class Replay:
    """Hard images of several generations: the newest is kept whole, older ones make room for it.

    Args:
        capacity: images at most; None: no limit.
        replay: share of the draws, in [0, 1], that is of older generations once there are any; the rest is of the
            newest.
        eviction: `random`: any older image is as likely to go; `fifo`: the oldest go first.
        seed: of the eviction.

    Raises:
        ValueError: a setting outside its range.
    """

    def __init__(
        self,
        *,
        capacity: int | None = None,
        replay: float = 0.5,
        eviction: Literal["random", "fifo"] = "random",
        seed: int = 0,
    ) -> None:
        if capacity is not None and capacity < 1:
            raise ValueError(f"capacity={capacity}: wanted at least 1, or None for no limit")
        if not 0 <= replay <= 1:
            raise ValueError(f"replay={replay}: wanted the share of older images, in [0, 1]")
        if eviction not in ("random", "fifo"):
            raise ValueError(f"eviction={eviction!r}: wanted 'random' or 'fifo'")
        self.capacity, self.replay, self.eviction = capacity, replay, eviction
        self.images: HardImages | None = None
        self.generations = 0
        self.older = 0  # how many rows, from the first on, are older than the newest generation
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return 0 if self.images is None else len(self.images)

    def add(self, images: HardImages) -> None:
        """Take up a new generation, without its rejected images; if all are rejected, log it and change nothing.

        Raises:
            ValueError: images unlike those in the pool, or more than it can hold.
        """
        new = images[images.accepted]
        if not len(new):
            logger.warning("none of %d new hard images is accepted: the pool stays as it is", len(images))
            return
        if self.capacity is not None and len(new) > self.capacity:
            raise ValueError(f"{len(new)} new images: the pool holds {self.capacity}; give capacity={len(new)} or more")
        if self.images is None:
            self.images, self.generations = new, 1
            return
        if _kind(new) != _kind(self.images):
            raise ValueError(f"new images of {_kind(new)}: the pool has {_kind(self.images)}; start another pool")
        kept = len(self) if self.capacity is None else min(len(self), self.capacity - len(new))
        rows = torch.arange(len(self) - kept, len(self))
        if self.eviction == "random" and kept < len(self):
            rows = torch.randperm(len(self), generator=self._generator)[:kept].sort().values
        device = self.images.images.device
        new = HardImages(**{field.name: getattr(new, field.name).to(device) for field in fields(new)})
        self.images = HardImages.cat((self.images[rows.to(device)], new))
        self.generations, self.older = self.generations + 1, kept

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Rows of the pool, `(count,)`, uniform within older and newest images, with replacement; on the CPU.

        Raises:
            ValueError: an empty pool.
        """
        if not len(self):
            raise ValueError("no hard images to draw from: add() accepted ones first, or train with ratio=0")
        chance, place = torch.rand(2, count, generator=generator, dtype=torch.float64)
        old = (chance < self.replay) & (self.older > 0)
        first = torch.where(old, 0, self.older)
        rows: Tensor = first + (place * torch.where(old, self.older, len(self) - self.older)).long()
        return rows

    def state_dict(self) -> dict[str, Any]:
        """The images too: they depend on all former generations."""
        held = self.images
        return {
            "images": None if held is None else {field.name: getattr(held, field.name) for field in fields(held)},
            "generations": self.generations,
            "older": self.older,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        self.images = None if state["images"] is None else HardImages(**state["images"])
        self.generations, self.older = state["generations"], state["older"]
        self._generator.set_state(state["generator"])


class Mixed:
    """Endless batches of real images, in each of which any slot may hold a hard image instead.

    Real images come in the order of `Batches` with the same seed, so `ratio=0` trains as without hard images.

    Args:
        real: training images and labels.
        hard: a pool, whose images may change between batches, or fixed images, of which the accepted ones are used. The
            classes of a `Store` have to be those of `classes`.
        ratio: probability in [0, 1) that a slot holds a hard image.
        batch_size: from 1 to the number of real images.
        classes: names of the real data's classes, in the order of the labels.
        seed: of the order and the draws.

    Raises:
        ValueError: a setting outside its range, hard images unlike the real ones, or none with a ratio above 0.
    """

    def __init__(
        self,
        real: Part,
        hard: Replay | Store | HardImages,
        *,
        ratio: float,
        batch_size: int,
        classes: Sequence[str],
        seed: int,
    ) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio={ratio}: wanted the probability of a hard image, in [0, 1); 0.5 is one for one")
        highest = int(real.labels.max()) if len(real) else -1
        if highest >= len(classes):
            raise ValueError(f"real labels up to {highest}: wanted less than {len(classes)}, the number of classes")
        if isinstance(hard, Store):
            if hard.classes != tuple(classes):
                raise ValueError(
                    f"hard images of the classes {hard.classes}: the real ones have {tuple(classes)}, and labels would "
                    "mean other things; generate for the same data"
                )
            hard = hard.images
        self.batches = Batches(real, batch_size, seed)
        self.ratio, self.classes = ratio, len(classes)
        self._fixed = None if isinstance(hard, Replay) else _digest(hard)
        self.pool = hard if isinstance(hard, Replay) else Replay()
        if not isinstance(hard, Replay):
            self.pool.add(hard)
            if ratio and not len(self.pool):
                raise ValueError(f"ratio={ratio} without an accepted hard image: generate some, or give ratio=0")
        self._check()
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> MixedPart:
        """The next batch, on the device of the real images.

        Raises:
            ValueError: a pool that is empty, or whose images are not like the real ones.
        """
        real = self.batches.next()
        device = real.images.device
        soft_labels = torch.full((len(real), self.classes), math.nan, device=device)
        hard = torch.zeros(len(real), dtype=torch.bool)
        if self.ratio:
            self._check()
            hard = torch.rand(len(real), generator=self._generator) < self.ratio
            rows = self.pool.draw(len(real), self._generator)[hard]
            held = self.pool.images
            if held is not None and len(rows):
                rows, slots = rows.to(held.images.device), hard.nonzero()[:, 0].to(device)
                real.images[slots] = held.images[rows].to(device, real.images.dtype) / 255
                real.labels[slots] = held.labels[rows].to(device)
                soft_labels[slots] = held.soft_labels[rows].to(device)
        return MixedPart(real.images, real.labels, soft_labels, hard.to(device))

    def state_dict(self) -> dict[str, Any]:
        """Where in the order it is, with the pool; of fixed images only a digest."""
        state = {"batches": self.batches.state_dict(), "generator": self._generator.get_state(), "fixed": self._fixed}
        return state if self._fixed is not None else {**state, "pool": self.pool.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`.

        Raises:
            ValueError: the state was made with other hard images.
        """
        if state["fixed"] != self._fixed:
            raise ValueError(
                f"a state with the hard images {state['fixed'] or 'of a Replay'}, here are "
                f"{self._fixed or 'those of a Replay'}; give the same ones, or start anew"
            )
        self.batches.load_state_dict(state["batches"])
        self._generator.set_state(state["generator"])
        if self._fixed is None:
            self.pool.load_state_dict(state["pool"])

    def _check(self) -> None:
        held = self.pool.images
        if held is None:
            return
        given, wanted = held.images.shape[1:], self.batches.part.shape
        if given != wanted:
            raise ValueError(
                f"hard images of (C, H, W) = {tuple(given)}: the real ones are {tuple(wanted)}; bring the data to the "
                "generator's size and channels, or generate for this data"
            )
        if held.soft_labels.shape[1] != self.classes:
            raise ValueError(f"hard images of {held.soft_labels.shape[1]} classes: the real data has {self.classes}")


class Refresh:
    """When to generate hard images again: every so many epochs, on a plateau, or (by default) never.

    Args:
        every: epochs from one time to the next.
        patience: epochs in a row without a value better than the best by more than `min_delta`. The count starts anew
            after each time; the best value stays.
        min_delta: at least 0.
        mode: whether a high (`max`, an accuracy) or a low value (`min`, a loss) is good.

    Raises:
        ValueError: a setting outside its range, or both `every` and `patience`.
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
            raise ValueError(f"every={every} and patience={patience}: wanted one of them; leave the other None")
        for name, value in (("every", every), ("patience", patience)):
            if value is not None and value < 1:
                raise ValueError(f"{name}={value}: wanted at least 1 epoch, or None")
        if not 0 <= min_delta < math.inf:
            raise ValueError(f"min_delta={min_delta}: wanted a finite number of at least 0")
        if mode not in ("max", "min"):
            raise ValueError(f"mode={mode!r}: wanted 'max' or 'min'")
        self.every, self.patience, self.min_delta, self.mode = every, patience, min_delta, mode
        self.best: float | None = None
        self.waited = 0

    def due(self, epoch: int, value: float | None = None) -> bool:
        """Whether to generate now; to be asked once at the end of each epoch.

        Args:
            epoch: how many epochs are finished; at 0 nothing is due.
            value: of the validation, for `patience`; NaN is no improvement.

        Raises:
            ValueError: a negative epoch, or a plateau without a value.
        """
        if epoch < 0:
            raise ValueError(f"epoch={epoch}: wanted the number of finished epochs")
        if self.every is not None:
            return epoch > 0 and epoch % self.every == 0
        if self.patience is None:
            return False
        if value is None:
            raise ValueError(f"patience={self.patience} wants a value at each epoch; give due(epoch, value)")
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
        """The best value, and how long it has stood."""
        return {"best": self.best, "waited": self.waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up `state_dict()`."""
        self.best, self.waited = state["best"], state["waited"]


def _kind(images: HardImages) -> str:
    channels, height, width = images.images.shape[1:]
    return f"{channels} x {height} x {width} and {images.soft_labels.shape[1]} classes"


def _digest(images: HardImages) -> str:
    found = hashlib.sha256()
    for name in ("images", "labels", "soft_labels", "accepted"):
        found.update(getattr(images, name).cpu().contiguous().numpy())
    return found.hexdigest()[:16]
