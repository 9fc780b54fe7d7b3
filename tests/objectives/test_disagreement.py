"""Every objective against its formula, with gradients in both networks' logits, and at extremes; KL against PyTorch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.losses import distillation_loss
from hard_aug.objectives import (
    KL,
    ConfidenceGap,
    ConfidenceMargin,
    ConfidenceRatio,
    DecisionMaskedKL,
    Disagreement,
    JensenShannon,
    LogitMSE,
    Reference,
    ResponseChange,
    ReverseKL,
    kl_divergence,
)
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine
from tests.helpers.defaults import defaults

EVERY: list[Disagreement] = [
    KL(3.0),
    ReverseKL(3.0),
    JensenShannon(3.0),
    LogitMSE(),
    DecisionMaskedKL(3.0),
    ResponseChange(3.0),
    ConfidenceGap(),
    ConfidenceGap(2.0, target="teacher"),
    ConfidenceGap(2.0, towards=2),
    ConfidenceRatio(),
    ConfidenceMargin(target="teacher"),
]


def name(objective: Disagreement) -> str:
    return type(objective).__name__


def logits(scale: float = 1.0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Reference]:
    generator = torch.Generator().manual_seed(0)
    teacher, student, clean, clean_student = scale * torch.randn(4, 6, 5, generator=generator, dtype=torch.float64).to(
        dtype
    )
    return teacher, student, Reference(clean, clean_student, torch.tensor([0, 1, 2, 3, 4, 0]))


def test_formulas() -> None:
    teacher, student, reference = logits()
    assert reference.labels is not None
    assert reference.student_logits is not None
    p, q = (torch.softmax(z / 3, -1) for z in (teacher, student))
    m = (p + q) / 2

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a * (a / b).log()).sum(-1)

    rows, label, top = torch.arange(6), reference.labels, reference.teacher_logits.argmax(-1)
    t, s = teacher.softmax(-1), student.softmax(-1)

    def margin(z: Tensor, right: Tensor) -> Tensor:
        return torch.stack([z[i, r] - max(z[i, k] for k in range(5) if k != r) for i, r in enumerate(right)])

    agree = teacher.argmax(-1) == student.argmax(-1)
    assert 0 < int(agree.sum()) < 6
    expected = [
        9 * kl(p, q),
        9 * kl(q, p),
        9 * (kl(p, m) + kl(q, m)) / 2,
        (teacher - student).square().mean(-1),
        9 * kl(p, q) * agree,
        9 * kl(torch.softmax(reference.student_logits / 3, -1), q),
        t[rows, label] + 1 - s[rows, label],
        t[rows, top] ** 2 + (1 - s[rows, top]) ** 2,
        t[rows, label] ** 2 + s[rows, (label + 2) % 5] ** 2,
        (t[rows, label] / s[rows, label]).log(),
        margin(teacher, top) - margin(student, top),
    ]
    for objective, value in zip(EVERY, expected, strict=True):
        found = objective(teacher_logits=teacher, student_logits=student, reference=reference)
        assert torch.allclose(found, value), name(objective)


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_gradients_in_both_networks(objective: Disagreement) -> None:
    teacher, student, reference = logits()

    def score(t: Tensor, s: Tensor) -> Tensor:
        return objective(teacher_logits=t, student_logits=s, reference=reference)

    assert torch.autograd.gradcheck(score, (teacher.requires_grad_(), student.requires_grad_()))
    found = torch.autograd.grad(score(teacher, student).sum(), (teacher, student), allow_unused=True)
    assert (found[0] is None) == isinstance(objective, ResponseChange)
    assert found[1] is not None
    assert float(found[1].abs().max()) > 0


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_divergences_are_zero_where_the_networks_agree(objective: Disagreement) -> None:
    teacher, student, reference = logits()
    same = objective(teacher_logits=teacher, student_logits=teacher, reference=reference)
    apart = objective(teacher_logits=teacher, student_logits=student, reference=reference)
    if objective.is_divergence:
        assert torch.allclose(same, torch.zeros(6, dtype=torch.float64), atol=1e-12)
        assert float(apart.min()) > 0
    assert apart.shape == (6,)


@pytest.mark.parametrize("objective", EVERY, ids=name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_confident_networks_give_no_nan(objective: Disagreement, dtype: torch.dtype) -> None:
    teacher, student, reference = logits(50.0, dtype)
    t, s = teacher.requires_grad_(), student.requires_grad_()
    found = objective(teacher_logits=t, student_logits=s, reference=reference)
    assert found.dtype == torch.float32
    gradients = torch.autograd.grad(found.sum(), (t, s), allow_unused=True)
    assert all(bool(value.isfinite().all()) for value in (found, *gradients) if value is not None)


def masked(value: float, dtype: torch.dtype, *, other: float | None = None) -> tuple[Tensor, Tensor, Reference]:
    """Logits of six classes; the last one has a value at the end of its type, or another one in the student's."""
    generator = torch.Generator().manual_seed(1)
    values = 2 * torch.randn(4, 4, 6, generator=generator)
    largest = torch.finfo(dtype).max
    values[::2, :, -1] = max(value, -largest) if value > -math.inf else value
    values[1::2, :, -1] = values[0, 0, -1] if other is None else max(other, -largest)
    teacher, clean, student, clean_student = values[[0, 2, 1, 3]].to(dtype)
    return teacher, student, Reference(clean, clean_student, torch.tensor([0, 1, 2, 3]))


