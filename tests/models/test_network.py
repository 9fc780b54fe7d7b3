"""`Network`: whatever kind of module it is, its logits are right, and what the caller has stays as it was."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.models import Network, Normalization, Normalized, eval_mode
from tests.helpers.network_parts import CLASSES, Start, images, plain


def test_logits_are_the_networks_own_with_a_graph_to_the_images() -> None:
    network, leaf = plain(), images().requires_grad_()
    found = Network(network, name="teacher")(leaf)
    assert torch.equal(found, network(leaf))
    assert bool(torch.autograd.grad(found.sum(), leaf)[0].any())


def test_evaluation_leaves_modes_and_gives_no_graph() -> None:
    network = nn.Sequential(plain(), nn.Dropout(0.9), nn.BatchNorm1d(CLASSES)).train()
    found = Network(network, name="teacher").evaluate(images())
    assert all(module.training for module in network.modules())
    assert torch.equal(found, network.eval()(images()))
    assert not found.requires_grad


def test_the_device_is_that_of_the_first_tensor() -> None:
    assert Network(nn.Linear(2, 2, device="meta"), name="teacher").device.type == "meta"
    assert Network(nn.BatchNorm1d(2, affine=False, device="meta"), name="teacher").device.type == "meta"
    assert Network(nn.Flatten(), name="teacher").device.type == "cpu"


# Normalisation ------------------------------------------------------------------------------------------------------


def test_a_network_that_does_not_normalise_gets_normalised_images() -> None:
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    network, given = plain(), Normalization(mean, std)
    expected = Normalized(network, mean, std)(images())
    wrapped = Network(network, name="teacher", normalization=given)
    for found in (wrapped(images()), wrapped.training_logits(images()), wrapped.evaluate(images())):
        assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_a_network_that_normalises_by_itself_gets_images_between_0_and_1() -> None:
    transforms = pytest.importorskip("torchvision.transforms.v2")
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
    normalized = Normalized(plain(), mean, std)
    for own in (
        normalized,
        nn.Sequential(normalized, nn.Tanh()),
        nn.DataParallel(normalized),
        torch.jit.trace(normalized, images()),
        nn.Sequential(transforms.Normalize(list(mean), list(std)), plain()),
    ):
        wrapped = Network(own, name="teacher", normalization=Normalization(mean, std))
        assert wrapped.normalization is None
        assert torch.allclose(wrapped.evaluate(images()), own(images()), atol=1e-6)


# What comes in stays ------------------------------------------------------------------------------------------------

WRITERS: dict[str, Callable[[Tensor], Any]] = {
    "sub_": lambda x: x.sub_(0.5),
    "data": lambda x: (x.data.sub_(0.5), x)[1],
    "relu": lambda x: nn.functional.relu(x, inplace=True),  # which changes no value of these images
    "a view": lambda x: (x[:, 0].mul_(2), x)[1],
    "without a graph": lambda x: x - 0.5 if torch.is_grad_enabled() else x.sub_(0.5),
    "with a graph": lambda x: x.sub_(0.5) if x.requires_grad else x - 0.5,
}


@pytest.mark.parametrize("writer", WRITERS)
def test_images_are_never_written(writer: str) -> None:
    module = Start(WRITERS[writer]).eval()
    network, given, kept = Network(module, name="teacher"), images(), images()
    expected = module(images())
    for _ in range(3):  # the first shows that it writes
        with torch.no_grad():
            assert torch.equal(network(given), expected)
        leaf = given.clone().requires_grad_()
        gradient = torch.autograd.grad(network(leaf).sum(), leaf)[0]
        assert torch.equal(leaf, kept)
        other = images().requires_grad_()
        assert torch.allclose(gradient, torch.autograd.grad(module(other * 1).sum(), other)[0])
        assert torch.equal(network.training_logits(given), expected)
        network.check_gradient(given)
        assert torch.equal(given, kept)
        assert given._version == 0


#: What a network may do first, and images of which that makes a copy; it makes none of `images()`.
COPIES: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "contiguous": (lambda x: x.contiguous(), lambda x: x.to(memory_format=torch.channels_last)),
    "a cast": (lambda x: x.float(), lambda x: x.double()),
    "a resize": (lambda x: x if x.shape[-1] == 8 else nn.functional.interpolate(x, 8), lambda x: x[..., :6, :6]),
}


@pytest.mark.parametrize("kind", COPIES)
def test_images_of_another_form_are_never_written(kind: str) -> None:
    first, other = COPIES[kind]
    network, given = Network(Start(lambda x: first(x).sub_(0.5)), name="teacher"), images()
    network.evaluate(other(images()))
    found = network.evaluate(given)
    assert torch.equal(given, images())
    assert torch.equal(found, network.evaluate(given))


def test_images_are_never_written_in_training_alone() -> None:
    module = Start(lambda x: x.sub_(0.5) if module.training else x - 0.5)
    network, given = Network(module, name="student"), images()
    for _ in range(3):
        network.evaluate(given)
        network.training_logits(given)
        assert torch.equal(given, images())


def test_a_view_that_repeats_images_is_not_written() -> None:
    network, given = Network(Start(WRITERS["sub_"]), name="teacher"), images(1).expand(4, -1, -1, -1)
    for _ in range(2):
        assert torch.allclose(network.evaluate(given), network.evaluate(images(1)), atol=1e-6)
    assert torch.equal(given[:1], images(1))


def test_other_networks_get_the_images_themselves() -> None:
    seen: list[int] = []
    module = Start(lambda x: (seen.append(x.data_ptr()), x)[1])
    network, given = Network(module, name="teacher"), images()
    for _ in range(3):
        network.evaluate(given)
        network.training_logits(given)
    assert seen[0] != given.data_ptr()  # the first forward of a kind shows whether it writes
    assert seen[2:] == [given.data_ptr()] * 4


class Counting(nn.Module):
    """A network with statistics of its own that it updates in evaluation mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.network = plain()
        self.register_buffer("mean", torch.zeros(1, 3, 1, 1))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
        self.register_buffer("last", None)

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.detach().mean((0, 2, 3), keepdim=True), 0.1)
        self.calls = self.calls + 1
        self.last = x.detach()[:1]
        return self.network(x * self.mean)  # type: ignore[no-any-return]  # a tensor


