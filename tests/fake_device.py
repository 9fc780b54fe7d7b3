"""Runs whole calls on fake CUDA tensors, and prints what would wait for the device: `python tests/fake_device.py`.

Shapes and devices are computed and values are not, so this runs anywhere. Reported are copies between host and device
and values that are read, with the line of the library that asks. Left out are the backwards of PyTorch's own functions,
which fake tensors do not run, and the kernels' launches.
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
import hard_aug.draws
from hard_aug import HardAugmenter
from hard_aug.models import HierarchicalVAE
from hard_aug.models.finite import FiniteCheck
from hard_aug.objectives import ConfidenceGap, Constraint, DecisionMaskedKL, Hinge, JensenShannon, ResponseChange
from hard_aug.policies import Conditional, Gaussian, Generator, Search
from hard_aug.schedules import Alternating, Joint
from hard_aug.transforms import Affine, Color, Compose, Elastic, Filter, HierarchicalLatent, PatchMix, Perspective

READS = ("aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::is_nonzero", "aten::equal")


class Watch(TorchDispatchMode):
    """Notes each operator that waits."""

    def __init__(self) -> None:
        super().__init__()
        self.waits: set[str] = set()
        self.watching = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.name()
        if self.watching and self._waits(name, out, args):
            frames = [f for f in traceback.extract_stack() if "/hard_aug/" in f.filename]
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "elsewhere"
            self.waits.add(f"{name} in {place}")
        return out

    @staticmethod
    def _waits(name: str, out: Any, args: Any) -> bool:
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


def pretend() -> None:
    """Put what has no fake in its place: generators, and the device's context. Gradients are zeros."""
    real_randn = torch.randn

    def normal(shape: tuple[int, ...], generator: Any) -> Tensor:
        return real_randn(shape, device="cuda")

    def no_gradient(outputs: Any, inputs: Sequence[Tensor], *rest: Any, **settings: Any) -> list[Tensor]:
        return [torch.zeros_like(tensor) for tensor in inputs]

    torch.cuda.device = lambda device: nullcontext()  # type: ignore[assignment,misc]
    torch.cuda.is_current_stream_capturing = lambda: False  # type: ignore[assignment]
    torch.cuda._lazy_init = lambda: None  # type: ignore[assignment]
    torch.autograd.grad = no_gradient  # type: ignore[assignment]
    nn.Module.to = lambda self, *places, **settings: self  # type: ignore[method-assign,assignment]
    hard_aug.augmenter.SharedGenerator = NoNumbers  # type: ignore[attr-defined,assignment,misc]
    hard_aug.draws.uniform = lambda rows, generator: torch.rand(rows, device="cuda")  # type: ignore[assignment]
    for name in ("gaussian", "conditional", "generator", "search"):
        module = sys.modules[f"hard_aug.policies.{name}"]
        module.normal = normal  # type: ignore[attr-defined]
    hard_aug.draws.normal = normal
    FiniteCheck._reads = lambda check, values: False  # type: ignore[method-assign]  # as after a shape's first call


def networks() -> tuple[nn.Module, nn.Module]:
    def network(width: int) -> nn.Module:
        features = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        return nn.Sequential(features, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4 * width, 5))

    return network(8).eval(), network(4)


def ladder() -> HierarchicalVAE:
    return HierarchicalVAE(channels=3, size=16, blocks=((1, 1), (4, 1)), width=8, latent_channels=2)


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
    "search": lambda: {"transform": both(), "policy": Search(both().spec, draws=Gaussian(both().spec), steps=1)},
    "constraint": lambda: {"transform": both(), "invariance": Constraint()},
    "hinge": lambda: {"transform": both(), "invariance": Hinge()},
    "labels": lambda: {"transform": both(), "objective": ConfidenceGap()},
    "jensen-shannon": lambda: {"transform": both(), "objective": JensenShannon()},
    "masked": lambda: {"transform": both(), "objective": DecisionMaskedKL()},
    "response": lambda: {"transform": both(), "objective": ResponseChange()},
    "joint": lambda: {"transform": both(), "schedule": Joint(fraction=0.5)},
    "steps": lambda: {"transform": both(), "schedule": Alternating(steps=3, every=2)},
}


#: Those that differ in what the kernels do.
KERNELS = ("default", "affine", "perspective", "elastic", "twice", "color first", "joint")


def waits_of(name: str, backend: Any) -> list[str]:
    """What waits in the third call and step of one setting."""
    watch = Watch()
    with FakeTensorMode(allow_non_fake_inputs=True), watch:
        with torch.device("cuda"):
            teacher, student = networks()
            augmenter = HardAugmenter(teacher=teacher, student=student, backend=backend, **CASES[name]())
        augmenter._images._seen.add((8, 3, 16, 16))  # the first call of a shape reads values
        images, labels = torch.rand(8, 3, 16, 16, device="cuda"), torch.randint(0, 5, (8,), device="cuda")
        for call in range(3):
            watch.watching = call == 2
            hard = augmenter(images, labels)
            hard.loss()
            _ = hard.disagreement
            augmenter.step()
    return sorted(watch.waits)


def main() -> None:
    pretend()
    found = {f"{name}, torch": waits_of(name, "torch") for name in CASES}
    found |= {f"{name}, triton": waits_of(name, "triton") for name in KERNELS}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
