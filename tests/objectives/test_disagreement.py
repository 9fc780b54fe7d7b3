"""Every objective against its formula, with gradients in both networks' logits, and at extremes; KL against PyTorch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

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
