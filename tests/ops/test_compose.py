"""The compose kernels against the PyTorch reference and against the product of the stages' own matrices."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.ops.compose import Plan, compose, compose_color, compose_map, custom
from hard_aug.transforms import Affine, Color, Compose, Perspective
from tests.helpers.kernels import DEVICE, Operators, close, needs_triton, random

GREY = Color(saturation=None, hue=None)
TRANSFORMS: dict[str, tuple[Any, int]] = {
    "affine": (lambda: Affine(), 1),
    "rotation": (lambda: Affine(translation=None, scale=None, shear=None), 3),
    "perspective": (lambda: Perspective(), 3),
    "grey": (lambda: GREY, 1),
    "color": (lambda: Color(), 3),
    "color on grey images": (lambda: Color(), 1),
    "hue": (lambda: Color(brightness=None, contrast=None, saturation=None), 3),
    "affine, perspective, color": (lambda: Compose(Affine(), Perspective(focal_length=1.5), Color()), 3),
    "perspective, affine, grey": (lambda: Compose(Perspective(), Affine(shear=None), GREY), 1),
}


def plan_and_size(name: str) -> tuple[Plan, int, int]:
    transform, channels = TRANSFORMS[name][0](), TRANSFORMS[name][1]
    plan = transform.fused_stages[0].plan if isinstance(transform, Compose) else transform.plan
    return plan, transform.size, channels


@needs_triton
@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("batch", [1, 70])
def test_parity(name: str, batch: int) -> None:
    plan, size, channels = plan_and_size(name)
    results = []
    for backend in ("torch", "triton"):
        u = (1.5 * random(batch, size + 1)).requires_grad_()  # one column belongs to no parameter
        outputs = [
            out
            for out in compose(u, plan, height=20, width=31, channels=channels, backend=backend)  # type: ignore[arg-type]  # from a tuple
            if out is not None
        ]
        loss = sum((out * random(*out.shape, seed=i)).sum() for i, out in enumerate(outputs))
        results.append((*outputs, *torch.autograd.grad(loss, u)))  # type: ignore[arg-type]  # a tensor
    for found, expected in zip(results[1], results[0], strict=True):
        close(found, expected, 1e-5)
    assert not bool(results[1][-1][:, size].any())


@needs_triton
def test_the_identity_is_exact() -> None:
    u = torch.zeros(3, 12, device=DEVICE)
    plan = Compose(Affine(), Perspective(), Color()).fused_stages[0].plan
    assert plan is not None
    inverse_map, color = compose(u, plan, height=28, width=28, channels=3, backend="triton")
    assert inverse_map is not None
    assert color is not None
    assert torch.equal(inverse_map, torch.eye(3, device=DEVICE).expand(3, 3, 3))
    assert torch.allclose(color, torch.eye(3, 4, device=DEVICE).expand(3, 3, 4), atol=1e-7)


def test_a_fused_stage_is_the_product_of_its_stages() -> None:
    stages = Affine(), Perspective()
    u = random(4, 8).double()
    joined = Compose(*stages).fused_stages[0].matrices(u, 20, 30, 3)[0]
    expected = stages[0].inverse_map(u[:, :6], 20, 30) @ stages[1].inverse_map(u[:, 6:], 20, 30)
    assert joined is not None
    assert torch.allclose(joined, expected, atol=1e-12)


class Mirrored(Affine):
    """A subclass with its own matrices, which the built-in plan does not describe."""

    def inverse_map(self, u: Tensor, height: int, width: int) -> Tensor:
        return super().inverse_map(u, height, width) * torch.tensor([[-1.0], [1.0], [1.0]], device=u.device)


def test_matrices_of_a_derived_class_are_used() -> None:
    images, u = random(2, 3, 8, 8).sigmoid(), torch.zeros(2, Mirrored().size + Color().size, device=DEVICE)
    assert torch.allclose(Compose(Mirrored(), Color())(images, u), images.flip(-1), atol=1e-5)


def test_stages_that_come_twice_are_made_one_by_one() -> None:
    transform = Compose(Affine(), Affine(), GREY)
    assert transform.fused_stages[0].plan is None
    u = torch.zeros(2, transform.size, device=DEVICE)
    images = random(2, 1, 8, 8).sigmoid()
    assert torch.allclose(transform(images, u), images, atol=1e-5)


@pytest.mark.parametrize("name", ["affine", "color", "affine, perspective, color"])
def test_gradients_match_finite_differences(name: str) -> None:
    plan, size, channels = plan_and_size(name)
    u = torch.randn(3, size, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda u: [o for o in compose(u, plan, height=5, width=7, channels=channels) if o is not None], u
    )


@needs_triton
def test_opcheck() -> None:
    plan, size, _ = plan_and_size("affine, perspective, color")
    u = random(3, size).requires_grad_()
    ranges = (list(plan.columns), list(plan.centres), list(plan.halves))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(custom.compose, (u, *ranges, 1, 2, True, 9, 8, 3, 18.0))
        gradients = random(3, 3, 3), random(3, 3, 4)
        torch.library.opcheck(custom.compose_backward, (*gradients, u.detach(), *ranges, 1, 2, 9, 8, 3, 18.0))


@needs_triton
def test_an_empty_batch() -> None:
    plan, size, _ = plan_and_size("affine")
    u = torch.zeros(0, size, device=DEVICE, requires_grad=True)
    out = compose_map(u, plan, height=4, width=4)
    assert out.shape == (0, 3, 3)
    assert torch.autograd.grad(out.sum(), u)[0].shape == u.shape


@needs_triton
def test_two_kernels_compute_all_matrices_and_gathers() -> None:
    transform = Compose(Affine(), Perspective(), Color())
    u = random(2, transform.size).requires_grad_()
    images = random(2, 3, 8, 8).sigmoid()
    from hard_aug.ops import use_backend

    with use_backend("triton"), Operators() as operators:
        transform.render(images, u).sum().backward()
    assert operators.ours() == {"compose", "compose_backward", "warp_color", "warp_color_backward"}
    assert sum(name.startswith("hard_aug::") for name in operators.names) == 4
    work = [name for name in operators.names if not name.startswith("hard_aug::")]
    views = ("aten::detach", "aten::expand", "aten::empty", "aten::view", "aten::new_empty", "aten::zeros_like")
    assert {name for name in work if not name.startswith(views)} <= {"aten::sum", "aten::ones_like"}, work


@pytest.mark.parametrize("backend", ["torch", pytest.param("triton", marks=needs_triton)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_decoded_in_float32(backend: Any, dtype: torch.dtype) -> None:
    plan, size, channels = plan_and_size("affine, perspective, color")
    u = random(3, size).to(dtype).requires_grad_()
    size_of = {"height": 20, "width": 30, "channels": channels, "backend": backend}
    found, expected = compose(u, plan, **size_of), compose(u.detach().float(), plan, **size_of)
    for one, other in zip(found, expected, strict=True):
        assert one is not None
        assert other is not None
        assert torch.equal(one, other)
    assert torch.autograd.grad(found[0].sum(), u)[0].dtype == dtype  # type: ignore[union-attr]  # was checked


def test_bad_input() -> None:
    plan, size, _ = plan_and_size("affine")
    with pytest.raises(ValueError, match=r"u: expected shape \(B, P\)"):
        compose(torch.zeros(3), plan, height=4, width=4, channels=1)
    with pytest.raises(ValueError, match="P above 5"):
        compose(torch.zeros(3, 2), plan, height=4, width=4, channels=1)
    with pytest.raises(ValueError, match="channels=4"):
        compose_color(torch.zeros(3, 4), Color().plan, channels=4)
    with pytest.raises(ValueError, match="has no stage that recolours"):
        compose_color(torch.zeros(3, size), plan, channels=3)
    with pytest.raises(ValueError, match="has no stage that moves pixels"):
        compose_map(torch.zeros(3, 4), Color().plan, height=4, width=4)
    with pytest.raises(RuntimeError, match=r"backend='triton'.*float64"):
        compose(torch.zeros(3, size, device=DEVICE).double(), plan, height=4, width=4, channels=1, backend="triton")
