"""Run whole calls on fake CUDA tensors, and print what would synchronise with the device, or be float64 on it.

Usage: `python tests/helpers/fake_device.py`.

Shapes and devices are computed and values are not, so this runs anywhere. Copies between host and device and values
that are read are reported, with the line of the library. The backwards of PyTorch's own functions, which fake tensors
do not run, and the launches of kernels are not covered.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

import hard_aug.augmenter
import hard_aug.inner_loop.adversary
import hard_aug.utils.rng
from hard_aug import HardAugmenter
from hard_aug.generative import HierarchicalVAE
from hard_aug.generative.finite import FiniteCheck
from hard_aug.models import Network
from hard_aug.objectives import (
    ConfidenceGap,
    Constraint,
    DecisionMaskedKL,
    Hinge,
    JensenShannon,
    KeepRate,
    ResponseChange,
)
from hard_aug.policies import Conditional, Gaussian, Generator, GroupBandit, Search, Uniform
from hard_aug.schedules import Alternating
from hard_aug.transforms import (
    Affine,
    Color,
    Compose,
    Context,
    Elastic,
    Filter,
    HierarchicalLatent,
    PatchMix,
    Perspective,
    menu,
)
from hard_aug.utils.host_copy import HostCopy

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal")


class Watch(TorchDispatchMode):
    """Records each operator that synchronises, or whose result is float64 on the device: MPS devices have none."""

    def __init__(self) -> None:
        super().__init__()
        self.synchronizing: set[str] = set()
        self.watching = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name()
        if _device(out) == "cuda" and out.dtype == torch.float64:
            name, forbidden = f"float64 of {name}", True
        else:
            forbidden = self.watching and self._synchronizes(name, out, args)
        if forbidden:
            frames = [f for f in traceback.extract_stack() if "/hard_aug/" in f.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
            self.synchronizing.add(f"{name} in {place}")
        return out

    @staticmethod
    def _synchronizes(name: str, out: Any, args: Any) -> bool:
        if name in ("aten::copy_", "aten::_to_copy"):
            return _device(out) != _device(args[1] if name == "aten::copy_" else args[0])
        by_mask = name == "aten::index.Tensor" and any(i is not None and i.dtype == torch.bool for i in args[1])
        return (name in READS or by_mask) and _device(args[0]) == "cuda"


def _device(value: Any) -> str | None:
    return value.device.type if isinstance(value, Tensor) else None


class NoNumbers:
    """A generator on a device that is not there."""

    def __init__(self, device: torch.device, **placement: int) -> None:
        self.device = torch.device(device)

    def manual_seed(self, seed: int) -> NoNumbers:
        return self

    def get_state(self) -> Tensor:
        return torch.zeros(16, dtype=torch.uint8)

    def set_state(self, state: Tensor) -> None:
        pass


def moved(module: nn.Module, device: torch.device) -> nn.Module:
    """`Module.to`: the data of fake parameters can't be set, so they are replaced."""
    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None:
                part._parameters[name] = nn.Parameter(parameter.detach().to(device))
        for name, buffer in part._buffers.items():
            part._buffers[name] = None if buffer is None else buffer.to(device)
    return module


def pretend() -> None:
    """Replace what has no fake: generators, and the context of the device. Gradients are zeros."""
    real_randn = torch.randn

    def randn(shape: tuple[int, ...], generator: Any) -> Tensor:
        return real_randn(shape, device="cuda")

    def no_gradient(outputs: Any, inputs: Sequence[Tensor], *rest: Any, **settings: Any) -> list[Tensor]:
        return [torch.zeros_like(tensor) for tensor in inputs]

    torch.cuda.device = lambda device: nullcontext()  # type: ignore[assignment,misc]
    torch.cuda.is_current_stream_capturing = lambda: False  # type: ignore[assignment]
    torch.cuda._lazy_init = lambda: None  # type: ignore[assignment]
    torch.autograd.grad = no_gradient  # type: ignore[assignment]
    nn.Module.to = moved  # type: ignore[method-assign]
    hard_aug.augmenter.ShardedGenerator = NoNumbers  # type: ignore[attr-defined,assignment,misc]
    hard_aug.utils.rng.rand = lambda rows, generator: torch.rand(rows, device="cuda")  # type: ignore[assignment]
    for name in ("gaussian", "conditional", "generator", "group_bandit", "uniform"):
        module = sys.modules[f"hard_aug.policies.{name}"]
        module.randn = randn  # type: ignore[attr-defined]
    hard_aug.utils.rng.randn = randn
    # As after the first call of each kind.
    FiniteCheck._reads = lambda check, values: False  # type: ignore[method-assign]
    Network._is_first = lambda network, kind: False  # type: ignore[method-assign]
    Network.check_gradient = lambda network, images: None  # type: ignore[method-assign]
    hard_aug.inner_loop.adversary.PROBED_GRADIENTS = 0
    HostCopy.__call__ = lambda copy: 0  # type: ignore[method-assign]  # from pinned memory


