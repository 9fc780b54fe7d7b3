"""Rows for the divergence from raw logits, with the gradient of the student's or of both."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.graphs import copying, graphed
from hard_aug.ops.divergence import kl_divergence, kl_divergence_with_gradients

TEMPERATURE = 2.0
KINDS = ("student's gradient", "both gradients")
Row = Callable[[], object]


def divergence_rows(
    batch: int, classes: int, dtype: torch.dtype, kind: str, device: torch.device, *, compiled: bool, repeats: int
) -> tuple[str, dict[str, tuple[Row, int]]]:
    """The baseline's name, and rows: what is timed, and how many calls that is."""
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

    def finished(forward: Callable[[], Tensor]) -> Row:
        return lambda: torch.autograd.grad(forward(), leaves, upstream)

    eager = finished(ours("torch"))
    rows: dict[str, tuple[Row, int]] = {"eager": (eager, 1)}
    if compiled:
        rows["compiled"] = (finished(torch.compile(ours("torch"))), 1)
    # Both logits are read twice and the gradients written once; a single launch finds a row in the cache again.
    size = batch * classes * student.element_size()
    if device.type == "cuda":
        kernel = finished(ours("triton"))
        rows["hard_aug"] = (kernel, 1)
        if find_spec("liger_kernel") is not None and kind != "both gradients":
            rows["Liger-Kernel, with log_softmax"] = (_liger(teacher, student), 1)
        rows["eager, CUDA graph"] = (graphed(eager, repeats=repeats), repeats)
        rows["hard_aug, CUDA graph"] = (graphed(kernel, repeats=repeats), repeats)
        rows["copy of the same bytes"] = (graphed(copying(size * (4 + len(leaves)), device), repeats=repeats), repeats)
        if kind == "both gradients":

            def at_once() -> object:
                return kl_divergence_with_gradients(
                    teacher_logits=teacher, student_logits=student, temperature=TEMPERATURE, backend="triton"
                )

            rows["hard_aug, one launch, CUDA graph"] = (graphed(at_once, repeats=repeats), repeats)
            rows["copy of that one's bytes"] = (graphed(copying(size * 4, device), repeats=repeats), repeats)
    return ("hard_aug, CUDA graph" if device.type == "cuda" else "eager"), rows


def _liger(teacher: Tensor, student: Tensor) -> Row:
    """Liger-Kernel's, which takes the logarithms of probabilities, and has a gradient for the student alone."""
    from liger_kernel.transformers import LigerKLDIVLoss

    loss = LigerKLDIVLoss(reduction="batchmean", log_target=True)

    def call() -> object:
        with torch.no_grad():
            target = F.log_softmax(teacher / TEMPERATURE, dim=-1)
        value = TEMPERATURE**2 * loss(F.log_softmax(student / TEMPERATURE, dim=-1), target)
        return torch.autograd.grad(value, student)

    return call
