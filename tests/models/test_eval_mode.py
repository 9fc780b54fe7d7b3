"""Evaluation mode that leaves networks as they were, and networks inside wrappers."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.ao import quantization
from torch.ao.quantization import quantize_fx

from hard_aug.models import Normalized, eval_mode, unwrap_model


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


# Wrappers -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def process_group(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'group'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="needs torch.distributed")
def test_wrappers_at_any_depth_are_bypassed(process_group: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The forward of a wrapper may wait for other processes, and prepares it for a backward."""
    model, images = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), torch.rand(3, 1, 2, 2)
    ddp = nn.parallel.DistributedDataParallel(model)
    compiled = torch.compile(model, backend=lambda *_: pytest.fail("compiled"))  # type: ignore[arg-type]
    calls: list[int] = []
    forward = nn.parallel.DistributedDataParallel.forward
    monkeypatch.setattr(
        nn.parallel.DistributedDataParallel,
        "forward",
        lambda self, *inputs: (calls.append(1), forward(self, *inputs))[1],
    )
    expected = Normalized(model, (0.5,), (0.5,))(images)
    for inside in (ddp, nn.DataParallel(model), compiled, nn.DataParallel(compiled)):
        wrapped = Normalized(inside, (0.5,), (0.5,))
        attributes = set(vars(inside))
        with eval_mode(wrapped):
            assert torch.equal(wrapped(images), expected)
        with eval_mode(inside):
            assert torch.equal(inside((images - 0.5) / 0.5), expected)
        assert set(vars(inside)) == attributes
    assert not calls
    Normalized(ddp, (0.5,), (0.5,))(images)
    assert calls == [1]


# Quantisation -------------------------------------------------------------------------------------------------------


def prepared(kind: str) -> nn.Module:
    """Return a network prepared for quantisation that has seen images once."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 5))
    network.train("qat" in kind)
    example = (images(),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, of its successor
        if kind == "qat fx":
            network = quantize_fx.prepare_qat_fx(network, quantization.get_default_qat_qconfig_mapping("x86"), example)
        elif kind == "fx":
            network = quantize_fx.prepare_fx(network, quantization.get_default_qconfig_mapping("x86"), example)
        else:
            network = nn.Sequential(quantization.QuantStub(), *network, quantization.DeQuantStub())
            network.qconfig = (
                quantization.get_default_qat_qconfig("x86", version=int(kind[-1]))
                if "qat" in kind
                else quantization.get_default_qconfig("x86")
            )
            network = (quantization.prepare_qat if "qat" in kind else quantization.prepare)(network)
        network(images())
    return network


def images() -> Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["qat fx", "qat eager version 0", "qat eager version 1", "fx", "eager"])
def test_quantisation_updates_no_statistics(kind: str) -> None:
    network = prepared(kind)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    objects, modes = dict(network.named_buffers()), flags(network)
    with eval_mode(network), eval_mode(network):
        found = network(2 * images() - 3)  # far from what it has seen
    assert flags(network) == modes
    assert all(value is objects[name] for name, value in network.named_buffers())
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name
    if "qat" in kind:  # the quantisation itself applies: outputs are on a grid
        (*_, last) = (one for one in network.modules() if isinstance(one, quantization.FakeQuantizeBase))
        steps = found / last.scale
        assert torch.allclose(steps, steps.round(), atol=1e-3)
    network(2 * images() - 3)
    assert any(not torch.equal(value, before[name]) for name, value in network.state_dict().items())


# Threads and modules without flags -----------------------------------------------------------------------------------


def test_the_last_of_several_threads_restores() -> None:
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout()).train()
    entered, left = threading.Event(), threading.Event()

    def first() -> None:
        with eval_mode(model):
            entered.set()
            assert left.wait(10)

    thread = threading.Thread(target=first)
    thread.start()
    assert entered.wait(10)
    with eval_mode(model):
        left.set()
        thread.join()
        assert flags(model) == [False, False, False]  # the first has left
    assert flags(model) == [True, True, True]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_modules_without_a_flag() -> None:
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(2, 2), nn.Dropout()).eval()))
    model = nn.Sequential(frozen, nn.Dropout())
    with eval_mode(model):
        assert not model.training
        assert not hasattr(frozen, "training")
    assert model[1].training
    assert not hasattr(frozen, "training")