def networks() -> tuple[nn.Module, nn.Module]:
    def network(width: int) -> nn.Module:
        features = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5))

    return network(8).eval(), network(4)


def ladder() -> HierarchicalVAE:
    return HierarchicalVAE(channels=3, size=16, blocks=((1, 1), (4, 1)), width=8, latent_channels=2)


class HostAffine(Affine):
    """Copies the images to the host and back, in float64."""

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        return super().apply(images.double().cpu().to(images), u, context)


def both() -> Compose:
    return Compose(Affine(), Color())


CASES: dict[str, Any] = {
    "default": lambda: {"transform": both()},
    "affine": lambda: {"transform": Affine()},
    "perspective": lambda: {"transform": Compose(Affine(), Perspective(), Color())},
    "elastic": lambda: {"transform": Compose(Affine(), Elastic(control=4), Color())},
    "twice": lambda: {"transform": Compose(Affine(), Affine(), Color())},
    "color first": lambda: {"transform": Compose(Color(), Affine())},
    "mix": lambda: {"transform": PatchMix(image_size=16, patch_size=4)},
    "filter": lambda: {"transform": Filter(solarize=1.0)},
    "levels": lambda: {"transform": HierarchicalLatent(ladder())},
    "generator": lambda: {"transform": both(), "policy": Generator(both().spec)},
    "conditional": lambda: {"transform": both(), "policy": Conditional(both().spec, channels=3)},
    "search": lambda: {"transform": both(), "policy": Search(both().spec, proposal=Gaussian(both().spec), steps=1)},
    "constraint": lambda: {"transform": both(), "invariance": Constraint()},
    "hinge": lambda: {"transform": both(), "invariance": Hinge()},
    "keep rate": lambda: {"transform": both(), "invariance": KeepRate()},
    "labels": lambda: {"transform": both(), "objective": ConfidenceGap()},
    "jensen-shannon": lambda: {"transform": both(), "objective": JensenShannon()},
    "masked": lambda: {"transform": both(), "objective": DecisionMaskedKL()},
    "response": lambda: {"transform": both(), "objective": ResponseChange()},
    "group bandit": lambda: {"transform": menu(), "policy": GroupBandit(menu().spec), "calibration": False},
    "narrowed": lambda: {"transform": both().narrowed({"rotation": (-5.0, 20.0), "scale": (0.9, 1.1)})},
    "uniform": lambda: {"transform": both(), "policy": Uniform(both().spec, scale=0.5)},
    "fraction": lambda: {"transform": both(), "schedule": Alternating(fraction=0.5)},
    "copies to the host": lambda: {"transform": HostAffine()},
    "steps": lambda: {"transform": both(), "schedule": Alternating(steps=3, every=2)},
}


#: A setting that synchronises, so that something is reported.
CONTROL = "copies to the host"
#: The settings that differ in the kernels they launch.
KERNELS = ("default", "affine", "perspective", "elastic", "twice", "color first", "fraction")


def synchronizing_operators(name: str, backend: Any) -> list[str]:
    """Return the operators that synchronise in the third call with one setting, as an update does."""
    watch = Watch()
    with FakeTensorMode(allow_non_fake_inputs=True), watch:
        with torch.device("cuda"):
            teacher, student = networks()
            augmenter = HardAugmenter(
                teacher=teacher, student=student, backend=backend, **{"schedule": Alternating(), **CASES[name]()}
            )
        augmenter._check._seen.add((8, 3, 16, 16))  # the first call of a shape reads values
        images, labels = torch.rand(8, 3, 16, 16, device="cuda"), torch.randint(0, 5, (8,), device="cuda")
        for call in range(3):
            watch.watching = call == 2
            hard = augmenter(images, labels)
            hard.loss()
            _ = hard.disagreement
    return sorted(watch.synchronizing)


def main() -> None:
    pretend()
    found = {f"{name}, torch": synchronizing_operators(name, "torch") for name in CASES}
    found |= {f"{name}, triton": synchronizing_operators(name, "triton") for name in KERNELS}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
