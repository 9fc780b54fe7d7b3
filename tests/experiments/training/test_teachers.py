"""The cache of trained networks: trained once by whoever comes first, also by two processes at the same time."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from torch import nn

from experiments.data.batches import Batches
from experiments.training.fit import fit
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from experiments.training.teachers import cached
from hard_aug.data import ImageSet
from hard_aug.utils.hashing import cache_key
from tests.helpers.damage import damaged
from tests.helpers.stops import StopAt

CONFIG = {"teacher": {"steps": 6}, "seed": 0}
FORK = multiprocessing.get_context("fork")  # children need no imports


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3))


def train(model: nn.Module, path: Path, stop: Stop | None = None) -> None:
    data = ImageSet(torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3)
    with Progress(quiet=True) as progress:
        fit(
            "teacher",
            model,
            lambda images, labels: nn.functional.cross_entropy(model(images), labels),
            Batches(data, 10, 0),
            steps=6,
            learning_rate=0.1,
            seed=0,
            path=path,
            identity=CONFIG,
            progress=progress,
            stop=stop or Stop(),
        )


def load(cache: Path, model: nn.Module, trained: Callable[[nn.Module, Path], None] = train, **changed: Any) -> bool:
    return cached(model, trained, **{"name": "teacher", "config": CONFIG, "cache": cache, "stop": Stop()} | changed)


def never(model: nn.Module, path: Path) -> None:
    raise AssertionError("trained again")


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    for (name, value), other in zip(ours.state_dict().items(), theirs.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_what_is_loaded_is_what_was_trained(tmp_path: Path) -> None:
    plain, trained, loaded = network(), network(), network()
    train(plain, tmp_path / "plain.pt")
    assert not load(tmp_path / "cache", trained)
    assert load(tmp_path / "cache", loaded, never)
    for model in (trained, loaded):
        assert_same(model, plain)
        assert not model.training
        assert not any(parameter.requires_grad for parameter in model.parameters())
    (path,) = (tmp_path / "cache").glob("*.pt")
    assert path.stem == cache_key(CONFIG)
    assert torch.load(path, weights_only=True)["config"] == CONFIG
    assert not list((tmp_path / "cache").glob("*.partial"))


def test_another_configuration_is_another_network(tmp_path: Path) -> None:
    load(tmp_path, network())
    assert not load(tmp_path, network(), config=CONFIG | {"seed": 1})
    assert len(list(tmp_path.glob("*.pt"))) == 2


def test_a_stopped_training_is_resumed(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path / "cache", network(), lambda model, path: train(model, path, StopAt(3)))
    (partial,) = (tmp_path / "cache").glob("*.partial")
    assert torch.load(partial, weights_only=True)["loop"]["step"] == 4
    resumed, plain = network(), network()
    assert not load(tmp_path / "cache", resumed)
    train(plain, tmp_path / "plain.pt")
    assert_same(resumed, plain)
    assert not partial.exists()


@pytest.mark.parametrize("number", range(6))
def test_a_damaged_file_is_made_again(tmp_path: Path, number: int, caplog: pytest.LogCaptureFixture) -> None:
    """Empty, cut off, with a flipped bit, or with blocks swapped: every run that shares it trains it again."""
    trained, loaded = network(), network()
    load(tmp_path, trained)
    (path,) = tmp_path.glob("*.pt")
    whole = path.read_bytes()
    path.write_bytes(list(damaged(whole, 6, seed=2))[number])
    assert not load(tmp_path, loaded)
    assert f"{path} is damaged and is made again" in caplog.text
    assert_same(loaded, trained)
    assert load(tmp_path, network(), never)


def test_weights_of_another_network_are_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The code of the network has changed since, and its configuration has not."""
    load(tmp_path, nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))
    plain, found = network(), network()
    train(plain, tmp_path / "plain")
    assert not load(tmp_path, found)
    assert_same(found, plain)
    assert "has weights of another network" in caplog.text


def test_a_damaged_checkpoint_of_the_cache_is_left(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(KeyboardInterrupt):
        load(tmp_path, network(), lambda model, path: train(model, path, StopAt(3)))
    (partial,) = tmp_path.glob("*.partial")
    partial.write_bytes(partial.read_bytes()[:-100])
    plain, found = network(), network()
    assert not load(tmp_path, found)
    train(plain, tmp_path / "plain")
    assert_same(found, plain)
    assert f"{partial} is damaged and is made again" in caplog.text


def test_a_disk_that_fails_costs_no_teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load(tmp_path, network())
    (path,) = tmp_path.glob("*.pt")

    def fail(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(OSError, match="Input/output"):
        load(tmp_path, network(), never)
    assert path.is_file()


def both(cache: Path, meeting: Barrier, results: Any) -> None:
    """Load a network in one of two processes, which begin at the same time."""

    def slow(model: nn.Module, path: Path) -> None:
        time.sleep(0.5)
        train(model, path)
        (cache / f"trained_by_{os.getpid()}").touch()

    model = network()
    meeting.wait()
    found = load(cache, model, slow)
    results.put((found, [value.tolist() for value in model.state_dict().values()]))


def test_two_processes_train_it_once(tmp_path: Path) -> None:
    meeting, results = FORK.Barrier(2), FORK.Queue()
    processes = [FORK.Process(target=both, args=(tmp_path, meeting, results)) for _ in range(2)]
    for process in processes:
        process.start()
    first, second = (results.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()
    assert sorted((first[0], second[0])) == [False, True]
    assert first[1] == second[1]
    assert len(list(tmp_path.glob("trained_by_*"))) == 1


def hold(path: Path, held: Any) -> None:
    with FileLock(path):
        held.set()
        time.sleep(60)


def test_waiting_ends_with_a_stop_or_with_the_death_of_the_other_process(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    held = FORK.Event()
    other = FORK.Process(target=hold, args=(tmp_path / f"{cache_key(CONFIG)}.lock", held))
    other.start()
    try:
        assert held.wait(60)
        with caplog.at_level("INFO"), pytest.raises(KeyboardInterrupt):
            load(tmp_path, network(), never, stop=StopAt(1))
        assert caplog.text.count("teacher: another process is training it; waiting for") == 1
    finally:
        os.kill(other.pid or 0, signal.SIGKILL)
        other.join()
    assert not load(tmp_path, network())


def test_a_failed_training_leaves_no_network_and_no_lock(tmp_path: Path) -> None:
    def fail(model: nn.Module, path: Path) -> None:
        raise RuntimeError("failed")

    with pytest.raises(RuntimeError, match="failed"):
        load(tmp_path, network(), fail)
    assert not list(tmp_path.glob("*.pt"))
    assert not load(tmp_path, network())
