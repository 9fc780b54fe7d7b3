"""Accuracies by group of (class, spurious attribute), as benchmarks of spurious features report them.

The measures are those of group DRO (Sagawa et al., arXiv:1911.08731):

| measure | definition |
|---|---|
| accuracy | mean over images |
| worst_group | the smallest accuracy of any group |
| mean_group | mean over groups |
| adjusted | mean over groups weighted by their fractions of the *training* data: "average" in papers on Waterbirds |

A group without an image has no accuracy and is left out of all of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from hard_aug.data.groups import Grouped
from hard_aug.models.network import Network
from hard_aug.utils.checks import check_integer


def group_accuracies(
    model: nn.Module, grouped: Grouped, *, batch_size: int = 1000, train_counts: Mapping[str, int] | None = None
) -> dict[str, Any]:
    """Compute accuracies by group in evaluation mode; the train/eval flags of the model are restored.

    Args:
        model: `(B, C, H, W) -> (B, K)` logits, `K` the number of classes. An image with a NaN among its logits counts
            as misclassified.
        grouped: the images, on the model's device.
        batch_size: images per forward.
        train_counts: number of training images of each group, as `splits.train.counts()` returns them, for `adjusted`.
            Groups that were absent from training have weight 0 there.

    Returns:
        `groups` and `counts` (accuracy in [0, 1] and number of images by `class/attribute`, only groups with images),
        `accuracy`, `worst_group`, `worst_group_name`, `mean_group`, and `adjusted` where `train_counts` is given.

    Raises:
        ValueError: no image, a batch size below 1, logits of another shape, or counts that do not fit the groups.

    Example:
        >>> import torch
        >>> from hard_aug.data import Grouped
        >>> from hard_aug.evaluation import group_accuracies
        >>> birds = Grouped(
        ...     images=torch.eye(2)[[0, 1, 1, 1]].reshape(4, 2, 1, 1),
        ...     labels=torch.tensor([0, 0, 1, 1]),
        ...     spurious=torch.tensor([0, 1, 0, 1]),
        ...     classes=("landbird", "waterbird"),
        ...     attributes=("land", "water"),
        ... )
        >>> found = group_accuracies(torch.nn.Flatten(), birds)
        >>> found["accuracy"], found["worst_group"], found["worst_group_name"]
        (0.75, 0.0, 'landbird/water')
    """
    if len(grouped) == 0:
        raise ValueError("group_accuracies requires at least one image")
    check_integer(batch_size=batch_size)
    names = grouped.group_names
    correct, count = torch.zeros(2, len(names), dtype=torch.int64, device="cpu")
    network = Network(model, name="model")
    for start in range(0, len(grouped), batch_size):
        batch = grouped.select(slice(start, start + batch_size))
        logits = network.evaluate(batch.images, check_finite=False)
        if logits.shape != (len(batch), len(grouped.classes)):
            raise ValueError(
                f"logits {tuple(logits.shape)}: expected ({len(batch)}, {len(grouped.classes)}), "
                f"one for each of the classes {grouped.classes}"
            )
        # the argmax of NaN is some class too, and would be correct for the images of that class
        hits = (logits.argmax(1) == batch.labels) & ~logits.isnan().any(1)
        group = batch.group.cpu()
        count += torch.bincount(group, minlength=len(names))
        correct += torch.bincount(group[hits.cpu()], minlength=len(names))
    present = [index for index in range(len(names)) if count[index]]
    groups = {names[index]: int(correct[index]) / int(count[index]) for index in present}
    worst = min(groups, key=groups.__getitem__)
    result = {
        "groups": groups,
        "counts": {names[index]: int(count[index]) for index in present},
        "accuracy": int(correct.sum()) / len(grouped),
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
            f"train_counts={dict(train_counts)}: expected numbers of images, not all 0, of the groups "
            f"{', '.join(names)}; pass splits.train.counts()"
        )
    untested = [name for name, count in train_counts.items() if count and name not in groups]
    if untested:
        raise ValueError(
            f"no image of {', '.join(untested)} to evaluate, so its weight in the training data has no accuracy; "
            "evaluate on images of every trained group, or leave train_counts out"
        )
    return sum(count * groups[name] for name, count in train_counts.items() if count) / total
