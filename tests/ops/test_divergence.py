"""The divergence: its PyTorch reference, and the kernels against it."""

from __future__ import annotations

import math
import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.objectives import KL, ReverseKL
from hard_aug.ops import use_backend
from hard_aug.ops.divergence import custom, kl_divergence, kl_divergence_with_gradients
from tests.helpers.kernels import DEVICE, Operators, close, needs_triton, poisoned_memory, random

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in.*:RuntimeWarning")  # numpy, under the interpreter
BACKENDS = ["torch", pytest.param("triton", marks=needs_triton)]


def results(
    backend: Any, teacher: Tensor, student: Tensor, *, temperature: float = 1.0, **extra: Tensor
) -> tuple[Tensor, ...]:
    """The losses, their gradients by autograd, and those of the single launch."""
    leaves = [logits.detach().clone().requires_grad_() for logits in (teacher, student)]
    both = {"teacher_logits": leaves[0], "student_logits": leaves[1], "temperature": temperature, **extra}
    losses = kl_divergence(**both, backend=backend)  # type: ignore[arg-type]  # by name
    upstream = random(len(teacher), seed=7)
    direct = kl_divergence_with_gradients(**both, backend=backend)  # type: ignore[arg-type]  # by name
    return (losses.detach(), *torch.autograd.grad(losses, leaves, upstream), *direct)


