"""Acceptance, synthesis, and failure metrics: each rejects, or reacts to, the failure that it names."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.synthesis import Acceptance, Unguided, failure_metrics, synthesize, to_bytes
from hard_aug.synthesis.failure_metrics import diversity, saturated
from tests.helpers.generative_parts import CHANNELS, Classifier, labels, make_sampler, score, seeds

SIZE = 16


# Acceptance ---------------------------------------------------------------------------------------------------------


class Seer(nn.Module):
    """Sees class 1 where the mean of images times a pattern is above a level, else class 0."""

    def __init__(self, pattern: Tensor, level: float, gain: float = 1e4) -> None:
        super().__init__()
        self.pattern, self.level, self.gain = pattern, level, gain

    def forward(self, images: Tensor) -> Tensor:
        drive = self.gain * ((images * self.pattern).mean((1, 2, 3)) - self.level)
        return torch.stack((torch.zeros_like(drive), drive), dim=1)


def test_patterns_that_a_file_does_not_hold_are_rejected() -> None:
    grey = torch.full((1, 1, SIZE, SIZE), 100 / 255)
    checks = torch.ones(SIZE, SIZE)
    checks[::2, ::2], checks[1::2, 1::2] = -1, -1
    right = torch.ones(1, dtype=torch.int64)
    for pattern, size, kept_in_bytes, kept_at_another_size in (
        (checks, 0.3 / 255, False, False),  # below eight bits
        (checks, 20 / 255, True, False),  # at full resolution alone
        (torch.ones(SIZE, SIZE), 20 / 255, True, True),
    ):
        image = grey + size * pattern
        teacher = Seer(pattern, float((image * pattern).mean()) - 0.5 * size)
        assert int(teacher(image).argmax()) == 1
        for resize, expected in ((None, kept_in_bytes), (0.75, kept_in_bytes and kept_at_another_size)):
            result = Acceptance(teacher, resize=resize)(to_bytes(image), right)
            assert bool(result.accepted) is expected
            assert int(result.soft_labels.argmax()) == int(kept_in_bytes)


class Overwriting(Classifier):
    """A classifier that normalises its images in place."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.sub_(0.5))


def test_networks_that_write_into_their_images_or_return_nan() -> None:
    images = torch.rand(4, CHANNELS, SIZE, SIZE)
    kept, given, network = images.clone(), labels(4), Overwriting(1)
    result = Acceptance(network, judge=network)(to_bytes(images), given)
    shown = to_bytes(images) / 255
    assert torch.equal(result.soft_labels, network(shown.clone()).softmax(1))
    assert torch.equal(result.rules["judge"], result.rules["teacher"])
    for _ in range(2):
        failure_metrics(images, kept.clone(), given, teacher=network, student=network, other_student=network)
        assert torch.equal(images, kept)
    broken = Classifier(1)
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(ValueError, match="the judge returned NaN"):  # the class 0 is among its largest
        Acceptance(network, judge=broken)(to_bytes(images), torch.zeros(4, dtype=torch.int64))


