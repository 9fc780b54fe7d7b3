"""Rows of the divergence from raw logits, with the gradient of the student's or of both logits."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graphs import Call, Row, eager, in_cuda_graph, memcpy_row
from hard_aug.ops.divergence import kl_divergence, kl_divergence_with_gradients

TEMPERATURE = 2.0
KINDS = ("student's gradient", "both gradients")
MEMCPY = "memcpy of the same bytes"


def divergence_rows(
    batch: int, classes: int, dtype: torch.dtype, kind: str, device: torch.device, *, compiled: bool, repeats: int
) -> tuple[str, dict[str, Row]]:
    """Return the name of the baseline, and the rows."""
    generator = torch.Generator().manual_seed(0)
    teacher, student = ((3 * torch.randn(batch, classes, generator=generator)).to(device, dtype) for _ in range(2))
    leaves = [student.requires_grad_()]
    if kind == "both gradients":
        leaves.append(teacher.requires_grad_())
    upstream = torch.full((batch,), 1 / batch, device=device)

    def ours(backend: str) -> Callable[[], Tensor]:
        return lambda: kl_divergence(
            teacher_logits=teacher,
            student_logits=student,
            temperature=TEMPERATURE,
            backend=backend,  # type: ignore[arg-type]  # one of them
        )

    def with_gradient(forward: Callable[[], Tensor]) -> Call:
        return lambda: torch.autograd.grad(forward(), leaves, upstream)

    unfused = with_gradient(ours("torch"))
    rows = {"unfused PyTorch": eager(unfused)}
    if compiled:
        torch.compiler.reset()
        whole = torch.compile(ours("torch"), dynamic=False, fullgraph=True)
        rows["torch.compile"] = eager(with_gradient(whole))
    # Two launches read both logits twice and write the gradients once; a single launch reads a row from the cache.
    size = batch * classes * student.element_size()
    if device.type == "cuda":
        kernel = with_gradient(ours("triton"))
        rows["hard_aug"] = eager(kernel)
        if find_spec("liger_kernel") is not None and kind != "both gradients":
            rows["Liger-Kernel, with log_softmax"] = eager(_liger(teacher, student))
        rows["unfused PyTorch, CUDA graph"] = in_cuda_graph(unfused, repeats, memcpy=MEMCPY)
        rows["hard_aug, CUDA graph"] = in_cuda_graph(kernel, repeats, memcpy=MEMCPY)
        rows[MEMCPY] = memcpy_row(size * (4 + len(leaves)), device, repeats)
        if kind == "both gradients":

            def single_launch() -> object:
                return kl_divergence_with_gradients(
                    teacher_logits=teacher, student_logits=student, temperature=TEMPERATURE, backend="triton"
                )

            minimum = "memcpy of two logits read and two gradients written"
            rows["hard_aug, one launch, CUDA graph"] = in_cuda_graph(single_launch, repeats, memcpy=minimum)
            rows[minimum] = memcpy_row(size * 4, device, repeats)
    return ("hard_aug, CUDA graph" if device.type == "cuda" else "unfused PyTorch"), rows


def _liger(teacher: Tensor, student: Tensor) -> Call:
    """Return Liger-Kernel's divergence, which takes log-probabilities and has a gradient for the student only."""
    from liger_kernel.transformers import LigerKLDIVLoss

    loss = LigerKLDIVLoss(reduction="batchmean", log_target=True)

    def call() -> object:
        with torch.no_grad():
            target = F.log_softmax(teacher / TEMPERATURE, dim=-1)
        value = TEMPERATURE**2 * loss(F.log_softmax(student / TEMPERATURE, dim=-1), target)
        return torch.autograd.grad(value, student)

    return call