@needs_triton
@pytest.mark.parametrize(
    ("batch", "classes", "temperature", "scale", "dtype"),
    [
        (37, 10, 1.0, 3.0, torch.float32),
        (65, 2, 4.0, 3.0, torch.float32),
        (5, 100, 4.0, 50.0, torch.float32),
        (3, 1000, 2.0, 5.0, torch.float16),
        (3, 1000, 2.0, 5.0, torch.bfloat16),
        (2, 21841, 1.0, 5.0, torch.float32),
        (1, 33000, 2.0, 5.0, torch.float32),
    ],
)
def test_parity(batch: int, classes: int, temperature: float, scale: float, dtype: torch.dtype) -> None:
    teacher, student = (scale * random(batch, classes, seed=s).to(dtype) for s in (0, 1))
    # In float64: the sums of the reference in float32 are further off than the kernel's.
    expected = results("torch", teacher.double(), student.double(), temperature=temperature)
    found = results("triton", teacher, student, temperature=temperature)
    tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}[dtype]
    for one, other in zip(found, expected, strict=True):
        close(one, other.to(one.dtype), 1e-5 if one.dtype == torch.float32 else tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_weights_and_mask(backend: Any) -> None:
    teacher, student = random(9, 10, seed=0), random(9, 10, seed=1)
    weights, mask = random(9, seed=2).abs(), random(9, seed=3) > 0
    plain = results(backend, teacher, student, temperature=2.0)
    teacher[~mask], weights[~mask] = math.nan, math.inf
    found = results(backend, teacher, student, temperature=2.0, weights=weights, mask=mask)
    for one, other in zip(found, plain, strict=True):
        shape = (-1, *[1] * (one.ndim - 1))
        close(one, torch.where(mask.view(shape), other * weights.view(shape), 0.0), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [6, 5000])
def test_classes_of_probability_zero(backend: Any, classes: int) -> None:
    teacher, student = random(4, classes, seed=0), random(4, classes, seed=1)
    teacher[0, 1] = student[0, 1] = -math.inf  # both: as if the class did not exist
    teacher[1, :2] = -math.inf  # the teacher only: contributes 0
    student[2, 3] = -math.inf  # the student only: infinite
    found = results(backend, teacher, student)
    rest = [i for i in range(classes) if i != 1]
    without = results(backend, teacher[:1, rest], student[:1, rest])
    close(found[0][:1], without[0], 1e-5)
    assert found[0].isinf().tolist() == [False, False, True, False]
    for gradient in found[1:3] + found[4:]:
        assert bool(gradient.isfinite().all())
        assert float(gradient.sum(1).abs().max()) < 1e-4
        assert not bool(gradient[2].any())


SMALLEST = torch.finfo(torch.float32).min


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [6, 9000])  # in one block, and in three
@pytest.mark.parametrize("temperature", [0.5, 2.0])
@pytest.mark.parametrize(
    "masks", [(-1e9, -1e9), (SMALLEST, SMALLEST), (SMALLEST, -1e4), (-1e4, SMALLEST), (SMALLEST, -math.inf)]
)
def test_classes_that_both_networks_mask(
    backend: Any, classes: int, temperature: float, masks: tuple[float, float]
) -> None:
    teacher, student = random(3, classes, seed=0), random(3, classes, seed=1)
    kept = slice(classes - classes // 3, None)  # so all classes of the first block of three are masked
    teacher[:, : kept.start], student[:, : kept.start] = masks
    found = results(backend, teacher, student, temperature=temperature)
    expected = results("torch", teacher[:, kept].double(), student[:, kept].double(), temperature=temperature)
    for one, other in zip((found[0], found[3]), (expected[0], expected[3]), strict=True):
        close(one, other.float(), 1e-5)
    for one, other in zip((*found[1:3], *found[4:]), (*expected[1:3], *expected[4:]), strict=True):
        close(one[:, kept], other.float(), 1e-5)
        assert not bool(one[:, : kept.start].any())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_temperature_below_one_leaves_the_largest_numbers_finite(backend: Any, dtype: torch.dtype) -> None:
    teacher, student = random(3, 5, seed=0).to(dtype), random(3, 5, seed=1).to(dtype)
    teacher[:, 2] = student[:, 2] = torch.finfo(dtype).max
    found = results(backend, teacher, student, temperature=0.5)
    assert [value.dtype for value in found] == [torch.float32, dtype, dtype] * 2
    for value in found:
        assert not bool(value.any())
    wide = random(3, 5, seed=0), random(3, 5, seed=1)  # rounded to half precision before the maximum is subtracted
    found = results(backend, *(logits.to(dtype) for logits in wide), temperature=0.5)
    expected = results("torch", *(logits.to(dtype).double() for logits in wide), temperature=0.5)
    close(found[0], expected[0].float(), 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("classes", [0, 1])
def test_fewer_than_two_classes(backend: Any, classes: int) -> None:
    logits = random(3, classes)
    with pytest.raises(ValueError, match=rf"logits of shape \(3, {classes}\): expected at least two classes"):
        kl_divergence(teacher_logits=logits, student_logits=logits, backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
def test_confident_networks_give_no_nan_and_gradients_sum_to_zero(backend: Any) -> None:
    logits = 50 * random(16, 10, seed=0).sign()
    found = results(backend, logits, -logits)
    for value in found:
        assert bool(value.isfinite().all())
    for gradient in found[1:3] + found[4:]:
        assert float(gradient.sum(1).abs().max()) < 1e-4
    same = results(backend, logits + 1e4, logits + 1e4)  # an offset common to all classes has no effect
    assert float(same[0].abs().max()) < 1e-5


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_is_not_hidden(backend: Any) -> None:
    teacher, student = random(3, 5, seed=0), random(3, 5, seed=1)
    teacher[0, 2] = student[1, 0] = math.nan
    student[0, 1] = -math.inf  # infinite, if it were a number
    assert results(backend, teacher, student)[0].isnan().tolist() == [True, True, False]


@needs_triton
@pytest.mark.parametrize("classes", [10, 9000])
def test_offsets_of_one_networks_logits_cost_no_precision(classes: int) -> None:
    teacher, student = random(4, classes, seed=0) + 1e4, random(4, classes, seed=1) - 2e4
    teacher[:, -1] += 3  # the maximum rises in the last block
    expected = results("torch", teacher.double(), student.double())
    for one, other in zip(results("triton", teacher, student), expected, strict=True):
        close(one, other.float(), 1e-5)


@needs_triton
def test_second_order_raises_with_the_remedy() -> None:
    teacher, student = (random(3, 5, seed=s).requires_grad_() for s in (0, 1))
    losses = kl_divergence(teacher_logits=teacher, student_logits=student, backend="triton")
    (gradient,) = torch.autograd.grad(losses.sum(), student, create_graph=True)
    with pytest.raises(RuntimeError, match="kl_divergence: the kernels have no second derivative; use backend='torch'"):
        gradient.square().sum().backward()


@needs_triton
def test_forward_mode_raises() -> None:
    student = random(3, 5, seed=1)

    def loss(teacher: Tensor) -> Tensor:
        return kl_divergence(teacher_logits=teacher, student_logits=student, backend="triton")

    with pytest.raises(RuntimeError, match="reverse-mode derivatives only"):
        torch.func.jvp(loss, (random(3, 5),), (random(3, 5),))


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_in_inference_mode(backend: Any) -> None:
    with torch.inference_mode():
        teacher, student = random(3, 5, seed=0), random(3, 5, seed=1)
        _, gradient, _ = kl_divergence_with_gradients(teacher_logits=teacher, student_logits=student, backend=backend)
    assert bool(gradient.any())


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_reverse_kl_swaps_the_networks(backend: Any) -> None:
    teacher, student = random(3, 5, seed=0), random(3, 5, seed=1)
    with use_backend(backend):
        one = KL(3.0)(teacher_logits=teacher, student_logits=student)
        other = ReverseKL(3.0)(teacher_logits=student, student_logits=teacher)
    assert torch.equal(one, other)


def test_gradients_match_finite_differences() -> None:
    teacher, student = (torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mask = torch.tensor([True, False, True])

    def losses(teacher: Tensor, student: Tensor) -> Tensor:
        return kl_divergence(teacher_logits=teacher, student_logits=student, temperature=2.0, mask=mask)

    assert torch.autograd.gradcheck(losses, (teacher, student))
    assert torch.autograd.gradgradcheck(losses, (teacher, student))


@needs_triton
def test_forms_of_memory() -> None:
    wide = random(20, 6, seed=0)
    teacher, student = wide.T[:, :15], random(1, 15, seed=1).expand(6, -1)
    for one, other in zip(results("triton", teacher, student), results("torch", teacher, student), strict=True):
        close(one, other, 1e-5)


@needs_triton
def test_runs_are_bit_identical_for_any_memory_content() -> None:
    teacher, student = random(3, 5000, seed=0), random(3, 5000, seed=1)
    with poisoned_memory():
        first = results("triton", teacher, student)
        for _ in range(9 if DEVICE == "cuda" else 1):
            found = results("triton", teacher, student)
            assert all(torch.equal(one, other) for one, other in zip(first, found, strict=True))
    assert all(bool(value.isfinite().all()) for value in first)


@needs_triton
def test_one_launch_forward_and_one_backward() -> None:
    teacher, student = (random(4, 10, seed=s).requires_grad_() for s in (0, 1))
    with Operators() as operators:
        losses = kl_divergence(teacher_logits=teacher, student_logits=student, temperature=2.0, backend="triton")
    assert [name for name in operators.names if name != "aten::detach"] == ["hard_aug::kl_divergence"]
    with Operators() as operators:
        torch.autograd.grad(losses, (teacher, student), torch.ones_like(losses))
    assert operators.ours() == {"kl_divergence_backward"}
    with Operators() as operators:
        kl_divergence_with_gradients(teacher_logits=teacher, student_logits=student, backend="triton")
    assert operators.ours() == {"kl_divergence"}


@needs_triton
def test_an_empty_batch() -> None:
    assert [tuple(value.shape) for value in results("triton", random(0, 5), random(0, 5))[:3]] == [(0,), (0, 5), (0, 5)]


@needs_triton
def test_opcheck() -> None:
    teacher, student = (random(3, 5, seed=s).requires_grad_() for s in (0, 1))
    weights, mask = random(3), random(3) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.library.opcheck(custom.kl_divergence, (teacher, student, weights, mask, 2.0, False, False))
        torch.library.opcheck(custom.kl_divergence, (teacher.detach(), student.detach(), None, None, 2.0, True, True))
        plain = teacher.detach(), student.detach()
        statistics = custom.kl_divergence(*plain, weights, mask, 2.0, False, False)[1]
        torch.library.opcheck(
            custom.kl_divergence_backward, (random(3), *plain, weights, mask, statistics, 2.0, True, True)
        )


@needs_triton
def test_compiles_to_one_graph() -> None:
    teacher, student = (random(3, 5, seed=s).requires_grad_() for s in (0, 1))

    def loss() -> Tensor:
        return kl_divergence(teacher_logits=teacher * 2, student_logits=student, backend="triton").mean()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(), loss())
    for found, expected in zip(*(torch.autograd.grad(f(), (teacher, student)) for f in (compiled, loss)), strict=True):
        close(found, expected, 1e-6)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"student_logits": torch.zeros(3, 4)}, ValueError, "expected the same samples and classes"),
        ({"temperature": 0.0}, ValueError, "expected a positive number"),
        ({"weights": torch.zeros(2)}, ValueError, r"weights: expected shape \(3,\)"),
        ({"mask": torch.zeros(3)}, TypeError, "expected torch.bool"),
        ({"teacher_logits": torch.zeros(3, 5, dtype=torch.int64)}, TypeError, "expected floating point"),
        ({"weights": [1.0, 2.0, 3.0]}, TypeError, "weights: expected a torch.Tensor, got list"),
        ({"teacher_logits": torch.zeros(3, 5, device="meta")}, ValueError, "several devices"),
    ],
)
def test_bad_input(change: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"teacher_logits": torch.zeros(3, 5), "student_logits": torch.zeros(3, 5), **change}
    with pytest.raises(error, match=message):
        kl_divergence(**given)


@needs_triton
@pytest.mark.parametrize("logits", [torch.zeros(3, 5).double(), torch.zeros(2, 3, 5)])
def test_the_kernel_raises_for_unsupported_arguments(logits: Tensor) -> None:
    logits = logits.to(DEVICE)
    with pytest.raises(RuntimeError, match=r"backend='triton'.*requires"):
        kl_divergence(teacher_logits=logits, student_logits=logits, backend="triton")
