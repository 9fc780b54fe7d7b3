"""Batches of real images, some of which are replaced by generated hard images (after DA-Fusion, arXiv:2302.07944)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

from experiments.data.batches import Batches
from hard_aug.data import HardImages, HardImageStore, ImageSet, Replay


class MixedBatches:
    """Endless batches of real images, in each of which any slot may hold a hard image instead.

    Real images come in the order of `Batches` with the same seed, so `ratio=0` trains as without hard images.

    Args:
        real: training images and labels.
        hard: a pool, whose images may change between batches, or fixed images, of which the accepted ones are used. The
            classes of a `HardImageStore` have to be those of `classes`.
        ratio: probability in [0, 1) that a slot holds a hard image.
        batch_size: from 1 to the number of real images.
        classes: names of the classes of the real data, in the order of the labels.
        seed: of the order and the draws.

    Raises:
        ValueError: a setting outside its range, hard images that do not match the real ones, or none with a ratio
            above 0.
    """

    def __init__(
        self,
        real: ImageSet,
        hard: Replay | HardImageStore | HardImages,
        *,
        ratio: float,
        batch_size: int,
        classes: Sequence[str],
        seed: int,
    ) -> None:
        if not 0 <= ratio < 1:
            raise ValueError(f"ratio={ratio}: expected the probability of a hard image, in [0, 1); 0.5 is one for one")
        highest = int(real.labels.max()) if len(real) else -1
        if highest >= len(classes):
            raise ValueError(f"real labels up to {highest}: expected less than {len(classes)}, the number of classes")
        if isinstance(hard, HardImageStore):
            if hard.classes != tuple(classes):
                raise ValueError(
                    f"hard images of the classes {hard.classes}: the real ones have {tuple(classes)}, so the labels do "
                    "not correspond; generate for the same data"
                )
            hard = hard.images
        self.batches = Batches(real, batch_size, seed)
        self.ratio, self.classes = ratio, len(classes)
        self._fixed = None if isinstance(hard, Replay) else _digest(hard)
        self.pool = hard if isinstance(hard, Replay) else Replay()
        if not isinstance(hard, Replay):
            self.pool.add(hard)
            if ratio and not len(self.pool):
                raise ValueError(f"ratio={ratio} without an accepted hard image: generate some, or set ratio=0")
        self._check()
        self._generator = torch.Generator().manual_seed(seed)

    def next(self) -> ImageSet:
        """Return the next batch, on the device of the real images.

        Raises:
            ValueError: a pool that is empty, or whose images do not match the real ones.
        """
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
        """Return the position in the order and the pool; of fixed images only a digest."""
        state = {"batches": self.batches.state_dict(), "generator": self._generator.get_state(), "fixed": self._fixed}
        return state if self._fixed is not None else {**state, "pool": self.pool.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state returned by `state_dict()`.

        Raises:
            ValueError: the state was made with other hard images.
        """
        if state["fixed"] != self._fixed:
            given, ours = (fixed or "of a pool" for fixed in (state["fixed"], self._fixed))
            raise ValueError(f"a state with the hard images {given}, here are those {ours}; use the same ones")
        self.batches.load_state_dict(state["batches"])
        self._generator.set_state(state["generator"])
        if self._fixed is None:
            self.pool.load_state_dict(state["pool"])

    def _check(self) -> None:
        held, shape = self.pool.images, self.batches.part.shape
        if held is None:
            return
        if held.shape != shape:
            raise ValueError(
                f"hard images of (C, H, W) = {held.shape}: the real ones are {shape}; bring the data to the "
                "generator's size and channels, or generate for this data"
            )
        if held.soft_labels.shape[1] != self.classes:
            raise ValueError(f"hard images of {held.soft_labels.shape[1]} classes: the real data has {self.classes}")


def _digest(images: HardImages) -> str:
    found = hashlib.sha256()
    for name in ("images", "labels", "soft_labels", "accepted"):
        found.update(getattr(images, name).cpu().contiguous().numpy())
    return found.hexdigest()[:16]
