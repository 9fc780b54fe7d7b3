"""Images that are read on demand: the same as in memory, and the same after an interruption."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import sources as data
from experiments.data import streams
from experiments.data.streams import Arrays, ImageFiles, LazyImageSet, crop_box
from experiments.models.networks import ConvTeacher
from experiments.train import run
from experiments.training.accuracy import accuracies, accuracy, predict_classes, summary_sets
from experiments.training.loop import Batches, Training
from hard_aug.data import ConcatImageSet, ImageSet
from tests.experiments.test_experiment_run import config_of
from tests.helpers.picture_files import write_classes, write_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_classes(tmp_path / "train", ("a", "b", "c"), 8)
    write_classes(tmp_path / "test", ("a", "b", "c"), 4)
    return tmp_path


@pytest.fixture
def stream(root: Path) -> LazyImageSet:
    found = data.load("image_folder", root=str(root), size=16, random_crop=True).train
    assert isinstance(found, LazyImageSet)
    return found


@pytest.mark.parametrize("channels", [1, 3])
def test_lazy_images_are_those_in_memory(root: Path, channels: int) -> None:
    settings = {"root": str(root), "size": 16, "resize": 18, "channels": channels}
    held = data.load("image_folder", in_memory=True, **settings)
    read = data.load("image_folder", in_memory=False, **settings)
    assert type(held.train) is ImageSet
    for one, other in ((held.train, read.train), (held.validation, read.validation), (held.test, read.test)):
        assert isinstance(other, LazyImageSet)
        assert one.shape == other.shape == (channels, 16, 16)
        assert len(one) == len(other)
        assert torch.equal(one.images, other.materialize().images)
        assert torch.equal(one.labels, other.labels)
    rows = torch.tensor([5, 0, 5])
    assert torch.equal(read.train[rows].images, held.train.images[rows])
    assert torch.equal(read.train[slice(3, 9)][slice(1, 3)].images, held.train.images[4:6])
    assert read.train[slice(0, 0)].materialize().images.shape == (0, channels, 16, 16)
    moved = read.train.to(torch.device("cpu"))
    assert torch.equal(moved[rows].images, held.train.images[rows])


def test_repr_reads_nothing(root: Path) -> None:
    stream = data.load("image_folder", root=str(root), size=16, in_memory=False).train
    for path in root.rglob("*.png"):
        path.unlink()
    assert repr(stream) == "LazyImageSet(22 images, (3, 16, 16))"
    assert repr(ConcatImageSet((stream, stream))) == "ConcatImageSet(44 images, (3, 16, 16))"


def test_small_folders_are_held_and_large_ones_are_not(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert type(data.load("image_folder", root=str(root), size=16).train) is ImageSet
    monkeypatch.setattr("experiments.data.image_folders.IN_MEMORY", 100_000)
    large = data.load("image_folder", root=str(root), size=16).train
    assert isinstance(large, LazyImageSet)
    monkeypatch.setattr(streams, "IN_MEMORY", 10_000)
    with pytest.raises(ValueError, match=r"take 0\.0 GiB.*data\.in_memory=true"):
        _ = large.images
    assert large[slice(0, 2)].images.shape == (2, 3, 16, 16)
    assert large.read().shape == (22, 3, 16, 16)


def test_random_crops_depend_on_seed_batch_and_image_only(stream: LazyImageSet) -> None:
    rows = torch.tensor([3, 1, 7])
    crops = stream.view(0, 5)[rows].images
    assert torch.equal(crops, stream.view(0, 5)[rows].images)
    assert torch.equal(crops[1:2], stream.view(0, 5)[torch.tensor([1])].images)  # whatever else is in the batch
    for other in (stream.view(0, 6), stream.view(1, 5), stream):
        assert not torch.equal(crops, other[rows].images)
    assert torch.equal(stream[rows].images, stream[rows].images)


def test_only_training_sees_crops(root: Path) -> None:
    splits = data.load("image_folder", root=str(root), size=16, random_crop=True)
    plain = data.load("image_folder", root=str(root), size=16, in_memory=True)
    assert torch.equal(splits.test.view(0, 1)[slice(0, 4)].images, plain.test.images[:4])
    assert torch.equal(splits.validation.materialize().images, plain.validation.images)


def test_crops_are_within_and_vary_as_said() -> None:
    generator = np.random.default_rng(0)
    boxes = [crop_box(100, 150, generator) for _ in range(500)]
    shares = np.array([tall * wide / 15_000 for _, _, tall, wide in boxes])
    ratios = np.array([wide / tall for *_, tall, wide in boxes])
    assert all(top >= 0 and left >= 0 and top + tall <= 100 and left + wide <= 150 for top, left, tall, wide in boxes)
    assert 0.07 < shares.min() < 0.12
    assert 0.85 < shares.max() <= 1
    assert 0.7 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.4
    assert crop_box(10, 1000, generator)[2:] == (10, 13)  # no such crop fits: the middle, within the ratios
    assert crop_box(1000, 10, generator)[2:] == (13, 10)


def test_batches_prefetch_and_resume_bit_equal(stream: LazyImageSet) -> None:
    whole = Batches(stream, 5, seed=3)
    expected = [whole.next() for _ in range(9)]  # two epochs of 22
    first = Batches(stream, 5, seed=3)
    for batch in expected[:4]:
        assert torch.equal(first.next().images, batch.images)
    resumed = Batches(stream, 5, seed=3)
    resumed.load_state_dict(first.state_dict())
    for batch in expected[4:]:
        again = resumed.next()
        assert torch.equal(again.images, batch.images)
        assert torch.equal(again.labels, batch.labels)


def test_prefetch_reads_ahead_and_cancels_what_is_not_read(stream: LazyImageSet) -> None:
    reader = stream.reader
    assert isinstance(reader, ImageFiles)
    stream.prefetch(slice(0, 3))
    assert len(reader._ahead) == 3
    assert torch.equal(stream[slice(0, 3)].images, stream[slice(0, 3)].images)
    assert not reader._ahead
    for start in range(10):
        stream.prefetch(slice(start, start + 2))
    assert len(reader._ahead) == 2


def test_training_on_lazy_images_resumes_bit_equal(stream: LazyImageSet) -> None:
    def training(steps: int, state: dict | None = None) -> Training:
        torch.manual_seed(0)
        model = ConvTeacher(channels=3, classes=3, width=4)
        found = Training(model, stream, steps=6, batch_size=5, learning_rate=1e-2, seed=1)
        if state is not None:
            found.load_state_dict(state)
        for _ in found.run(lambda x, y: torch.nn.functional.cross_entropy(model(x), y), lambda: None):
            if found.step == steps:
                break
        return found

    whole = training(6).model.state_dict()
    resumed = training(6, training(3).state_dict()).model.state_dict()
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def epoch(stream: ImageSet) -> None:
    for start in range(0, len(stream), 4):
        stream.prefetch(slice(start, start + 4))
        stream[slice(start, start + 4)].materialize()


@pytest.mark.parametrize("spoil", ["empty", "cut", "text", "gone"])
def test_a_damaged_file_is_named(root: Path, spoil: str) -> None:
    path = root / "train" / "b" / "004.png"
    content = path.read_bytes()
    if spoil == "gone":
        stream = data.load("image_folder", root=str(root), size=16, in_memory=False).train
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no picture at all"}[spoil])
        stream = data.load("image_folder", root=str(root), size=16, in_memory=False).train
        with pytest.raises(ValueError, match=r"b/004\.png cannot be decoded as an image"):
            data.load("image_folder", root=str(root), size=16, in_memory=True)
    with pytest.raises(ValueError, match=r"b/004\.png cannot be decoded as an image.*repair or remove"):
        epoch(stream)


def test_image_files_of_all_modes(tmp_path: Path) -> None:
    """Each file is decoded to what Pillow makes of it, of its colours too."""
    colors = Image.new("RGB", (24, 20), (250, 40, 90))
    colors.paste((20, 200, 60), (0, 10, 24, 20))
    paths = []
    for mode, suffix in (("RGB", "png"), ("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "tif"), ("1", "png")):
        paths.append(tmp_path / f"{mode}.{suffix}")
        colors.convert(mode).save(paths[-1])
    whole = ImageFiles([str(path) for path in paths], size=20).read(range(6), None)
    for image, path in zip(whole, paths, strict=True):
        with Image.open(path) as file:
            expected = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(image, expected[:, :, 2:22]), path  # the centre, not resized
    assert whole[0, :, 0, 0].tolist() == [250, 40, 90]
    assert whole[0, :, 19, 19].tolist() == [20, 200, 60]
    grey = ImageFiles([str(path) for path in paths], size=20, channels=1).read(range(6), None)
    luminance = (whole.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert float((grey - luminance).abs().max()) <= 1
    small = ImageFiles([str(paths[0])], size=10).read([0], None)[0]  # resized, then the centre
    assert (small[:, 0, 0] - torch.tensor([250.0, 40, 90])).abs().max() <= 1
    assert (small[:, 9, 9] - torch.tensor([20.0, 200, 60])).abs().max() <= 1
    tall = write_pictures(tmp_path / "tall", 1, size=(5, 90))
    assert ImageFiles([str(tall[0])], size=16).read([0], None).shape == (1, 3, 16, 16)


def test_arrays_are_read_across_files_and_padded(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
    np.save(tmp_path / "one.npy", pixels[:4])
    np.save(tmp_path / "two.npy", pixels[4:])
    mapped = [np.load(tmp_path / f"{name}.npy", mmap_mode="r") for name in ("one", "two")]
    reader = Arrays(mapped, channels_last=True, shape=(3, 8, 8))
    read = reader.read([6, 0, 3, 4, 6], None)
    assert read.shape == (5, 3, 8, 8)
    assert torch.equal(read[:, :, 1:7, 1:6], torch.from_numpy(pixels[[6, 0, 3, 4, 6]]).permute(0, 3, 1, 2))
    assert int(read[:, :, 0].max()) == int(read[..., 6:].max()) == 0
    grey = Arrays([pixels[..., 0]], channels_last=True)
    assert grey.shape == (1, 6, 5)
    assert torch.equal(grey.read([2], None)[0, 0], torch.from_numpy(pixels[2, ..., 0]))
    with pytest.raises(ValueError, match=r"\(3, 6, 5\): the data has \(1, 6, 5\)"):
        Arrays(mapped, channels_last=True, shape=(1, 6, 5))
    with pytest.raises(ValueError, match="fit into"):
        Arrays(mapped, channels_last=True, shape=(3, 4, 4))
    with pytest.raises(ValueError, match="float64"):
        Arrays([pixels / 255], channels_last=True)
    with pytest.raises(ValueError, match="at least one"):
        Arrays([])


def test_the_accuracy_of_a_concatenation_is_the_mean(stream: LazyImageSet) -> None:
    torch.manual_seed(0)
    model = ConvTeacher(channels=3, classes=3, width=4)
    parts = (stream[slice(0, 5)], stream[slice(5, 12)].materialize())
    joined = ConcatImageSet(parts)
    whole = ImageSet(torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts]))
    assert (len(joined), joined.shape) == (12, (3, 16, 16))
    assert torch.equal(joined.images, whole.images)
    for index in (torch.tensor([11, 0, 5, 4]), slice(3, 8), slice(20, 30)):
        assert torch.equal(joined[index].images, whole[index].images)
        assert torch.equal(joined[index].labels, whole[index].labels)
    assert accuracy(model, joined) == pytest.approx(accuracy(model, whole))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    found = accuracies(model, {"all": joined, "all/one": parts[0], "all/two": parts[1]})
    assert len(calls) == 2  # the joined set costs nothing more
    assert found["all"] == pytest.approx((5 * found["all/one"] + 7 * found["all/two"]) / 12, abs=1e-5)
    assert summary_sets(found) == ["all"]
    with pytest.raises(ValueError, match="the same shape"):
        ConcatImageSet((parts[0], ImageSet(torch.zeros(1, 1, 4, 4), torch.zeros(1, dtype=torch.int64))))
    with pytest.raises(ValueError, match="the same shape"):
        ConcatImageSet(())


def test_answers_are_among_the_classes_that_can_be_meant() -> None:
    logits = torch.tensor([[9.0, 1.0, 2.0, 3.0], [0.0, 5.0, 4.0, 9.0]])
    assert predict_classes(logits, None).tolist() == [0, 3]
    assert predict_classes(logits, torch.tensor([1, 2])).tolist() == [2, 1]


def test_a_run_on_lazy_images_is_the_run_in_memory(root: Path, tmp_path: Path) -> None:
    settings = [
        "data=image_folder",
        f"data.root={root}",
        "data.size=16",
        "task=plain",
        "students=[kd,hard]",
        "batch_size=8",
    ]
    settings += ["steps=3", "teacher.steps=2", "teacher.batch_size=8", "teacher=flat"]
    results = []
    for number, held in enumerate(("true", "false")):
        folder = tmp_path / f"run{number}"
        config = config_of(tmp_path / f"cache{number}", *settings, f"data.in_memory={held}")
        results.append(run(config, folder, quiet=True, figures=False))
    assert results[0]["config"] == results[1]["config"]  # where images are read from is no part of a run's identity
    for name in ("kd", "hard"):
        seconds = [result["students"][name].pop("seconds") for result in results]
        assert min(seconds) >= 0
        assert results[0]["students"][name] == results[1]["students"][name]


def test_a_task_without_an_oracle_says_so_before_any_training(root: Path, tmp_path: Path) -> None:
    config = config_of(tmp_path, "data=image_folder", f"data.root={root}", "data.size=16", "task=plain", "batch_size=8")
    with pytest.raises(ValueError, match="leave `oracle` out"):
        run(config, tmp_path / "run", quiet=True)
    assert not list(tmp_path.rglob("*.pt"))
