"""ImageNet-A, -V2 and -C, from tiny folders in their true layouts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from experiments.data.ood import ClassFolders, CorruptedFolders, IndexFolders
from experiments.training.accuracy import accuracies
from hard_aug.data import ImageSet, Splits
from tests.helpers.picture_files import write_classes, write_pictures

CLASSES = ("n01", "n02", "n03", "n04")
DIGITS = tuple(map(str, range(10)))


def splits_of(shape: tuple[int, int, int], classes: tuple[str, ...]) -> Splits:
    part = ImageSet(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64))
    return Splits(part, part, part, classes)


class Always(nn.Module):
    """Prefers classes in a fixed order for every image."""

    def __init__(self, *order: float) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor(order))

    def forward(self, images: Tensor) -> Tensor:
        return self.order.expand(len(images), -1)


def test_predictions_are_restricted_to_a_subset_of_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, (CLASSES[3], CLASSES[1]), 4)
    (tmp_path / "README.txt").write_text("as in the archive", encoding="utf-8")
    splits = splits_of((3, 16, 16), CLASSES)
    found = ClassFolders(name="imagenet_a", root=str(tmp_path), size=16).sets(splits)
    assert list(found) == ["imagenet_a"]
    assert found["imagenet_a"].labels.bincount().tolist() == [0, 4, 0, 4]
    assert found["imagenet_a"].class_subset.tolist() == [1, 3]
    # the third class is the top one of all classes; it is not in the set, and the second comes next
    assert accuracies(Always(0.0, 2.0, 9.0, 1.0), found) == {"imagenet_a": 0.5}
    for name in CLASSES:
        write_pictures(tmp_path / name, 4)
    whole = ClassFolders(name="sketch", root=str(tmp_path), size=16, images=5).sets(splits)["sketch"]
    assert whole.class_subset is None
    assert len(whole) == 5
    right = int((whole.labels == 2).sum())
    assert accuracies(Always(0.0, 2.0, 9.0, 1.0), {"all": whole}) == {"all": right / 5}


def test_unknown_classes_raise_or_are_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path, (CLASSES[0], "n77"), 3)
    splits = splits_of((3, 16, 16), CLASSES)
    with pytest.raises(ValueError, match=r"1 of 2 classes \(n77.*skip_unknown=true"):
        ClassFolders(name="r", root=str(tmp_path), size=16).sets(splits)
    part = ClassFolders(name="r", root=str(tmp_path), size=16, skip_unknown=True).sets(splits)["r"]
    assert part.labels.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="2 of 2 classes"):  # data of other classes, wrong whatever is skipped
        ClassFolders(name="r", root=str(tmp_path), size=16, skip_unknown=True).sets(splits_of((3, 16, 16), DIGITS))
    with pytest.raises(ValueError, match=r"ood\.r\.size=24: the data has 16 x 16"):
        ClassFolders(name="r", root=str(tmp_path), size=24, skip_unknown=True).sets(splits)
    with pytest.raises(ValueError, match="images=0"):
        ClassFolders(name="r", root=str(tmp_path), size=16, images=0, skip_unknown=True).sets(splits)


def test_folders_named_by_index_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    classes = tuple(f"n{number:02d}" for number in range(12))
    write_classes(tmp_path, tuple(map(str, range(12))), 1)
    part = IndexFolders(root=str(tmp_path), size=16).sets(splits_of((3, 16, 16), classes))["imagenet_v2"]
    paths = [part.reader.paths[row] for row in part.rows]
    assert [int(Path(path).parent.name) for path in paths] == part.labels.tolist()  # not 0, 1, 10, 11, 2
    with pytest.raises(ValueError, match=r"12 folders.*0 to 3; its indices are those of the whole"):
        IndexFolders(root=str(tmp_path), size=16).sets(splits_of((3, 16, 16), CLASSES))


def test_corrupted_folders(tmp_path: Path) -> None:
    for kind, name in (("", "fog"), ("noise", "shot_noise")):  # as one unpacks the archives, or in folders of theirs
        for severity in range(1, 6):
            write_classes(tmp_path / kind / name / str(severity), CLASSES, 2, suffix=".JPEG")
    splits = splits_of((3, 16, 16), CLASSES)
    settings = {"root": str(tmp_path), "size": 16, "corruptions": ["fog", "shot_noise"]}
    found = CorruptedFolders(**settings).sets(splits)
    assert list(found) == ["imagenet_c", "imagenet_c/fog", "imagenet_c/shot_noise"]
    assert [len(part) for part in found.values()] == [80, 40, 40]
    assert found["imagenet_c"].labels.bincount().tolist() == [20] * 4
    rates = accuracies(Always(0.0, 2.0, 9.0, 1.0), found)
    assert rates == {"imagenet_c": 0.25, "imagenet_c/fog": 0.25, "imagenet_c/shot_noise": 0.25}
    few = CorruptedFolders(**settings, images=3, severities=[1, 5]).sets(splits)
    assert [len(part) for part in few.values()] == [12, 6, 6]
    with pytest.raises(FileNotFoundError, match="gaussian_noise/1"):
        CorruptedFolders(root=str(tmp_path), size=16).sets(splits)


def test_hidden_folders_are_no_classes_and_no_corruptions(tmp_path: Path) -> None:
    splits = splits_of((3, 16, 16), CLASSES)
    write_classes(tmp_path / "r", CLASSES, 2)
    write_classes(tmp_path / "v2", DIGITS, 1)
    for folder in ("r", "v2"):
        for name in (".ipynb_checkpoints", "__MACOSX"):
            write_pictures(tmp_path / folder / name, 1)
    assert len(ClassFolders(name="r", root=str(tmp_path / "r"), size=16).sets(splits)["r"]) == 8
    data = splits_of((3, 16, 16), DIGITS)
    assert len(IndexFolders(root=str(tmp_path / "v2"), size=16).sets(data)["imagenet_v2"]) == 10
    write_classes(tmp_path / "c" / "noise" / "my [1] fog" / "2", CLASSES, 1)
    corrupted = CorruptedFolders(root=str(tmp_path / "c"), size=16, corruptions=["my [1] fog"], severities=[2])
    assert len(corrupted.sets(splits)["imagenet_c"]) == 4
