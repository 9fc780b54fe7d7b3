"""Evaluation mode that restores each flag, and networks inside wrappers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from hard_aug.models import eval_mode, unwrap_model


def flags(*models: nn.Module) -> list[bool]:
    return [module.training for model in models for module in model.modules()]


def test_each_submodule_gets_its_own_flag_back() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout()).train()
    model[1].eval()  # a frozen BatchNorm inside a training network
    frozen = nn.Linear(2, 2).eval()
    with eval_mode(model, frozen):
        assert not any(flags(model, frozen))
    assert flags(model, frozen) == [True, True, False, True, False]


def test_flags_are_restored_after_an_exception() -> None:
    model = nn.Sequential(nn.Dropout())
    with pytest.raises(RuntimeError, match="stop"), eval_mode(model):
        raise RuntimeError("stop")
    assert flags(model) == [True, True]


def test_a_shared_module_and_nested_use() -> None:
    shared = nn.Dropout()
    first, second = nn.Sequential(shared), nn.Sequential(shared)
    with eval_mode(first, second):
        with eval_mode(second):
            assert not shared.training
        assert not shared.training
    assert shared.training


def test_gradient_flags_are_unchanged() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with eval_mode(model):
        assert [p.requires_grad for p in model.parameters()] == [True, False]
    assert [p.requires_grad for p in model.parameters()] == [True, False]
    assert model.weight.grad is None


def test_wrappers_are_removed_in_any_order() -> None:
    model = nn.Linear(2, 2)
    compiled = torch.compile(model)  # nothing is compiled before the first call
    assert unwrap_model(model) is model
    assert unwrap_model(nn.DataParallel(model)) is model
    assert unwrap_model(compiled) is model
    assert unwrap_model(nn.DataParallel(compiled)) is model
    assert unwrap_model(torch.compile(nn.DataParallel(model))) is model
