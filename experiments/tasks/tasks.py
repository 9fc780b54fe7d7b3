"""Tasks: which invariance the teacher has and the student lacks, as test sets, teacher views and oracle transform.

| task | the teacher is invariant to |
|---|---|
| `Shift` | shifts by whole pixels, zero fill |
| `InvarianceTask` | a transform, uniform in its ranges |
| `Corruption` | a transform; tested on corrupted images, simple or common ones (`hard_aug.evaluation.corruptions`) |
| `Plain` | nothing in particular: a test on clean images, to which `ood` adds further sets |

`scale` is the fraction of a transform's ranges that is used, in (0, 1].
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments.data import corruption_cache
from experiments.tasks.random_views import random_views
from experiments.tasks.shifts import random_shift, shifted_test_sets
from experiments.tasks.simple_corruptions import CORRUPTIONS, corrupted
from hard_aug.data import ConcatImageSet, ImageSet
from hard_aug.evaluation import corruptions as common_corruptions
from hard_aug.transforms import Affine, Transform
from hard_aug.utils.checks import check_integer


class Task(ABC):
    """The interface of a task.

    Attributes:
        main: name of the test set that measures whether the student has acquired the invariance.
        held_out_corruptions: names of the test sets of a kind that is not in the teacher's training views.
    """

    main: str
    held_out_corruptions: tuple[str, ...] = ()

    @abstractmethod
    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """Return the test sets by name, clean images first; deterministic."""

    def derived(self, accuracies: Mapping[str, float]) -> dict[str, float]:
        """Return further accuracies by name, such as the lowest of some groups, from those on the test sets."""
        return {}

    @abstractmethod
    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the views of `(B, C, H, W)` images that the teacher is trained on; `generator`: on the CPU."""

    @abstractmethod
    def oracle(self, size: int) -> tuple[Transform, float]:
        """Return the true invariance for images of `size` pixels: a transform and its `scale`.

        Raises:
            ValueError: the task has no known invariance.
        """


class Shift(Task):
    """Shift invariance, the toy problem of Orbit (Nix et al., PMLR 151, 2022); see `experiments.tasks.shifts`.

    Args:
        distance: of the shifted test set, pixels.
        train_shift: the largest shift in the teacher's training views, pixels; 0: none.
    """

    main = "shifted"

    def __init__(self, *, distance: int, train_shift: int) -> None:
        check_integer(test_shift=distance)
        check_integer(0, **{"teacher.train_shift": train_shift})
        self.distance, self.train_shift = distance, train_shift

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        return shifted_test_sets(test.materialize(), self.distance)

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Task.teacher_views`."""
        return random_shift(images, self.train_shift, generator) if self.train_shift else images

    def oracle(self, size: int) -> tuple[Transform, float]:
        """See `Task.oracle`."""
        return Affine(translation=self.distance / size, rotation=None, scale=None, shear=None), 1.0


class Plain(Task):
    """Classification of clean images; the teacher is trained on views by a transform, or None: on clean images."""

    main = "clean"

    def __init__(self, *, transform: Transform | None = None, scale: float = 1.0) -> None:
        self.transform, self.scale = transform, scale

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        return {"clean": test}

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Task.teacher_views`."""
        return images if self.transform is None else random_views(self.transform, images, generator, scale=self.scale)

    def oracle(self, size: int) -> tuple[Transform, float]:
        """See `Task.oracle`."""
        if self.transform is None:
            raise ValueError("method=oracle: this task has no known invariance; choose another method")
        return self.transform, self.scale


class InvarianceTask(Plain):
    """The teacher is trained on views by a transform, and the student is tested on such views.

    Args:
        name: of the task and of its test set.
        transform: changes the images but not their class.
        scale: of the transform.
        copies: views of each test image.
        distance: shift of a further test set, pixels, to which this teacher need not be invariant.
        teacher_knows: False: the teacher is trained on clean images, and there is no invariance to be transferred.
    """

    def __init__(
        self,
        *,
        name: str,
        transform: Transform,
        scale: float = 1.0,
        copies: int = 4,
        distance: int = 3,
        teacher_knows: bool = True,
    ) -> None:
        super().__init__(transform=transform, scale=scale)
        self.main, self.copies, self.distance, self.teacher_knows = name, copies, distance, teacher_knows

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Task.teacher_views`."""
        return super().teacher_views(images, generator) if self.teacher_knows else images

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        test, generator = test.materialize(), torch.Generator().manual_seed(0)
        views = [super(InvarianceTask, self).teacher_views(test.images, generator) for _ in range(self.copies)]
        return {
            "clean": test,
            self.main: ImageSet(torch.cat(views), test.labels.repeat(self.copies)),
            "shifted": shifted_test_sets(test, self.distance)["shifted"],
        }


class Corruption(Plain):
    """The teacher is trained on views by a transform; the test sets are clean and corrupted images.

    Args:
        transform: of the teacher's training views.
        scale: of the transform.
        images: number of images of each test set (of each corruption and severity).
        kind: `simple`: seven corruptions of one strength (`experiments.tasks.simple_corruptions`), as sets of their own
            names; `common`: the 15 published ones (`hard_aug.evaluation.corruptions`), as `corrupted/<name>`.
        severities: of the common corruptions, a subset of 1 to 5.
        cache: folder of the images with common corruptions.
        held_out_corruptions: names of the test sets of a kind that is not in the teacher's training views.
    """

    main = "corrupted"

    def __init__(
        self,
        *,
        transform: Transform,
        scale: float = 1.0,
        images: int = 2000,
        kind: str = "simple",
        severities: Sequence[int] = common_corruptions.SEVERITIES,
        cache: str | Path = corruption_cache.CACHE,
        held_out_corruptions: Sequence[str] = (),
    ) -> None:
        super().__init__(transform=transform, scale=scale)
        names = {"simple": list(CORRUPTIONS), "common": [f"corrupted/{name}" for name in common_corruptions.NAMES]}
        if kind not in names:
            raise ValueError(f"task.kind={kind}: expected simple or common")
        chosen = tuple(severities)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(common_corruptions.SEVERITIES):
            raise ValueError(f"task.severities={list(chosen)}: expected a non-empty subset of 1 to 5, each once")
        check_integer(**{"task.images": images})
        self.images, self.kind, self.severities, self.cache = images, kind, chosen, Path(cache)
        self.held_out_corruptions = tuple(held_out_corruptions)
        if not set(self.held_out_corruptions) <= set(names[kind]):
            raise ValueError(
                f"task.held_out_corruptions={list(held_out_corruptions)}: expected some of {', '.join(names[kind])}"
            )

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        shown = test[slice(0, self.images)]
        if self.kind == "common":
            made = corruption_cache.corrupted(shown, severities=self.severities, cache=self.cache)
            parts = {f"corrupted/{name}": part for name, part in made.items()}
        else:
            parts = corrupted(shown.materialize())
        return {"clean": test, "corrupted": ConcatImageSet(tuple(parts.values())), **parts}
