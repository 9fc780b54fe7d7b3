"""Cache for results that depend on the clean images only: one call of the augmenter renders them several times.

A policy update, a search and the final rendering all start from the same batch. Encoding it once saves a generative
transform at least a third of its work. The networks that encode are frozen; changes of their weights are not detected.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class CleanImageCache(Generic[T]):
    """Caches one result, for the most recent images.

    A hit requires the same tensor objects, not modified in place since; other tensors with equal values are a miss.
    The cache is not used while a CUDA graph is captured, since a replay has other images in the same tensor, nor in
    inference mode. The result is freed together with its images.
    """

    def __init__(self) -> None:
        self._given: list[tuple[weakref.ref[Tensor], int]] = []
        self._result: T | None = None

    def __call__(self, compute: Callable[[], T], *given: Tensor) -> T:
        """Return `compute()`, or its previous result if that was for the same tensors.

        Args:
            compute: computes the result.
            *given: all tensors that the result depends on and that may differ between calls, the images first.
        """
        if torch.is_inference_mode_enabled() or any(tensor.is_inference() for tensor in given) or _captured(given):
            return compute()
        same = len(given) == len(self._given) and all(
            kept() is tensor and version == tensor._version
            for tensor, (kept, version) in zip(given, self._given, strict=True)
        )
        if self._result is None or not same:
            self._result = None  # frees the old result before the new one is computed
            self._result = compute()
            self._given = [(weakref.ref(tensor, self._forget), tensor._version) for tensor in given]
        return self._result

    def _forget(self, gone: weakref.ref[Tensor]) -> None:
        """Free the result if it belongs to a tensor that no longer exists."""
        if any(kept is gone for kept, _ in self._given):
            self._given, self._result = [], None

    def __getstate__(self) -> dict[str, object]:
        """Return the state of an empty cache: weak references can't be pickled."""
        return {"_given": [], "_result": None}


def _captured(given: tuple[Tensor, ...]) -> bool:
    return any(tensor.is_cuda for tensor in given) and torch.cuda.is_current_stream_capturing()