def test_a_judge_and_a_least_confidence() -> None:
    images, bright = to_bytes(torch.tensor([0.2, 0.5, 0.8]).view(3, 1, 1, 1).expand(3, 1, 8, 8)), torch.ones(8, 8)
    right, teacher = torch.ones(3, dtype=torch.int64), Seer(bright, 0.4, gain=5.0)
    result = Acceptance(teacher)(images, right)
    assert result.accepted.tolist() == [False, True, True]
    assert torch.allclose(result.soft_labels, teacher(images / 255).softmax(1), atol=1e-6)
    assert result.rejected() == {"teacher": 1, "teacher_resized": 1}
    judged = Acceptance(teacher, judge=Seer(bright, 0.6))(images, right)
    assert judged.accepted.tolist() == [False, False, True]
    assert judged.rejected() == {"teacher": 1, "teacher_resized": 1, "judge": 2, "judge_resized": 2}
    sure = Acceptance(teacher, confidence=0.8, resize=None)(images, right)
    assert sure.accepted.tolist() == [False, False, True]
    assert sure.rejected() == {"teacher": 1, "confidence": 2}
    assert sure.rules["confidence"].tolist() == [False, False, True]
    assert Acceptance(teacher)(images, 0 * right.int()).accepted.tolist() == [True, False, False]
    nothing = Acceptance(teacher, judge=teacher, confidence=0.5)(images[:0], right[:0])
    assert nothing.accepted.shape == (0,)
    assert nothing.accepted.dtype == torch.bool
    assert nothing.rejected() == dict.fromkeys(
        ("teacher", "confidence", "teacher_resized", "judge", "judge_resized"), 0
    )
    for bad in ({"resize": 0.0}, {"resize": 1.5}, {"confidence": 1.0}, {"confidence": -0.1}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            Acceptance(teacher, **bad)


def test_a_judge_that_a_pattern_fools_at_full_size_alone() -> None:
    checks = torch.ones(SIZE, SIZE)
    checks[::2, ::2], checks[1::2, 1::2] = -1, -1
    image, right = 0.4 + 0.1 * checks.expand(2, 1, SIZE, SIZE), torch.tensor([1, 0])
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(SIZE**2, 2))
    with torch.no_grad():
        teacher[1].weight.zero_()
        teacher[1].bias.copy_(torch.tensor([0.0, 1.0]))  # class 1, whatever is shown
    judge = Seer(checks, 0.05)
    assert judge(image).argmax(1).tolist() == [1, 1]
    result = Acceptance(teacher, judge=judge)(to_bytes(image), right)
    assert {name: kept.tolist() for name, kept in result.rules.items()} == {
        "teacher": [True, False],
        "teacher_resized": [True, False],
        "judge": [True, False],
        "judge_resized": [False, True],
    }
    assert result.accepted.tolist() == [False, False]
    assert result.rejected() == {"teacher": 1, "teacher_resized": 1, "judge": 1, "judge_resized": 1}
    assert Acceptance(teacher, judge=judge, resize=None)(to_bytes(image), right).accepted.tolist() == [True, False]


def test_bytes_are_rounded() -> None:
    every = torch.arange(256)
    assert torch.equal(to_bytes(every / 255).long(), every)
    assert torch.equal(to_bytes(every / 255 + 0.4 / 255).long(), every)
    assert torch.equal(to_bytes(every / 255 - 0.4 / 255).long(), every)
    assert to_bytes(torch.tensor([-0.1, 1.1])).tolist() == [0, 255]


# Synthesis ----------------------------------------------------------------------------------------------------------


def test_the_teachers_predictions_replace_labels() -> None:
    drawn = torch.Generator().manual_seed(0)
    search, accept, real = (
        Unguided(make_sampler(steps=2, strength=0.5)),
        Acceptance(Classifier(1)),
        torch.rand(5, 2, SIZE, SIZE, generator=drawn),
    )
    predictions = Classifier(1)(real).argmax(1)
    assert len(predictions.unique()) > 1
    found = synthesize(search, score(), accept, None, seeds=seeds(5), images=real, batch_size=2)
    told = synthesize(search, score(), accept, predictions, seeds=seeds(5), images=real, batch_size=2)
    assert torch.equal(found.labels, predictions)
    assert torch.equal(found.images, told.images)
    assert torch.equal(found.scores_after, told.scores_after)
    nothing = synthesize(search, score(), accept, None, seeds=seeds(0), images=real[:0])
    assert nothing.labels.shape == (0,)
    broken = real.clone()
    broken[3] = math.nan
    for wrong, kind, message in (
        (to_bytes(real), TypeError, "expected floating point"),
        (broken, ValueError, "NaN or infinite values"),
        (255 * real, ValueError, "Divide bytes by 255"),
    ):
        with pytest.raises(kind, match=message):
            synthesize(search, score(), accept, None, seeds=seeds(5), images=wrong)


def test_classes_and_factories_are_named() -> None:
    search, accept = Unguided(make_sampler(steps=2)), Acceptance(Classifier(1))
    for wrong, words in (
        ({"search": Unguided}, "search: expected an ImageSearch, got the class Unguided"),
        ({"search": partial(Unguided, search.sampler)}, "got a partial of Unguided; call it"),
        ({"acceptance": lambda images, labels: images}, "acceptance: expected an Acceptance, got the function"),
    ):
        given: dict[str, Any] = {"search": search, "score": score(), "acceptance": accept, "labels": seeds(2)} | wrong
        with pytest.raises(TypeError, match=words):
            synthesize(**given, seeds=seeds(2))
    with pytest.raises(TypeError, match="sampler: expected a DiffusionSampler, got a partial"):
        Unguided(partial(make_sampler, steps=2))  # type: ignore[arg-type]  # the mistake that is tested
    with pytest.raises(TypeError, match="teacher: expected a Module, got the class Classifier"):
        Acceptance(Classifier)(to_bytes(torch.rand(2, 2, SIZE, SIZE)), seeds(2))  # type: ignore[arg-type]


