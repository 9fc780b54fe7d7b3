"""Base of the out-of-domain test sets, and those of a configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from hard_aug.data import ConcatImageSet, ImageSet, Splits
from hard_aug.evaluation.corruptions import NAMES, SEVERITIES


@dataclass(kw_only=True)
class OutOfDomain(ABC):
    """Further test sets, of a `name`, which is its key in the configuration's `ood`, from a `source`, in `root`."""

    name: str
    root: str | None = None
    source: str = "its authors' page"

    @property
    def folder(self) -> Path:
        """`root`; raises `FileNotFoundError` if none is set, or it does not exist."""
        if self.root is None or not Path(self.root).expanduser().is_dir():
            looked = "" if self.root is None else f"no folder {self.root}; "
            raise FileNotFoundError(
                f"{looked}{self.name} requires ood.{self.name}.root=<folder>; get it from {self.source}"
            )
        return Path(self.root).expanduser()

    @abstractmethod
    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """Load the test sets by name, on the device of the data `splits`, to which they belong.

        Raises:
            FileNotFoundError: missing files; says where they were expected.
            ValueError: files of another format, or classes or shapes that are not those of the data.
        """

    def _missing(self, path: Path) -> FileNotFoundError:
        return FileNotFoundError(f"no {path}, which {self.name} has; unpack it again from {self.source}")

    def _named(self, parts: Mapping[str, ImageSet]) -> dict[str, ImageSet]:
        subsets = {f"{self.name}/{key}": part for key, part in parts.items()}
        return {self.name: ConcatImageSet(tuple(parts.values())), **subsets}


@dataclass(kw_only=True)
class Corrupted(OutOfDomain):
    """Sets of `corruptions` (names of files or folders; None: all standard ones) and `severities` (some of 1 to 5)."""

    corruptions: Sequence[str] | None = None
    severities: Sequence[int] = SEVERITIES

    def __post_init__(self) -> None:
        self.corruptions = NAMES if self.corruptions is None else self.corruptions
        given = set(self.severities)
        if not given or not given <= set(SEVERITIES) or len(given) < len(self.severities):
            raise ValueError(f"severities={list(self.severities)}: expected some of 1 to 5, each once")


def load_sets(config: Mapping[str, Any] | Iterable[Any] | None, splits: Splits) -> dict[str, ImageSet]:
    """Load the test sets of a configuration's `ood`, nodes with a `_target_` by name or in a list, by name.

    Raises `ValueError` for two sets of one name, and as `OutOfDomain.sets` does.
    """
    found: dict[str, ImageSet] = {}
    for node in config.values() if isinstance(config, Mapping) else config or ():
        given: OutOfDomain = instantiate(node)
        made = given.sets(splits)
        if found.keys() & made.keys():
            raise ValueError(f"ood has two sets with the name {given.name!r}; set another name= for one of them")
        found |= made
    return found
