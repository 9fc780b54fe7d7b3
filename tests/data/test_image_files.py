"""Decoding image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hard_aug.data import list_image_files, read_image_files
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


def test_hidden_and_other_files_are_not_listed(tmp_path: Path) -> None:
    for name in ("b.JPEG", "a.png", "._a.png", ".DS_Store", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list_image_files(tmp_path) == [tmp_path / "a.png", tmp_path / "b.JPEG"]
