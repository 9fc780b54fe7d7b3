"""BatchNorm on two views: which statistics normalise each view, and which update the running statistics."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.models import ViewStatistics
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine

MODES = ["shared", "frozen", "split"]


def network() -> nn.BatchNorm2d:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    nn.init.normal_(norm.weight)
    norm.running_mean.uniform_()
    return norm


def views() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(5, 3, 4, 4, generator=generator), 2 + 3 * torch.rand(4, 3, 4, 4, generator=generator)


def through(norm: nn.Module, mode: str) -> tuple[Tensor, Tensor]:
    clean, hard = views()
    with ViewStatistics(norm, mode).of(clean=5, hard=4):  # type: ignore[arg-type]  # from a list
        both = norm(torch.cat((clean, hard)))
    return both[:5], both[5:]


def test_shared_is_concatenation() -> None:
    found = torch.cat(through(network(), "shared"))
    assert torch.equal(found, network()(torch.cat(views())))


@pytest.mark.parametrize("mode", ["frozen", "split"])
def test_the_clean_view_does_not_depend_on_the_hard_view(mode: str) -> None:
    norm, alone = network(), network()
    clean, _ = through(norm, mode)
    assert torch.allclose(clean, alone(views()[0]), atol=1e-6)
    for name, value in alone.state_dict().items():
        assert torch.equal(norm.state_dict()[name], value), name
    assert "forward" not in vars(norm)


def test_the_hard_view_under_frozen_and_split() -> None:
    _, hard = views()
    assert torch.allclose(through(network(), "frozen")[1], network().eval()(hard), atol=1e-6)
    assert torch.allclose(through(network(), "split")[1], network()(hard), atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_evaluation_mode_is_unaffected(mode: str) -> None:
    norm = network().eval()
    assert torch.equal(torch.cat(through(norm, mode)), norm(torch.cat(views())))


@pytest.mark.parametrize("mode", MODES)
def test_modules_are_restored_after_an_exception(mode: str) -> None:
    norm = network()
    with pytest.raises(RuntimeError, match="stop"), ViewStatistics(norm, mode).of(clean=1, hard=1):  # type: ignore[arg-type]  # from a list
        raise RuntimeError("stop")
    assert "forward" not in vars(norm)


def test_several_rows_per_image() -> None:
    """A network that folds patches into the batch axis keeps the order of the images."""
    norm = nn.BatchNorm1d(3)
    rows = torch.rand(9 * 2, 3)
    with ViewStatistics(norm, "split").of(clean=5, hard=4):
        found = norm(rows)
    alone = nn.BatchNorm1d(3)
    assert torch.allclose(found, torch.cat((alone(rows[:10]), alone(rows[10:]))), atol=1e-6)
    with (
        pytest.raises(ValueError, match=r"18 rows for 4 images.*use batch_norm='shared'"),
        ViewStatistics(norm, "split").of(clean=2, hard=2),
    ):
        norm(rows)


@pytest.mark.parametrize("schedule", [Alternating(), None])
@pytest.mark.parametrize("mode", MODES)
def test_a_whole_step(teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Any, mode: str) -> None:
    augmenter = HardAugmenter(
        teacher=teacher,
        student=student,
        transform=Affine(),
        schedule=schedule,
        batch_norm=mode,  # type: ignore[arg-type]  # from a list
    )
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    for _ in range(3):
        before = student[2].running_mean.clone()
        hard = augmenter(images)
        assert torch.equal(student[2].running_mean, before)
        loss = hard.loss()
        assert not torch.equal(student[2].running_mean, before)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert augmenter.dropped_steps == 0
    assert student.training


def test_modules_whose_views_cannot_be_separated(teacher: nn.Module, student: nn.Module) -> None:
    with pytest.raises(ValueError, match="expected one of shared, frozen, split"):
        HardAugmenter(teacher=teacher, student=student, transform=Affine(), batch_norm="both")  # type: ignore[arg-type]  # the mistake
    for norm, mode, words in (
        (nn.SyncBatchNorm(3), "split", "use batch_norm='shared'"),
        (nn.BatchNorm1d(3, track_running_stats=False), "frozen", "use batch_norm='split'"),
    ):
        with pytest.raises(ValueError, match=words), ViewStatistics(norm, mode).of(clean=1, hard=1):  # type: ignore[arg-type]  # from a list
            pass


def test_a_replaced_forward_cannot_be_separated() -> None:
    norm = nn.BatchNorm1d(3)
    norm.forward = lambda values: values  # type: ignore[method-assign]  # as hooks of other libraries do
    with (
        pytest.raises(ValueError, match=r"can't separate the views in BatchNorm1d.*use batch_norm='shared'"),
        ViewStatistics(norm, "split").of(clean=1, hard=1),
    ):
        pass


@pytest.mark.parametrize("mode", MODES)
def test_a_copy_belongs_to_the_copied_network(mode: str) -> None:
    norm = network()
    statistics = ViewStatistics(norm, mode)  # type: ignore[arg-type]  # from a list
    with statistics.of(clean=5, hard=4):
        norm(torch.cat(views()))
    other_norm, other = copy.deepcopy((norm, statistics))
    before = copy.deepcopy(norm.state_dict())
    clean, hard = views()
    with other.of(clean=4, hard=5):  # other numbers of rows too
        found = other_norm(torch.cat((hard, clean)))
    for name, value in norm.state_dict().items():
        assert torch.equal(value, before[name]), name
    with statistics.of(clean=4, hard=5):
        assert torch.equal(norm(torch.cat((hard, clean))), found)
    pickle.loads(pickle.dumps(statistics))


def test_repr_shows_the_mode() -> None:
    assert repr(ViewStatistics(nn.BatchNorm2d(3), "split")) == "ViewStatistics(mode='split')"
