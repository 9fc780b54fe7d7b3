"""Rows for the divergence from raw logits, with the gradient of the student's or of both."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graphs import Call, Row, copy_row, in_a_graph, plain
from hard_aug.ops.divergence import kl_divergence, kl_divergence_with_gradients

TEMPERATURE = 2.0
KINDS = ("student's gradient", "both gradients")
COPY = "copy of the same bytes"


def divergence_rows(
    batch: int, classes: int, dtype: torch.dtype, kind: str, device: torch.device, *, compiled: bool, repeats: int
) -> tuple[str, dict[str, Row]]:
    """The baseline's name, and rows."""
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

    def finished(forward: Callable[[], Tensor]) -> Call:
        return lambda: torch.autograd.grad(forward(), leaves, upstream)

    eager = finished(ours("torch"))
    rows = {"eager": plain(eager)}
    if compiled:
        torch.compiler.reset()
        whole = torch.compile(ours("torch"), dynamic=False, fullgraph=True)
        rows["compiled"] = plain(finished(whole))
    # In two launches both logits are read twice and the gradients written once; a single one finds a row in the cache.
    size = batch * classes * student.element_size()
    if device.type == "cuda":
        kernel = finished(ours("triton"))
        rows["hard_aug"] = plain(kernel)
        if find_spec("liger_kernel") is not None and kind != "both gradients":
            rows["Liger-Kernel, with log_softmax"] = plain(_liger(teacher, student))
        rows["eager, CUDA graph"] = in_a_graph(eager, repeats, copy=COPY)
        rows["hard_aug, CUDA graph"] = in_a_graph(kernel, repeats, copy=COPY)
        rows[COPY] = copy_row(size * (4 + len(leaves)), device, repeats)
        if kind == "both gradients":

            def at_once() -> object:
                return kl_divergence_with_gradients(
                    teacher_logits=teacher, student_logits=student, temperature=TEMPERATURE, backend="triton"
                )

            least = "copy of two logits read and two gradients written"
            rows["hard_aug, one launch, CUDA graph"] = in_a_graph(at_once, repeats, copy=least)
            rows[least] = copy_row(size * 4, device, repeats)
    return ("hard_aug, CUDA graph" if device.type == "cuda" else "eager"), rows


def _liger(teacher: Tensor, student: Tensor) -> Call:
    """Liger-Kernel's, which takes the logarithms of probabilities, and has a gradient for the student alone."""
    from liger_kernel.transformers import LigerKLDIVLoss

    loss = LigerKLDIVLoss(reduction="batchmean", log_target=True)

    def call() -> object:
        with torch.no_grad():
            target = F.log_softmax(teacher / TEMPERATURE, dim=-1)
        value = TEMPERATURE**2 * loss(F.log_softmax(student / TEMPERATURE, dim=-1), target)
        return torch.autograd.grad(value, student)

    return call