def test_rejections_are_counted_over_batches() -> None:
    judge = Classifier(5)
    accept = Acceptance(Classifier(1), judge=judge, confidence=0.4)
    found = [
        synthesize(Unguided(make_sampler(steps=2)), score(), accept, labels(9), seeds=seeds(9), batch_size=size)
        for size in (2, 64)
    ]
    for batch in found:
        given = batch.soft_labels.gather(1, batch.labels[:, None])[:, 0]
        assert batch.rejected["teacher"] == int((batch.soft_labels.argmax(1) != batch.labels).sum())
        assert batch.rejected["confidence"] == int((given < 0.4).sum())
        assert batch.rejected["judge"] == int((judge(batch.images / 255).argmax(1) != batch.labels).sum())
        assert list(batch.rejected) == ["teacher", "confidence", "teacher_resized", "judge", "judge_resized"]
        assert max(batch.rejected.values()) <= int((~batch.accepted).sum()) <= sum(batch.rejected.values())
    assert found[0].rejected == found[1].rejected
    assert found[0].rejected["teacher"] > 0


# Failure metrics ----------------------------------------------------------------------------------------------------


def test_each_metric_shows_its_failure() -> None:
    drawn = torch.Generator().manual_seed(0)
    unguided = 0.5 + 0.1 * torch.randn(6, 1, 8, 8, generator=drawn)
    right, bright = torch.ones(6, dtype=torch.int64), torch.ones(8, 8)
    always, never = Seer(bright, -1.0), Seer(bright, 2.0)
    student, other = Seer(bright, 0.45, gain=30.0), Seer(bright, 0.45, gain=30.0)
    same = Seer(torch.eye(8), -1.0)  # unchanged by a darker image

    def found(images: Tensor, judge: nn.Module = always, second: nn.Module = other, **scores: Tensor) -> Any:
        return failure_metrics(
            images, unguided, right, teacher=always, student=student, judge=judge, other_student=second, **scores
        )

    sound = found(unguided - 0.15)
    assert sound["teacher_consistency"] == sound["judge_consistency"] == 1
    assert sound["saturated"] == 0
    assert sound["diversity"] == pytest.approx(1, abs=1e-4)
    assert sound["rms_change"] == pytest.approx(0.15, abs=1e-5)
    assert sound["transfer"] == pytest.approx(1, abs=1e-4)
    assert "unimproved" not in sound
    assert found(unguided, judge=never)["judge_consistency"] == 0
    assert found((10 * (unguided - 0.5) + 0.5).clamp(0, 1))["saturated"] > 0.3
    assert found(unguided[:1].expand(6, -1, -1, -1))["diversity"] == pytest.approx(0, abs=1e-6)
    assert found(unguided)["rms_change"] == 0
    assert math.isnan(found(unguided)["transfer"])
    assert found(unguided - 0.15, second=same)["transfer"] == pytest.approx(0, abs=1e-4)
    before, after = torch.zeros(6), torch.tensor([0.0, 5e-4, -1.0, 0.1, 0.2, 0.3])
    assert found(unguided, scores_before=before, scores_after=after)["unimproved"] == 0.5
    unknown = found(unguided, scores_before=before + math.nan, scores_after=after)
    assert math.isnan(unknown["unimproved"])


def test_edge_cases_of_the_metrics() -> None:
    images, right = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 0, 1, 2])
    difference = (images[0] - images[1]).square().mean().sqrt()
    assert diversity(images, right) == pytest.approx(float(difference), rel=1e-5)
    assert math.isnan(diversity(images, torch.arange(4)))
    model = Seer(torch.ones(4, 4), 0.5)
    flat = torch.full_like(images, 0.5)
    assert math.isnan(failure_metrics(images, flat, right, teacher=model, student=model)["diversity"])
    assert saturated(torch.tensor([0.0, 1.0, 0.5, 0.4 / 255])) == 0.75
    for wrong in ((images[:0], images[:0]), (images, images[:2])):
        with pytest.raises(ValueError, match="expected equal shapes, not empty"):
            failure_metrics(*wrong, right, teacher=model, student=model)
