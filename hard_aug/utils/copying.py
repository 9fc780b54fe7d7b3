"""Copies of objects that hold the caller's networks."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, NoReturn, Self


class HoldsNetworks:
    """Base class of objects that hold the caller's networks. They can be copied, but not pickled.

    A deep copy has copies of the networks too, those of the same `copy.deepcopy`: `copy.deepcopy((student, augmenter))`
    returns an augmenter of the copied student. A pickle of both networks is large, can't be made of all of them, and
    would have another process train a student of its own.

    Attributes:
        _instead: what to do, for the error.
    """

    _instead: ClassVar[str]

    def __copy__(self) -> Self:
        copied = object.__new__(type(self))
        vars(copied).update(vars(self))
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        copied = object.__new__(type(self))
        memo[id(self)] = copied
        try:
            vars(copied).update(copy.deepcopy(vars(self), memo))
        except Exception as error:  # whatever a network raises that can't be copied
            name = type(self).__name__
            raise TypeError(
                f"a {name} is copied with its networks, and one of them can't be copied ({error}); {self._instead}"
            ) from error
        return copied

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(f"a {type(self).__name__} can't be pickled: it holds the networks; {self._instead}")
