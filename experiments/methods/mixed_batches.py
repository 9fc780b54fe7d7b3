"""Batches of real images, some of which are replaced by generated hard images (after DA-Fusion, arXiv:2302.07944)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

import torch

from experiments.data.batches import Batches
from hard_aug.data import ImageSet, Replay
from hard_aug.utils.checks import as_seed


@dataclass(eq=False)
class MixedBatches:
    """Endless batches of real images, in each of which any slot may hold a hard image instead.

    Real images come in the order of `Batches` with the same seed, so `ratio=0` trains as without hard images.

    Attributes:
        real: training images and labels.
        pool: hard images, which may change between batches.
        ratio: probability in [0, 1) that a slot holds a hard image.
        batch_size: from 1 to the number of real images.
        classes: names of the classes of the real data, in the order of the labels.
        seed: of the order and the draws.
        before_batch: called before each batch; may change the pool.

    Raises:
        ValueError: a setting outside its range, or hard images that do not match the real ones.
    """

    real: ImageSet
    pool: Replay
    _: KW_ONLY
    ratio: float
    batch_size: int
    classes: Sequence[str]
    seed: int
    before_batch: Callable[[], None] | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1:
            raise ValueError(
                f"ratio={self.ratio}: expected the probability of a hard image, in [0, 1); 0.5 is one for one"
            )
        highest, classes = int(self.real.labels.max()) if len(self.real) else -1, len(self.classes)
        if highest >= classes:
            raise ValueError(f"real labels up to {highest}: expected less than {classes}, the number of classes")
        self.batches = Batches(self.real, self.batch_size, self.seed)
        self._generator = torch.Generator().manual_seed(as_seed(self.seed))
        self._check()

    def next(self) -> ImageSet:
        """Return the next batch, on the device of the real images.

        Raises:
            ValueError: a pool that is empty, or whose images do not match the real ones.
        """
        if self.before_batch is not None:
            self.before_batch()
        batch = self.batches.next()
        if self.ratio:
            self._check()
            hard = torch.rand(len(batch), generator=self._generator) < self.ratio
            rows = self.pool.draw(len(batch), self._generator)[hard]
            held, device = self.pool.images, batch.device
            if held is not None and len(rows):
                rows, slots = rows.to(held.images.device), hard.nonzero()[:, 0].to(device)
                batch.images[slots] = held.images[rows].to(device, batch.images.dtype) / 255
                batch.labels[slots] = held.labels[rows].to(device)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """Return the position in the order, and the pool."""
        parts = {"batches": self.batches.state_dict(), "pool": self.pool.state_dict()}
        return {**parts, "generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`."""
        self.batches.load_state_dict(state["batches"])
        self._generator.set_state(state["generator"])
        self.pool.load_state_dict(state["pool"])

    def _check(self) -> None:
        held, shape, classes = self.pool.images, self.real.shape, len(self.classes)
        if held is not None and held.shape != shape:
            raise ValueError(
                f"hard images of (C, H, W) = {held.shape}: the real ones are {shape}; bring the data to the "
                "generator's size and channels, or generate for this data"
            )
        if held is not None and held.soft_labels.shape[1] != classes:
            raise ValueError(f"hard images of {held.soft_labels.shape[1]} classes: the real data has {classes}")
