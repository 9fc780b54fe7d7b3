"""Choice of the backend: precedence, devices, and no silent fallback."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter
from hard_aug.ops import use_backend, warp_color
from hard_aug.ops.backend import ENVIRONMENT_VARIABLE, current_backend
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, Color, Compose, Elastic, Perspective
from tests.helpers.deterministic import FromImages
from tests.helpers.kernels import DEVICE, Operators, needs_triton, random

GREY = Color(saturation=None, hue=None)


def kernels_of(**settings: Any) -> set[str]:
    with Operators() as operators:
        warp_color(random(1, 1, 4, 4).sigmoid(), clamp=True, **settings)
    return operators.ours()


@needs_triton
def test_the_argument_precedes_the_context_and_the_context_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = {"warp_color"}
    assert kernels_of(backend="triton") == kernel
    assert kernels_of(backend="torch") == set()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "triton")
    assert kernels_of() == kernel
    with use_backend("torch"):
        assert kernels_of() == set()
        assert kernels_of(backend="triton") == kernel
        with use_backend(None):
            assert current_backend() == "torch"
        with use_backend("triton"):
            assert kernels_of() == kernel
        assert kernels_of() == set()
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "torch")
    assert kernels_of() == set()


@pytest.mark.skipif(DEVICE == "cuda", reason="tests the default on the CPU")
def test_auto_never_uses_the_interpreter() -> None:
    assert kernels_of() == set()
    assert kernels_of(backend="auto") == set()


@pytest.mark.skipif(DEVICE == "cpu", reason="tests the default on a GPU")
def test_auto_uses_the_kernels_if_they_are_supported() -> None:
    assert kernels_of() == {"warp_color"}
    with Operators() as operators:
        warp_color(random(1, 2, 4, 4), clamp=True)
    assert operators.ours() == set()


def test_unknown_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="backend='cuda': expected one of auto, torch, triton"):
        kernels_of(backend="cuda")
    with pytest.raises(ValueError, match="backend='gpu'"), use_backend("gpu"):  # type: ignore[arg-type]
        pass
    with pytest.raises(ValueError, match="backend='gpu'"):
        HardAugmenter(teacher=nn.Identity(), student=nn.Identity(), transform=Affine(), backend="gpu")  # type: ignore[arg-type]
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, "numpy")
    with pytest.raises(ValueError, match=f"{ENVIRONMENT_VARIABLE}='numpy'"):
        kernels_of()


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**known, **environment})


@pytest.mark.slow
def test_importing_the_library_imports_no_triton() -> None:
    code = "import sys, hard_aug, hard_aug.ops, hard_aug.transforms; print('triton' in sys.modules)"
    assert run(code).stdout.strip() == "False"


@pytest.mark.slow
def test_a_forced_kernel_on_the_cpu_raises_with_the_reason() -> None:
    code = "import torch, hard_aug.ops as o; o.warp_color(torch.rand(1, 1, 4, 4), clamp=True)"
    result = run(code, HARD_AUG_BACKEND="triton")
    assert result.returncode != 0
    assert "RuntimeError: backend='triton': the tensors are on cpu" in result.stderr
    assert "TRITON_INTERPRET=1" in result.stderr


@pytest.mark.slow
def test_a_machine_without_triton() -> None:
    code = (
        "import torch, hard_aug.ops as o, hard_aug.ops.backend as b; b._installed = False\n"
        "print(o.warp_color(torch.rand(1, 1, 4, 4), clamp=True).shape)\n"
        "o.warp_color(torch.rand(1, 1, 4, 4), clamp=True, backend='triton')"
    )
    result = run(code)
    assert "torch.Size([1, 1, 4, 4])" in result.stdout
    assert "triton is not installed" in result.stderr


TRANSFORMS: dict[str, Any] = {
    "affine, color": lambda: Compose(Affine(), GREY),
    "perspective, elastic, color": lambda: Compose(
        Perspective(padding_mode="border"), Elastic(control=4, padding_mode="border"), GREY
    ),
    "color before affine": lambda: Compose(GREY, Affine()),
}


@pytest.mark.slow
@needs_triton
@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_training_step_matches_pytorch(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, name: str
) -> None:
    found: dict[str, list[Tensor]] = {}
    teacher, plain_student, images = teacher.to(DEVICE), plain_student.to(DEVICE), images.to(DEVICE)
    for backend in ("torch", "triton"):
        transform = TRANSFORMS[name]()
        augmenter = HardAugmenter(
            teacher=teacher,
            student=plain_student,
            transform=transform,
            policy=FromImages(transform.spec),
            schedule=Alternating(),
            exploration=Exploration(min_variance=None),
            backend=backend,  # type: ignore[arg-type]  # from a tuple
        )
        plain_student.zero_grad()
        with Operators() as operators:
            hard = augmenter(images)
            loss = hard.loss()
            loss.backward()
            score = hard.disagreement
        kernels = {"compose", "warp_color", "kl_divergence"}
        kernels |= {f"{kernel}_backward" for kernel in kernels}
        assert operators.ours() == (kernels if backend == "triton" else set())
        learned = [parameter.detach().clone() for parameter in augmenter.policy.parameters()]
        gradients = [parameter.grad.clone() for parameter in plain_student.parameters() if parameter.grad is not None]
        found[backend] = [hard.images.detach(), hard.u, loss.detach(), score, *learned, *gradients]
    assert len(found["torch"]) > 8
    for one, other in zip(found["triton"], found["torch"], strict=True):
        assert torch.allclose(one, other, rtol=1e-5, atol=2e-5)
