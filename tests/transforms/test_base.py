"""What all transforms share: identity, dtype and memory format, gradients, clamping, and checks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.transforms import Affine, Color, Compose, Context, Parameter, Transform
from tests.helpers.transform_parts import smooth_images

GREY = Color(saturation=None, hue=None)


@pytest.mark.parametrize("transform", [Affine(), GREY, Compose(Affine(), GREY)])
@pytest.mark.parametrize("shape", [(0, 1, 8, 8), (1, 1, 8, 8), (3, 1, 7, 12), (2, 1, 13, 5)])
def test_identity_at_zero(transform: Transform, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape)
    out = transform(images, torch.zeros(shape[0], transform.size))
    assert out.shape == images.shape
    assert torch.allclose(out, images, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_and_memory_format_are_kept(dtype: torch.dtype) -> None:
    transform = Compose(Affine(), Color())
    images = torch.rand(2, 3, 8, 10).to(dtype).contiguous(memory_format=torch.channels_last)
    out = transform(images, torch.randn(2, transform.size))
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    plain = transform(images.contiguous(), torch.zeros(2, transform.size))
    assert plain.is_contiguous()


def test_each_part_can_be_switched_off() -> None:
    parts = {"translation": 2, "rotation": 1, "scale": 2, "shear": 1}
    for name, size in parts.items():
        switched: dict[str, Any] = {name: None}
        assert Affine(**switched).size == 6 - size
        alone: dict[str, Any] = {other: None for other in parts if other != name}
        assert all(p.name.startswith(name) for p in Affine(**alone).spec)
    assert [p.name for p in GREY.spec] == ["brightness", "contrast"]


@pytest.mark.parametrize(
    ("transform", "channels"), [(Affine(), 1), (Color(), 3), (Compose(Affine(padding_mode="border"), Color()), 3)]
)
def test_gradients_match_finite_differences(transform: Transform, channels: int) -> None:
    images = smooth_images(2, channels, 7, 6).requires_grad_()
    u = (0.37 * torch.randn(2, transform.size, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(lambda i, v: transform(i, v), (images, u), eps=1e-7, atol=1e-4)


def test_bad_constructions_and_calls_raise() -> None:
    off: dict[str, Any] = {"translation": None, "rotation": None, "scale": None, "shear": None}
    for make, words in (
        (lambda: Affine(rotation=-1), "rotation=-1"),
        (lambda: Affine(scale=0.9), "scale=0.9"),
        (lambda: Affine(**off), "switched off"),
        (lambda: Affine(padding_mode="wrap"), "padding_mode"),  # type: ignore[arg-type]  # wrong on purpose
        (lambda: Color(contrast=1.0), "contrast"),
        (lambda: Compose(), "at least one"),
        (lambda: Compose(Affine(), Affine(padding_mode="border")), "padding"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
    transform = Affine()
    with pytest.raises(ValueError, match=r"\(B, C, H, W\)"):
        transform(torch.rand(8, 8), torch.zeros(1, 6))
    with pytest.raises(ValueError, match=r"\(B, 6\)"):
        transform(torch.rand(2, 1, 8, 8), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="expected equal batch sizes, got 2 and 3"):
        transform(torch.rand(2, 1, 8, 8), torch.zeros(3, 6))
    with pytest.raises(ValueError, match="add brightness or contrast"):
        Color(brightness=None, contrast=None)(torch.rand(2, 1, 8, 8), torch.zeros(2, 2))
    with pytest.raises(TypeError, match=r"expected floating point in \[0, 1\], got torch.uint8"):
        transform(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), torch.zeros(2, 6))


class Shift(Transform):
    """Adds a number."""

    spec = (Parameter("shift", -1.0, 1.0, 0.0, "intensity"),)

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        return images + self.decode(u)["shift"][:, None, None, None]


def test_render_clamps_and_passes_the_gradient_on() -> None:
    images = torch.rand(2, 1, 4, 4, requires_grad=True)
    u = torch.tensor([[0.5], [-5.0]], requires_grad=True)
    out = Shift().render(images, u)
    assert torch.equal(out, Shift()(images, u).clamp(0, 1))
    by_images, by_u = torch.autograd.grad(out.sum(), (images, u))
    assert torch.equal(by_images, torch.ones_like(images))
    plain = torch.autograd.grad(Shift()(images, u).sum(), u)[0]
    assert torch.equal(by_u, plain)


def test_a_plain_transform_requires_nothing() -> None:
    transform = Shift()
    assert transform.size == 1
    assert not any((transform.requires_partner, transform.requires_noise, transform.requires_labels))
    assert not transform.bounded
    assert transform.pop_nonfinite_reports() == []
    logits = torch.randn(2, 3)
    assert transform.reference(logits, torch.zeros(2, 1), Context()) is logits
    assert repr(transform) == "Shift()"


def test_many_parameter_names_are_abbreviated() -> None:
    transform = Compose(*[Affine() for _ in range(4)])
    with pytest.raises(ValueError, match=r"shear_2, \.\.\. \(24 in total\)"):
        transform(torch.rand(1, 1, 8, 8), torch.zeros(1, 3))
