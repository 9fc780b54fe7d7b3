"""Images in groups of (class, spurious attribute), and the accuracies that such benchmarks report.

Group DRO (Sagawa et al., arXiv:1911.08731) names the measures:

| measure | what it is |
|---|---|
| accuracy | mean over images |
| worst_group | the smallest accuracy of a group |
| mean_group | mean over groups |
| adjusted | mean over groups weighted by their shares in the *training* data: what papers on Waterbirds call average |

A group without an image has no accuracy and is left out of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.data import Part, Splits
from hard_aug.models import evaluation_mode


@dataclass(frozen=True)
class Grouped(Part):
    """A `Part` whose images also have a spurious attribute.

    Args:
        images: `(N, C, H, W)` float32 in [0, 1].
        labels: `(N,)` int64, index into `classes`.
        spurious: `(N,)` int64, index into `attributes`.
        classes, attributes: the names, each once.

    Raises:
        ValueError: unequal lengths, other types, a name twice, or (on the CPU, where looking costs nothing) an index
            that has no name.
    """

    spurious: Tensor
    classes: tuple[str, ...]
    attributes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or not self.images.is_floating_point():
            raise ValueError(f"images {self.images.dtype} {tuple(self.images.shape)}: wanted floats (N, C, H, W)")
        for field, names in (("labels", self.classes), ("spurious", self.attributes)):
            indices: Tensor = getattr(self, field)
            if indices.dtype != torch.int64 or indices.shape != self.images.shape[:1]:
                raise ValueError(
                    f"{field} {indices.dtype} {tuple(indices.shape)}: wanted int64 ({len(self.images)},), one an image"
                )
            if len(set(names)) != len(names) or not names:
                raise ValueError(f"names of {field}: wanted at least one, each once, got {names}")
            if indices.device.type == "cpu" and len(indices):
                low, high = int(indices.min()), int(indices.max())
                if low < 0 or high >= len(names):
                    raise ValueError(f"{field} from {low} to {high}: wanted 0 to {len(names) - 1}, for {names}")

    @property
    def group(self) -> Tensor:
        """`(N,)` int64: label * (number of attributes) + attribute."""
        return self.labels * len(self.attributes) + self.spurious

    @property
    def group_names(self) -> tuple[str, ...]:
        """`class/attribute`, in the order of `group`, those without an image too."""
        return tuple(f"{name}/{attribute}" for name in self.classes for attribute in self.attributes)

    def counts(self) -> dict[str, int]:
        """Images of each group that has any."""
        counted = torch.bincount(self.group, minlength=len(self.group_names)).tolist()
        return {name: count for name, count in zip(self.group_names, counted, strict=True) if count}

    def to(self, device: torch.device) -> Grouped:
        """The same on another device."""
        return Grouped(
            self.images.to(device), self.labels.to(device), self.spurious.to(device), self.classes, self.attributes
        )

    def __getitem__(self, index: Tensor | slice) -> Grouped:
        return Grouped(self.images[index], self.labels[index], self.spurious[index], self.classes, self.attributes)


@dataclass(frozen=True)
class GroupedSplits(Splits):
    """The three parts of a benchmark of spurious features, with the names of classes and attributes."""

    train: Grouped
    validation: Grouped
    test: Grouped
    classes: tuple[str, ...]
    attributes: tuple[str, ...]

    def to(self, device: torch.device) -> GroupedSplits:
        """The same on another device."""
        train, validation, test = (part.to(device) for part in (self.train, self.validation, self.test))
        return GroupedSplits(train, validation, test, self.classes, self.attributes)


@torch.no_grad()
def group_accuracies(
    model: nn.Module, grouped: Grouped, *, batch_size: int = 1000, train_counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Accuracies by group, in evaluation mode; the model's own flags are kept.

    Args:
        model: `(B, C, H, W) -> (B, K)` logits, `K` the number of classes. An image with a NaN among its logits
            counts as wrong.
        grouped: the images, on the model's device.
        batch_size: images a forward.
        train_counts: images of each group of the training data, as `splits.train.counts()` gives them, for `adjusted`.
            Groups that were absent from training have weight 0 there.

    Returns:
        `groups` and `counts` (accuracy in [0, 1] and number of images by `class/attribute`, only groups with images),
        `accuracy`, `worst_group`, `worst_group_name`, `mean_group`, and `adjusted` where `train_counts` is given.

    Raises:
        ValueError: no image, a batch below 1, logits of other shape, or counts that do not fit the groups.
    """
    if len(grouped) == 0:
        raise ValueError("group_accuracies wants at least one image")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: wanted a whole number of at least 1")
    names = grouped.group_names
    right, count = torch.zeros(len(names), dtype=torch.int64), torch.zeros(len(names), dtype=torch.int64)
    with evaluation_mode(model):
        for start in range(0, len(grouped), batch_size):
            batch = grouped[slice(start, start + batch_size)]
            logits = model(batch.images)
            if logits.shape != (len(batch), len(grouped.classes)):
                raise ValueError(
                    f"logits {tuple(logits.shape)}: wanted ({len(batch)}, {len(grouped.classes)}), "
                    f"one for each of the classes {grouped.classes}"
                )
            # argmax of NaN is some class too, and would be right for the images of that class
            hits = (logits.argmax(1) == batch.labels) & ~logits.isnan().any(1)
            group = batch.group.cpu()
            count += torch.bincount(group, minlength=len(names))
            right += torch.bincount(group[hits.cpu()], minlength=len(names))
    present = [index for index in range(len(names)) if count[index]]
    groups = {names[index]: int(right[index]) / int(count[index]) for index in present}
    worst = min(groups, key=groups.__getitem__)
    result = {
        "groups": groups,
        "counts": {names[index]: int(count[index]) for index in present},
        "accuracy": int(right.sum()) / len(grouped),
        "worst_group": groups[worst],
        "worst_group_name": worst,
        "mean_group": sum(groups.values()) / len(groups),
    }
    if train_counts is not None:
        result["adjusted"] = _adjusted(groups, train_counts, names)
    return result


def _adjusted(groups: Mapping[str, float], train_counts: Mapping[str, int], names: tuple[str, ...]) -> float:
    unknown = [name for name in train_counts if name not in names]
    total = sum(train_counts.values())
    if unknown or total <= 0 or min(train_counts.values()) < 0:
        raise ValueError(
            f"train_counts={dict(train_counts)}: wanted numbers of images, not all 0, of the groups "
            f"{', '.join(names)}; give splits.train.counts()"
        )
    untested = [name for name, count in train_counts.items() if count and name not in groups]
    if untested:
        raise ValueError(
            f"no image of {', '.join(untested)} to measure, so their weight in the training data has no accuracy to go "
            "with; evaluate on images of every trained group, or leave train_counts out"
        )
    return sum(count * groups[name] for name, count in train_counts.items() if count) / total
