"""Truncated, swapped and flipped states, checkpoints and shards: a named error, and the old state is kept."""

from __future__ import annotations

import copy
import logging
import random
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.data.batches import Batches
from experiments.models import SHIPPED, load_weights
from experiments.training import checkpoint
from experiments.training.fit import fit
from experiments.training.interrupts import Stop
from experiments.training.progress import Progress
from hard_aug import HardAugmenter
from hard_aug.data import ImageSet, Refresh, Replay, read_shards
from hard_aug.generative import DiffusionModel
from hard_aug.objectives import Constraint, KeepRate
from hard_aug.policies import Conditional, Generator
from hard_aug.schedules import Joint, Threshold
from hard_aug.transforms import Affine
from tests.helpers.damage import damaged
from tests.helpers.hard_parts import generation_of
from tests.helpers.shard_parts import LAYOUTS, same, write_all, writer

SPEC = Affine().spec
SETTINGS: dict[str, Callable[[], dict[str, Any]]] = {
    "defaults": dict,
    "joint": lambda: {"schedule": Joint()},
    "threshold": lambda: {"schedule": Threshold()},
    "constraint": lambda: {"invariance": Constraint()},
    "keep rate": lambda: {"invariance": KeepRate()},
    "generator": lambda: {"policy": Generator(SPEC)},
    "conditional": lambda: {"policy": Conditional(SPEC, channels=1)},
}


def augmenter_after(calls: int, kind: str) -> HardAugmenter:
    torch.manual_seed(0)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(64, 3)) for _ in range(2))
    made = HardAugmenter(teacher=teacher, student=student, transform=Affine(), **SETTINGS[kind]())
    for _ in range(calls):
        made(torch.rand(8, 1, 8, 8)).loss()
    return made


def equal(a: Any, b: Any) -> bool:
    """Return whether two states are equal to the bit, and of the same types."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(equal(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return type(a) is type(b) and a == b


def entries(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield the path and the value of each entry of nested dictionaries and lists that can be replaced."""
    if isinstance(state, dict | list):
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            yield (*path, key), value
            yield from entries(value, (*path, key))


