"""What a transform computes of the clean images alone, kept while they are the same: a call renders them several times.

An ascent, a search and the last rendering all start from one batch. Encoding it once saves a generative transform
a third of its work and more. The networks that encode are frozen; new weights in them are not noticed.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class OfImages(Generic[T]):
    """Remembers one result, of the last images.

    The same are the same tensor object, unchanged in place since; another tensor with equal values counts as others.
    While a CUDA graph is captured nothing is taken from memory, for a replay has other images in the same tensor.
    """

    def __init__(self) -> None:
        self._given: list[tuple[weakref.ref[Tensor], int]] = []
        self._result: T | None = None

    def __call__(self, compute: Callable[[], T], *given: Tensor) -> T:
        """`compute()`, or what it gave last time, if that was for the same tensors.

        Args:
            given: all that the result depends on and that may differ from one call to the next, the images first.
        """
        if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in given) or _captured(given):
            return compute()
        same = len(given) == len(self._given) and all(
            kept() is tensor and version == tensor._version
            for tensor, (kept, version) in zip(given, self._given, strict=True)
        )
        if self._result is None or not same:
            self._result = None  # the old one is freed before the new one is made
            self._result = compute()
            self._given = [(weakref.ref(tensor, self._forget), tensor._version) for tensor in given]
        return self._result

    def _forget(self, gone: weakref.ref[Tensor]) -> None:
        """The result is of no use once its images are gone."""
        if any(kept is gone for kept, _ in self._given):
            self._given, self._result = [], None

    def __getstate__(self) -> dict[str, object]:
        """What is remembered stays behind: references do not travel."""
        return {"_given": [], "_result": None}


def _captured(given: tuple[Tensor, ...]) -> bool:
    return any(tensor.is_cuda for tensor in given) and torch.cuda.is_current_stream_capturing()
