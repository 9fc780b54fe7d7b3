"""Base of the out-of-domain test sets, and those of a configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from hard_aug.data import ConcatImageSet, ImageSet, Splits
from hard_aug.evaluation.corruptions import SEVERITIES


@dataclass(kw_only=True)
class OutOfDomain(ABC):
    """Further test sets.

    Attributes:
        name: of the set, and of its key in the configuration's `ood`.
        root: folder of the set.
        source: where to get it.
    """

    name: str
    root: str | None = None
    source: str = "its authors' page"

    @property
    def folder(self) -> Path:
        """`root`, checked.

        Raises:
            FileNotFoundError: no folder is set, or it does not exist.
        """
        if self.root is None or not Path(self.root).is_dir():
            looked = "" if self.root is None else f"no folder {self.root}; "
            raise FileNotFoundError(
                f"{looked}{self.name} requires ood.{self.name}.root=<folder>; get it from {self.source}"
            )
        return Path(self.root)

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


def load_sets(config: Mapping[str, Any] | Iterable[Any] | None, splits: Splits) -> dict[str, ImageSet]:
    """Load the test sets of a configuration's `ood`, nodes with a `_target_` by name or in a list, by name.

    Raises:
        ValueError: two sets of one name, or sets that do not fit the data `splits`.
        FileNotFoundError: missing files.
    """
    found: dict[str, ImageSet] = {}
    for node in config.values() if isinstance(config, Mapping) else config or ():
        given: OutOfDomain = instantiate(node)
        made = given.sets(splits)
        if found.keys() & made.keys():
            raise ValueError(f"ood has two sets with the name {given.name!r}; set another name= for one of them")
        found |= made
    return found


def check_severities(severities: Sequence[int]) -> None:
    """Raise `ValueError` unless these are some of 1 to 5, each once."""
    if not severities or not set(severities) <= set(SEVERITIES) or len(set(severities)) < len(severities):
        raise ValueError(f"severities={list(severities)}: expected some of 1 to 5, each once")
