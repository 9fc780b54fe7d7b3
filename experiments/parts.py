"""Labelled images: what every source of data gives, and all that the experiments ask of it.

| class | images |
|---|---|
| `Part` | a tensor in memory |
| `Joined` | several parts one after the other |
| `experiments.crops.Cropped` | in memory, of which training sees random crops |
| `experiments.streams.Stream` | read when a batch asks for them |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

#: Of the fixed permutation that cuts the validation part from the training images, the same in every run.
SPLIT_SEED = 20230524


@dataclass(frozen=True)
class Part:
    """Images `(N, C, H, W)` float32 in [0, 1] and labels `(N,)` int64."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """`(C, H, W)` of an image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @property
    def device(self) -> torch.device:
        """Where batches are."""
        return self.labels.device

    @property
    def among(self) -> Tensor | None:
        """The classes, `(S,)` int64, that an answer may be, where these images are of fewer; None: all."""
        return None

    def to(self, device: torch.device) -> Part:
        """The same on another device."""
        return Part(self.images.to(device), self.labels.to(device))

    def __getitem__(self, index: Tensor | slice) -> Part:
        return Part(self.images[index], self.labels[index])

    def view(self, seed: int, number: int) -> Part:
        """How training sees the images in its batch `number`: as they are, unless a source draws crops."""
        return self

    def prefetch(self, index: Tensor | slice) -> None:
        """Say that `self[index]` is asked for next."""

    def in_memory(self) -> Part:
        """The same with `images` at hand."""
        return self


class Joined(Part):
    """Parts one after the other. The accuracy on all is the mean of theirs, weighted by their images.

    Args:
        parts: of one shape and device, with no class left out of the answers.

    Raises:
        ValueError: no parts, or parts that differ in shape.
    """

    def __init__(self, parts: tuple[Part, ...]) -> None:
        shapes = {part.shape for part in parts}
        if len(shapes) != 1:
            raise ValueError(f"parts of the shapes {sorted(shapes)}: wanted at least one part, all of one shape")
        self.parts = parts
        object.__setattr__(self, "labels", torch.cat([part.labels for part in parts]))  # a frozen field

    def __repr__(self) -> str:
        return f"Joined({len(self)} images, {self.shape})"

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.parts[0].shape

    @property
    def images(self) -> Tensor:  # type: ignore[override]  # a field there, made when asked for here
        return torch.cat([part.in_memory().images for part in self.parts])

    def to(self, device: torch.device) -> Joined:
        return Joined(tuple(part.to(device) for part in self.parts))

    def __getitem__(self, index: Tensor | slice) -> Part:
        rows = torch.arange(len(self))[index.cpu() if isinstance(index, Tensor) else index]
        images = torch.empty(len(rows), *self.shape, device=self.device)
        start = 0
        for part in self.parts:
            here = (rows >= start) & (rows < start + len(part))
            if bool(here.any()):
                chosen = (rows[here] - start).to(part.device)
                images[here.to(self.device)] = part[chosen].in_memory().images
            start += len(part)
        return Part(images, self.labels[rows.to(self.device)])

    def in_memory(self) -> Part:
        return Part(self.images, self.labels)


@dataclass(frozen=True)
class Splits:
    """The three parts of a data set, with the name of each class."""

    train: Part
    validation: Part
    test: Part
    classes: tuple[str, ...]

    def to(self, device: torch.device) -> Splits:
        """The same on another device."""
        return Splits(self.train.to(device), self.validation.to(device), self.test.to(device), self.classes)


def hold_out(count: int, held: int) -> tuple[Tensor, Tensor]:
    """Rows that stay, and `held` rows that are held out, of `count`: a fixed choice, in a fixed shuffled order."""
    order = torch.randperm(count, generator=torch.Generator().manual_seed(SPLIT_SEED))
    return order[held:], order[:held]
