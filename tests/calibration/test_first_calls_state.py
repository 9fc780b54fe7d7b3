"""The calibration of an augmenter's start: saved, resumed, copied, interrupted, and shared by processes."""

from __future__ import annotations

import copy
import datetime
import io
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Calibration, calibrate
from hard_aug.calibration.first_calls import IMAGES
from hard_aug.policies import Gaussian, GroupBandit
from tests.helpers.calibration_parts import BATCH, batches, equal, made, trained_network, transform


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)  # type: ignore[no-any-return]  # it is what was saved


@pytest.mark.parametrize("policy", [GroupBandit, Gaussian])
@pytest.mark.parametrize("calls", [0, 1, 3, 4, 5])
def test_a_resumed_augmenter_continues_bit_equal(calls: int, policy: Any) -> None:
    parts = batches(7)
    first, second = (made(policy=policy(transform().spec), seed=seed) for seed in (0, 99))
    for images in parts[:calls]:
        first(images)
    second.load_state_dict(through_a_file(first.state_dict()))
    assert equal(first.state_dict(), second.state_dict())
    if calls < 4:  # the draws of the calibration come from the augmenter's seed
        second = made(policy=policy(transform().spec))
        second.load_state_dict(through_a_file(first.state_dict()))
    for images in parts[calls:]:
        one, two = first(images), second(images)
        assert one.num_hard == two.num_hard
        assert torch.equal(one.images, two.images)
    assert equal(first.state_dict(), second.state_dict())
    assert first.calibration is not None
    assert second.calibration is not None
    assert first.calibration.to_dict() == second.calibration.to_dict()


def test_a_state_is_a_copy() -> None:
    augmenter, parts = made(), batches()
    augmenter(parts[0])
    state = augmenter.state_dict()
    kept = copy.deepcopy(state)
    given = parts[1].clone()
    augmenter(given)
    given.zero_()  # a loader may use its buffer again
    for images in parts[2:]:
        augmenter(images)
    assert equal(state, kept)
    assert augmenter.calibration is not None
    expected = calibrate(trained_network(), torch.cat(parts)[:IMAGES], transform())
    assert torch.equal(augmenter.calibration.reach, expected.reach)
    augmenter.load_state_dict(state)
    assert augmenter.calibration is None
    assert torch.equal(augmenter.policy.reach, torch.ones(4, 2))


@pytest.mark.parametrize("evaluates", ["call", "generate"])
def test_evaluations_before_the_calibration_change_nothing(evaluates: str) -> None:
    augmenter, twin, parts = made(), made(), batches()
    for images in parts:
        state = copy.deepcopy(augmenter.state_dict())
        student_ = augmenter._adversary.networks.student.inner
        if evaluates == "call":
            student_.eval()
            with torch.no_grad():
                hard = augmenter(images)
            student_.train()
        else:
            hard = augmenter.generate(images)
        assert hard.num_hard == (0 if augmenter.calibration is None else BATCH)
        assert equal(augmenter.state_dict(), state)
        assert torch.equal(augmenter(images).images, twin(images).images)
    assert equal(augmenter.state_dict(), twin.state_dict())


class Failing(nn.Module):
    """A teacher that fails in one of its forwards."""

    def __init__(self, failing: int) -> None:
        super().__init__()
        self.network, self.left = trained_network(), failing

    def forward(self, images: Tensor) -> Tensor:
        self.left -= 1
        if self.left == 0:
            raise RuntimeError("no connection, say")
        return self.network(images)  # type: ignore[no-any-return]  # a tensor


@pytest.mark.parametrize("failing", [4, 7, 30])
def test_an_error_while_calibrating_changes_nothing(failing: int) -> None:
    parts, teacher = batches(), Failing(failing)
    augmenter, twin = made(teacher), made()
    for images in parts[:3]:
        augmenter(images)
        twin(images)
    state = copy.deepcopy(augmenter.state_dict())
    with pytest.raises(RuntimeError, match="no connection"):
        augmenter(parts[3])
    assert equal(augmenter.state_dict(), state)
    assert augmenter.calibration is None
    assert teacher.network.training
    for images in parts[3:]:
        assert torch.equal(augmenter(images).images, twin(images).images)
    assert equal(augmenter.state_dict(), twin.state_dict())


