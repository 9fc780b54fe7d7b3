"""Published out-of-domain test sets, from tiny folders in their true formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from torch import Tensor, nn

from experiments.data import ood
from experiments.data.ood.arrays import MNIST_C
from experiments.train import run
from experiments.training.accuracy import accuracies
from hard_aug.data import ImageSet, Splits
from hard_aug.evaluation.corruptions import NAMES
from tests.experiments.test_experiment_run import CONF, config_of
from tests.helpers.picture_files import write_classes, write_pictures

CLASSES = ("n01", "n02", "n03", "n04")


def splits_of(shape: tuple[int, int, int], classes: tuple[str, ...]) -> Splits:
    part = ImageSet(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64))
    return Splits(part, part, part, classes)


DIGITS = tuple(map(str, range(10)))


def write_cifar_c(root: Path, corruptions: tuple[str, ...] = NAMES, each: int = 4) -> np.ndarray:
    root.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    pixels = np.empty(0)
    for name in corruptions:
        pixels = generator.integers(0, 256, (5 * each, 32, 32, 3), dtype=np.uint8)
        np.save(root / f"{name}.npy", pixels)
    np.save(root / "labels.npy", np.tile(np.arange(each), 5).astype(np.uint8))
    return pixels


def test_cifar_c(tmp_path: Path) -> None:
    pixels = write_cifar_c(tmp_path)
    found = ood.CifarC(root=str(tmp_path)).sets(splits_of((3, 32, 32), DIGITS))
    assert list(found) == ["cifar10_c", *(f"cifar10_c/{name}" for name in NAMES)]
    assert [len(part) for part in found.values()] == [300, *[20] * 15]
    last = found[f"cifar10_c/{NAMES[-1]}"]
    assert torch.equal(last.materialize().images, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert last.labels.tolist() == [0, 1, 2, 3] * 5
    chosen = ood.CifarC(root=str(tmp_path), corruptions=["fog"], severities=[5, 2])
    fog = chosen.sets(splits_of((3, 32, 32), DIGITS))["cifar10_c/fog"].materialize().images
    whole = torch.from_numpy(np.load(tmp_path / "fog.npy")).permute(0, 3, 1, 2).float() / 255
    assert torch.equal(fog, torch.cat((whole[16:20], whole[4:8])))
    padded = ood.CifarC(root=str(tmp_path)).sets(splits_of((3, 40, 40), DIGITS))["cifar10_c"]
    assert padded[slice(0, 2)].images.shape == (2, 3, 40, 40)


def save(path: Path, array: np.ndarray) -> None:
    np.save(path, array)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda root: (root / "fog.npy").unlink(), FileNotFoundError, r"fog\.npy.*zenodo"),
        (lambda root: (root / "labels.npy").unlink(), FileNotFoundError, r"labels\.npy"),
        (lambda root: (root / "fog.npy").write_bytes(b"\x93NUMPY nothing"), ValueError, r"fog\.npy cannot be read"),
        (lambda root: (root / "fog.npy").write_bytes(b""), ValueError, r"fog\.npy cannot be read"),
        (lambda root: (root / "fog.npy").write_bytes((root / "fog.npy").read_bytes()[:9000]), ValueError, r"fog\.npy"),
        (lambda root: save(root / "fog.npy", np.zeros((19, 32, 32, 3), np.uint8)), ValueError, "19 images.*20 labels"),
        (lambda root: save(root / "fog.npy", np.zeros((20, 32, 32, 3))), ValueError, r"fog\.npy.*float64"),
        (lambda root: save(root / "fog.npy", np.zeros((20, 48, 48, 3), np.uint8)), ValueError, "fit into"),
        (lambda root: save(root / "labels.npy", np.full(20, 10)), ValueError, "labels from 10 to 10.*10 classes"),
        (lambda root: save(root / "labels.npy", np.zeros(18, np.uint8)), ValueError, "18 labels.*each severity"),
        (lambda root: save(root / "labels.npy", np.zeros(20)), ValueError, "integers"),
    ],
)
def test_a_damaged_cifar_c_raises(tmp_path: Path, spoil, error: type[Exception], message: str) -> None:
    write_cifar_c(tmp_path)
    spoil(tmp_path)
    with pytest.raises(error, match=message):
        ood.CifarC(root=str(tmp_path)).sets(splits_of((3, 32, 32), DIGITS))


def test_cifar_c_requires_matching_data(tmp_path: Path) -> None:
    write_cifar_c(tmp_path, each=12)
    with pytest.raises(ValueError, match="labels from 0 to 11: the data has 10 classes"):  # CIFAR-100-C beside CIFAR-10
        ood.CifarC(root=str(tmp_path)).sets(splits_of((3, 32, 32), DIGITS))
    with pytest.raises(ValueError, match="the data has"):  # grey data
        ood.CifarC(root=str(tmp_path)).sets(splits_of((1, 32, 32), tuple(map(str, range(100)))))
    with pytest.raises(ValueError, match=r"severities=\[0\]"):
        ood.CifarC(root=str(tmp_path), severities=[0])
    with pytest.raises(ValueError, match=r"severities=\[1, 1\]"):
        ood.CifarC(root=str(tmp_path), severities=[1, 1])


def test_mnist_c(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name in ("identity", *MNIST_C):
        (tmp_path / "mnist_c" / name).mkdir(parents=True)
        for part, count in (("train", 3), ("test", 6)):
            pixels = generator.integers(0, 256, (count, 28, 28, 1), dtype=np.uint8)
            np.save(tmp_path / "mnist_c" / name / f"{part}_images.npy", pixels)
            np.save(tmp_path / "mnist_c" / name / f"{part}_labels.npy", np.arange(count))
    splits = splits_of((1, 40, 40), DIGITS)  # a canvas
    found = ood.MnistC(root=str(tmp_path)).sets(splits)
    assert list(found) == ["mnist_c", *(f"mnist_c/{name}" for name in MNIST_C)]
    assert len(found["mnist_c"]) == 15 * 6
    expected = np.load(tmp_path / "mnist_c" / "zigzag" / "test_images.npy")[:, :, :, 0]
    zigzag = found["mnist_c/zigzag"].materialize()
    assert torch.equal(zigzag.images[:, 0, 6:34, 6:34] * 255, torch.from_numpy(expected).float())
    assert zigzag.labels.tolist() == list(range(6))
    (tmp_path / "mnist_c" / "scale" / "test_labels.npy").unlink()
    with pytest.raises(FileNotFoundError, match=r"scale/test_labels\.npy"):
        ood.MnistC(root=str(tmp_path)).sets(splits)


class Always(nn.Module):
    """Prefers classes in a fixed order for every image."""

    def __init__(self, *order: float) -> None:
        super().__init__()
        self.order = nn.Parameter(torch.tensor(order))

    def forward(self, images: Tensor) -> Tensor:
        return self.order.expand(len(images), -1)


def test_predictions_are_restricted_to_a_subset_of_classes(tmp_path: Path) -> None:
    write_classes(tmp_path, (CLASSES[3], CLASSES[1]), 4)
    (tmp_path / "README.txt").write_text("as in the archive")
    splits = splits_of((3, 16, 16), CLASSES)
    found = ood.ClassFolders(name="imagenet_a", root=str(tmp_path), size=16).sets(splits)
    assert list(found) == ["imagenet_a"]
    assert found["imagenet_a"].labels.bincount().tolist() == [0, 4, 0, 4]
    assert found["imagenet_a"].class_subset.tolist() == [1, 3]
    # the third class is the top one of all classes; it is not in the set, and the second comes next
    assert accuracies(Always(0.0, 2.0, 9.0, 1.0), found) == {"imagenet_a": 0.5}
    for name in CLASSES:
        write_pictures(tmp_path / name, 4)
    whole = ood.ClassFolders(name="sketch", root=str(tmp_path), size=16, images=5).sets(splits)["sketch"]
    assert whole.class_subset is None
    assert len(whole) == 5
    right = int((whole.labels == 2).sum())
    assert accuracies(Always(0.0, 2.0, 9.0, 1.0), {"all": whole}) == {"all": right / 5}


def test_unknown_classes_raise_or_are_left_out(tmp_path: Path) -> None:
    write_classes(tmp_path, (CLASSES[0], "n77"), 3)
    splits = splits_of((3, 16, 16), CLASSES)
    with pytest.raises(ValueError, match=r"1 of 2 classes \(n77.*skip_unknown=true"):
        ood.ClassFolders(name="r", root=str(tmp_path), size=16).sets(splits)
    part = ood.ClassFolders(name="r", root=str(tmp_path), size=16, skip_unknown=True).sets(splits)["r"]
    assert part.labels.tolist() == [0, 0, 0]
    with pytest.raises(ValueError, match="2 of 2 classes"):  # data of other classes, wrong whatever is skipped
        ood.ClassFolders(name="r", root=str(tmp_path), size=16, skip_unknown=True).sets(splits_of((3, 16, 16), DIGITS))
    with pytest.raises(ValueError, match=r"ood\.r\.size=24: the data has 16 x 16"):
        ood.ClassFolders(name="r", root=str(tmp_path), size=24, skip_unknown=True).sets(splits)
    with pytest.raises(ValueError, match="images=0"):
        ood.ClassFolders(name="r", root=str(tmp_path), images=0)


def test_folders_named_by_index_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    classes = tuple(f"n{number:02d}" for number in range(12))
    write_classes(tmp_path, tuple(map(str, range(12))), 1)
    part = ood.IndexFolders(root=str(tmp_path), size=16).sets(splits_of((3, 16, 16), classes))["imagenet_v2"]
    paths = [part.reader.paths[row] for row in part._rows]
    assert [int(Path(path).parent.name) for path in paths] == part.labels.tolist()  # not 0, 1, 10, 11, 2
    with pytest.raises(ValueError, match=r"12 folders.*0 to 3; its indices are those of the whole"):
        ood.IndexFolders(root=str(tmp_path), size=16).sets(splits_of((3, 16, 16), CLASSES))


def test_corrupted_folders(tmp_path: Path) -> None:
    for kind, name in (("", "fog"), ("noise", "shot_noise")):  # as one unpacks the archives, or in folders of theirs
        for severity in range(1, 6):
            write_classes(tmp_path / kind / name / str(severity), CLASSES, 2, suffix=".JPEG")
    splits = splits_of((3, 16, 16), CLASSES)
    settings = {"root": str(tmp_path), "size": 16, "corruptions": ["fog", "shot_noise"]}
    found = ood.CorruptedFolders(**settings).sets(splits)
    assert list(found) == ["imagenet_c", "imagenet_c/fog", "imagenet_c/shot_noise"]
    assert [len(part) for part in found.values()] == [80, 40, 40]
    assert found["imagenet_c"].labels.bincount().tolist() == [20] * 4
    rates = accuracies(Always(0.0, 2.0, 9.0, 1.0), found)
    assert rates == {"imagenet_c": 0.25, "imagenet_c/fog": 0.25, "imagenet_c/shot_noise": 0.25}
    few = ood.CorruptedFolders(**settings, images=3, severities=[1, 5]).sets(splits)
    assert [len(part) for part in few.values()] == [12, 6, 6]
    with pytest.raises(FileNotFoundError, match="gaussian_noise/1"):
        ood.CorruptedFolders(root=str(tmp_path), size=16).sets(splits)


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "ood").glob("*.yaml")])
def test_every_option_composes_and_names_its_source(name: str) -> None:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        config = compose("train", [f"ood=[{name}]", "data=imagenet"])
    assert list(config.ood) == [name]
    assert config.ood[name].name == name
    with pytest.raises(FileNotFoundError, match=rf"{name} requires ood\.{name}\.root=<folder>; get it from \S+\.\S+"):
        ood.load_sets(config.ood, splits_of((3, 224, 224), CLASSES))


def test_sets_of_one_name_and_unknown_settings_raise(tmp_path: Path) -> None:
    write_cifar_c(tmp_path, ("fog",))
    node = {"_target_": "experiments.data.ood.CifarC", "root": str(tmp_path), "corruptions": ["fog"]}
    splits = splits_of((3, 32, 32), DIGITS)
    assert ood.load_sets(None, splits) == {}
    assert list(ood.load_sets([node, {**node, "name": "again"}], splits)) == [
        "cifar10_c",
        "cifar10_c/fog",
        "again",
        "again/fog",
    ]
    with pytest.raises(ValueError, match="two sets with the name 'cifar10_c'"):
        ood.load_sets([node, node], splits)
    with pytest.raises(InstantiationException, match="severity"):
        ood.load_sets([{**node, "severity": 3}], splits)


def test_a_run_reports_them(tmp_path: Path) -> None:
    classes = ("a", "b", "c")
    write_classes(tmp_path / "data" / "train", classes, 8)
    write_classes(tmp_path / "data" / "test", classes, 4)
    write_classes(tmp_path / "sketch", classes[1:], 3)
    for severity in range(1, 6):
        write_classes(tmp_path / "c" / "fog" / str(severity), classes, 2)
    overrides = ["data=image_folder", f"data.root={tmp_path}/data", "data.size=16", "task=plain", "teacher=flat"]
    overrides += ["ood=[imagenet_sketch,imagenet_c]", f"ood.imagenet_sketch.root={tmp_path}/sketch"]
    overrides += [f"ood.imagenet_c.root={tmp_path}/c", "ood.imagenet_c.corruptions=[fog]", "students=[supervised]"]
    overrides += ["steps=2", "batch_size=4", "teacher.steps=2", "teacher.batch_size=4"]
    metrics = run(config_of(tmp_path, *overrides), tmp_path / "run", quiet=True)
    assert metrics["sets"] == ["clean", "imagenet_sketch", "imagenet_c", "imagenet_c/fog"]
    for row in (metrics["teacher"], metrics["students"]["supervised"]):
        assert all(0 <= row[name] <= 1 for name in metrics["sets"])
        assert row["imagenet_c"] == row["imagenet_c/fog"]


def test_without_ood_a_run_has_the_identity_that_it_had(tmp_path: Path) -> None:
    assert "ood" not in config_of(tmp_path)
