"""Training batches: order, crops, resuming, and the processes that read ahead."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from experiments.data import Batches, load
from experiments.data.batches import Cropped
from experiments.data.files import LazyImageSet
from hard_aug.data import ConcatImageSet, ImageSet
from tests.helpers.picture_files import write_classes


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def numbered(count: int) -> ImageSet:
    """Images whose pixels are their labels."""
    return ImageSet(torch.arange(count).float()[:, None, None, None].expand(-1, 1, 2, 2) / 255, torch.arange(count))


@pytest.fixture
def lazy(tmp_path: Path) -> LazyImageSet:
    write_classes(tmp_path / "train", ("a", "b", "c"), 8)
    write_classes(tmp_path / "test", ("a", "b", "c"), 1)
    found = load("image_folder", root=str(tmp_path), size=16, random_crop=True).train
    assert isinstance(found, LazyImageSet)
    return found


def draw(batches: Batches, count: int) -> list[ImageSet]:
    return [batches.next() for _ in range(count)]


def assert_equal(found: list[ImageSet], expected: list[ImageSet]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.labels, other.labels)


def test_each_epoch_has_each_image_once() -> None:
    batches = Batches(numbered(10), 4, seed=3)
    assert batches.steps_per_epoch == 2
    found = draw(batches, 10)
    labels = torch.cat([batch.labels for batch in found])
    for epoch in labels.split(10):
        assert sorted(epoch.tolist()) == list(range(10))
    assert not torch.equal(labels[:10], labels[10:20])
    assert all(torch.equal(batch.images[:, 0, 0, 0] * 255, batch.labels.float()) for batch in found)
    generator = torch.Generator().manual_seed(3)  # the order of published results
    expected = torch.cat([torch.randperm(10, generator=generator) for _ in range(4)])
    assert torch.equal(labels, expected)


def test_batches_are_copies_and_leave_the_global_generator() -> None:
    part = numbered(10)
    before = torch.get_rng_state()
    batch = Batches(part, 10, seed=0).next()
    assert torch.equal(torch.get_rng_state(), before)
    batch.images.zero_()
    assert float(part.images.max()) > 0


@pytest.mark.parametrize("batch_size", [0, 11])
def test_a_batch_size_outside_its_range_raises(batch_size: int) -> None:
    with pytest.raises(ValueError, match=rf"batch_size={batch_size}: expected 1 to 10"):
        Batches(numbered(10), batch_size, seed=0)


def test_joined_sets() -> None:
    joined = ConcatImageSet((numbered(4), numbered(3)))
    found = draw(Batches(joined, 7, 0), 1)[0]
    assert sorted(found.labels.tolist()) == [0, 0, 1, 1, 2, 2, 3]
    assert torch.equal(found.images[:, 0, 0, 0] * 255, found.labels.float())


def test_crops_and_flips_in_memory() -> None:
    images = torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    part = Cropped(images, torch.arange(64), padding=4, flip=True)
    batch = Batches(part, 64, seed=0).next()
    places = set()
    for image, label in zip(batch.images, batch.labels, strict=True):
        padded = nn.functional.pad(images[label], (4, 4, 4, 4))
        candidates = torch.stack([padded[:, y : y + 32, x : x + 32] for y in range(9) for x in range(9)])
        candidates = torch.cat([candidates, candidates.flip(-1)])
        found = (candidates == image).flatten(1).all(1).nonzero().flatten()
        assert len(found) == 1
        places.add(int(found))
    assert len(places) > 40
    moved = part.to(torch.device("cpu"))
    assert_equal(draw(Batches(moved, 64, 0), 1), [batch])
    first, second = draw(Batches(part, 64, 0), 2)  # other crops in another batch
    assert not torch.equal(first.images[first.labels.argsort()], second.images[second.labels.argsort()])
    assert torch.equal(part[slice(0, 5)].materialize().images, images[:5])  # outside of training
    unchanged = Batches(Cropped(images, torch.arange(64)), 64, seed=0).next()
    assert torch.equal(unchanged.images, images[unchanged.labels])


@pytest.mark.parametrize("workers", [0, 2])
def test_files_resume_bit_equal_in_the_middle_of_an_epoch(lazy: LazyImageSet, workers: int) -> None:
    expected = draw(Batches(lazy, 5, seed=3, workers=0), 9)  # two epochs of 20
    whole = Batches(lazy, 5, seed=3, workers=workers)
    assert_equal(draw(whole, 6), expected[:6])
    assert whole.state_dict() == {"number": 6}  # what is read ahead is not counted
    for other in (0, workers):  # by any number of workers
        resumed = Batches(lazy, 5, seed=3, workers=other)
        resumed.load_state_dict(whole.state_dict())
        assert_equal(draw(resumed, 3), expected[6:])
    whole.load_state_dict({"number": 2})
    assert_equal(draw(whole, 2), expected[2:4])


def test_memory_resumes_bit_equal() -> None:
    part = Cropped(torch.rand(10, 1, 8, 8), torch.arange(10), padding=2, flip=True)
    expected = draw(Batches(part, 4, seed=1), 12)
    for number in (0, 1, 5, 10):
        resumed = Batches(part, 4, seed=1)
        resumed.load_state_dict({"number": number})
        assert_equal(draw(resumed, 12 - number), expected[number:])


def test_training_on_files_is_training_in_memory(lazy: LazyImageSet) -> None:
    lazy.reader.random_crop = False  # type: ignore[union-attr]  # these are files
    found = []
    for part in (lazy, lazy.materialize()):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3))
        optimizer, batches = torch.optim.Adam(model.parameters()), Batches(part, 5, seed=1)
        for _ in range(6):
            batch = batches.next()
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()
        found.append(model[1].weight.detach())
    assert torch.equal(*found)


def test_files_have_as_many_workers_as_threads(lazy: LazyImageSet) -> None:
    def workers(part: ImageSet) -> int:
        return Batches(part, 5, seed=0).workers

    assert workers(lazy.materialize()) == 0
    assert workers(lazy) == 1
    torch.set_num_threads(8)
    assert workers(lazy) == 4


def read_one(part: ImageSet, results: Any) -> None:
    results.put(Batches(part, 5, seed=0, workers=2).next().labels.tolist())


def test_a_process_that_may_have_no_children_reads_itself(lazy: LazyImageSet) -> None:
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    process = context.Process(target=read_one, args=(lazy, results), daemon=True)
    process.start()
    assert results.get(timeout=60) == Batches(lazy, 5, seed=0, workers=0).next().labels.tolist()
    process.join()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_file_is_one_line(lazy: LazyImageSet, workers: int) -> None:
    path = Path(lazy.reader.paths[int(lazy.rows[3])])  # type: ignore[union-attr]  # these are files
    path.write_bytes(b"no picture")
    batches = Batches(lazy, len(lazy), seed=0, workers=workers)
    with pytest.raises(ValueError, match=rf"{path} cannot be decoded as an image.*repair or remove it") as caught:
        batches.next()
    message = str(caught.value)
    del caught  # and the readers with it
    assert "\n" not in message


def workers_of(part: ImageSet) -> tuple[int, list[int]]:
    batches = Batches(part, 5, seed=0, workers=2)
    return batches.workers, batches.next().labels.tolist()


@pytest.mark.slow
def test_a_process_of_joblib_reads_itself(lazy: LazyImageSet) -> None:
    joblib = pytest.importorskip("joblib")
    found = joblib.Parallel(n_jobs=2)(joblib.delayed(workers_of)(lazy) for _ in range(2))
    assert found == [(0, Batches(lazy, 5, seed=0, workers=0).next().labels.tolist())] * 2


def processes_of(batches: Batches) -> list[multiprocessing.Process]:
    found: list[multiprocessing.Process] = batches._iterator._workers  # type: ignore[union-attr]  # of the loader
    return found


def kill_and_draw(batches: Batches, count: int) -> None:
    os.kill(processes_of(batches)[0].pid or 0, signal.SIGKILL)
    for _ in range(count):
        batches.next()
        time.sleep(0.01)


def test_a_killed_reader_ends_the_training(lazy: LazyImageSet) -> None:
    batches = Batches(lazy, 5, seed=0, workers=1)
    batches.next()
    with pytest.raises(RuntimeError, match=r"reads images ended; lower batch_size .*again|DataLoader worker .*killed"):
        kill_and_draw(batches, 20)
    number = batches.state_dict()["number"]
    batches.load_state_dict({"number": number})
    assert_equal(draw(batches, 1), draw(Batches(lazy, 5, seed=0, workers=0), number + 1)[-1:])  # by another reader


def test_readers_outlive_signals_until_the_step_ends(lazy: LazyImageSet) -> None:
    batches = Batches(lazy, 5, seed=0, workers=1)
    expected = draw(Batches(lazy, 5, seed=0, workers=0), 6)
    found = draw(batches, 1)
    process = processes_of(batches)[0]
    for name in ("INT", "TERM"):  # by another process, as a cluster sends them
        subprocess.run(["kill", f"-{name}", str(process.pid)], check=True)
    time.sleep(0.2)
    assert_equal(found + draw(batches, 5), expected)
    process.terminate()  # by this one, as at its exit
    process.join(10)
    assert process.exitcode == 0


def test_integers_of_numpy(lazy: LazyImageSet) -> None:
    """As Python callers have them; torch's generators take none, and theirs overflow."""
    seed = 2**62
    for part in (lazy, Cropped(numbered(12).images, torch.arange(12), padding=1, flip=True)):
        ours, theirs = (draw(Batches(part, kind(5), kind(seed), workers=0), 4) for kind in (int, np.int64))
        for one, other in zip(ours, theirs, strict=True):
            assert torch.equal(one.images, other.images)
            assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_is_gone_is_one_line(lazy: LazyImageSet, workers: int) -> None:
    path = Path(lazy.reader.paths[int(lazy.rows[3])])  # type: ignore[union-attr]  # these are files
    path.unlink()
    with pytest.raises(ValueError, match=rf"no file {path}, though it is listed") as caught:
        Batches(lazy, len(lazy), seed=0, workers=workers).next()
    message = str(caught.value)
    del caught
    assert "\n" not in message
