"""Waterbirds, CelebA and SpuCo Birds: benchmarks whose background or gender goes with the class, from their folders.

| name | files under `root` | class | spurious attribute |
|---|---|---|---|
| `waterbirds` | `metadata.csv` (img_filename, y, split, place) and pictures | landbird, waterbird | land, water |
| `celeba` | `img_align_celeba/`, `list_attr_celeba` and `list_eval_partition`, .txt or .csv | `target` | `spurious` |
| `spuco_birds` | `<train, val, test>/<class>/<attribute>/*` | landbirds, waterbirds | land, water |

`split` and the partition are 0, 1, 2: train, validation, test. `root` may be that folder, or the one above it under the
name that its makers give it (Waterbirds: group DRO, arXiv:1911.08731, and WILDS; CelebA: torchvision, WILDS and group
DRO's `data`; SpuCo Birds: arXiv:2306.11957). CelebA's classes are `not_Blond_Hair` and `Blond_Hair`, its attributes
`not_Male` and `Male`.

Pictures keep their aspect: shorter side resized to `size`, centre cropped. Group DRO's code squashes Waterbirds to
256 x 256 and crops 224, so published numbers of a given network move a little.

**Memory**: everything is decoded to float32 at once, N x channels x size x size x 4 bytes: at 224 pixels 7.1 GB for
Waterbirds (11,788 pictures), 14.5 GB for SpuCo Birds (24,050), 122 GB for CelebA (202,599; 10 GB at 64). `limit` takes
part of each split.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor
from torchvision.datasets.folder import IMG_EXTENSIONS as EXTENSIONS
from torchvision.datasets.folder import default_loader, has_file_allowed_extension
from torchvision.transforms import InterpolationMode, v2

from experiments.data import SPLIT_SEED
from experiments.groups import Grouped, GroupedSplits

SPLITS = ("train", "validation", "test")
#: Where a benchmark's folder may lie under `root`, the first that has its files is taken.
FOLDERS = {
    "waterbirds": ("", "waterbird_complete95_forest2water2", "waterbirds_v1.0"),
    "celeba": ("", "celeba", "celebA_v1.0", "data"),
    "spuco_birds": ("", "spuco_birds"),
}
SOURCES = {
    "waterbirds": "the archive waterbird_complete95_forest2water2 that the repository kohpangwei/group_DRO links to",
    "celeba": "torchvision.datasets.CelebA(root, download=True), or mmlab.ie.cuhk.edu.hk/projects/CelebA.html",
    "spuco_birds": "SpuCoBirds(root, download=True) of the package spuco (BigML-CS-UCLA/SpuCo), which unpacks it",
}


class Row(NamedTuple):
    """A picture that is not decoded yet."""

    path: Path
    label: int
    spurious: int
    split: int


class Listing(NamedTuple):
    """All pictures of a benchmark."""

    rows: list[Row]
    classes: tuple[str, ...]
    attributes: tuple[str, ...]


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
        name: see the table above.
        root: its folder, or the one above.
        size, channels: what pictures are brought to, `(channels, size, size)`; 1 or 3 channels.
        limit: at most so many pictures of each split, a fixed random choice (files are sorted by class or species).
        drop_groups: pairs (class, attribute), by name, that are removed from the training data alone, as in ConfiG
            (arXiv:2506.02294); `[["waterbird", "land"]]` leaves no waterbird on land to learn from.
        target, spurious: CelebA's attributes for the class and the spurious attribute; None: Blond_Hair and Male.
        workers: threads that decode; None: one a core, 8 at most.

    Raises:
        ValueError: an unknown name, group, attribute or number of channels, missing columns, values outside their
            range, a split without pictures, a file that is no picture.
        FileNotFoundError: files that are not there; says where they were looked for and where to get them.
    """
    if name not in FOLDERS:
        raise ValueError(f"data {name!r}: wanted one of {', '.join(FOLDERS)}")
    if name != "celeba" and (target is not None or spurious is not None):
        raise ValueError(f"target={target!r}, spurious={spurious!r}: only celeba has attributes to choose from")
    if root is None:
        raise FileNotFoundError(f"data {name!r} wants data.root=<folder>; get it from {SOURCES[name]}")
    for setting, value in (("size", size), ("limit", limit), ("workers", workers)):
        if value is not None and value < 1:
            raise ValueError(f"data.{setting}={value}: wanted a whole number of at least 1")
    if name == "waterbirds":
        listing = _waterbirds(Path(root))
    elif name == "celeba":
        listing = _celeba(Path(root), target or "Blond_Hair", spurious or "Male")
    else:
        listing = _spuco_birds(Path(root))
    dropped = _checked_groups(drop_groups, listing)
    parts = []
    for split, title in enumerate(SPLITS):
        rows = [row for row in listing.rows if row.split == split]
        if split == 0:
            rows = [row for row in rows if (row.label, row.spurious) not in dropped]
        if not rows:
            without = f" without the groups {list(map(list, drop_groups))}" if split == 0 and dropped else ""
            raise ValueError(f"{name} in {root} has no picture for {title}{without}")
        parts.append(_decoded(_some(rows, limit), listing, size, channels, workers))
    return GroupedSplits(*parts, listing.classes, listing.attributes)


