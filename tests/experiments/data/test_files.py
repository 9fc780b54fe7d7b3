"""Images that are read on demand: decoding, arrays on disk, selections, and files that are damaged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from experiments.data import load
from experiments.data.files import Array, ImageFiles, LazyImageSet
from hard_aug.data import ConcatImageSet, ImageSet
from tests.helpers.picture_files import write_classes, write_pictures


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_classes(tmp_path / "train", ("a", "b", "c"), 8)
    write_classes(tmp_path / "test", ("a", "b", "c"), 4)
    return tmp_path


@pytest.fixture
def lazy(root: Path) -> LazyImageSet:
    found = load("image_folder", root=str(root), size=16, in_memory=False).train
    assert isinstance(found, LazyImageSet)
    return found


def test_selections_are_lazy_and_the_same(lazy: LazyImageSet) -> None:
    whole = lazy.images
    rows = torch.tensor([5, 0, 5])
    mask = lazy.labels == 1
    for index in (rows, slice(3, 9), mask, slice(0, 0)):
        chosen = lazy[index]
        assert isinstance(chosen, LazyImageSet)
        assert torch.equal(chosen.materialize().images, whole[index])
        assert torch.equal(chosen.labels, lazy.labels[index])
    assert torch.equal(lazy[slice(3, 9)][slice(1, 3)].images, whole[4:6])
    assert torch.equal(lazy.to(torch.device("cpu"))[rows].images, whole[rows])
    assert torch.equal(lazy[3][0], whole[3])


def test_repr_reads_nothing(root: Path, lazy: LazyImageSet) -> None:
    for path in root.rglob("*.png"):
        path.unlink()
    assert repr(lazy) == "LazyImageSet(20 images, (3, 16, 16))"
    assert repr(ConcatImageSet((lazy, lazy))) == "ConcatImageSet(40 images, (3, 16, 16))"


def test_a_concatenation_of_lazy_images_and_others(lazy: LazyImageSet) -> None:
    parts = (lazy[slice(0, 5)], lazy[slice(5, 12)].materialize())
    joined, whole = ConcatImageSet(parts), lazy[slice(0, 12)].materialize()
    assert torch.equal(joined.images, whole.images)
    for index in (torch.tensor([11, 0, 5, 4]), slice(3, 8), slice(20, 30)):
        assert torch.equal(joined[index].images, whole[index].images)
        assert torch.equal(joined[index].labels, whole[index].labels)


@pytest.mark.parametrize("spoil", ["empty", "cut", "text", "gone"])
def test_a_damaged_file_is_named(root: Path, lazy: LazyImageSet, spoil: str) -> None:
    path = root / "train" / "b" / "004.png"
    content = path.read_bytes()
    if spoil == "gone":
        path.unlink()
    else:
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no picture at all"}[spoil])
        with pytest.raises(ValueError, match=r"b/004\.png cannot be decoded as an image"):
            load("image_folder", root=str(root), size=16, in_memory=True)
    message = r"b/004\.png(, though it is listed| cannot be decoded as an image.*repair or remove)"
    with pytest.raises(FileNotFoundError if spoil == "gone" else ValueError, match=message):
        _ = lazy.images


def test_image_files_of_all_modes(tmp_path: Path) -> None:
    """Each file is decoded to what Pillow makes of it, of its colours too."""
    colors = Image.new("RGB", (24, 20), (250, 40, 90))
    colors.paste((20, 200, 60), (0, 10, 24, 20))
    paths = []
    for mode, suffix in (("RGB", "png"), ("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "tif"), ("1", "png")):
        paths.append(tmp_path / f"{mode}.{suffix}")
        colors.convert(mode).save(paths[-1])
    whole = ImageFiles([str(path) for path in paths], size=20).read(range(6))
    for image, path in zip(whole, paths, strict=True):
        with Image.open(path) as file:
            expected = torch.from_numpy(np.array(file.convert("RGB"))).permute(2, 0, 1)
        assert torch.equal(image, expected[:, :, 2:22]), path  # the centre, not resized
    assert whole[0, :, 0, 0].tolist() == [250, 40, 90]
    assert whole[0, :, 19, 19].tolist() == [20, 200, 60]
    grey = ImageFiles([str(path) for path in paths], size=20, channels=1).read(range(6))
    luminance = (whole.float() * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    assert float((grey - luminance).abs().max()) <= 1
    small = ImageFiles([str(paths[0])], size=10).read([0])[0]  # resized, then the centre
    assert (small[:, 0, 0] - torch.tensor([250.0, 40, 90])).abs().max() <= 1
    assert (small[:, 9, 9] - torch.tensor([20.0, 200, 60])).abs().max() <= 1
    tall = write_pictures(tmp_path / "tall", 1, size=(5, 90))
    assert ImageFiles([str(tall[0])], size=16).read([0]).shape == (1, 3, 16, 16)


def test_random_crops_depend_on_seed_batch_and_image_only(tmp_path: Path) -> None:
    files = ImageFiles([str(path) for path in write_pictures(tmp_path, 8)], size=16, random_crop=True)
    before = torch.get_rng_state()
    crops = files.read([3, 1, 7], (0, 5))
    assert torch.equal(torch.get_rng_state(), before)  # the training's numbers are its own
    torch.manual_seed(9)
    assert torch.equal(files.read([3, 1, 7], (0, 5)), crops)
    assert torch.equal(files.read([1], (0, 5)), crops[1:2])  # whatever else is in the batch
    for other in (files.read([3, 1, 7], (0, 6)), files.read([3, 1, 7], (1, 5)), files.read([3, 1, 7])):
        assert not torch.equal(other, crops)
    center = ImageFiles(files.paths, size=16)
    assert torch.equal(center.read([3, 1, 7], (0, 5)), files.read([3, 1, 7]))  # none are asked for


def test_random_crops_vary_as_in_the_paper(tmp_path: Path) -> None:
    """A picture whose colours are its coordinates shows where the crops are: area 8 to 100 %, half of them mirrored."""
    across, down = np.meshgrid(np.arange(100), np.arange(100))
    Image.fromarray(np.stack((2 * across, 2 * down, 0 * down), -1).astype(np.uint8)).save(tmp_path / "a.png")
    files = ImageFiles([str(tmp_path / "a.png")], size=8, random_crop=True)
    crops = torch.cat([files.read([0], (0, number)) for number in range(300)]).float()
    wide, tall = (crops[:, 0, 4, 7] - crops[:, 0, 4, 0]) / 2, (crops[:, 1, 7, 4] - crops[:, 1, 0, 4]) / 2
    assert 0.4 < float((wide < 0).float().mean()) < 0.6
    area = (wide.abs() * tall * (8 / 7) ** 2 / 100**2).sort().values
    assert 0.05 < float(area[0]) < 0.15
    assert 0.8 < float(area[-1]) <= 1.05
    assert 0.4 < float((area < 0.54).float().mean()) < 0.75


def test_arrays_are_read_from_disk_and_padded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), dtype=np.uint8)
    path = tmp_path / "a.npy"
    np.save(path, pixels)
    mapped = np.load(path, mmap_mode="r")
    reader = Array(mapped, path, channels_last=True, shape=(3, 8, 8))
    read = reader.read([6, 0, 3, 4, 6])
    assert read.shape == (5, 3, 8, 8)
    assert torch.equal(read[:, :, 1:7, 1:6], torch.from_numpy(pixels[[6, 0, 3, 4, 6]]).permute(0, 3, 1, 2))
    assert int(read[:, :, 0].max()) == int(read[..., 6:].max()) == 0
    grey = Array(pixels[..., 0], path, channels_last=True)
    assert grey.shape == (1, 6, 5)
    assert torch.equal(grey.read([2])[0, 0], torch.from_numpy(pixels[2, ..., 0]))
    part = LazyImageSet(Array(pixels.transpose(0, 3, 1, 2), path), torch.arange(7))
    assert torch.equal(part.images, torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
    assert type(part.materialize()) is ImageSet
    with pytest.raises(ValueError, match=r"a\.npy: .*\(3, 6, 5\) do not fit into .*\(1, 6, 5\)"):
        Array(mapped, path, channels_last=True, shape=(1, 6, 5))
    with pytest.raises(ValueError, match="fit into"):
        Array(mapped, path, channels_last=True, shape=(3, 4, 4))
    for wrong, last in ((pixels / 255, True), (pixels[..., 0], False), (pixels[0, 0], True)):
        with pytest.raises(ValueError, match=r"a\.npy has .*expected uint8"):
            Array(wrong, path, channels_last=last)
