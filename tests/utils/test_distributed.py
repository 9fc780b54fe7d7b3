"""`ProcessGroup`: one process by itself, and what several agree on; `tests/setups/test_distributed.py` runs two."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from hard_aug.utils import distributed
from hard_aug.utils.distributed import ProcessGroup, warn_unless_averaged

CPU = torch.device("cpu")


def test_a_single_process() -> None:
    processes = ProcessGroup(CPU)
    assert (processes.rank, processes.count, processes.is_single) == (0, 1, True)
    values = [torch.tensor([1.0, 2.0]), torch.tensor(3.0)]
    assert all(torch.equal(found, given) for found, given in zip(processes.mean(values, 4), values, strict=True))
    assert processes.mean_to_host(torch.tensor([1.0, 2.0, 6.0])) == 3
    processes.validate_batch(0, None)  # an empty batch makes no other process wait
    with pytest.raises(TypeError, match="bad images"):
        processes.validate_batch(4, TypeError("bad images"))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tensor], None]], ProcessGroup]:
    """Make the first of two processes, whose exchange adds what a function says the other one sent."""

    def make(add_other: Callable[[Tensor], None]) -> ProcessGroup:
        monkeypatch.setattr(dist, "all_reduce", add_other)
        monkeypatch.setattr(distributed, "placement", lambda: (0, 2))
        return ProcessGroup(CPU)

    return make


def test_means_are_weighted_by_rows(two: Callable[[Callable[[Tensor], None]], ProcessGroup]) -> None:
    def add_other(packed: Tensor) -> None:  # 6 rows with the means (5, 7) and 9
        packed += torch.tensor([5.0 * 6, 7.0 * 6, 9.0 * 6, 6.0])

    first, second = two(add_other).mean([torch.tensor([1.0, 3.0]), torch.tensor(5.0, dtype=torch.float64)], 2)
    assert torch.equal(first, torch.tensor([4.0, 6.0]))
    assert float(second) == 8
    assert second.dtype == torch.float64


@pytest.mark.parametrize(
    ("other_rows", "other_refused", "words"),
    [
        (4, 0, None),
        (5, 0, r"batches of different size in the 2 processes \(4 rows in process 0, 4\.5 on average\)"),
        (4, 1, "1 of 2 processes refused their batch; see their errors"),
    ],
)
def test_batches_that_do_not_fit(
    two: Callable[[Callable[[Tensor], None]], ProcessGroup], other_rows: int, other_refused: int, words: str | None
) -> None:
    def add_other(counts: Tensor) -> None:
        counts += torch.tensor([float(other_rows), float(other_rows) ** 2, float(other_refused)])

    processes = two(add_other)
    if words is None:
        processes.validate_batch(4, None)
        return
    with pytest.raises(ValueError, match=words):
        processes.validate_batch(4, None)


def test_an_empty_batch_and_an_own_error_come_first(
    two: Callable[[Callable[[Tensor], None]], ProcessGroup],
) -> None:
    exchanged: list[Tensor] = []
    processes = two(lambda counts: exchanged.append(counts.clone()))
    with pytest.raises(ValueError, match=r"an empty batch in process 0 of 2.*drop_last=True"):
        processes.validate_batch(0, None)
    with pytest.raises(TypeError, match="own"):
        processes.validate_batch(4, TypeError("own"))
    assert [counts[2].item() for counts in exchanged] == [1, 1]  # the others hear of both


def test_a_process_group_that_changes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = ProcessGroup(CPU)
    processes.check_unchanged()
    monkeypatch.setattr(distributed, "placement", lambda: (1, 4))
    for refusing in (processes.check_unchanged, lambda: processes.validate_batch(8, None)):
        with pytest.raises(
            ValueError, match=r"created in process 0 of 1 and called in process 1 of 4: .*init_process_g"
        ):
            refusing()


@pytest.mark.parametrize(("count", "frozen", "warned"), [(1, False, False), (2, True, False), (2, False, True)])
def test_a_student_that_nothing_averages(
    monkeypatch: pytest.MonkeyPatch, count: int, frozen: bool, warned: bool
) -> None:
    """`tests/setups/test_distributed.py` has wrapped ones."""
    monkeypatch.setattr(distributed, "placement", lambda: (0, count))
    student = nn.Linear(3, 2).requires_grad_(not frozen)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with warn_unless_averaged(student):
            student(torch.rand(4, 3))
    assert [str(one.message).partition(",")[0] for one in said] == ["2 processes train"] * warned
    assert not torch.nn.modules.module._global_forward_pre_hooks