def read_pictures(
    paths: Sequence[Path],
    *,
    size: int,
    channels: int = 3,
    resize: int | None = None,
    interpolation: InterpolationMode = InterpolationMode.BILINEAR,
    workers: int | None = None,
) -> Tensor:
    """Decode pictures to `(N, channels, size, size)` float32 in [0, 1], with threads.

    Args:
        paths: files of any format that Pillow reads.
        size: of the centre crop, in pixels.
        channels: 1 or 3.
        resize: what the shorter side is brought to before; None: `size`.
        interpolation: of that; antialiased.
        workers: threads; None: one a core, 8 at most.

    Raises:
        ValueError: a number of channels other than 1 or 3; a file that is no picture, which it names.
        FileNotFoundError: a file that is not there.
    """
    if channels not in (1, 3):
        raise ValueError(f"data.channels={channels}: wanted 1 or 3")
    prepare = v2.Compose(
        [
            v2.ToImage(),
            v2.Resize(resize or size, interpolation=interpolation, antialias=True),
            v2.CenterCrop(size),
            v2.RGB() if channels == 3 else v2.Grayscale(),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    images = torch.empty(len(paths), channels, size, size)  # filled in place: a list to stack would need it all twice

    def fill(index: int) -> None:
        try:
            images[index] = prepare(default_loader(str(paths[index])))
        except FileNotFoundError as error:
            raise FileNotFoundError(f"no picture {paths[index]}, though it is listed; unpack the data again") from error
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"{paths[index]} is no picture that can be read ({error}); get it again") from error

    with ThreadPoolExecutor(workers or min(8, os.cpu_count() or 1)) as pool:
        for _ in pool.map(fill, range(len(paths))):  # raises what a thread raised, and cancels the rest
            pass
    return images


def pictures_in(folder: Path) -> list[Path]:
    """The picture files of a folder, sorted by name; other files, and hidden ones as macOS leaves, are passed over."""
    return sorted(
        path
        for path in folder.iterdir()
        if has_file_allowed_extension(path.name, EXTENSIONS) and not path.name.startswith(".")
    )


def _decoded(rows: Sequence[Row], listing: Listing, size: int, channels: int, workers: int | None) -> Grouped:
    images = read_pictures([row.path for row in rows], size=size, channels=channels, workers=workers)
    labels, spurious = (torch.tensor([row[field] for row in rows], dtype=torch.int64) for field in (1, 2))
    return Grouped(images, labels, spurious, listing.classes, listing.attributes)


def _some(rows: list[Row], limit: int | None) -> list[Row]:
    if limit is None or limit >= len(rows):
        return rows
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(SPLIT_SEED))
    return [rows[index] for index in sorted(order[:limit].tolist())]


def _checked_groups(groups: Collection[Sequence[str]], listing: Listing) -> set[tuple[int, int]]:
    found = set()
    for group in [groups] if isinstance(groups, str) else groups:
        pair = () if isinstance(group, str) else tuple(group)
        if len(pair) != 2 or pair[0] not in listing.classes or pair[1] not in listing.attributes:
            raise ValueError(
                f"drop_groups: no group {group!r}; wanted pairs [class, attribute], "
                f"class one of {', '.join(listing.classes)}, attribute one of {', '.join(listing.attributes)}"
            )
        found.add((listing.classes.index(pair[0]), listing.attributes.index(pair[1])))
    return found


def _found(name: str, root: Path, wanted: str) -> Path:
    """The folder that has `wanted`, a pattern, in it."""
    places = [root / folder for folder in FOLDERS[name]]
    for place in places:
        if any(place.glob(wanted)):
            return place
    raise FileNotFoundError(
        f"no {wanted} in {', '.join(map(str, places))}; give data.root=<folder of {name}>. Get it from {SOURCES[name]}"
    )


