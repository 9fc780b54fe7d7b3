"""Base of the out-of-domain test sets, and those of a configuration."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.utils import instantiate

from hard_aug.data import ConcatImageSet, ImageSet, Splits

SEVERITIES = (1, 2, 3, 4, 5)


class OutOfDomain(ABC):
    """Further test sets.

    Args:
        name: of the set, and of its key in the configuration's `ood`.
        root: folder of the set.
        source: where to get it.
    """

    def __init__(self, name: str, root: str | None, source: str) -> None:
        self.name, self.source = name, source
        self._root = None if root is None else Path(root)

    @property
    def root(self) -> Path:
        """The folder of the set.

        Raises:
            FileNotFoundError: no folder is set, or it does not exist.
        """
        if self._root is None or not self._root.is_dir():
            looked = "" if self._root is None else f"no folder {self._root}; "
            raise FileNotFoundError(
                f"{looked}{self.name} requires ood.{self.name}.root=<folder>; get it from {self.source}"
            )
        return self._root

    @abstractmethod
    def sets(self, splits: Splits) -> dict[str, ImageSet]:
        """Load the test sets by name, on the device of the data.

        Args:
            splits: the data that they belong to.

        Raises:
            FileNotFoundError: missing files; says where they were expected.
            ValueError: files of another format, or classes or shapes that are not those of the data.
        """

    def _missing(self, path: Path) -> FileNotFoundError:
        return FileNotFoundError(f"no {path}, which {self.name} has; unpack it again from {self.source}")

    def _named(self, parts: dict[str, ImageSet]) -> dict[str, ImageSet]:
        return {self.name: ConcatImageSet(tuple(parts.values()))} | {
            f"{self.name}/{key}": part for key, part in parts.items()
        }


def load_sets(config: Mapping[str, Any] | Sequence[Any] | None, splits: Splits) -> dict[str, ImageSet]:
    """Load the test sets of a configuration's `ood` by name.

    Args:
        config: nodes with a `_target_`, by name or in a list; None: none.
        splits: the data that they belong to.

    Raises:
        ValueError: two sets of one name, or sets that do not fit the data.
        FileNotFoundError: missing files.
    """
    found: dict[str, ImageSet] = {}
    for node in () if config is None else config.values() if isinstance(config, Mapping) else config:
        given: OutOfDomain = instantiate(node)
        made = given.sets(splits)
        if found.keys() & made.keys():
            raise ValueError(f"ood has two sets with the name {given.name!r}; set another name= for one of them")
        found |= made
    return found


def check_severities(severities: Sequence[int]) -> tuple[int, ...]:
    """Return severities as a tuple.

    Args:
        severities: some of 1 to 5.

    Raises:
        ValueError: none, others, or one twice.
    """
    chosen = tuple(severities)
    if not chosen or not set(chosen) <= set(SEVERITIES) or len(set(chosen)) < len(chosen):
        raise ValueError(f"severities={list(chosen)}: expected some of 1 to 5, each once")
    return chosen
