"""Corrupted copies of an image set, cached on disk.

A file is named by the hash of everything that it depends on: the images, the corruption, the severity and the source
code of `hard_aug.evaluation.corruptions`. It is a `.npy` array `(N, C, H, W)` uint8, is written atomically, and
is written again if it does not have the SHA-256 beside it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
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
from hard_aug.utils.files import replacing, write_text

logger = logging.getLogger(__name__)
#: Default folder of the files.
CACHE = Path(".cache/corruptions")


def corrupted(
    part: ImageSet, *, corruptions: Sequence[str] = NAMES, severities: Sequence[int] = SEVERITIES, cache: Path = CACHE
) -> dict[str, ConcatImageSet]:
    """Return all images, rounded to 8 bits, under each corruption, by name, its `severities` (some of 1 to 5) in order.

    Raises `ValueError` for an unknown corruption or severity, and images that are too small.
    """
    cache.mkdir(parents=True, exist_ok=True)
    content, made = _content(part), {}
    for corruption in corruptions:
        parts = []
        for severity in severities:
            key = f"{content}|{corruption}|{severity}|{_version()}"
            path = cache / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"
            with FileLock(cache / ".lock"):  # the runs of a multirun ask for the same files at once
                if not intact(path):
                    logger.info("corrupting %d images: %s, severity %d", len(part), corruption, severity)
                    _write(path, part, corruption, severity)
            parts.append(LazyImageSet(Array(np.load(path, mmap_mode="r"), path), part.labels))
        made[corruption] = ConcatImageSet(parts)
    return made


def intact(path: Path) -> bool:
    """Return whether a file exists and has the digest beside it; a damaged one is logged."""
    digest = path.with_suffix(".sha256")
    if not (path.is_file() and digest.is_file()):
        return False
    if is_damaged := _digest(path).encode() != digest.read_bytes():
        logger.warning("%s is damaged and is written again", path)
    return not is_damaged


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _chunks(part: ImageSet) -> Iterator[tuple[int, Tensor]]:
    size = chunk(*part.shape[1:])
    for start in range(0, len(part), size):
        images = part[slice(start, start + size)].materialize().images
        yield start, (images * 255).round().clamp(0, 255).to(torch.uint8).cpu().contiguous()


def _content(part: ImageSet) -> str:
    digest = hashlib.sha256(repr((len(part), part.shape)).encode())
    for _, pixels in _chunks(part):
        digest.update(pixels.numpy())
    return digest.hexdigest()


@lru_cache(maxsize=1)
def _version() -> str:
    sources = sorted(Path(common_corruptions.__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()


def _write(path: Path, part: ImageSet, corruption: str, severity: int) -> None:
    head = {"descr": "|u1", "fortran_order": False, "shape": (len(part), *part.shape)}
    with replacing(path) as unfinished:
        with unfinished.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, head)
            for start, pixels in _chunks(part):
                file.write(corrupt(pixels, corruption, severity, first=start).contiguous().numpy())
        write_text(path.with_suffix(".sha256"), _digest(unfinished))
