"""Tasks: what the teacher knows and the student does not, as test sets, the teacher's training views and the oracle.

| task | what the teacher is indifferent to |
|---|---|
| `Shift` | shifts by whole pixels, zero fill |
| `Invariance` | a transform, uniform in its ranges |
| `Corruption` | the same, and it is tested on corrupted images: `experiments.corruptions` or `.common_corruptions` |
| `Plain` | nothing in particular: a test on clean images, to which `ood` adds others |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from experiments import common_corruptions
from experiments.common_corruptions.cache import CACHE
from experiments.corruptions import CORRUPTIONS, corrupted
from experiments.parts import Joined, Part
from experiments.shifts import random_shift, sets_of
from experiments.views import random_views
from hard_aug.transforms import Affine, Transform


class Task(ABC):
    """What an experiment needs of a task.

    Attributes:
        main: the name of the test set that says whether the student has learned it.
        novel: the test sets that are like nothing in the teacher's training; a report gives their mean as well.
    """

    main: str
    novel: tuple[str, ...] = ()

    @abstractmethod
    def sets(self, test: Part) -> dict[str, Part]:
        """Test sets by name, the images as they are first; the same at each call."""

    @abstractmethod
    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """What the teacher is shown in place of `images`, `(B, C, H, W)`."""

    @abstractmethod
    def oracle(self, size: int) -> tuple[Transform, float]:
        """What a student is shown that is told the answer: a transform, and the share of its ranges that is used.

        Args:
            size: of the images, pixels.

        Raises:
            ValueError: there is no such answer.
        """


class Shift(Task):
    """The toy problem of HARD's predecessor; see `experiments.shifts`.

    Args:
        distance: of the shifted test set, pixels.
        train_shift: the largest that the teacher is shown, pixels; 0: none.
    """

    main = "shifted"

    def __init__(self, *, distance: int, train_shift: int) -> None:
        if distance < 1:
            raise ValueError(f"test_shift={distance}: wanted a whole number of at least 1")
        if train_shift < 0:
            raise ValueError(f"teacher.train_shift={train_shift}: wanted pixels, 0 for no shifts")
        self.distance, self.train_shift = distance, train_shift

    def sets(self, test: Part) -> dict[str, Part]:
        return sets_of(test.in_memory(), self.distance, seed=0)

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return random_shift(images, self.train_shift, generator) if self.train_shift else images

    def oracle(self, size: int) -> tuple[Transform, float]:
        return Affine(translation=self.distance / size, rotation=None, scale=None, shear=None), 1.0


class Invariance(Task):
    """The teacher is trained on views by a transform, and the student tested on such views.

    Args:
        name: of the task and of its test set.
        transform: what changes the images and not their class.
        scale: the share of its ranges that is used, in (0, 1].
        copies: views of each test image.
        distance: of a further test set, of shifts in pixels, which this teacher need not know.
    """

    def __init__(
        self, *, name: str, transform: Transform, scale: float = 1.0, copies: int = 4, distance: int = 3
    ) -> None:
        self.main = name
        self.transform, self.scale, self.copies, self.distance = transform, scale, copies, distance

    def sets(self, test: Part) -> dict[str, Part]:
        test = test.in_memory()
        generator = torch.Generator().manual_seed(0)
        views = [random_views(self.transform, test.images, generator, scale=self.scale) for _ in range(self.copies)]
        return {
            "clean": test,
            self.main: Part(torch.cat(views), test.labels.repeat(self.copies)),
            "shifted": sets_of(test, self.distance, seed=0)["shifted"],
        }

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return random_views(self.transform, images, generator, scale=self.scale)

    def oracle(self, size: int) -> tuple[Transform, float]:
        return self.transform, self.scale


class Corruption(Invariance):
    """A teacher that has seen a transform's views; the test sets are clean and corrupted images.

    Args:
        transform: that the teacher is trained with.
        scale: the share of its ranges that is used, in (0, 1].
        images: of each test set (of each corruption and severity).
        kind: `simple`: seven corruptions of one strength (`experiments.corruptions`), as sets of their own names;
            `common`: the 15 published ones (`experiments.common_corruptions`), as `corrupted/<name>`.
        severities: of the common ones, some of 1 to 5.
        cache: folder of the commonly corrupted images.
        novel: names of the test sets that are like nothing in the teacher's training; reports give their mean.
    """

    def __init__(
        self,
        *,
        transform: Transform,
        scale: float = 1.0,
        images: int = 2000,
        kind: str = "simple",
        severities: Sequence[int] = common_corruptions.SEVERITIES,
        cache: str | Path = CACHE,
        novel: Sequence[str] = (),
    ) -> None:
        super().__init__(name="corrupted", transform=transform, scale=scale)
        if kind not in ("simple", "common"):
            raise ValueError(f"task.kind={kind}: wanted simple or common")
        chosen = tuple(severities)
        if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(common_corruptions.SEVERITIES):
            raise ValueError(f"task.severities={list(chosen)}: wanted some of 1 to 5, each once")
        if images < 1:
            raise ValueError(f"task.images={images}: wanted a whole number of at least 1")
        self.images, self.kind, self.severities = images, kind, chosen
        self.cache = Path(cache)
        known = list(CORRUPTIONS) if kind == "simple" else [f"corrupted/{name}" for name in common_corruptions.NAMES]
        if not set(novel) <= set(known):
            raise ValueError(f"task.novel={list(novel)}: wanted some of {', '.join(known)}")
        self.novel = tuple(novel)

    def sets(self, test: Part) -> dict[str, Part]:
        shown = test[slice(0, self.images)]
        if self.kind == "common":
            made = common_corruptions.corrupted(shown, severities=self.severities, cache=self.cache)
            named = {f"{self.main}/{name}": part for name, part in made.items()}
            return {"clean": test, self.main: Joined(tuple(made.values())), **named}
        parts = corrupted(shown.in_memory())
        joined = Part(
            torch.cat([part.images for part in parts.values()]), torch.cat([part.labels for part in parts.values()])
        )
        return {"clean": test, self.main: joined, **parts}


class Plain(Task):
    """Classification of images as they are.

    Args:
        transform: that the teacher is trained with; None: on images as the data gives them.
        scale: the share of its ranges that is used, in (0, 1].
    """

    main = "clean"

    def __init__(self, *, transform: Transform | None = None, scale: float = 1.0) -> None:
        self.transform, self.scale = transform, scale

    def sets(self, test: Part) -> dict[str, Part]:
        return {self.main: test}

    def teacher_views(self, images: Tensor, generator: torch.Generator) -> Tensor:
        return images if self.transform is None else random_views(self.transform, images, generator, scale=self.scale)

    def oracle(self, size: int) -> tuple[Transform, float]:
        if self.transform is None:
            raise ValueError("the task tells no student what is to be learned: leave `oracle` out of students=[...]")
        return self.transform, self.scale