def scores_and_gradients(
    objective: Disagreement, teacher: Tensor, student: Tensor, reference: Reference
) -> tuple[Tensor, list[Tensor]]:
    leaves = [logits.clone().requires_grad_() for logits in (teacher, student)]
    found = objective(teacher_logits=leaves[0], student_logits=leaves[1], reference=reference)
    gradients = torch.autograd.grad(found.sum(), leaves, allow_unused=True)
    return found.detach(), [torch.zeros_like(teacher) if g is None else g for g in gradients]


WIDE = torch.finfo(torch.float32)


@pytest.mark.parametrize("objective", [*EVERY, *(type(one)(0.5) for one in EVERY[:3])], ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(
    ("value", "other"),
    [(-math.inf, None), (-1e9, None), (-1e4, None), (WIDE.min, None), (WIDE.min, -1e4), (-1e4, WIDE.min)],
)
def test_a_class_that_both_networks_mask_is_as_if_it_did_not_exist(
    objective: Disagreement, dtype: torch.dtype, value: float, other: float | None
) -> None:
    teacher, student, reference = masked(value, dtype, other=other)
    assert reference.student_logits is not None
    rest = Reference(reference.teacher_logits[:, :5], reference.student_logits[:, :5], reference.labels)
    found, gradients = scores_and_gradients(objective, teacher, student, reference)
    expected, rest_gradients = scores_and_gradients(objective, teacher[:, :5], student[:, :5], rest)
    if isinstance(objective, ConfidenceGap) and objective.towards is not None:  # counts classes modulo K
        expected, rest_gradients = found[:3], [gradient[:, :5] for gradient in gradients]
    assert torch.allclose(found[: len(expected)], expected, rtol=1e-5, atol=1e-5)
    for gradient, other_gradient in zip(gradients, rest_gradients, strict=True):
        assert torch.allclose(gradient[:, :5].float(), other_gradient.float(), rtol=1e-2, atol=1e-4)
        assert not bool(gradient[:, 5].any())
        assert bool(gradient.isfinite().all())


@pytest.mark.parametrize("objective", [*EVERY, *(type(one)(0.5) for one in EVERY[:3])], ids=name)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_logits_at_both_ends_of_their_type(objective: Disagreement, dtype: torch.dtype) -> None:
    teacher, student, reference = masked(torch.finfo(dtype).max, dtype)
    teacher[:, 3], student[:, 3] = torch.finfo(dtype).min, torch.finfo(dtype).min
    found, gradients = scores_and_gradients(objective, teacher, student, reference)
    for value in (found, *gradients):
        assert bool(value.isfinite().all())
    if objective.is_divergence:  # both are certain of the same class
        assert torch.equal(found, torch.zeros(4))


def test_a_class_that_the_student_alone_masks_with_infinity_is_no_nan() -> None:
    teacher, student, reference = masked(-math.inf, torch.float32)
    teacher[:, -1], student[0, 0], teacher[0, 0] = 0.0, 9.0, -9.0
    teacher[1:, 0] = student[1:, 0] = 20.0
    found, gradients = scores_and_gradients(DecisionMaskedKL(2.0), teacher, student, reference)
    assert found.tolist() == [0.0, math.inf, math.inf, math.inf]
    assert bool(torch.cat(gradients).isfinite().all())


@pytest.mark.parametrize("objective", EVERY, ids=name)
@pytest.mark.parametrize("rows", [0, 1, 2, 3])
def test_small_batches(objective: Disagreement, rows: int) -> None:
    teacher, student, reference = logits()
    given = reference.first(rows)
    found = objective(teacher_logits=teacher[:rows], student_logits=student[:rows], reference=given)
    assert found.shape == (rows,)
    whole = objective(teacher_logits=teacher, student_logits=student, reference=reference)
    assert torch.allclose(found, whole[:rows])


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_one_class_is_refused(objective: Disagreement) -> None:
    one = torch.randn(6, 1)
    words = (
        r"expected at least two classes, because a softmax over one logit is constant.*torch\.cat\(\(torch\.zeros_like"
    )
    with pytest.raises(ValueError, match=words):
        objective(teacher_logits=one, student_logits=one, reference=Reference(one, one, torch.zeros(6).long()))
    with pytest.raises(ValueError, match=words):
        distillation_loss(teacher_logits=one, student_logits=one)


@pytest.mark.parametrize("kind", [KL, ReverseKL, JensenShannon, DecisionMaskedKL, ResponseChange])
def test_temperatures_of_numpy(kind: type[KL]) -> None:
    teacher, student, reference = logits()
    objective = kind(np.float32(3.0))
    assert repr(objective) == repr(kind(3.0))
    found = scores_and_gradients(objective, teacher, student, reference)
    expected = scores_and_gradients(kind(3.0), teacher, student, reference)
    assert torch.equal(found[0], expected[0])
    assert all(torch.equal(one, other) for one, other in zip(found[1], expected[1], strict=True))
    assert ConfidenceGap(np.float32(2.0), towards=np.int64(2)).towards == 2
    with pytest.raises(ValueError, match="towards=True: expected an integer"):
        ConfidenceGap(towards=True)


@pytest.mark.parametrize("objective", EVERY, ids=name)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_scores_are_float32_whatever_the_default_dtype(objective: Disagreement, dtype: torch.dtype) -> None:
    teacher, student, reference = logits(dtype=torch.float32)
    expected = objective(teacher_logits=teacher, student_logits=student, reference=reference)
    with defaults(dtype):
        found = objective(teacher_logits=teacher, student_logits=student, reference=reference)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_unequal_class_counts(objective: Disagreement) -> None:
    teacher, _, reference = logits()
    with pytest.raises(ValueError, match=r"\(6, [45]\).*\(6, [45]\)"):
        objective(teacher_logits=teacher, student_logits=teacher[:, :4], reference=reference)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_kl_is_that_of_torch(temperature: float) -> None:
    teacher, student = torch.randn(2, 6, 5, dtype=torch.float64)
    expected = temperature**2 * F.kl_div(
        F.log_softmax(student / temperature, 1), F.softmax(teacher / temperature, 1), reduction="none"
    ).sum(1)
    found = KL(temperature)(teacher_logits=teacher, student_logits=student)
    assert found.shape == (6,)
    assert torch.allclose(found, expected)
    assert torch.allclose(
        distillation_loss(student_logits=student, teacher_logits=teacher, temperature=temperature), expected.mean()
    )


def test_kl_has_gradients_in_both_networks() -> None:
    logits = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    assert torch.autograd.gradcheck(
        lambda t, s: kl_divergence(teacher_logits=t, student_logits=s, temperature=2.0), logits
    )


def test_kl_is_zero_at_agreement_and_finite_at_large_logits() -> None:
    logits = torch.randn(4, 5)
    agreed = kl_divergence(teacher_logits=logits, student_logits=logits + 3)
    assert torch.allclose(agreed, torch.zeros(4), atol=1e-6)
    large = 1e4 * torch.eye(5)
    assert bool(kl_divergence(teacher_logits=large, student_logits=-large).isfinite().all())
    half = logits.half()
    assert kl_divergence(teacher_logits=half, student_logits=half).dtype == torch.float32
    with pytest.raises(ValueError, match=r"\(4, 5\).*\(4, 4\)"):
        kl_divergence(teacher_logits=logits, student_logits=logits[:, :4])


def test_kl_of_a_mixture_reference() -> None:
    """Log-probabilities are logits of themselves, as those of a mix are."""
    p = torch.tensor([[0.7, 0.2, 0.1]])
    hard = torch.randn(1, 3)
    expected = (p * (p.log() - hard.log_softmax(-1))).sum(-1)
    assert torch.allclose(kl_divergence(teacher_logits=p.log(), student_logits=hard), expected)


def test_masked_kl_is_zero_where_the_networks_differ() -> None:
    teacher = torch.tensor([[2.0, 0.0], [2.0, 0.0]])
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    found = DecisionMaskedKL(1.0)(teacher_logits=teacher, student_logits=student)
    assert found[0] == KL(1.0)(teacher_logits=teacher, student_logits=student)[0] > 0
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert float(found[1].detach()) == 0
    assert torch.equal(gradient[1], torch.zeros(2))


def test_the_first_images_of_a_reference() -> None:
    _, _, reference = logits()
    part = reference.first(2)
    assert reference.student_logits is not None
    assert part.student_logits is not None
    assert part.labels is not None
    assert torch.equal(part.teacher_logits, reference.teacher_logits[:2])
    assert torch.equal(part.student_logits, reference.student_logits[:2])
    assert part.labels.tolist() == [0, 1]
    assert Reference(torch.zeros(3, 2)).first(2).student_logits is None


@pytest.mark.parametrize("kind", [KL, ReverseKL, JensenShannon, DecisionMaskedKL, ResponseChange])
@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_temperatures_are_positive(kind: type[KL], temperature: float) -> None:
    with pytest.raises(ValueError, match=f"temperature={temperature}"):
        kind(temperature)


def test_repr_shows_the_settings() -> None:
    assert repr(KL(3.0)) == "KL(temperature=3.0)"
    assert repr(LogitMSE()) == "LogitMSE()"
    assert KL().at(0.5).__class__ is KL


class Masked(nn.Module):
    """Logits of three classes, and of a fourth one that is masked by a number."""

    def __init__(self, mask: float | None, dtype: torch.dtype, seed: int) -> None:
        super().__init__()
        self.linear, self.mask = nn.Linear(64, 3, bias=False), mask
        with torch.no_grad():
            self.linear.weight.normal_(generator=torch.Generator().manual_seed(seed))
        self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        kept: Tensor = self.linear(images.flatten(1))
        return kept if self.mask is None else torch.cat((kept, torch.full_like(kept[:, :1], self.mask)), 1)


@pytest.mark.parametrize(
    "objective", [KL(2.0), KL(0.5), JensenShannon(), LogitMSE(), ConfidenceMargin(target="teacher")], ids=name
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_policy_learns_from_masked_networks_what_it_does_without_the_class(
    objective: Disagreement, dtype: torch.dtype
) -> None:
    images = torch.rand(2, 8, 1, 8, 8).to(dtype)
    policies = []
    for mask in (None, torch.finfo(dtype).min):
        augmenter = HardAugmenter(
            teacher=Masked(mask, dtype, 0).eval(),
            student=Masked(mask, dtype, 1),
            transform=Affine(),
            objective=objective,
            schedule=Alternating(),
        )
        for batch in images:
            assert bool(augmenter(batch).loss().isfinite())
        assert augmenter.dropped_steps == 0
        policies.append(torch.cat([parameter.flatten() for parameter in augmenter.policy.parameters()]).detach())
    assert float(policies[0][:6].abs().max()) > 0.01  # its mean has moved
    assert torch.allclose(*policies, atol=1e-3)
