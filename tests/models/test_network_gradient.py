"""`Network.check_gradient`: networks through which no gradient reaches the images are named."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.models import Network
from tests.helpers.network_parts import CLASSES, Start, images, plain


class Probe(nn.Module):
    """A linear probe: only its head has gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = plain(), nn.Linear(CLASSES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            x = self.body(x)
        return self.head(x)  # type: ignore[no-any-return]  # a tensor


class Numpy(nn.Module):
    """A network of another library."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.from_numpy(x.numpy().reshape(len(x), -1)[:, :CLASSES])


def zero_head() -> nn.Module:
    network = plain()
    nn.init.zeros_(network[-1].weight)
    return network


def int8() -> nn.Module:
    return torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)), {nn.Linear})


#: Of torch's own, about int8.
INT8 = ("ignore::DeprecationWarning", "ignore::UserWarning")

WITHOUT_GRADIENT: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "linear probe": (Probe, "there is none"),
    "detached": (lambda: Start(lambda x: x.detach()), "there is none"),
    "inference": (
        lambda: Start(torch.inference_mode()(lambda x: x * 2), plain().requires_grad_(False)),
        "there is none",
    ),
    "rounded": (lambda: Start(torch.round), "exactly zero"),
    "zero head": (zero_head, "exactly zero.*(warmup_calls=1|load its weights)"),
    "numpy": (Numpy, "its forward fails where gradients are enabled: Can't call numpy"),
    "int8": (int8, r"\(int8\)"),
}


@pytest.mark.filterwarnings(*INT8)
@pytest.mark.parametrize("kind", WITHOUT_GRADIENT)
@pytest.mark.parametrize("name", ["teacher", "student"])
def test_no_gradient_at_the_images_is_named(kind: str, name: str) -> None:
    made, found = WITHOUT_GRADIENT[kind]
    with pytest.raises(ValueError, match=f"the {name}'s logits carry no gradient.*{found}") as caught:
        Network(made(), name=name).check_gradient(images())
    assert "policy=Search(transform.spec)" in str(caught.value)


def test_a_backward_that_fails_is_named() -> None:
    class Once(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            raise RuntimeError("not implemented")

    with pytest.raises(ValueError, match=r"carry no gradient.*its backward fails: not implemented"):
        Network(Start(Once.apply), name="teacher").check_gradient(images())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_networks_with_a_gradient_are_tested_once(dtype: torch.dtype) -> None:
    calls: list[int] = []
    module = Start(lambda x: (calls.append(len(x)), x)[1]).to(dtype).requires_grad_(False)
    network, state = Network(module, name="teacher"), torch.get_rng_state()
    network.check_gradient(images(0).to(dtype))  # shows nothing
    with torch.no_grad():
        for _ in range(2):
            network.check_gradient(images().to(dtype))
    assert calls == [4]
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in module.parameters())


def test_first_images_without_a_gradient_do_not_count() -> None:
    dark = images(5) * 0.4
    module = Start(lambda x: (x - 0.5).relu())
    Network(module, name="teacher").check_gradient(torch.cat((dark, images(1))))
    with pytest.raises(ValueError, match="exactly zero for every image"):
        Network(module, name="teacher").check_gradient(dark)


@pytest.mark.parametrize("count", [2, 4, 6])
def test_images_that_are_blank_are_no_proof(count: int) -> None:
    Network(nn.Sequential(nn.ReLU(), plain()), name="teacher").check_gradient(torch.zeros(count, 3, 8, 8))


def test_no_gradient_for_noise_is_a_proof() -> None:
    dead = plain()
    with torch.no_grad():
        dead[0].bias -= 100
    for count in (1, 2, 3, 4, 5):
        with pytest.raises(ValueError, match="exactly zero for every image"):
            Network(dead, name="teacher").check_gradient(images(count))


def test_a_gradient_that_vanishes_in_float16_alone_is_warned_of_once() -> None:
    layers = [nn.Conv2d(3, 3, 3, padding=1) for _ in range(8)]
    for layer in layers:
        nn.init.normal_(layer.weight, std=0.004)
    network = Network(nn.Sequential(*layers, plain()), name="student")
    with torch.autocast("cpu", torch.float16), pytest.warns(UserWarning, match="zero in float16.*warmup_calls=100"):
        network.check_gradient(images())
    network.check_gradient(images())
    with torch.autocast("cpu", torch.float16), pytest.raises(ValueError, match="exactly zero"):
        Network(zero_head(), name="student").check_gradient(images())


def test_an_error_of_a_forward_that_is_not_for_gradients_is_raised_as_it_is() -> None:
    def fail(x: Tensor) -> Tensor:
        fuse.append(1)
        if len(fuse) == 1:
            raise RuntimeError("boom")
        return x

    fuse: list[int] = []
    with pytest.raises(RuntimeError, match="boom"):
        Network(Start(fail), name="teacher").check_gradient(images())
