"""Corrupted copies of image sets on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from experiments.data import corruption_cache as cache
from hard_aug.data import ImageSet
from hard_aug.evaluation.corruptions import corrupt
from tests.helpers.damage import damaged
from tests.helpers.picture_files import crops


@pytest.fixture
def part() -> ImageSet:
    return ImageSet(crops(6, 32).float() / 255, torch.arange(6) % 3)


def test_the_cache_is_used_and_a_damaged_file_is_written_again(part: ImageSet, tmp_path: Path) -> None:
    settings = {"corruptions": ["fog", "pixelate"], "severities": [1, 4], "cache": tmp_path}
    found = cache.corrupted(part, **settings)
    assert list(found) == ["fog", "pixelate"]
    assert found["fog"].labels.tolist() == [0, 1, 2, 0, 1, 2] * 2
    images = (part.images * 255).round().to(torch.uint8)
    expected = torch.cat([corrupt(images, "fog", severity) for severity in (1, 4)])
    assert torch.equal((found["fog"].materialize().images * 255).round().to(torch.uint8), expected)
    everything, files = sorted(tmp_path.iterdir()), sorted(tmp_path.glob("*.npy"))
    assert len(files) == 4
    written = {path: path.stat().st_mtime_ns for path in files}
    cache.corrupted(part, **settings)
    assert {path: path.stat().st_mtime_ns for path in files} == written
    spoilt = [bytearray(path.read_bytes()) for path in files[:3]]
    spoilt[0][300] ^= 1
    files[0].write_bytes(spoilt[0])
    files[1].write_bytes(spoilt[1][: len(spoilt[1]) // 2])
    files[2].write_bytes(b"")
    again = cache.corrupted(part, **settings)
    for name in found:
        assert torch.equal(again[name].materialize().images, cache.corrupted(part, **settings)[name].images)
    assert torch.equal((again["fog"].materialize().images * 255).round().to(torch.uint8), expected)
    assert all(cache.intact(path) for path in files)
    assert sorted(tmp_path.iterdir()) == everything
    files[3].with_suffix(".sha256").unlink()
    assert not cache.intact(files[3])


def test_a_damaged_digest_is_written_again(part: ImageSet, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings = {"corruptions": ["fog"], "severities": [1], "cache": tmp_path}
    expected = cache.corrupted(part, **settings)["fog"].images
    (path,) = tmp_path.glob("*.sha256")
    whole = path.read_bytes()
    for content in damaged(whole, 8):
        path.write_bytes(content)
        caplog.clear()
        assert torch.equal(cache.corrupted(part, **settings)["fog"].images, expected)
        assert content == whole or "is damaged and is written again" in caplog.text
        assert path.read_bytes() == whole


def test_the_cache_knows_what_a_file_depends_on(
    part: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def files() -> int:
        return len(list(tmp_path.glob("*.npy")))

    settings = {"corruptions": ["contrast"], "severities": [1], "cache": tmp_path}
    cache.corrupted(part, **settings)
    cache.corrupted(part, **{**settings, "severities": [2]})
    assert files() == 2
    other = ImageSet(part.images.clone(), part.labels)
    other.images[5, 2, 31, 31] = 1 - other.images[5, 2, 31, 31].round()
    cache.corrupted(other, **settings)
    cache.corrupted(ImageSet(part.images, part.labels + 1), **settings)  # labels are not in the file
    assert files() == 3
    monkeypatch.setattr(cache, "_version", lambda: "another")
    cache.corrupted(part, **settings)
    assert files() == 4


def test_an_interrupted_file_leaves_nothing(part: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> Tensor:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache, "corrupt", full)
    with pytest.raises(OSError, match="No space left"):
        cache.corrupted(part, corruptions=["fog"], severities=[1], cache=tmp_path)
    assert not [path for path in tmp_path.iterdir() if path.name != ".lock"]


def test_files_depend_on_the_source_of_the_corruptions() -> None:
    assert len(cache._version()) == 64
    cache._version.cache_clear()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(cache.common_corruptions, "__file__", __file__)  # other sources
        other = cache._version()
    cache._version.cache_clear()
    assert other != cache._version()
