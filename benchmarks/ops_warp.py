"""Rows for warp and colour: the same augmentation, with a gradient of its parameters, in as many ways as there are."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.augment import kornia_functionals, kornia_parameters, own_transform
from benchmarks.graphs import Call, Row, copy_row, in_a_graph, plain
from hard_aug.ops import use_backend, warp_color
from hard_aug.ops.backend import Backend

#: Name: type of the images and of the output.
TYPES: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "u8 to bf16": (torch.uint8, torch.bfloat16),
}
PASSES = ("forward", "forward and backward", "kernel forward", "kernel backward")
COPY = "copy of the same bytes"


def warp_rows(
    shape: tuple[int, ...], types: str, kind: str, device: torch.device, *, compiled: bool, repeats: int
) -> tuple[str, dict[str, Row]]:
    """The baseline's name, and rows.

    Args:
        kind: "forward" and "forward and backward" begin with the raw parameters, and "kernel ..." with matrices.
        compiled: whether torch.compile is among the rows, which takes up to a minute for each.
        repeats: calls in a CUDA graph.
    """
    given, wanted = TYPES[types]
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(shape, generator=generator)
    images = ((255 * pictures) if given == torch.uint8 else pictures).to(device, given)
    weight = torch.randn(shape, generator=generator).to(device, wanted)
    moved = images.numel() * (images.element_size() + weight.element_size())
    if kind.startswith("kernel"):
        return _kernel_rows(images, weight, kind, moved, repeats=repeats, generator=generator)
    transform = own_transform(shape[1])
    u = torch.randn(shape[0], transform.size, generator=generator).to(device).requires_grad_()
    leaves = kornia_parameters(shape[0], shape[1], shape[3], generator, device)
    run = transform.runs[0]

    def composition() -> Tensor:
        inverse_map, color = run.matrices(u, *shape[2:], shape[1])
        return warp_color(images, inverse_map=inverse_map, color_matrix=color, dtype=wanted)

    def ours(backend: Backend, forward: Callable[[], Tensor] = composition) -> Callable[[], Tensor]:
        def chosen() -> Tensor:
            with use_backend(backend):  # torch.compile can't enter it, so it stays outside
                return forward()

        return chosen

    zero, one = torch.zeros(shape[1], device=device), torch.ones(shape[1], device=device)

    def theirs() -> Tensor:
        plain = images.float() / 255 if given == torch.uint8 else images.float()
        return kornia_functionals(plain, leaves, zero, one).to(wanted)

    def finished(forward: Callable[[], Tensor], parameters: list[Tensor]) -> Call:
        if kind == "forward":
            return torch.no_grad()(forward)
        return lambda: torch.autograd.grad(forward(), parameters, weight)

    composed = finished(ours("torch"), [u])
    rows = {"kornia": plain(finished(theirs, list(leaves.values()))), "composed": plain(composed)}
    if compiled:
        # Each shape by itself, without what was compiled for others: that would count as one function too many.
        torch.compiler.reset()
        whole = torch.compile(composition, dynamic=False, fullgraph=True)
        rows["composed, compiled"] = plain(finished(ours("torch", whole), [u]))
    if device.type == "cuda":
        kernel = finished(ours("triton"), [u])
        rows["hard_aug"] = plain(kernel)
        rows["composed, CUDA graph"] = in_a_graph(composed, repeats, copy=COPY)
        rows["hard_aug, CUDA graph"] = in_a_graph(kernel, repeats, copy=COPY)
    rows[COPY] = copy_row(moved * (1 if kind == "forward" else 2), device, repeats)
    return ("hard_aug, CUDA graph" if device.type == "cuda" else "composed"), rows


def _kernel_rows(
    images: Tensor, weight: Tensor, kind: str, moved: int, *, repeats: int, generator: torch.Generator
) -> tuple[str, dict[str, Row]]:
    """The kernels by themselves, with matrices given, in CUDA graphs."""
    batch, channels, height, width = images.shape
    transform = own_transform(channels)
    u = torch.randn(batch, transform.size, generator=generator).to(images.device)
    inverse_map, color = transform.runs[0].matrices(u, height, width, channels)
    if inverse_map is None or color is None:
        raise RuntimeError("the benchmark's transform has both a map and colours")
    inverse_map, color = inverse_map.contiguous(), color.contiguous()
    tensors = (images, inverse_map, None, color, None, None, None)
    if kind == "kernel forward":

        def call() -> object:
            return torch.ops.hard_aug.warp_color(*tensors, 0, False, False, weight.dtype)
    else:
        wanted = [False, True, False, True, False, False]

        def call() -> object:
            return torch.ops.hard_aug.warp_color_backward(weight, None, None, *tensors, 0, False, wanted)

    rows = {
        "hard_aug, CUDA graph": in_a_graph(call, repeats, copy=COPY),
        COPY: copy_row(moved, images.device, repeats),
    }
    return "hard_aug, CUDA graph", rows