def test_buffers_that_a_forward_writes_are_restored() -> None:
    module = Counting().train()
    buffers = dict(module.named_buffers())
    network = Network(module, name="student")
    for _ in range(3):
        leaf = images().requires_grad_()
        with eval_mode(module):
            logits = network(leaf)
        network.evaluate(leaf)
        torch.autograd.grad(logits.sum(), leaf)  # its graph has the statistics
        assert {name: buffer is buffers[name] for name, buffer in module.named_buffers()} == {
            "mean": True,
            "calls": True,
        }
        assert not bool(module.mean.any())
        assert module.last is None
    network.training_logits(images())
    assert int(module.calls) == 1


def test_buffers_are_restored_after_an_error() -> None:
    module = Counting().eval()
    network = Network(Start(lambda x: x, nn.Sequential(module, nn.Linear(7, 2))).eval(), name="teacher")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            network(images())
        assert int(module.calls) == 0


def test_empty_batches() -> None:
    module = Start(lambda x: x.reshape(len(x), -1, 3, 8, 8)[:, 0]).eval()  # fails without rows
    leaf = images(0).requires_grad_()
    found = Network(module, name="teacher")(leaf)
    assert found.shape == (0, CLASSES)
    assert found.requires_grad
    with pytest.raises(ValueError, match="the student failed on an empty batch"):
        Network(module.train(), name="student").training_logits(images(0))


# What goes out ------------------------------------------------------------------------------------------------------


def test_one_logit_is_refused() -> None:
    network = Network(nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), name="student")
    for run in (network, network.training_logits, network.evaluate, network.check_gradient):
        with pytest.raises(ValueError, match=r"at least two classes.*torch\.cat\(\(torch\.zeros_like\(z\), z\), 1\)"):
            run(images())
    two = Start(lambda x: x, nn.Sequential(nn.Flatten(), nn.Linear(192, 1)))
    z = two(images())
    both = torch.cat((torch.zeros_like(z), z), 1)
    assert torch.allclose(both.softmax(1)[:, 1:], z.sigmoid())


@pytest.mark.parametrize(
    ("logits", "message"),
    [
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinite logits: it may diverge .*warmup_calls=100"),
        (torch.tensor([[0.0, -float("inf")]]), "6 logits of -inf .*use -1e4 in their place"),
        (torch.tensor([[-float("inf"), float("inf")]]), "NaN or infinite logits"),
        (
            torch.tensor([[0.0, float("inf")]], dtype=torch.float16),
            r"NaN or infinite logits: it may overflow in torch.float16; use \.float\(\)",
        ),
    ],
)
def test_logits_that_are_not_finite_are_named(logits: Tensor, message: str) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return logits.expand(len(x), -1)

    with pytest.raises(ValueError, match=f"the student returned {message}"):
        Network(Fixed(), name="student")(images())
    assert Network(Fixed(), name="student")(images(), check_finite=False).shape == (6, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_logits_at_the_ends_of_their_type_are_finite(dtype: torch.dtype) -> None:
    class Ends(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            ends = torch.finfo(dtype)
            return torch.tensor([[ends.min, ends.max, ends.max]], dtype=dtype).expand(len(x), -1)

    assert Network(Ends(), name="teacher")(images()).shape == (6, 3)


def test_logits_of_inference_mode_can_be_used_in_a_loss() -> None:
    class Decorated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = plain()

        @torch.inference_mode()
        def forward(self, x: Tensor) -> Tensor:
            return self.network(x)  # type: ignore[no-any-return]  # a tensor

    logits = Network(Decorated(), name="teacher").evaluate(images())
    student = plain().double()(images().double())
    (student.log_softmax(1) * logits).sum().backward()


# Kinds of modules ---------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("kind", ["script", "trace", "freeze", "optimize"])
def test_torchscript(kind: str) -> None:
    module = nn.Sequential(plain(), nn.BatchNorm1d(CLASSES)).eval()
    made = torch.jit.trace(module, images()) if kind == "trace" else torch.jit.script(module)
    if kind == "freeze":
        made = torch.jit.freeze(made)
        assert not hasattr(made, "training")
    if kind == "optimize":
        made = torch.jit.optimize_for_inference(made)
    network = Network(made, name="teacher")
    assert torch.allclose(network.evaluate(images()), module(images()), atol=1e-5)
    if kind != "optimize":  # its convolutions have no backward
        network.check_gradient(images())


def test_copies_have_their_own_network() -> None:
    network = Network(Counting().eval(), name="teacher")
    network.evaluate(images())
    copied = copy.deepcopy(network)
    copied.evaluate(images())
    assert copied.inner is not network.inner
    assert int(copied.inner.calls) == int(network.inner.calls) == 0


def test_threads_with_a_network_in_common() -> None:
    module = Counting().train()
    buffers = {name: buffer.clone() for name, buffer in module.named_buffers()}
    expected = Network(copy.deepcopy(module), name="teacher").evaluate(images())
    wrong: list[Tensor] = []

    def run() -> None:
        network = Network(module, name="teacher")
        for _ in range(30):
            found = network.evaluate(images())
            if not torch.equal(found, expected):
                wrong.append(found)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert module.training
    for name, buffer in module.named_buffers():
        assert torch.equal(buffer, buffers[name])
