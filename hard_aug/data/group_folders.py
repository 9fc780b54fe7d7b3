"""Waterbirds, CelebA and SpuCo Birds: benchmarks in which background or gender correlates with the class.

| name | files under `root` | class | spurious attribute |
|---|---|---|---|
| `waterbirds` | `metadata.csv` (img_filename, y, split, place) and image files | landbird, waterbird | land, water |
| `celeba` | `img_align_celeba/`, `list_attr_celeba` and `list_eval_partition`, .txt or .csv | `target` | `spurious` |
| `spuco_birds` | `<train, val, test>/<class>/<attribute>/*` | landbirds, waterbirds | land, water |

`split` and the partition are 0, 1, 2: training, validation, test. `root` may be that folder, or the one above it under
the name that its makers give it (Waterbirds: group DRO, arXiv:1911.08731, and WILDS; CelebA: torchvision, WILDS and
group DRO's `data`; SpuCo Birds: arXiv:2306.11957). CelebA's classes are `not_Blond_Hair` and `Blond_Hair`, its
attributes `not_Male` and `Male`.

Images keep their aspect ratio: the shorter side is resized to `size`, then the centre is cropped. Group DRO's code
squashes Waterbirds to 256 x 256 and crops 224, so the published numbers of a given network differ a little.

**Memory**: everything is decoded to float32 at once, N x channels x size x size x 4 bytes: at 224 pixels 7.1 GB for
Waterbirds (11,788 images), 14.5 GB for SpuCo Birds (24,050), 122 GB for CelebA (202,599; 10 GB at 64). `limit` loads a
part of each split.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import torch

from hard_aug.data.group_listings import (
    FOLDERS,
    SOURCES,
    Listing,
    Row,
    list_celeba,
    list_spuco_birds,
    list_waterbirds,
)
from hard_aug.data.groups import Grouped, GroupedSplits
from hard_aug.data.image_files import read_image_files
from hard_aug.data.image_set import SPLIT_SEED
from hard_aug.utils.checks import check_integer

SPLITS = ("train", "validation", "test")


def load_groups(
    name: str,
    *,
    root: str | Path | None,
    size: int = 224,
    channels: int = 3,
    limit: int | None = None,
    drop_groups: Collection[Sequence[str]] = (),
    target: str | None = None,
    spurious: str | None = None,
    workers: int | None = None,
) -> GroupedSplits:
    """Load a benchmark of spurious features by name.

    Args:
        name: `waterbirds`, `celeba` or `spuco_birds`; see the table above.
        root: its folder, or the folder above.
        size: height and width of the images, pixels.
        channels: 1 or 3.
        limit: at most so many images of each split, a fixed random choice (files are sorted by class or species).
        drop_groups: pairs (class, attribute), by name, that are removed from the training data alone, as in ConfiG
            (arXiv:2506.02294); `[["waterbird", "land"]]` leaves no waterbird on land to learn from.
        target: CelebA's attribute that is the class; None: Blond_Hair.
        spurious: CelebA's attribute that is the spurious one; None: Male.
        workers: threads that decode; None: one per core, 8 at most.

    Raises:
        ValueError: an unknown name, group, attribute or number of channels, missing columns, values outside their
            range, a split without images, a file that cannot be decoded.
        FileNotFoundError: missing files; the message says where they were expected and where to get them.
    """
    if name not in FOLDERS:
        raise ValueError(f"name={name!r}: expected one of {', '.join(FOLDERS)}")
    if name != "celeba" and (target is not None or spurious is not None):
        raise ValueError(f"target={target!r}, spurious={spurious!r}: only celeba has attributes to choose from")
    if root is None:
        raise FileNotFoundError(f"root=None: expected the folder of {name}; get it from {SOURCES[name]}")
    check_integer(size=size, limit=limit, workers=workers)
    if name == "waterbirds":
        listing = list_waterbirds(Path(root))
    elif name == "celeba":
        listing = list_celeba(Path(root), target or "Blond_Hair", spurious or "Male")
    else:
        listing = list_spuco_birds(Path(root))
    dropped = _checked_groups(drop_groups, listing)
    parts = []
    for split, title in enumerate(SPLITS):
        rows = [row for row in listing.rows if row.split == split]
        if split == 0:
            rows = [row for row in rows if (row.label, row.spurious) not in dropped]
        if not rows:
            without = f" without the groups {list(map(list, drop_groups))}" if split == 0 and dropped else ""
            raise ValueError(f"{name} in {root} has no image for {title}{without}")
        parts.append(_decode(_subsample(rows, limit), listing, size, channels, workers))
    train, validation, test = parts
    return GroupedSplits(train, validation, test, listing.classes, listing.attributes)


def _decode(rows: Sequence[Row], listing: Listing, size: int, channels: int, workers: int | None) -> Grouped:
    images = read_image_files([row.path for row in rows], size=size, channels=channels, workers=workers)
    labels, spurious = (torch.tensor([row[field] for row in rows], dtype=torch.int64, device="cpu") for field in (1, 2))
    return Grouped(images, labels, spurious, listing.classes, listing.attributes)


def _subsample(rows: list[Row], limit: int | None) -> list[Row]:
    if limit is None or limit >= len(rows):
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED), device="cpu")
    return [rows[index] for index in sorted(order[:limit].tolist())]


def _checked_groups(groups: Collection[Sequence[str]], listing: Listing) -> set[tuple[int, int]]:
    found = set()
    for group in [groups] if isinstance(groups, str) else groups:
        pair = () if isinstance(group, str) else tuple(group)
        if len(pair) != 2 or pair[0] not in listing.classes or pair[1] not in listing.attributes:
            raise ValueError(
                f"drop_groups: no group {group!r}; expected pairs [class, attribute], "
                f"class one of {', '.join(listing.classes)}, attribute one of {', '.join(listing.attributes)}"
            )
        found.add((listing.classes.index(pair[0]), listing.attributes.index(pair[1])))
    return found