def _table(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a file with commas and a header."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
        return list(reader)


def _number(row: dict[str, str], column: str, allowed: Sequence[int], path: Path) -> int:
    value = row[column]
    if value is None or value.strip() not in map(str, allowed):
        raise ValueError(f"{path}: {column}={value!r} in the row {list(row.values())}; wanted one of {list(allowed)}")
    return int(value)


def _waterbirds(root: Path) -> Listing:
    folder = _found("waterbirds", root, "metadata.csv")
    path = folder / "metadata.csv"
    rows = [
        Row(
            folder / (row["img_filename"] or ""),
            _number(row, "y", (0, 1), path),
            _number(row, "place", (0, 1), path),
            _number(row, "split", (0, 1, 2), path),
        )
        for row in _table(path, ("img_filename", "y", "split", "place"))
    ]
    return Listing(rows, ("landbird", "waterbird"), ("land", "water"))


def _celeba(root: Path, target: str, spurious: str) -> Listing:
    if target == spurious:
        raise ValueError(f"target and spurious are both {target!r}: wanted two attributes")
    folder = _found("celeba", root, "list_attr_celeba.*")
    pictures = folder / "img_align_celeba"
    if (pictures / "img_align_celeba").is_dir():  # as one archive in use unpacks
        pictures = pictures / "img_align_celeba"
    if not pictures.is_dir():
        raise FileNotFoundError(f"no folder {pictures} with CelebA's aligned pictures. Get it from {SOURCES['celeba']}")
    path, table = _celeba_table(folder, "list_attr_celeba", (target, spurious))
    where, partition = _celeba_table(folder, "list_eval_partition", ("partition",))
    splits = {row["image_id"]: _number(row, "partition", (0, 1, 2), where) for row in partition}
    rows = []
    for row in table:
        file = row["image_id"]
        if file not in splits:
            raise ValueError(f"{where} has no row for {file}, which {path.name} has; both must be of one release")
        label, attribute = (max(0, _number(row, column, (-1, 0, 1), path)) for column in (target, spurious))
        rows.append(Row(pictures / file, label, attribute, splits[file]))
    return Listing(rows, (f"not_{target}", target), (f"not_{spurious}", spurious))


def _celeba_table(folder: Path, stem: str, columns: Sequence[str]) -> tuple[Path, list[dict[str, str]]]:
    """The `.txt` of the authors (blanks; attributes: a count, then the names, then rows) or the `.csv` of others."""
    path = folder / f"{stem}.csv"
    if path.is_file():
        return path, _table(path, ("image_id", *columns))
    path = folder / f"{stem}.txt"
    if not path.is_file():
        raise FileNotFoundError(f"no {stem}.csv or {stem}.txt in {folder}. Get it from {SOURCES['celeba']}")
    lines = [line.split() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    header = list(columns)
    if stem == "list_attr_celeba":
        header, lines = (lines[1] if len(lines) > 1 else []), lines[2:]
    missing = [column for column in columns if column not in header]
    if missing:
        raise ValueError(f"{path} has no attribute {', '.join(missing)}; it has {', '.join(header)}")
    wrong = next((line for line in lines if len(line) != len(header) + 1), None)
    if wrong:
        raise ValueError(f"{path}: the row {wrong[:3]}... has {len(wrong) - 1} values; wanted {len(header)}")
    return path, [dict(zip(("image_id", *header), line, strict=True)) for line in lines]


def _spuco_birds(root: Path) -> Listing:
    classes, attributes = ("landbirds", "waterbirds"), ("land", "water")
    folder = _found("spuco_birds", root, "train/*birds")
    rows = []
    for split, title in enumerate(("train", "val", "test")):
        for label, name in enumerate(classes):
            for spurious, attribute in enumerate(attributes):
                group = folder / title / name / attribute
                if not group.is_dir():
                    raise FileNotFoundError(
                        f"no folder {group}; wanted {folder}/<train, val, test>/<{', '.join(classes)}>/"
                        f"<{', '.join(attributes)}>/. To train without a group, keep its folder and give "
                        f"data.drop_groups=[[{name},{attribute}]]. Get the data from {SOURCES['spuco_birds']}"
                    )
                rows += [Row(path, label, spurious, split) for path in pictures_in(group)]
    return Listing(rows, classes, attributes)
