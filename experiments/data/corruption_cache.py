"""Corrupted copies of an image set, cached on disk.

A file is named by the hash of everything that it depends on: the images, the corruption, the severity, the seed and the
source code of `hard_aug.evaluation.corruptions`. It is a `.npy` array `(N, C, H, W)` uint8 followed by the SHA-256 of
that file, is written atomically, and is written again if it is damaged.
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
from torch import Tensor

from experiments.data.streams import Arrays, LazyImageSet
from hard_aug.data import ImageSet
from hard_aug.evaluation import corruptions as common_corruptions
from hard_aug.evaluation.corruptions.corrupt import chunk, corrupt
from hard_aug.evaluation.corruptions.severities import NAMES, SEVERITIES

logger = logging.getLogger(__name__)
#: Default folder of the files.
CACHE = Path(".cache/corruptions")
#: Length of the digest at the end of a file, and of the blocks that are read.
DIGEST, BLOCK = 32, 2**20


def corrupted(
    part: ImageSet,
    *,
    corruptions: Sequence[str] = NAMES,
    severities: Sequence[int] = SEVERITIES,
    seed: int = 0,
    cache: Path = CACHE,
) -> dict[str, LazyImageSet]:
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
    content = _content(part)
    made = {}
    for corruption in corruptions:
        arrays = []
        for severity in severities:
            key = "|".join((content, corruption, str(severity), str(seed), _version()))
            path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
            if not intact(path):
                logger.info("corrupting %d images: %s, severity %d", len(part), corruption, severity)
                _write(path, part, corruption, severity, seed)
            arrays.append(np.load(path, mmap_mode="r"))
        made[corruption] = LazyImageSet(Arrays(arrays), part.labels.repeat(len(arrays)))
    return made


def intact(path: Path) -> bool:
    """Return whether a file exists and ends with the digest of what precedes it; a damaged one is logged."""
    if not path.is_file() or path.stat().st_size <= DIGEST:
        return False
    left, digest = path.stat().st_size - DIGEST, hashlib.sha256()
    with path.open("rb") as file:
        while left and (block := file.read(min(BLOCK, left))):
            digest.update(block)
            left -= len(block)
        is_intact = file.read() == digest.digest()
    if not is_intact:
        logger.warning("%s is damaged and is written again", path)
    return is_intact


def _bytes(part: ImageSet) -> Tensor:
    return (part.materialize().images * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def _content(part: ImageSet) -> str:
    digest = hashlib.sha256(repr((len(part), part.shape)).encode())
    size = chunk(*part.shape[1:])
    for start in range(0, len(part), size):
        digest.update(_bytes(part[slice(start, start + size)]).contiguous().numpy())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _version() -> str:
    sources = sorted(Path(common_corruptions.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _write(path: Path, part: ImageSet, corruption: str, severity: int, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}.tmp")
    size = chunk(*part.shape[1:])
    head = {"descr": "|u1", "fortran_order": False, "shape": (len(part), *part.shape)}
    try:
        with unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, head)
            for start in range(0, len(part), size):
                made = corrupt(_bytes(part[slice(start, start + size)]), corruption, severity, seed=seed, first=start)
                file.write(made.contiguous().numpy().tobytes())
        with unfinished.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").digest()
        with unfinished.open("ab") as file:
            file.write(digest)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
