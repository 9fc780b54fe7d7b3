"""The warp-and-colour kernels against the PyTorch reference: compiled with a GPU, interpreted without."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.ops import warp_color
from hard_aug.ops.warp_color import custom, reference
from tests.helpers.kernels import DEVICE, Operators, close, needs_triton, poisoned_memory, random

pytestmark = needs_triton
COORDINATES = 1e-5
#: At odd sizes coordinates are rounded, and the gradient jumps where a position falls into another cell.
ROUNDED = 2e-3


def arguments(shape: tuple[int, ...], *, kinds: str = "mc", seed: int = 0) -> dict[str, Any]:
    """Parameters by kind: m map, p projective map, d displacement, c colours, x mixing, n and nn normalisations."""
    batch, channels, height, width = shape
    values: dict[str, Any] = {}
    if "m" in kinds or "p" in kinds:
        theta = torch.eye(3, device=DEVICE) + 0.3 * random(batch, 3, 3, seed=seed)
        theta[:, 0, 2] *= width
        theta[:, 1, 2] *= height
        theta[:, 2] = torch.tensor([0.0, 0.0, 1.0])
        if "p" in kinds:
            theta[:, 2, :2] = random(batch, 2, seed=seed + 1) / max(height, width)
            values["projective"] = True
        values["inverse_map"] = theta
    if "d" in kinds:
        values["displacement"] = 2 * random(batch, 2, 4, 5, seed=seed + 2)
    if "c" in kinds:
        values["color_matrix"] = random(batch, channels, channels + 1, seed=seed + 3)
    if "x" in kinds:
        values["partner_weight"] = random(batch, seed=seed + 4).sigmoid()
    if "n" in kinds:
        values["normalization"] = random(kinds.count("n"), 2, channels, seed=seed + 5).abs() + 0.5
    return values


def pictures(shape: tuple[int, ...], dtype: torch.dtype = torch.float32, *, seed: int = 9) -> Tensor:
    images = random(*shape, seed=seed).sigmoid()
    return (images * 255).to(dtype) if dtype == torch.uint8 else images.to(dtype)


def operator(
    images: Tensor,
    *,
    backend: str,
    padding_mode: str = "zeros",
    projective: bool = False,
    clamp: bool = False,
    dtype: torch.dtype | None = None,
    **values: Any,
) -> tuple[Tensor, ...]:
    """The reference or the custom operator, with mixing and normalised outputs, which `warp_color` does not offer."""
    if backend == "torch":
        settings: Any = {"padding_mode": padding_mode, "projective": projective, "clamp": clamp, "dtype": dtype}
        return reference.warp_color(images, **settings, **values)
    parts = [values.get(name) for name in custom.PARTS]
    dtype = reference.output_dtype(images, dtype)
    outputs = custom.warp_color(images, *parts, custom.PADDING[padding_mode], projective, clamp, dtype)
    return outputs[: 1 + len(values.get("normalization", ()))]


def both(
    images: Tensor, values: dict[str, Any], *, image_gradient: bool = False, **settings: Any
) -> list[tuple[tuple[Tensor, ...], dict[str, Tensor]]]:
    """Outputs, and gradients by name, with PyTorch and with the kernel."""
    results = []
    for backend in ("torch", "triton"):
        leaves = {
            name: value.detach().clone().requires_grad_()
            for name, value in values.items()
            if isinstance(value, Tensor) and name != "normalization"
        }
        given = {**values, **leaves, **settings}
        if "partner_weight" in values:
            given["partner"] = images.flip(-1).clone(memory_format=torch.preserve_format)
        shown = images.detach().clone(memory_format=torch.preserve_format)
        if image_gradient:
            leaves["images"] = shown.requires_grad_()
            if "partner" in given:
                leaves["partner"] = given["partner"].requires_grad_()
        if "normalization" in given or "partner" in given:
            outputs = operator(shown, **given, backend=backend)
        else:
            outputs = (warp_color(shown, **given, backend=backend),)
        loss = torch.zeros((), device=DEVICE)
        for index, output in enumerate(outputs):
            loss = loss + (output.float() * random(*output.shape, seed=20 + index)).sum()
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        results.append((outputs, dict(zip(leaves, gradients, strict=True))))
    return results


def check(results: list[tuple[tuple[Tensor, ...], dict[str, Tensor]]], tolerance: float, output: float) -> None:
    (expected, expected_gradients), (found, found_gradients) = results
    for one, other in zip(found, expected, strict=True):
        close(one, other, output)
        assert one.stride() == other.stride()
    for name, gradient in expected_gradients.items():
        close(found_gradients[name], gradient, tolerance)


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("kinds", ["mc", "pd"])
@pytest.mark.parametrize("channels", [1, 3])
def test_parity_where_coordinates_are_exact(padding_mode: str, kinds: str, channels: int) -> None:
    shape = (2, channels, 32, 32)
    values = arguments(shape, kinds=kinds, seed=41)
    check(both(pictures(shape), values, padding_mode=padding_mode), 5e-5, COORDINATES)


@pytest.mark.parametrize(
    ("shape", "kinds"),
    [
        ((2, 3, 17, 23), "mc"),
        ((2, 1, 28, 28), "pdc"),
        ((1, 4, 9, 40), "mcx"),
        ((3, 3, 5, 6), "dcxnn"),
        ((2, 3, 17, 23), "cn"),
        ((2, 3, 33, 7), "m"),
        ((2, 3, 8, 8), "x"),
        ((1, 1, 1, 1), "mc"),
        ((1, 3, 1, 70), "m"),
    ],
)
def test_parity_of_other_forms(shape: tuple[int, ...], kinds: str) -> None:
    check(both(pictures(shape), arguments(shape, kinds=kinds), clamp="n" in kinds), ROUNDED, ROUNDED)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.uint8, None),
        (torch.uint8, torch.bfloat16),
        (torch.float16, None),
        (torch.bfloat16, None),
        (torch.bfloat16, torch.float32),
    ],
)
def test_types(given: torch.dtype, expected: torch.dtype | None) -> None:
    shape = (2, 3, 16, 16)
    results = both(pictures(shape, given), arguments(shape, kinds="mcn"), dtype=expected)
    found = results[1][0][0].dtype
    assert found == (expected or (torch.float32 if given == torch.uint8 else given))
    # The interpreter truncates to bfloat16 where a GPU rounds: a unit in the last place of 8 bits.
    check(results, COORDINATES, {torch.float32: COORDINATES, torch.float16: 1e-3, torch.bfloat16: 8e-3}[found])


@pytest.mark.parametrize("kinds", ["mc", "pdxnn", "cx"])
def test_gradients_of_the_images(kinds: str) -> None:
    shape = (2, 3, 16, 16)
    results = both(pictures(shape), arguments(shape, kinds=kinds), image_gradient=True, padding_mode="reflection")
    check(results, 1e-4, COORDINATES)
    assert ("partner" in results[1][1]) == ("x" in kinds)


@pytest.mark.parametrize("form", ["channels_last", "transposed", "expanded", "cropped"])
def test_any_strides(form: str) -> None:
    shape = (2, 3, 12, 12)
    images = {
        "channels_last": lambda i: i.contiguous(memory_format=torch.channels_last),
        "transposed": lambda i: i.transpose(2, 3),
        "expanded": lambda i: i[:, :1].expand(-1, 3, -1, -1),
        "cropped": lambda i: torch.nn.functional.pad(i, (3, 2, 1, 4))[:, :, 1:13, 3:15],
    }[form](pictures(shape))
    values = arguments(shape, kinds="mcx")
    partner = images.flip(0)
    outputs = []
    for backend in ("torch", "triton"):
        theta = values["inverse_map"].clone().requires_grad_()
        (out,) = operator(images, **{**values, "inverse_map": theta}, partner=partner, backend=backend)
        outputs.append((out, torch.autograd.grad(out.sum(), theta)[0]))  # the sum's gradient has no strides
    close(outputs[1][0], outputs[0][0], COORDINATES)
    close(outputs[1][1], outputs[0][1], ROUNDED)
    assert outputs[1][0].is_contiguous(memory_format=torch.channels_last) == (form == "channels_last")


@pytest.mark.parametrize("shape", [(1, 3, 28, 28), (1, 1, 17, 23), (1, 1, 32, 31)])
@pytest.mark.parametrize("projective", [False, True])
def test_the_identity_returns_the_image_exactly(shape: tuple[int, ...], projective: bool) -> None:
    images = pictures(shape)
    identity = torch.eye(3, device=DEVICE)[None]
    for padding_mode in ("zeros", "border", "reflection"):
        out = warp_color(
            images, inverse_map=identity, padding_mode=padding_mode, projective=projective, backend="triton"
        )
        assert torch.equal(out, images)


@pytest.mark.parametrize("size", [16, 23])
def test_a_right_angle_is_an_exact_permutation(size: int) -> None:
    images = pictures((1, 3, size, size))
    turn = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]], device=DEVICE)
    # Output (x, y) reads input (-y, x): the upper right corner, x = -y, reads the lower right one.
    assert torch.equal(warp_color(images, inverse_map=turn, backend="triton"), images.rot90(1, (2, 3)))


@pytest.mark.parametrize("padding_mode", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("kinds", ["m", "pd"])
def test_degenerate_maps_give_the_results_of_the_reference(padding_mode: str, kinds: str) -> None:
    shape = (8, 1, 8, 8)
    values = arguments(shape, kinds=kinds + "c")
    theta = values["inverse_map"]
    theta[0] = 0.0  # every pixel reads the centre; a projective one lies behind the viewer
    theta[1] = torch.tensor([[0.0, 0.0, 1e6], [0.0, 0.0, -1e6], [0.0, 0.0, 1.0]])  # far outside
    theta[2, 0, 0] = math.nan
    theta[3, 1, 2] = math.inf
    theta[4, 0, 1] = -math.inf
    theta[5] = 3e38
    if "d" in kinds:
        values["displacement"][6] = math.nan
        values["displacement"][7] = math.inf
    (expected, expected_gradients), (found, found_gradients) = both(pictures(shape), values, padding_mode=padding_mode)
    compared = [0, 1, 2, 3, 4, 6, 7]  # overflowing sums depend on their order
    close(found[0][compared], expected[0][compared], ROUNDED)
    assert bool(found[0].isfinite().all())
    for name, gradient in found_gradients.items():
        assert bool(gradient.isfinite().all()), name
        close(gradient[compared], expected_gradients[name][compared], ROUNDED)


def test_nan_in_the_images_stays_where_it_is_read() -> None:
    images = pictures((1, 1, 8, 8))
    images[0, 0, 2, 3] = math.nan
    shift = torch.eye(3, device=DEVICE)[None].clone()
    shift[0, :2, 2] = 0.25
    for clamp in (False, True):
        found, expected = (
            warp_color(images, inverse_map=shift, clamp=clamp, backend=backend)  # type: ignore[arg-type]  # from a tuple
            for backend in ("triton", "torch")
        )
        close(found, expected, COORDINATES)
        assert int(found.isnan().sum()) == 4


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_one_nonfinite_control_point_zeroes_the_pixels_it_affects(value: float) -> None:
    shape = (1, 1, 12, 12)
    displacement = random(1, 2, 7, 7)
    displacement[0, 1, 0, 0] = value
    (expected, expected_gradients), (found, gradients) = both(pictures(shape), {"displacement": displacement})
    close(found[0], expected[0], ROUNDED)
    close(gradients["displacement"], expected_gradients["displacement"], ROUNDED)
    assert 0 < int((found[0] == 0).sum()) < 40


@pytest.mark.slow
def test_ten_runs_are_bit_identical_for_any_memory_content() -> None:
    shape = (2, 3, 40, 70)  # several programs for a sample, of several tiles
    images, values = pictures(shape), arguments(shape, kinds="pdcx")
    leaves = [value for value in values.values() if isinstance(value, Tensor)]
    partner = images.flip(0)
    first: list[Tensor] = []
    with poisoned_memory():
        for _ in range(10 if DEVICE == "cuda" else 2):
            for leaf in leaves:
                leaf.requires_grad_()
            (out,) = operator(images, **values, partner=partner, backend="triton")
            found = [out.detach(), *torch.autograd.grad((out * images).sum(), leaves)]
            assert all(bool(tensor.isfinite().all()) for tensor in found)
            first = first or found
            assert all(torch.equal(one, other) for one, other in zip(found, first, strict=True))


def test_the_gradient_of_images_raises_under_deterministic_algorithms() -> None:
    shape = (1, 1, 8, 8)
    images, values = pictures(shape).requires_grad_(), arguments(shape)
    out = warp_color(images, **values, backend="triton").sum()
    with poisoned_memory(), pytest.raises(RuntimeError, match="no deterministic kernel"):
        torch.autograd.grad(out, images, retain_graph=True)
    with poisoned_memory():
        torch.use_deterministic_algorithms(True, warn_only=True)
        with pytest.warns(UserWarning, match="no deterministic kernel"):
            torch.autograd.grad(out, images)
        torch.use_deterministic_algorithms(True)
        colors = {"color_matrix": values["color_matrix"]}
        torch.autograd.grad(warp_color(images, **colors, backend="triton").sum(), images)  # no atomics without a gather


def test_second_order_raises() -> None:
    shape = (1, 1, 8, 8)
    values = arguments(shape)
    theta = values["inverse_map"].requires_grad_()
    out = warp_color(pictures(shape), **values, backend="triton").square().sum()
    (gradient,) = torch.autograd.grad(out, theta, create_graph=True)
    with pytest.raises(RuntimeError, match="warp_color: the kernels have no second derivative"):
        gradient.sum().backward()


def test_an_empty_batch() -> None:
    shape = (0, 3, 8, 8)
    values = arguments(shape)
    values["inverse_map"].requires_grad_()
    out = warp_color(pictures(shape), **values, backend="triton")
    assert out.shape == shape
    (gradient,) = torch.autograd.grad(out.sum(), values["inverse_map"])
    assert gradient.shape == (0, 3, 3)


@pytest.mark.slow
def test_opcheck() -> None:
    shape = (2, 3, 6, 7)
    values = arguments(shape, kinds="mcn")
    theta, color = (values[name].requires_grad_() for name in ("inverse_map", "color_matrix"))
    inputs = (pictures(shape), theta, None, color, None, None, values["normalization"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(custom.warp_color, (*inputs, 1, False, True, torch.float32))
        outputs = [out.detach() for out in custom.warp_color(*inputs, 1, False, True, torch.float32)]
        plain = [None if tensor is None else tensor.detach() for tensor in inputs]
        output_mask = [False, True, False, True, False, False]
        torch.library.opcheck(custom.warp_color_backward, (outputs[0], outputs[1], None, *plain, 1, False, output_mask))


@pytest.mark.slow
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_to_one_graph(compiler: str) -> None:
    shape = (2, 3, 12, 12)
    images, values = pictures(shape), arguments(shape)
    theta = values["inverse_map"].requires_grad_()

    def loss() -> Tensor:
        return warp_color(images * 0.5, **values, backend="triton").square().sum()

    compiled = torch.compile(loss, backend=compiler, fullgraph=True)
    found, expected = compiled(), loss()
    close(found, expected, 1e-5)
    close(*(torch.autograd.grad(value, theta)[0] for value in (found, expected)), 1e-5)


def test_dispatched_operators() -> None:
    shape = (1, 3, 8, 8)
    values = arguments(shape)
    values["inverse_map"].requires_grad_()
    with Operators() as operators:
        warp_color(pictures(shape), **values, backend="triton").sum().backward()
    assert operators.ours() == {"warp_color", "warp_color_backward"}
    assert "aten::grid_sampler_2d" not in operators.names


@pytest.mark.parametrize(
    ("images", "settings", "reason"),
    [
        (torch.rand(1, 2, 4, 4), {}, "1, 3 or 4 channels, got 2"),
        (torch.rand(1, 3, 4, 4).double(), {}, "float64"),
        (torch.rand(1, 3, 4, 4), {"dtype": torch.float64}, "writes float16, bfloat16 or float32"),
        (torch.rand(1, 3, 4, 4), {"inverse_map": torch.eye(3)[None].double()}, "inverse_map is torch.float64"),
        (torch.rand(1, 1, 1, 1), {"expand": (1, 1, 2**16, 2**16)}, "2\\^31 elements"),
        (torch.rand(1, 3, 4, 4), {"strides": (3, 2**30, 4, 1)}, "2\\^31 elements"),
    ],
)
def test_the_kernel_raises_for_unsupported_arguments(images: Tensor, settings: dict[str, Any], reason: str) -> None:
    images = images.to(DEVICE)
    if "expand" in settings:
        images, settings = images.expand(settings["expand"]), {}
    if "strides" in settings:  # an empty batch: only the strides are checked, and no memory is read
        images, settings = torch.empty(0, device=DEVICE).as_strided((0, 3, 4, 4), settings["strides"]), {}
    settings = {name: value.to(DEVICE) if isinstance(value, Tensor) else value for name, value in settings.items()}
    with pytest.raises(RuntimeError, match=f"backend='triton'.*{reason}"):
        warp_color(images, clamp=True, **settings, backend="triton")
