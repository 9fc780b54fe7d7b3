"""Decoding image files."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, TiffImagePlugin

from experiments.data.files import ImageFiles
from hard_aug.data import list_image_files, read_image_files
from hard_aug.data.image_files import list_class_folders, list_image_tree, open_image
from tests.helpers.damage import damaged
from tests.helpers.defaults import defaults
from tests.helpers.group_parts import save_color


def test_images_keep_their_aspect_ratio_and_lose_their_margin(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    paths = [tmp_path / f"{name}.png" for name in ("wide", "palette", "alpha", "grey")]
    found = read_image_files(paths, size=10)
    assert torch.equal(found, torch.ones(4, 3, 10, 10))
    assert read_image_files(paths, size=10, channels=1, workers=1).shape == (4, 1, 10, 10)
    assert read_image_files([], size=10).shape == (0, 3, 10, 10)
    margin = read_image_files([tmp_path / "wide.png"], size=6, resize=30)  # the middle 30 columns are white
    assert torch.equal(margin, torch.ones(1, 3, 6, 6))


def test_the_color_is_that_of_the_file(tmp_path: Path) -> None:
    Image.new("RGB", (9, 7), (200, 100, 50)).save(tmp_path / "a.png")
    found = read_image_files([tmp_path / "a.png"], size=4)
    assert torch.equal((found[0, :, 0, 0] * 255).round(), torch.tensor([200.0, 100.0, 50.0]))
    assert torch.equal(found, found[:, :, :1, :1].expand(-1, -1, 4, 4))
    grey = read_image_files([tmp_path / "a.png"], size=4, channels=1)
    assert float(grey.mean() * 255) == pytest.approx(0.299 * 200 + 0.587 * 100 + 0.114 * 50, abs=1)


def test_files_that_cannot_be_decoded_are_named(tmp_path: Path) -> None:
    save_color(tmp_path / "good.jpg", 5, size=(200, 200))
    whole = (tmp_path / "good.jpg").read_bytes()
    bad = tmp_path / "bad.jpg"
    for content in (b"", b"not an image", whole[:400]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"bad\.jpg cannot be decoded"):
            read_image_files([tmp_path / "good.jpg", bad], size=8)
    bad.unlink()
    with pytest.raises(FileNotFoundError, match=r"bad\.jpg, though it is listed"):
        read_image_files([bad], size=8)
    with pytest.raises(ValueError, match="channels=2"):
        read_image_files([tmp_path / "good.jpg"], size=8, channels=2)


RAMP = np.linspace(0, 1, 64).reshape(8, 8)
SIXTEEN = (RAMP * 65535).round().astype(np.uint16)


def save_pgm(path: Path) -> None:
    """Write a PGM of 12 bits, which Pillow reads as 16."""
    pixels = (RAMP * 4095).round().astype(">u2")
    path.write_bytes(b"P5 8 8 4095\n" + pixels.tobytes())


@pytest.mark.parametrize(
    ("name", "save"),
    [
        ("8.png", lambda path: Image.fromarray((RAMP * 255).round().astype(np.uint8)).save(path)),
        ("16.png", lambda path: Image.fromarray(SIXTEEN).save(path)),
        ("16.tif", lambda path: Image.fromarray(SIXTEEN).save(path)),
        ("big endian.tif", lambda path: Image.fromarray(SIXTEEN.astype(">u2")).save(path)),
        ("16.jp2", lambda path: Image.fromarray(SIXTEEN).save(path, irreversible=False)),
        ("16.pgm", save_pgm),
        ("float.tif", lambda path: Image.fromarray(RAMP.astype(np.float32)).save(path)),
        ("la.png", lambda path: Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("LA").save(path)),
        ("cmyk.tif", lambda path: Image.fromarray((RAMP * 255).round().astype(np.uint8)).convert("CMYK").save(path)),
    ],
)
def test_a_ramp_is_a_ramp_at_every_depth(tmp_path: Path, name: str, save: Callable[[Path], None]) -> None:
    path = tmp_path / name
    save(path)
    expected, off = (
        torch.from_numpy(RAMP).float(),
        1.51 if "cmyk" in name else 0.51,
    )  # torchvision's grey is rounded down
    for channels in (1, 3):
        found = read_image_files([path], size=8, channels=channels)[0]
        assert float((found - expected).abs().max()) <= off / 255, name
        lazy = ImageFiles([str(path)], size=8, channels=channels).read([0])[0]  # of the application
        assert float((lazy / 255 - expected).abs().max()) <= off / 255, name


def test_a_tiff_of_12_bits(tmp_path: Path) -> None:
    """Pillow writes none, and does not scale the values of those that it reads."""
    values = (RAMP * 4095).round().astype(int).ravel().tolist()
    strip = int("".join(f"{value:012b}" for value in values), 2).to_bytes(96)
    #: width, height, bits, compression, photometric (0 is black), offset of the strip, samples, rows, its bytes
    tags = {256: 8, 257: 8, 258: 12, 259: 1, 262: 1, 273: 8, 277: 1, 278: 8, 279: len(strip)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    head = struct.pack("<2sHI", b"II", 42, 8 + len(strip))
    (tmp_path / "a.tif").write_bytes(head + strip + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0))
    pixels = np.asarray(open_image(tmp_path / "a.tif")) / 255
    assert np.abs(pixels - RAMP).max() <= 0.75 / 255


def test_images_of_two_levels_and_with_transparent_colors(tmp_path: Path) -> None:
    checks = Image.fromarray(np.indices((8, 8)).sum(0) % 2 == 1)
    checks.save(tmp_path / "1.png")
    palette = Image.new("P", (8, 8), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    palette.save(tmp_path / "p.png", transparency=b"\x00\x00")  # an alpha channel is dropped, a colour stays
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image_files([tmp_path / "1.png", tmp_path / "p.png"], size=8)
    assert torch.equal(found[0, 0], torch.from_numpy(np.array(checks)).float())
    assert (found[1, :, 3, 3] * 255).round().tolist() == [200, 100, 50]


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (SIXTEEN.astype(np.int32), "integers of 32 bits, of which white is unknown: save it with 8 or 16 bits"),
        ((RAMP * 255).astype(np.float32), r"floats from 0 to 255, expected \[0, 1\]"),
        (np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "floats from nan to nan"),
    ],
)
def test_values_of_an_unknown_range_are_refused(tmp_path: Path, pixels: np.ndarray, message: str) -> None:
    Image.fromarray(pixels).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=rf"a\.tif cannot be decoded as an image \({message}"):
        read_image_files([tmp_path / "a.tif"], size=8)


def test_negative_values_are_refused(tmp_path: Path) -> None:
    pixels = np.array([[-1000, 0], [1000, 30000]], np.int16)
    signed = TiffImagePlugin.ImageFileDirectory_v2()
    signed[339] = 2  # SampleFormat
    Image.fromarray(pixels.view(np.uint16)).save(tmp_path / "a.tif", tiffinfo=signed)
    with pytest.raises(ValueError, match=r"a\.tif cannot be decoded .*from -1000 to 30000, expected at least 0"):
        read_image_files([tmp_path / "a.tif"], size=2)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif", ".gif", ".bmp", ".webp", ".pgm"])
def test_damaged_files_are_named_or_decoded(tmp_path: Path, suffix: str) -> None:
    save_color(tmp_path / "good.png", 5, size=(20, 20))
    path = tmp_path / f"a{suffix}"
    with Image.open(tmp_path / "good.png") as image:
        image.convert("L" if suffix == ".pgm" else "RGB").save(path)
    for content in damaged(path.read_bytes(), 80):
        path.write_bytes(content)
        try:
            read_image_files([path], size=8, workers=1)
        except ValueError as error:
            assert f"{path} cannot be decoded as an image" in str(error)  # noqa: PT017 - some are decoded


def test_images_are_float32_whatever_the_default(tmp_path: Path) -> None:
    save_color(tmp_path / "a.png", 5)
    with defaults(torch.float64):
        assert read_image_files([tmp_path / "a.png"], size=8).dtype == torch.float32


def test_hidden_and_other_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.JPEG", "a.png", "._a.png", ".DS_Store", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list_image_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPEG"]


def test_hidden_folders_are_no_classes_and_links_are(tmp_path: Path) -> None:
    for name in ("a", "-b", " c=[1] $", "é 🦊", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "a/.cache", "a/x"):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "1.png").write_bytes(b"x")
    (tmp_path / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "z").symlink_to(tmp_path / "-b")
    assert list_class_folders(tmp_path) == sorted(("a", "-b", " c=[1] $", "é 🦊", "z"))
    assert list_image_tree(tmp_path / "a") == [str(tmp_path / "a" / name) for name in ("1.png", "x/1.png")]
    assert list_image_tree(tmp_path / "z") == [str(tmp_path / "z" / "1.png")]
