"""Image files, classes and spurious attributes of Waterbirds, CelebA and SpuCo Birds, read from their folders."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from hard_aug.data.image_files import list_image_files

#: Where a benchmark's folder may be under `root`; the first that holds its files is taken.
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
    """An image file that is not decoded yet; `split` is 0, 1 or 2 for training, validation or test."""

    path: Path
    label: int
    spurious: int
    split: int


class Listing(NamedTuple):
    """All image files of a benchmark."""

    rows: list[Row]
    classes: tuple[str, ...]
    attributes: tuple[str, ...]


def list_waterbirds(root: Path) -> Listing:
    """Read the `metadata.csv` of Waterbirds.

    Args:
        root: its folder, or the folder above.

    Raises:
        FileNotFoundError: no such file.
        ValueError: missing columns, or values outside their range.
    """
    folder = _find_folder("waterbirds", root, "metadata.csv")
    path = folder / "metadata.csv"
    rows = [
        Row(
            folder / (row["img_filename"] or ""),
            _number(row, "y", (0, 1), path),
            _number(row, "place", (0, 1), path),
            _number(row, "split", (0, 1, 2), path),
        )
        for row in _read_csv(path, ("img_filename", "y", "split", "place"))
    ]
    return Listing(rows, ("landbird", "waterbird"), ("land", "water"))


def list_celeba(root: Path, target: str, spurious: str) -> Listing:
    """Read the attributes and the partition of CelebA, `.txt` as published or `.csv`.

    Args:
        root: its folder, or the folder above.
        target: attribute that is the class.
        spurious: attribute that is the spurious one.

    Raises:
        FileNotFoundError: missing files or folders.
        ValueError: unknown attributes, equal attributes, values outside their range, or files that do not fit together.
    """
    if target == spurious:
        raise ValueError(f"target and spurious are both {target!r}: expected two attributes")
    folder = _find_folder("celeba", root, "list_attr_celeba.*")
    images = folder / "img_align_celeba"
    if (images / "img_align_celeba").is_dir():  # as one archive in use unpacks
        images = images / "img_align_celeba"
    if not images.is_dir():
        raise FileNotFoundError(f"no folder {images} with CelebA's aligned images. Get it from {SOURCES['celeba']}")
    path, table = _read_celeba_table(folder, "list_attr_celeba", (target, spurious))
    partition_path, partition = _read_celeba_table(folder, "list_eval_partition", ("partition",))
    splits = {row["image_id"]: _number(row, "partition", (0, 1, 2), partition_path) for row in partition}
    rows = []
    for row in table:
        file = row["image_id"]
        if file not in splits:
            raise ValueError(
                f"{partition_path} has no row for {file}, which {path.name} has; both must be of the same release"
            )
        label, attribute = (max(0, _number(row, column, (-1, 0, 1), path)) for column in (target, spurious))
        rows.append(Row(images / file, label, attribute, splits[file]))
    return Listing(rows, (f"not_{target}", target), (f"not_{spurious}", spurious))


def list_spuco_birds(root: Path) -> Listing:
    """List the image files of SpuCo Birds, whose folders name split, class and attribute.

    Args:
        root: its folder, or the folder above.

    Raises:
        FileNotFoundError: a missing folder.
    """
    classes, attributes = ("landbirds", "waterbirds"), ("land", "water")
    folder = _find_folder("spuco_birds", root, "train/*birds")
    rows = []
    for split, title in enumerate(("train", "val", "test")):
        for label, name in enumerate(classes):
            for spurious, attribute in enumerate(attributes):
                group = folder / title / name / attribute
                if not group.is_dir():
                    raise FileNotFoundError(
                        f"no folder {group}; expected {folder}/<train, val, test>/<{', '.join(classes)}>/"
                        f"<{', '.join(attributes)}>/. To train without a group, keep its folder and pass "
                        f"drop_groups=[({name!r}, {attribute!r})]. Get the data from {SOURCES['spuco_birds']}"
                    )
                rows += [Row(path, label, spurious, split) for path in list_image_files(group)]
    return Listing(rows, classes, attributes)


def _find_folder(name: str, root: Path, expected: str) -> Path:
    """Return the folder that contains `expected`, a glob pattern."""
    places = [root / folder for folder in FOLDERS[name]]
    for place in places:
        if any(place.glob(expected)):
            return place
    raise FileNotFoundError(
        f"no {expected} in {', '.join(map(str, places))}; expected root=<folder of {name}>. Get it from {SOURCES[name]}"
    )


def _read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Return the rows of a comma-separated file with a header that has all `columns`."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} has no column {', '.join(missing)}; it has {', '.join(reader.fieldnames or ())}")
        return list(reader)


def _number(row: dict[str, str], column: str, allowed: Sequence[int], path: Path) -> int:
    value = row[column]
    if value is None or value.strip() not in map(str, allowed):
        raise ValueError(f"{path}: {column}={value!r} in the row {list(row.values())}; expected one of {list(allowed)}")
    return int(value)


def _read_celeba_table(folder: Path, stem: str, columns: Sequence[str]) -> tuple[Path, list[dict[str, str]]]:
    """Read the authors' `.txt` (separated by blanks; attributes: a count, the names, then rows) or a `.csv`."""
    path = folder / f"{stem}.csv"
    if path.is_file():
        return path, _read_csv(path, ("image_id", *columns))
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
        raise ValueError(f"{path}: the row {wrong[:3]}... has {len(wrong) - 1} values; expected {len(header)}")
    return path, [dict(zip(("image_id", *header), line, strict=True)) for line in lines]
