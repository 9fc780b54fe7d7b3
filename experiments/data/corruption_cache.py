"""Corrupted copies of an image set, cached on disk.

A file is named by the hash of everything that it depends on: the images, the corruption, the severity, the seed and the
source code of `hard_aug.evaluation.corruptions`. It is a `.npy` array `(N, C, H, W)` uint8, is written atomically, and
is written again if it does not have the SHA-256 beside it.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from experiments.data.files import Array, LazyImageSet
from hard_aug.data import ConcatImageSet, ImageSet
from hard_aug.evaluation import corruptions as common_corruptions
from hard_aug.evaluation.corruptions.corrupt import chunk, corrupt
from hard_aug.evaluation.corruptions.severities import NAMES, SEVERITIES

logger = logging.getLogger(__name__)
#: Default folder of the files.
CACHE = Path(".cache/corruptions")


def corrupted(
    part: ImageSet,
    *,
    corruptions: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    cache: Path = CACHE,
) -> dict[str, ConcatImageSet]:
    """Return all images under each corruption, by name, its severities one after another; the same at each call.

    Args:
        part: images and labels; images are rounded to 8 bits first.
        corruptions: names of the corruptions.
        severities: some of 1 to 5.
        seed: of the random numbers.
        cache: folder of the files.

    Raises:
        ValueError: an unknown corruption or severity, or images that are too small.
    """
    cache.mkdir(parents=True, exist_ok=True)
    content, made = _content(part), {}
    for corruption in corruptions:
        parts = []
        for severity in severities:
            key = "|".join((content, corruption, str(severity), str(seed), _version()))
            path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
            with FileLock(cache / ".lock"):  # the runs of a multirun ask for the same files at once
                if not intact(path):
                    logger.info("corrupting %d images: %s, severity %d", len(part), corruption, severity)
                    _write(path, part, corruption, severity, seed)
            parts.append(LazyImageSet(Array(np.load(path, mmap_mode="r")), part.labels))
        made[corruption] = ConcatImageSet(parts)
    return made


def intact(path: Path) -> bool:
    """Return whether a file exists and has the digest beside it; a damaged one is logged."""
    digest = path.with_suffix(".sha256")
    if not (path.is_file() and digest.is_file()):
        return False
    is_intact = _digest(path) == digest.read_text(encoding="utf-8")
    if not is_intact:
        logger.warning("%s is damaged and is written again", path)
    return is_intact


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes(part: ImageSet) -> Tensor:
    return (part.materialize().images * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()


def _content(part: ImageSet) -> str:
    digest = hashlib.sha256(repr((len(part), part.shape)).encode())
    size = chunk(*part.shape[1:])
    for start in range(0, len(part), size):
        digest.update(_bytes(part[slice(start, start + size)]).numpy())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _version() -> str:
    sources = sorted(Path(common_corruptions.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _write(path: Path, part: ImageSet, corruption: str, severity: int, seed: int) -> None:
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    size = chunk(*part.shape[1:])
    head = {"descr": "|u1", "fortran_order": False, "shape": (len(part), *part.shape)}
    try:
        with unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, head)
            for start in range(0, len(part), size):
                made = corrupt(_bytes(part[slice(start, start + size)]), corruption, severity, seed=seed, first=start)
                file.write(made.contiguous().numpy().tobytes())
        path.with_suffix(".sha256").write_text(_digest(unfinished), encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
