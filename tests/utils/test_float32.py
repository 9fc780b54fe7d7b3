"""Modules that stay in float32, whatever they or a module that holds them is cast to, and move with it."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from hard_aug.utils.float32 import Float32Module
from tests.helpers.defaults import defaults


class Learned(Float32Module):
    """As a subclass is written that thinks of no dtype."""

    count: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.full((3,), 1 / 3))
        self.network = nn.Linear(3, 2)
        self.register_buffer("scale", torch.tensor(1 / 3))
        self.register_buffer("count", torch.tensor(2))


CASTS = [
    lambda module: module.half(),
    lambda module: module.bfloat16(),
    lambda module: module.double(),
    lambda module: module.to(torch.float64),
    lambda module: module.to("cpu", torch.bfloat16),
    lambda module: module.to(torch.zeros((), dtype=torch.float16)),
]


def dtypes(module: nn.Module) -> set[torch.dtype]:
    return {tensor.dtype for tensor in (*module.parameters(), *module.buffers()) if tensor.is_floating_point()}


@pytest.mark.parametrize("cast", CASTS)
@pytest.mark.parametrize("held", [False, True])
def test_casts_leave_the_numbers_as_they_are(cast: object, held: bool) -> None:
    learned, beside = Learned(), nn.Linear(2, 2)
    before = copy.deepcopy(learned.state_dict())
    cast(nn.ModuleList([learned, beside]) if held else learned)  # type: ignore[operator]
    assert dtypes(learned) == {torch.float32}
    assert dtypes(beside) != {torch.float32} if held else dtypes(beside) == {torch.float32}
    for name, value in learned.state_dict().items():
        assert torch.equal(value, before[name])  # not rounded on the way
    assert learned.count.dtype == torch.int64
    assert learned.value.requires_grad


@pytest.mark.parametrize("dtype", [None, torch.float16, torch.float64])
def test_they_move_with_the_module_that_holds_them(dtype: torch.dtype | None) -> None:
    learned = Learned()
    model = nn.Sequential(learned, nn.Linear(2, 2))
    model.to("meta", dtype)
    assert {tensor.device.type for tensor in (*learned.parameters(), *learned.buffers())} == {"meta"}
    assert dtypes(learned) == {torch.float32}
    assert dtypes(model[1]) == {dtype or torch.float32}
    assert dtypes(learned.to_empty(device="cpu")) == {torch.float32}
    assert learned.value.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_what_another_default_dtype_has_created_becomes_float32(dtype: torch.dtype) -> None:
    with defaults(dtype):
        learned = Learned()
    assert dtypes(learned) == {dtype}
    assert dtypes(learned.to("cpu")) == {torch.float32}
    assert torch.allclose(learned.value, torch.full((3,), 1 / 3), rtol=1e-2)


def test_gradients_are_float32_too() -> None:
    learned = Learned()
    learned.value.sum().backward()
    learned.half()
    assert learned.value.grad is not None
    assert learned.value.grad.dtype == torch.float32
