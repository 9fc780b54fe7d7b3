"""Every objective against its formula, in both players' logits, at extremes, and with what it wants missing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.objectives import (
    KL,
    ConfidenceGap,
    ConfidenceMargin,
    ConfidenceRatio,
    DecisionMaskedKL,
    Disagreement,
    Hinge,
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
    teacher, student, clean, answer = scale * torch.randn(4, 6, 5, generator=generator, dtype=torch.float64).to(dtype)
    return teacher, student, Reference(clean, answer, torch.tensor([0, 1, 2, 3, 4, 0]))


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
def test_gradients_in_both_players(objective: Disagreement) -> None:
    teacher, student, reference = logits()

    def score(t: Tensor, s: Tensor) -> Tensor:
        return objective(teacher_logits=t, student_logits=s, reference=reference)

    assert torch.autograd.gradcheck(score, (teacher.requires_grad_(), student.requires_grad_()))
    found = torch.autograd.grad(score(teacher, student).sum(), (teacher, student), allow_unused=True)
    assert (found[0] is None) == isinstance(objective, ResponseChange)
    assert found[1] is not None
    assert float(found[1].abs().max()) > 0


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_divergences_are_zero_where_the_players_agree(objective: Disagreement) -> None:
    teacher, student, reference = logits()
    same = objective(teacher_logits=teacher, student_logits=teacher, reference=reference)
    apart = objective(teacher_logits=teacher, student_logits=student, reference=reference)
    if objective.is_divergence:
        assert torch.allclose(same, torch.zeros(6, dtype=torch.float64), atol=1e-12)
        assert float(apart.min()) > 0
    assert apart.shape == (6,)


@pytest.mark.parametrize("objective", EVERY, ids=name)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_sure_players_give_no_nan(objective: Disagreement, dtype: torch.dtype) -> None:
    teacher, student, reference = logits(50.0, dtype)
    t, s = teacher.requires_grad_(), student.requires_grad_()
    found = objective(teacher_logits=t, student_logits=s, reference=reference)
    assert found.dtype == torch.float32
    gradients = torch.autograd.grad(found.sum(), (t, s), allow_unused=True)
    assert all(bool(value.isfinite().all()) for value in (found, *gradients) if value is not None)


def test_a_sure_student_is_told_how_unsure_it_is() -> None:
    """`1 - s` would be 0 in float32."""
    student = torch.tensor([[30.0, 0.0]], requires_grad=True)
    found = ConfidenceGap()(
        teacher_logits=torch.tensor([[0.0, 0.0]]),
        student_logits=student,
        reference=Reference(torch.zeros(1, 2), labels=torch.tensor([0])),
    )
    (gradient,) = torch.autograd.grad(found.sum(), student)
    assert float(gradient[0, 1]) == pytest.approx(9.4e-14, rel=0.01)


def test_towards_a_wrong_class() -> None:
    teacher, student, reference = logits()
    assert reference.labels is not None
    wrong = (reference.labels + 2) % 5
    t, s = teacher.softmax(-1), student.softmax(-1)
    rows = torch.arange(6)
    objective = ConfidenceGap(3.0, start=1.0, towards=2)
    for progress, power in ((0.0, 1.0), (0.5, 2.0), (1.0, 3.0)):
        found = objective.at(progress)(teacher_logits=teacher, student_logits=student, reference=reference)
        torch.testing.assert_close(found, t[rows, reference.labels] ** power + s[rows, wrong] ** power)
    with pytest.raises(ValueError, match="towards=5 of 5 classes is the right one"):
        ConfidenceGap(towards=5)(teacher_logits=teacher, student_logits=student, reference=reference)


@pytest.mark.parametrize("objective", EVERY, ids=name)
def test_unequal_class_counts(objective: Disagreement) -> None:
    teacher, _, reference = logits()
    with pytest.raises(ValueError, match="same classes"):
        objective(teacher_logits=teacher, student_logits=teacher[:, :4], reference=reference)


@pytest.mark.parametrize(
    ("objective", "reference", "words"),
    [
        (ConfidenceGap(), None, r"wants labels: call augmenter\(images, labels\)"),
        (ConfidenceRatio(), Reference(torch.zeros(2, 3)), r"ConfidenceRatio\(target='teacher'\)"),
        (ConfidenceMargin(target="teacher"), None, r"wants reference=Reference\(teacher_logits"),
        (ResponseChange(), Reference(torch.zeros(2, 3)), "answer to the clean images"),
    ],
)
def test_what_is_missing(objective: Disagreement, reference: Reference | None, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        objective(teacher_logits=torch.zeros(2, 3), student_logits=torch.zeros(2, 3), reference=reference)


@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        (ReverseKL, {"temperature": 0.0}),
        (ConfidenceGap, {"gamma": 0.5}),
        (ConfidenceGap, {"towards": 0}),
        (ConfidenceRatio, {"target": "labels"}),
        (Hinge, {"epsilon": -1.0}),
        (Hinge, {"weight": -1.0}),
    ],
)
def test_settings_out_of_range(kind: Any, arguments: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="wanted"):
        kind(**arguments)


def test_a_hinge_is_free_up_to_its_epsilon() -> None:
    change = torch.tensor([0.0, 0.2, 0.5])
    assert torch.allclose(Hinge(0.2, weight=3.0).cost(change), torch.tensor([0.0, 0.0, 0.9]))
    assert torch.equal(Hinge(0.0, weight=3.0).cost(change), 3 * change)


def test_kl_of_a_mixture_reference() -> None:
    """Log-probabilities are logits of themselves, as those of a mix are."""
    p = torch.tensor([[0.7, 0.2, 0.1]])
    hard = torch.randn(1, 3)
    expected = (p * (p.log() - hard.log_softmax(-1))).sum(-1)
    assert torch.allclose(kl_divergence(teacher_logits=p.log(), student_logits=hard), expected)
