"""Tasks: which invariance the teacher has and the student lacks, as test sets, teacher views and oracle transform.

| task | the teacher is invariant to |
|---|---|
| `Shift` | shifts by whole pixels, zero fill |
| `InvarianceTask` | a transform, uniform in its ranges |
| `Corruption` | a transform; tested on corrupted images, simple or common ones (`hard_aug.evaluation.corruptions`) |
| `Plain` | nothing in particular: a test on clean images, to which `ood` adds further sets |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
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
        held_out_corruptions: names of the test sets of a kind that is not in the teacher's training views; a report
            also gives their mean.
    """

    main: str
    held_out_corruptions: tuple[str, ...] = ()

    @abstractmethod
    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """Return the test sets by name, clean images first; deterministic."""

    @abstractmethod
    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return the views of `images`, `(B, C, H, W)`, that the teacher is trained on.

        Args:
            images: `(B, C, H, W)` in [0, 1].
            generator: on the CPU.
        """

    @abstractmethod
    def oracle(self, size: int) -> tuple[Transform, float]:
        """Return the true invariance: a transform, and the fraction of its ranges that is used.

        Args:
            size: of the images, pixels.

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
        return shifted_test_sets(test.materialize(), self.distance, seed=0)

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Task.teacher_views`."""
        return random_shift(images, self.train_shift, generator) if self.train_shift else images

    def oracle(self, size: int) -> tuple[Transform, float]:
        """See `Task.oracle`."""
        return Affine(translation=self.distance / size, rotation=None, scale=None, shear=None), 1.0


class InvarianceTask(Task):
    """The teacher is trained on views by a transform, and the student is tested on such views.

    Args:
        name: of the task and of its test set.
        transform: changes the images but not their class.
        scale: fraction of its ranges that is used, in (0, 1].
        copies: views of each test image.
        distance: shift of a further test set, pixels, to which this teacher need not be invariant.
    """

    def __init__(
        self, *, name: str, transform: Transform, scale: float = 1.0, copies: int = 4, distance: int = 3
    ) -> None:
        self.main = name
        self.transform, self.scale, self.copies, self.distance = transform, scale, copies, distance

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        test = test.materialize()
        generator = torch.Generator().manual_seed(0)
        views = [random_views(self.transform, test.images, generator, scale=self.scale) for _ in range(self.copies)]
        return {
            "clean": test,
            self.main: ImageSet(torch.cat(views), test.labels.repeat(self.copies)),
            "shifted": shifted_test_sets(test, self.distance, seed=0)["shifted"],
        }

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Task.teacher_views`."""
        return random_views(self.transform, images, generator, scale=self.scale)

    def oracle(self, size: int) -> tuple[Transform, float]:
        """See `Task.oracle`."""
        return self.transform, self.scale


class Corruption(InvarianceTask):
    """The teacher is trained on views by a transform; the test sets are clean and corrupted images.

    Args:
        transform: of the teacher's training views.
        scale: fraction of its ranges that is used, in (0, 1].
        images: number of images of each test set (of each corruption and severity).
        kind: `simple`: seven corruptions of one strength (`experiments.tasks.simple_corruptions`), as sets of their own names;
            `common`: the 15 published ones (`hard_aug.evaluation.corruptions`), as `corrupted/<name>`.
        severities: of the common corruptions, a subset of 1 to 5.
        cache: folder of the images with common corruptions.
        held_out_corruptions: names of the test sets of a kind that is not in the teacher's training views.
    """

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
        super().__init__(name="corrupted", transform=transform, scale=scale)
        if kind not in ("simple", "common"):
            raise ValueError(f"task.kind={kind}: expected simple or common")
        chosen = tuple(severities)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(common_corruptions.SEVERITIES):
            raise ValueError(f"task.severities={list(chosen)}: expected a non-empty subset of 1 to 5, each once")
        check_integer(**{"task.images": images})
        self.images, self.kind, self.severities = images, kind, chosen
        self.cache = Path(cache)
        known = list(CORRUPTIONS) if kind == "simple" else [f"corrupted/{name}" for name in common_corruptions.NAMES]
        if not set(held_out_corruptions) <= set(known):
            raise ValueError(
                f"task.held_out_corruptions={list(held_out_corruptions)}: expected some of {', '.join(known)}"
            )
        self.held_out_corruptions = tuple(held_out_corruptions)

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        shown = test[slice(0, self.images)]
        if self.kind == "common":
            made = corruption_cache.corrupted(shown, severities=self.severities, cache=self.cache)
            named = {f"{self.main}/{name}": part for name, part in made.items()}
            return {"clean": test, self.main: ConcatImageSet(tuple(made.values())), **named}
        parts = corrupted(shown.materialize())
        joined = ImageSet(
            torch.cat([part.images for part in parts.values()]), torch.cat([part.labels for part in parts.values()])
        )
        return {"clean": test, self.main: joined, **parts}


class Plain(Task):
    """Classification of clean images.

    Args:
        transform: of the teacher's training views; None: trained on the images as the data set provides them.
        scale: fraction of its ranges that is used, in (0, 1].
    """

    main = "clean"

    def __init__(self, *, transform: Transform | None = None, scale: float = 1.0) -> None:
        self.transform, self.scale = transform, scale

    def sets(self, test: ImageSet) -> dict[str, ImageSet]:
        """See `Task.sets`."""
        return {self.main: test}

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """See `Task.teacher_views`."""
        return images if self.transform is None else random_views(self.transform, images, generator, scale=self.scale)

    def oracle(self, size: int) -> tuple[Transform, float]:
        """See `Task.oracle`."""
        if self.transform is None:
            raise ValueError("this task has no known invariance: leave `oracle` out of students=[...]")
        return self.transform, self.scale