def replaced(state: dict[str, Any], path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    found = copy.deepcopy(state)
    node: Any = found
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return found


def wrong_values(value: Any) -> dict[str, Any]:
    """Return what an entry may not be, by the kind of the fault."""
    wrong: dict[str, Any] = {"text": "x"} if value is None else {"None": None, "text": "x"}
    if isinstance(value, Tensor):
        wrong |= {"longer": torch.cat([value.reshape(-1), value.reshape(-1)[:1]]), "list": value.tolist()}
        wrong |= {"complex": value.to(torch.complex64)}
        if value.is_floating_point():
            wrong |= {name: torch.full_like(value, float(name)) for name in ("nan", "inf", "-inf")}
            wrong |= {"integers": value.to(torch.int16), "booleans": value > 0, "huge": value.double() + 1e300}
        else:
            wrong |= {"floats": value.float()}
    elif isinstance(value, bool):
        wrong |= {"number": 2}
    elif isinstance(value, int | float):
        wrong |= {"nan": float("nan"), "-inf": float("-inf"), "tensor": torch.zeros(2)}
    return wrong


#: Entries that are not read: Adam's settings are the augmenter's own.
NOT_READ = {"betas", "eps", "weight_decay", "amsgrad", "maximize", "foreach", "capturable", "differentiable", "fused"}
NOT_READ |= {"decoupled_weight_decay", "params"}


@pytest.mark.parametrize("kind", SETTINGS)
def test_a_wrong_entry_of_an_augmenters_state(kind: str) -> None:
    given, augmenter = augmenter_after(3, kind).state_dict(), augmenter_after(8, kind)
    before = copy.deepcopy(augmenter.state_dict())
    tried = 0
    for path, value in entries(given):
        if NOT_READ & set(path) or (path[0] == "schedule" and value is None):
            continue
        if isinstance(value, dict | list):
            continue
        for fault, wrong in wrong_values(value).items():
            if path[0] == "schedule" and fault == "None" and path[-1] in ("clean", "hard"):
                continue  # a running mean that has not started
            with pytest.raises(ValueError, match=r"state dict|calls") as raised:
                augmenter.load_state_dict(replaced(given, path, wrong))
            assert equal(augmenter.state_dict(), before), (path, fault)
            assert len(str(raised.value)) < 400
            tried += 1
    assert tried > 40
    augmenter.load_state_dict(given)  # as a whole it is good
    assert equal(augmenter.state_dict(), given)


@pytest.mark.parametrize("kind", ["defaults", "threshold", "generator"])
def test_swapped_and_missing_entries_of_an_augmenters_state(kind: str) -> None:
    given, augmenter, draws = augmenter_after(3, kind).state_dict(), augmenter_after(8, kind), random.Random(0)
    before = copy.deepcopy(augmenter.state_dict())
    places = [(path, value) for path, value in entries(given) if not NOT_READ & set(path)]
    refused = 0
    for _ in range(150):
        (one, a), (other, b) = draws.sample(places, 2)
        if one[: len(other)] == other or other[: len(one)] == one:
            continue
        mixed = replaced(replaced(given, one, b), other, a)
        try:
            augmenter.load_state_dict(mixed)
        except ValueError as error:
            assert equal(augmenter.state_dict(), before), (one, other)  # equal ones may be swapped
            assert "state dict" in str(error) or "calls" in str(error)  # noqa: PT017
            refused += 1
        else:  # of the same shape and kind: nobody can tell, and the next call works
            assert augmenter(torch.rand(8, 1, 8, 8)).images.isfinite().all()
            augmenter.load_state_dict(before)
    assert refused > 80
    for path, _ in places:
        cut = copy.deepcopy(given)
        node: Any = cut
        for key in path[:-1]:
            node = node[key]
        del node[path[-1]]
        with pytest.raises(ValueError, match="state dict"):
            augmenter.load_state_dict(cut)
        assert equal(augmenter.state_dict(), before), path


def test_a_state_of_adam_that_has_not_begun_is_loaded() -> None:
    """In both directions: a new process resumes, and a run is set back to its start."""
    fresh, used = augmenter_after(0, "defaults"), augmenter_after(3, "defaults")
    first, later = fresh.state_dict(), used.state_dict()
    fresh.load_state_dict(later)
    used.load_state_dict(first)
    assert equal(fresh.state_dict(), later)
    assert equal(used.state_dict(), first)
    images = torch.rand(8, 1, 8, 8)
    assert torch.equal(used(images).images, augmenter_after(0, "defaults")(images).images)


def test_a_flipped_byte_of_a_checkpoint(tmp_path: Path) -> None:
    """torch.load itself takes most of them: it does not compare the checksums of the archive."""
    path, state = tmp_path / "checkpoint.pt", augmenter_after(3, "defaults").state_dict()
    content = {"config": {"steps": 3, "name": "é"}, "method": state, "weights": torch.randn(40, 40)}
    checkpoint.save(path, content)
    whole, unnoticed, refused = path.read_bytes(), 0, 0
    for bad in damaged(whole, 200):
        path.write_bytes(bad)
        try:
            loaded = checkpoint.load(path, content["config"])
        except checkpoint.DamagedFileError as error:
            assert str(path) in str(error)  # noqa: PT017 - an unused byte may be flipped
            assert "remove it" in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
            refused += 1
            try:
                unnoticed += torch.load(path, weights_only=True).keys() == content.keys()
            except Exception:
                continue
        else:
            assert equal(loaded, content)
    assert refused > 150
    assert unnoticed > 50


def trained(path: Path, model: nn.Module, steps: int, stop: Stop | None = None) -> None:
    data = ImageSet(torch.rand(30, 1, 8, 8, generator=torch.Generator().manual_seed(1)), torch.arange(30) % 3)
    with Progress(quiet=True) as progress:
        fit(
            "student",
            model,
            lambda images, labels: nn.functional.cross_entropy(model(images), labels),
            Batches(data, 10, 0),
            steps=steps,
            learning_rate=0.1,
            seed=0,
            path=path,
            identity={"name": "x"},
            progress=progress,
            stop=stop or Stop(),
        )


def test_a_damaged_checkpoint_starts_no_training(tmp_path: Path) -> None:
    path, model = tmp_path / "checkpoint.pt", nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    trained(path, model, 3)
    whole = path.read_bytes()
    other = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    before = copy.deepcopy(other.state_dict())
    for bad in damaged(whole, 40):
        path.write_bytes(bad)
        if bad == whole:
            continue
        try:
            trained(path, other, 3)
        except ValueError as error:
            assert f"{path} is damaged" in str(error)  # noqa: PT017 - an unused byte may be flipped
        else:
            assert equal(other.state_dict(), model.state_dict())
            other.load_state_dict(before)
        assert equal(other.state_dict(), before)


@pytest.mark.parametrize("part", ["loop", "parts", "seconds", ("loop", "model"), ("loop", "rng"), ("loop", "step")])
def test_a_checkpoint_of_other_code_is_named(tmp_path: Path, part: Any) -> None:
    path, model = tmp_path / "checkpoint.pt", nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    trained(path, model, 2)
    state = checkpoint.read(path)
    keys = (part,) if isinstance(part, str) else part
    node = state
    for key in keys[:-1]:
        node = node[key]
    del node[keys[-1]]
    checkpoint.save(path, state)
    if part == "parts":  # the training has none
        trained(path, model, 2)
        return
    with pytest.raises(ValueError, match=rf"{path} does not fit student.*KeyError.*remove it"):
        trained(path, model, 2)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("finished", [True, False])
def test_damaged_shards(tmp_path: Path, layout: str, finished: bool) -> None:
    """Without an index too: a shard whose manifest is damaged is not left out."""
    logging.disable(logging.WARNING)
    try:
        write_all(tmp_path, layout)
        if finished:
            writer(tmp_path, layout).finish()
        whole = read_shards(tmp_path)
        paths = sorted(path for path in tmp_path.rglob("*") if path.is_file())
        assert len(paths) > 4
        for path in [*tmp_path.glob("*.*"), *list(tmp_path.glob("images/*/*"))[:2]]:
            content = path.read_bytes()
            for bad in damaged(content, 25):
                path.write_bytes(bad)
                try:
                    found = read_shards(tmp_path)
                except ValueError as error:
                    assert str(tmp_path) in str(error)  # noqa: PT017 - blocks of zeros may be swapped
                    assert "again" in str(error)  # noqa: PT017
                else:
                    assert same(found.images, whole.images), path
                    assert (found.classes, found.identity) == (whole.classes, whole.identity), path
            path.write_bytes(content)
    finally:
        logging.disable(logging.NOTSET)


def test_shards_that_are_not_verified_are_named_where_they_cannot_be_read(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / "shard-000001.tar"
    content = path.read_bytes()
    for bad in damaged(content, 30):
        path.write_bytes(bad)
        try:
            read_shards(tmp_path, verify=False)
        except ValueError as error:
            assert f"shard 1 in {tmp_path} can't be read" in str(error)  # noqa: PT017 - others are not noticed


def test_a_wrong_state_changes_no_pool() -> None:
    pool, refresh = Replay(capacity=30, seed=1), Refresh(patience=2)
    pool.add(generation_of(0))
    pool.add(generation_of(1))
    refresh.is_due(1, 0.5)
    states: list[tuple[Any, dict[str, Any]]] = [(pool, pool.state_dict()), (refresh, refresh.state_dict())]
    for holder, state in states:
        before = copy.deepcopy(state)
        for path, value in entries(state):
            wrong = wrong_values(value) if not isinstance(value, dict) else {"list": [], "empty": {}}
            for fault, one in wrong.items():
                if (path[-1] == "scores_before" and "n" in fault) or (path[-1] == "best" and fault in ("None", "-inf")):
                    continue  # there may be none
                with pytest.raises(ValueError, match="expected a state of"):
                    holder.load_state_dict(replaced(state, path, one))
                assert equal(holder.state_dict(), before), (path, fault)
    with pytest.raises(ValueError, match="expected a state of"):
        pool.load_state_dict(replaced(pool.state_dict(), ("images",), None))


def test_flipped_weights_are_refused(tmp_path: Path) -> None:
    """Those of torch; safetensors has no checksum, and is only noticed where it does not fit."""
    network = nn.Linear(30, 20)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    before, whole = copy.deepcopy(network.state_dict()), (tmp_path / "w.pt").read_bytes()
    for bad in damaged(whole, 80):
        (tmp_path / "w.pt").write_bytes(bad)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the old format of torch
            try:
                load_weights(network, tmp_path / "w.pt")
            except ValueError as error:
                assert f"weights={tmp_path / 'w.pt'}" in str(error)  # noqa: PT017 - an unused byte may be flipped
        assert equal(network.state_dict(), before)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["condition.json", "scheduler/scheduler_config.json", "unet/config.json", "vae"])
def test_damaged_generative_models(tmp_path: Path, name: str) -> None:
    """Weights have no checksum in their format, so that only their head and length are compared."""
    folder = tmp_path / "models"
    shutil.copytree(SHIPPED, folder)
    path = folder / name if name.endswith(".json") else folder / name / "diffusion_pytorch_model.safetensors"
    content = path.read_bytes()
    cut = [b"", content[:50], content[: len(content) // 2], content[:9] + b"x" + content[10:]]
    refused = 0
    for bad in damaged(content, 12) if name.endswith(".json") else cut:
        path.write_bytes(bad)
        try:
            DiffusionModel.from_pretrained(folder)
        except (OSError, ValueError) as error:
            refused += str(folder) in str(error)
            assert str(folder) in str(error) or "ClassLabels" in str(error)  # noqa: PT017
    assert refused > 3
