"""Shards of hard images: killed at every step, damaged, on a full disk, and written by several processes."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torchvision.datasets import ImageFolder

from hard_aug.data import HardImages, read_shards
from tests.helpers.shard_parts import LAYOUTS, SHARDS, hard, same, tree, write_all, writer

FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, bytes]]:
    """Files of uninterrupted runs."""
    found = {}
    for layout in LAYOUTS:
        folder = tmp_path_factory.mktemp(layout)
        write_all(folder, layout)
        writer(folder, layout).finish()
        found[layout] = tree(folder)
    return found


def dying(folder: Path, layout: str, dies_at: int) -> None:
    """Write all shards in a process that is killed just before its n-th file operation."""
    done = 0

    def counting(real: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*args: Any, **settings: Any) -> Any:
            nonlocal done
            done += 1
            if done == dies_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **settings)

        return counted

    for name in ("replace", "fsync", "unlink", "mkdir", "rmdir"):
        setattr(os, name, counting(getattr(os, name)))
    write_all(folder, layout)
    writer(folder, layout).finish()
    os._exit(0)


def died(folder: Path, layout: str, dies_at: int) -> bool:
    process = FORK.Process(target=dying, args=(folder, layout, dies_at))
    process.start()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


@pytest.mark.slow
@pytest.mark.parametrize(("layout", "stride"), [("webdataset", 7), ("image_folder", 13)])  # 1 tries each, in a minute
def test_killed_at_a_step(tmp_path: Path, layout: str, stride: int, whole: dict[str, dict[str, bytes]]) -> None:
    step = 1
    while died(tmp_path / str(step), layout, step):
        folder = tmp_path / str(step)
        died(folder, layout, 1 + step % 11)  # and once more, soon after it resumed
        write_all(folder, layout)
        writer(folder, layout).finish()
        assert tree(folder) == whole[layout], f"killed at step {step}"
        step += stride
    assert step > 30
    assert tree(tmp_path / str(step)) == whole[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_killed_at_random_moments(tmp_path: Path, layout: str, whole: dict[str, dict[str, bytes]]) -> None:
    draws, killed = random.Random(0), 0
    for attempt in range(3):
        folder = tmp_path / str(attempt)
        for _ in range(3):
            process = FORK.Process(target=dying, args=(folder, layout, -1))
            process.start()
            time.sleep(draws.uniform(0.003, 0.03))
            process.kill()
            process.join()
            killed += process.exitcode == -signal.SIGKILL
        before = {n: d for n, d in tree(folder).items() if n.startswith("shard-") and n.endswith(".json")}
        write_all(folder, layout)
        writer(folder, layout).finish()
        after = tree(folder)
        assert after == whole[layout]
        assert before.items() <= after.items()
    assert killed > 0


def test_stale_images_of_an_interrupted_shard_are_removed(tmp_path: Path) -> None:
    step = 1
    while died(tmp_path / str(step), "image_folder", step):
        folder = tmp_path / str(step)
        store = writer(folder, "image_folder")
        for index in range(2):  # not all the shards, and other images are accepted this time
            if not store.is_done(index):
                store.write(index, replace(hard(index), accepted=~hard(index).accepted))
        found = store.finish()
        images = ImageFolder(str(folder / "images"), allow_empty=True)
        assert len(images) == found.accepted == len(read_shards(folder).images)
        assert not list(folder.glob(".shard*"))
        step += 11


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("harm", ["truncated", "flipped", "data gone", "manifest gone", "half a manifest", "copied"])
def test_damage_is_found_and_written_again(
    tmp_path: Path, layout: str, harm: str, whole: dict[str, dict[str, bytes]], caplog: pytest.LogCaptureFixture
) -> None:
    write_all(tmp_path, layout)
    manifest = tmp_path / "shard-000001.json"
    data = tmp_path / [*json.loads(manifest.read_text())["sha256"]][-1]
    content = data.read_bytes()
    if harm == "truncated":
        data.write_bytes(content[:-1])
    elif harm == "flipped":
        data.write_bytes(content[:100] + bytes([content[100] ^ 1]) + content[101:])
    elif harm == "data gone":
        data.unlink()
    elif harm == "manifest gone":
        manifest.unlink()
    elif harm == "half a manifest":
        manifest.write_bytes(manifest.read_bytes()[:50])
    else:
        manifest.write_bytes((tmp_path / "shard-000000.json").read_bytes())
    store = writer(tmp_path, layout)
    if harm in ("truncated", "flipped", "data gone"):
        for call in (lambda: read_shards(tmp_path), store.finish):
            with pytest.raises(ValueError, match=r"shard 1 in .* (not what was written|missing)\. Run the command"):
                call()
    assert [store.is_done(index) for index in range(SHARDS)] == [True, False, True]
    assert "shard 1 in" in caplog.text
    assert "has to be written again" in caplog.text
    write_all(tmp_path, layout)
    store.finish()
    assert tree(tmp_path) == whole[layout]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("step", ["fsync", "replace", "mkdir"])
def test_a_full_disk(tmp_path: Path, layout: str, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = writer(tmp_path, layout)
    store.write(0, hard(0))
    before = tree(tmp_path)
    real, count, last = getattr(os, step), 0, 0

    def full(*args: Any, **settings: Any) -> Any:
        nonlocal count
        count += 1
        if count > last:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **settings)

    def attempt() -> str:
        with monkeypatch.context() as patched:
            patched.setattr(os, step, full)
            try:
                store.write(1, hard(1))
            except OSError as error:
                return str(error)
        return ""

    while message := attempt():
        assert f"[Errno {errno.ENOSPC}] the disk of {tmp_path} is full, shard 1 was not written. 1 shards" in message
        assert message.endswith("free some space and run the same command again: it resumes from there")
        assert all(not data and name.startswith("images") for name, data in tree(tmp_path).items() - before.items())
        assert before.items() <= tree(tmp_path).items()
        assert store.is_done(0)
        assert not store.is_done(1)
        count, last = 0, last + 1
    assert last > 0
    assert same(read_shards(tmp_path).images, HardImages.cat([hard(i)[hard(i).accepted] for i in range(2)]))


def test_a_full_disk_at_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_all(tmp_path)
    before = tree(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match=r"the index was not written\. 3 shards are finished"):
            writer(tmp_path).finish()
    assert tree(tmp_path) == before


def test_other_errors_of_the_disk_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*args: Any) -> None:
        raise PermissionError(errno.EACCES, "denied")

    monkeypatch.setattr(os, "replace", denied)
    with pytest.raises(PermissionError):
        writer(tmp_path).write(0, hard(0))
    assert tree(tmp_path) == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_two_processes_at_once(tmp_path: Path, layout: str, whole: dict[str, dict[str, bytes]]) -> None:
    for attempt in range(2):
        folder = tmp_path / str(attempt)
        parts = [slice(rank, None, 2) for rank in range(2)]
        processes = [FORK.Process(target=write_all, args=(folder, layout, part)) for part in parts]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        assert [process.exitcode for process in processes] == [0, 0]
        writer(folder, layout).finish()
        assert tree(folder) == whole[layout]
