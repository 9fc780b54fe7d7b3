"""Task `groups`: the student is trained without images of some groups of class and spurious attribute."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean

from experiments.tasks.tasks import Plain
from hard_aug.data import ConcatImageSet, Grouped, ImageSet


class Groups(Plain):
    """Test images of the groups of the student's training images, of the absent groups, and of each group alone.

    Derived are the accuracy of the worst group, and the mean over groups.

    Raises:
        ValueError: images without groups.
    """

    main = "worst_group"

    def __init__(self, *, train: ImageSet) -> None:
        super().__init__()
        self.present = set(_grouped(train).counts())

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        test = _grouped(test)
        groups = {name: test[test.group == number] for number, name in enumerate(test.group_names)}
        groups = {name: part for name, part in groups.items() if len(part)}
        parts = {
            "in_distribution": [part for name, part in groups.items() if name in self.present],
            "absent_groups": [part for name, part in groups.items() if name not in self.present],
        }
        joined: dict[str, ImageSet] = {name: ConcatImageSet(some) for name, some in parts.items() if some}
        return joined | {f"groups/{name}": part for name, part in groups.items()}

    def derived(self, accuracies: Mapping[str, float]) -> dict[str, float]:
        """See `Task.derived`."""
        groups = [value for name, value in accuracies.items() if name.startswith("groups/")]
        return {"worst_group": min(groups), "mean_group": round(fmean(groups), 5)}


def _grouped(part: ImageSet) -> Grouped:
    if not isinstance(part, Grouped):
        raise ValueError("task=groups requires data with groups, such as data=spurious or waterbirds")
    return part