def test_deep_copies_calibrate_by_themselves() -> None:
    original, parts = made(), batches()
    for images in parts[:2]:
        original(images)
    early = copy.deepcopy(original)
    for images in parts[2:4]:
        original(images)
    assert early.calibration is None
    late = copy.deepcopy(original)
    for images in parts[2:4]:
        early(images)
    for augmenter in (early, late):
        assert augmenter.calibration is not None
        assert original.calibration is not None
        assert torch.equal(augmenter.calibration.reach, original.calibration.reach)
        assert augmenter.policy is not original.policy
        assert torch.equal(augmenter.policy.reach, original.policy.reach)
    for images in parts[4:]:
        found = [augmenter(images).images for augmenter in (original, early, late)]
        assert torch.equal(found[0], found[1])
        assert torch.equal(found[0], found[2])


def test_the_networks_and_the_global_generator_stay_as_they_are() -> None:
    teacher = trained_network()
    augmenter = made(teacher)
    before, modes = copy.deepcopy(teacher.state_dict()), [one.training for one in teacher.modules()]
    state = torch.get_rng_state()
    for images in batches(4):
        augmenter(images)
    assert augmenter.calibration is not None
    assert torch.equal(torch.get_rng_state(), state)
    assert equal(dict(teacher.state_dict()), dict(before))
    assert [one.training for one in teacher.modules()] == modes


@pytest.mark.parametrize(
    "wrong",
    [
        {"images": "x"},
        {"images": torch.rand(4, 8, 8)},
        {"images": torch.full((2, 1, 8, 8), torch.nan)},
        {"images": torch.zeros(2, 1, 8, 8, dtype=torch.int64)},
        {"labels": torch.zeros(BATCH, dtype=torch.int64)},
        {"images": None, "labels": torch.zeros(2, dtype=torch.int64)},
        {"result": "x"},
        {"images": None, "result": {"reach": torch.ones(4, 2)}},
    ],
)
def test_states_that_do_not_fit(wrong: dict[str, Any]) -> None:
    augmenter = made()
    augmenter(batches()[0])
    before = copy.deepcopy(augmenter.state_dict())
    state = copy.deepcopy(before)
    state["calibration"] |= wrong
    with pytest.raises(ValueError, match="state dict does not fit this augmenter"):
        augmenter.load_state_dict(state)
    assert equal(augmenter.state_dict(), before)
    with pytest.raises(ValueError, match="it has images that nothing is left to do with; use calibration=True"):
        made(calibration=False).load_state_dict(before)


def process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/meeting",
        rank=rank,
        world_size=2,
        timeout=datetime.timedelta(seconds=60),
    )
    augmenter = made()
    counts = [augmenter(images).num_hard for images in batches(seed=rank)]
    found = augmenter.calibration
    assert isinstance(found, Calibration)
    weights = augmenter.policy.weights
    torch.save({"counts": counts, "state": found.state_dict(), "weights": weights}, f"{folder}/{rank}.pt")
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_processes_share_the_images_and_get_one_result(tmp_path: Path) -> None:
    """Each takes half of the images; the fractions that are kept are the means of both."""
    torch.multiprocessing.spawn(process, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert equal(first, second)
    assert first["counts"] == [0, *[BATCH] * 5]
    assert first["state"]["images"] == IMAGES
    assert first["weights"].unique().numel() > 1
    alone = [
        calibrate(trained_network(), torch.cat(batches(seed=rank))[: IMAGES // 2], transform(), seed=rank)
        for rank in range(2)
    ]
    # Where both keep the ends of a range, the mean is that of what each finds by itself.
    both = (alone[0].reach == 1) & (alone[1].reach == 1)
    assert bool(both.any())
    assert torch.allclose(first["state"]["kept"][both], (alone[0].kept[both] + alone[1].kept[both]) / 2, atol=1e-6)
    assert not any(torch.equal(first["state"]["kept"], one.kept) for one in alone)
