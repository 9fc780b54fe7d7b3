"""Rows of warp and colour: implementations of the same augmentation, with the gradient of its parameters."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.augment import kornia_functionals, kornia_parameters, own_transform
from benchmarks.graphs import Call, Row, eager, in_cuda_graph, memcpy_row
from hard_aug.ops import use_backend, warp_color
from hard_aug.ops.backend import Backend

#: Types of the images and of the output, by name.
TYPES: dict[str, tuple[torch.dtype, torch.dtype]] = {
    "fp32": (torch.float32, torch.float32),
    "bf16": (torch.bfloat16, torch.bfloat16),
    "u8 to bf16": (torch.uint8, torch.bfloat16),
}
PASSES = ("forward", "forward + backward", "kernel forward", "kernel backward")
MEMCPY = "memcpy of the same bytes"


def warp_rows(
    shape: tuple[int, ...], types: str, kind: str, device: torch.device, *, compiled: bool, repeats: int
) -> tuple[str, dict[str, Row]]:
    """Return the name of the baseline, and the rows.

    Args:
        shape: of the images, `(B, C, H, W)`.
        types: a key of `TYPES`.
        kind: "forward" and "forward + backward" start from the raw parameters, "kernel ..." from matrices.
        device: of all tensors.
        compiled: whether to include torch.compile, which takes up to a minute per row.
        repeats: calls in a CUDA graph.
    """
    image_dtype, output_dtype = TYPES[types]
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(shape, generator=generator)
    images = ((255 * pictures) if image_dtype == torch.uint8 else pictures).to(device, image_dtype)
    weight = torch.randn(shape, generator=generator).to(device, output_dtype)
    moved = images.numel() * (images.element_size() + weight.element_size())
    if kind.startswith("kernel"):
        return _kernel_rows(images, weight, kind, moved, repeats=repeats, generator=generator)
    transform = own_transform(shape[1])
    u = torch.randn(shape[0], transform.size, generator=generator).to(device).requires_grad_()
    leaves = kornia_parameters(shape[0], shape[1], shape[3], generator, device)
    stage = transform.fused_stages[0]

    def composition() -> Tensor:
        inverse_map, color = stage.matrices(u, *shape[2:], shape[1])
        return warp_color(images, inverse_map=inverse_map, color_matrix=color, dtype=output_dtype)

    def ours(backend: Backend, forward: Callable[[], Tensor] = composition) -> Callable[[], Tensor]:
        def with_backend() -> Tensor:
            with use_backend(backend):  # outside torch.compile, which can't enter the context
                return forward()

        return with_backend

    zero, one = torch.zeros(shape[1], device=device), torch.ones(shape[1], device=device)

    def theirs() -> Tensor:
        converted = images.float() / 255 if image_dtype == torch.uint8 else images.float()
        return kornia_functionals(converted, leaves, zero, one).to(output_dtype)

    def timed(forward: Callable[[], Tensor], parameters: list[Tensor]) -> Call:
        if kind == "forward":
            return torch.no_grad()(forward)
        return lambda: torch.autograd.grad(forward(), parameters, weight)

    unfused = timed(ours("torch"), [u])
    rows = {"kornia": eager(timed(theirs, list(leaves.values()))), "unfused PyTorch": eager(unfused)}
    if compiled:
        # Forget what was compiled for other shapes, which would count against the limit of recompilations.
        torch.compiler.reset()
        whole = torch.compile(composition, dynamic=False, fullgraph=True)
        rows["torch.compile"] = eager(timed(ours("torch", whole), [u]))
    if device.type == "cuda":
        kernel = timed(ours("triton"), [u])
        rows["hard_aug"] = eager(kernel)
        rows["unfused PyTorch, CUDA graph"] = in_cuda_graph(unfused, repeats, memcpy=MEMCPY)
        rows["hard_aug, CUDA graph"] = in_cuda_graph(kernel, repeats, memcpy=MEMCPY)
    rows[MEMCPY] = memcpy_row(moved * (1 if kind == "forward" else 2), device, repeats)
    return ("hard_aug, CUDA graph" if device.type == "cuda" else "unfused PyTorch"), rows


def _kernel_rows(
    images: Tensor, weight: Tensor, kind: str, moved: int, *, repeats: int, generator: torch.Generator
) -> tuple[str, dict[str, Row]]:
    """Return the rows of the kernels alone, with given matrices, in CUDA graphs."""
    batch, channels, height, width = images.shape
    transform = own_transform(channels)
    u = torch.randn(batch, transform.size, generator=generator).to(images.device)
    inverse_map, color = transform.fused_stages[0].matrices(u, height, width, channels)
    if inverse_map is None or color is None:
        raise RuntimeError("expected a transform with a map and colours")
    inverse_map, color = inverse_map.contiguous(), color.contiguous()
    tensors = (images, inverse_map, None, color, None, None, None)
    if kind == "kernel forward":

        def call() -> object:
            return torch.ops.hard_aug.warp_color(*tensors, 0, False, False, weight.dtype)
    else:
        output_mask = [False, True, False, True, False, False]

        def call() -> object:
            return torch.ops.hard_aug.warp_color_backward(weight, None, None, *tensors, 0, False, output_mask)

    rows = {
        "hard_aug, CUDA graph": in_cuda_graph(call, repeats, memcpy=MEMCPY),
        MEMCPY: memcpy_row(moved, images.device, repeats),
    }
    return "hard_aug, CUDA graph", rows
