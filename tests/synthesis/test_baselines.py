"""Baselines, counts of evaluations, and what all searches guarantee for rows and seeds."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from hard_aug.generative import NFE, DiffusionModel, DiffusionSampler
from hard_aug.objectives import KL, ConfidenceGap, ConfidenceRatio, Reference, ResponseChange
from hard_aug.synthesis import (
    Acceptance,
    BestOfN,
    GuidedSampler,
    ImageSearch,
    NoiseOptimizer,
    PixelPGD,
    RandomCrops,
    Score,
    SynthesisBatch,
    Unguided,
    synthesize,
    to_bytes,
)
from tests.helpers.generative_parts import (
    CHANNELS,
    CLASSES,
    SIZE,
    Classifier,
    autoencoder_kl,
    ddim,
    diffusion_model,
    labels,
    make_sampler,
    pictures,
    score,
    seeds,
    unet,
)

diffusers = pytest.importorskip("diffusers")
SEARCHES: dict[str, Callable[[DiffusionSampler], ImageSearch]] = {
    "unguided": Unguided,
    "best": lambda sampler: BestOfN(sampler, count=3),
    "pixels": lambda sampler: PixelPGD(sampler, steps=3),
    "mpgd": lambda sampler: GuidedSampler(sampler, mu=0.3, smooth=2, smooth_sigma=0.2, recurrence=2),
    "classifier": lambda sampler: GuidedSampler(sampler, rho=0.5, shape="classifier", recurrence=2),
    "raw": lambda sampler: GuidedSampler(sampler, mu=1.0, normalized=False),
    "noise": lambda sampler: NoiseOptimizer(sampler, iterations=3),
    "stopped": lambda sampler: NoiseOptimizer(
        sampler, iterations=3, backprop_steps=None if sampler.eta else 1, stop_at=0.95
    ),
}


# Objectives ---------------------------------------------------------------------------------------------------------


def test_the_confidence_gap_against_closed_forms() -> None:
    drawn = torch.Generator().manual_seed(0)
    teacher, student = (3 * torch.randn(6, 4, generator=drawn, dtype=torch.float64) for _ in range(2))
    right = torch.tensor([0, 1, 2, 3, 0, 1])
    reference = Reference(teacher, labels=right)
    rows = torch.arange(6)
    t, f = teacher.softmax(1)[rows, right], student.softmax(1)[rows, right]
    linear = ConfidenceGap(1.0)(teacher_logits=teacher, student_logits=student, reference=reference)
    assert torch.allclose(linear, t - f + 1)
    others = torch.nn.functional.one_hot(right, 4).double()
    for gamma in (1.0, 1.5, 2.0, 3.0):
        a, b = teacher.clone().requires_grad_(), student.clone().requires_grad_()
        value = ConfidenceGap(gamma)(teacher_logits=a, student_logits=b, reference=reference)
        assert torch.allclose(value, t**gamma + (1 - f) ** gamma)
        assert 0 <= float(value.detach().min()) <= float(value.detach().max()) <= 2
        found = torch.autograd.grad(value.sum(), (a, b))
        # dt / dz_k = t (1[k = y] - p_k)
        expected_t = (gamma * t ** (gamma - 1) * t)[:, None] * (others - teacher.softmax(1))
        expected_f = (-gamma * (1 - f) ** (gamma - 1) * f)[:, None] * (others - student.softmax(1))
        assert torch.allclose(found[0], expected_t)
        assert torch.allclose(found[1], expected_f)


def test_the_power_of_the_confidence_gap_moves() -> None:
    moving = ConfidenceGap(2.0, start=1.0)
    assert [moving.at(progress).gamma for progress in (-1.0, 0.0, 0.25, 0.5, 1.0, 2.0)] == [1, 1, 1.25, 1.5, 2, 2]
    assert moving.gamma == 2.0
    assert moving.at(0.5).target == moving.target
    assert ConfidenceGap(2.0, start=1.0, target="teacher").at(0.5).requires_labels is False
    assert ConfidenceGap(1.0, start=3.0).at(0.25).gamma == 2.5
    for fixed in (ConfidenceGap(2.0), KL(), ConfidenceRatio()):
        assert fixed.at(0.3) is fixed
    for start in (0.5, math.nan, math.inf):
        with pytest.raises(ValueError, match="expected a number >= 1"):
            ConfidenceGap(2.0, start=start)
    # A student that is sure leaves a square without a slope, and a first power with one.
    sure = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    reference = Reference(sure.detach(), labels=torch.tensor([0]))
    for progress, least, most in ((0.0, 1e-18, 1e-16), (1.0, 0.0, 1e-30)):
        value = moving.at(progress)(teacher_logits=sure.detach(), student_logits=sure, reference=reference)
        (slope,) = torch.autograd.grad(value.sum(), sure)
        assert least <= float(slope.abs().max()) <= most


# Rows and seeds -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("kind", ["noise", "images", "stochastic"])
def test_a_row_knows_nothing_of_its_batch(name: str, kind: str) -> None:
    scheduler = diffusers.LCMScheduler(prediction_type="v_prediction") if kind == "stochastic" else None
    sampler = make_sampler(scheduler, steps=2, strength=0.5 if kind == "images" else 1.0)
    images = pictures() if kind == "images" else None
    search, what = SEARCHES[name](sampler), score(augment=RandomCrops())
    whole = search(what, labels(), seeds=seeds(), images=images)
    for rows in ([2, 0],):
        part = search(what, labels()[rows], seeds=seeds()[rows], images=None if images is None else images[rows])
        assert torch.allclose(part.images, whole.images[rows], atol=1e-5)
        assert torch.allclose(part.scores_after, whole.scores_after[rows], atol=1e-4)
        assert torch.allclose(part.scores_before, whole.scores_before[rows], atol=1e-4)


@pytest.mark.parametrize("name", SEARCHES)
def test_the_size_of_batches_changes_nothing(name: str) -> None:
    accept, found = Acceptance(Classifier(1)), []
    for size in (3, 64):
        batch = synthesize(
            SEARCHES[name](make_sampler(steps=2)), score(), accept, labels(4), seeds=seeds(4), batch_size=size
        )
        found.append(batch)
        assert batch.images.dtype == torch.uint8
        assert [len(getattr(batch, field.name)) for field in fields(SynthesisBatch)[:7]] == [4] * 7
        assert batch.soft_labels.sum(1).tolist() == pytest.approx([1.0] * 4, abs=1e-5)
        assert batch.seconds > 0
    assert int((found[0].images.int() - found[1].images.int()).abs().max()) <= 1
    assert torch.allclose(found[0].scores_after, found[1].scores_after, atol=1e-4)
    assert torch.equal(found[0].accepted, found[1].accepted)
    assert found[0].nfe == found[1].nfe


@pytest.mark.slow
def test_resuming_gives_identical_images(tmp_path: Path) -> None:
    """In a new process, and in another order."""
    script = (
        "import torch, tests.synthesis.test_baselines as t\n"
        "torch.set_num_threads(1)\n"
        "torch.manual_seed(99)\n"  # nothing depends on the global generator
        "def found(name):\n"
        "    search = t.SEARCHES[name](t.make_sampler(steps=2))\n"
        "    return search(t.score(augment=t.RandomCrops()), t.labels(), seeds=t.seeds()).images\n"
        "images = {name: found(name) for name in ('best', 'mpgd', 'stopped')}\n"
        f"torch.save(images, {str(tmp_path / 'found.pt')!r})\n"
    )
    here = {}
    for name in ("stopped", "mpgd", "best"):
        here[name] = SEARCHES[name](make_sampler(steps=2))(score(augment=RandomCrops()), labels(), seeds=seeds()).images
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    there = torch.load(tmp_path / "found.pt")
    for name, images in here.items():
        assert torch.allclose(images, there[name], atol=1e-6)  # sums differ in the last bit by where memory lies


@pytest.mark.parametrize("name", SEARCHES)
def test_empty_batches(name: str) -> None:
    for strength, images in ((1.0, None), (1.0, pictures(0)), (0.5, pictures(0))):
        search = SEARCHES[name](make_sampler(steps=2, strength=strength))
        what = score(augment=RandomCrops())
        found = search(what, labels(0), seeds=seeds(0), images=images)
        assert found.images.shape == (0, CHANNELS, SIZE, SIZE)
        assert found.scores_before.shape == found.scores_after.shape == (0,)
        assert found.nfe == NFE()
        batch = synthesize(search, what, Acceptance(Classifier(1)), labels(0), seeds=seeds(0), images=images)
        assert batch.images.shape == (0, CHANNELS, SIZE, SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.soft_labels.shape == (0, CLASSES)
        assert batch.accepted.shape == (0,)


@pytest.mark.parametrize("name", SEARCHES)
def test_bad_input(name: str) -> None:
    search, what = SEARCHES[name](make_sampler(steps=2)), score()
    with pytest.raises(ValueError, match=r"labels: expected \(B,\) integers, got None"):
        search(what, None, seeds=seeds())  # type: ignore[arg-type]
    for given in (labels(2), labels().float(), labels()[:, None]):
        with pytest.raises(ValueError, match="one per image"):
            search(what, given, seeds=seeds())
    with pytest.raises(ValueError, match="3 images and 2 seeds"):
        search(what, labels(2), seeds=seeds(2), images=pictures())
    broken = pictures()
    broken[1, 0, 3, 3] = math.nan
    for wrong, message in ((broken, "1 NaN or infinite"), (255 * pictures(), r"Divide bytes by 255")):
        with pytest.raises(ValueError, match=message):
            search(what, labels(), seeds=seeds(), images=wrong)
    with pytest.raises(TypeError, match="expected floating point"):
        search(what, labels(), seeds=seeds(), images=to_bytes(pictures()))
    with pytest.raises(ValueError, match="does not divide"):
        search(what, labels(), seeds=seeds(), images=pictures(size=15))
    accept = Acceptance(Classifier(1))
    for given, images in ((labels(4), None), (labels(3), pictures(4))):
        with pytest.raises(ValueError, match=r"4 (labels|images) and 3 seeds"):
            synthesize(search, what, accept, given, seeds=seeds(3), images=images, batch_size=3)
    with pytest.raises(ValueError, match="batch_size=0"):
        synthesize(search, what, accept, labels(), seeds=seeds(), batch_size=0)
    with pytest.raises(ValueError, match=r"labels: expected \(B,\) integers; only with images"):
        synthesize(search, what, accept, None, seeds=seeds())
    for value in (-1, CLASSES):
        given, message = (
            labels().clone(),
            rf"labels from {min(value, 0)} to \d: expected 0 to 2, the classes of the denoiser",
        )
        given[1] = value
        for images in (None, pictures()):
            with pytest.raises(ValueError, match=message):
                search(what, given, seeds=seeds(), images=images)
    with torch.inference_mode(), pytest.raises(RuntimeError, match=r"call it under torch\.no_grad\(\)"):
        search(what, labels(), seeds=seeds())


def free_sampler() -> DiffusionSampler:
    """A sampler of an unconditional denoiser."""
    return DiffusionSampler(DiffusionModel(unet(classes=None), ddim(), autoencoder_kl()), steps=2)


def test_labels_outside_the_classes() -> None:
    search, what = Unguided(free_sampler()), score()
    for wrong in (torch.tensor([0, 1, CLASSES]), torch.tensor([0, 1, -1])):
        with pytest.raises(ValueError, match="expected 0 to 2, the teacher's classes"):
            search(what, wrong, seeds=seeds(), images=pictures())
        with pytest.raises(ValueError, match="expected 0 to 2, according to classes="):
            search(what, wrong, seeds=seeds(), classes=CLASSES)
    with pytest.raises(ValueError, match=r"labels of 5 classes, and the teacher has 3: give classes="):
        search(what, torch.tensor([0, 1, 4]), seeds=seeds(), classes=5)
    unsaid = Unguided(
        DiffusionSampler(DiffusionModel(unet(), ddim(), autoencoder_kl()), steps=2)
    )  # four classes, as far as it knows
    with pytest.raises(ValueError, match=r"condition=ClassLabels\(K, none_label=K\)"):
        unsaid(what, labels(), seeds=seeds())
    assert unsaid(what, labels(), seeds=seeds(), classes=CLASSES).images.shape == (3, CHANNELS, SIZE, SIZE)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_score_that_is_nan_is_no_result(name: str) -> None:
    class Broken(ConfidenceGap):
        def _score(self, teacher: Tensor, student: Tensor, right: Tensor) -> Tensor:
            return super()._score(teacher, student, right).masked_fill(right[:, 0] == 1, math.nan)

    with pytest.raises(FloatingPointError, match="1 of 3 scores are NaN"):
        SEARCHES[name](make_sampler(steps=2))(score(Broken(2.0)), labels(), seeds=seeds())


def test_what_a_score_requires() -> None:
    sampler, free = make_sampler(steps=2), free_sampler()
    with pytest.raises(ValueError, match="expected the number of classes"):
        Unguided(free)(score(), labels(), seeds=seeds())
    found = Unguided(free)(score(), labels(), seeds=seeds(), classes=CLASSES)
    batch = synthesize(Unguided(free), score(), Acceptance(Classifier(1)), labels(), seeds=seeds(), classes=CLASSES)
    assert torch.equal(batch.images, to_bytes(found.images))
    with pytest.raises(ValueError, match="ConfidenceGap requires labels here; give labels"):
        score().reference(pictures(), None)
    with pytest.raises(ValueError, match="KL requires labels here"):
        score(KL()).reference(None, None, classes=CLASSES)
    assert score(KL()).reference(pictures(), None).labels is None
    with pytest.raises(ValueError, match="compares with the clean image; start from images"):
        Unguided(sampler)(score(ResponseChange()), labels(), seeds=seeds())
    with pytest.raises(TypeError, match="student: expected a Module"):
        Score(teacher=Classifier(1), student=print)  # type: ignore[arg-type]
    wide = nn.Sequential(nn.Flatten(), nn.Linear(CHANNELS * SIZE**2, CLASSES + 1))
    with pytest.raises(ValueError, match="3 classes and the student 4"):
        Unguided(sampler)(Score(teacher=Classifier(1), student=wide), labels(), seeds=seeds())
    for dtype in (torch.uint8, torch.int32):
        same = synthesize(Unguided(sampler), score(), Acceptance(Classifier(1)), labels().to(dtype), seeds=seeds())
        assert torch.equal(same.images, to_bytes(Unguided(sampler)(score(), labels(), seeds=seeds()).images))


def test_networks_are_left_unchanged() -> None:
    what = score()
    student = what.student.train()
    before = [weight.clone() for weight in student.parameters()]
    for made in SEARCHES.values():
        made(make_sampler(steps=2))(what, labels(), seeds=seeds())
    assert student.training
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, student.parameters(), strict=True))


class Probe(Classifier):
    """A classifier whose images have no gradient, though its parameters have one."""

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images.detach())


@pytest.mark.parametrize("name", SEARCHES)
def test_a_gradient_has_to_pass_through_both_networks(name: str) -> None:
    made = SEARCHES[name](make_sampler(steps=2))
    for what in (Score(teacher=Probe(1), student=Classifier(2)), Score(teacher=Classifier(1), student=Probe(2))):
        if name in ("unguided", "best"):  # which take none
            assert made(what, labels(), seeds=seeds()).images.isfinite().all()
        else:
            with pytest.raises(ValueError, match=r"logits carry no gradient to the images.*BestOfN"):
                made(what, labels(), seeds=seeds())


# Baselines ----------------------------------------------------------------------------------------------------------


def test_the_best_of_several_holds_the_unguided() -> None:
    sampler, what = make_sampler(steps=3), score()
    unguided = Unguided(sampler)(what, labels(6), seeds=seeds(6))
    found = [BestOfN(sampler, count=count)(what, labels(6), seeds=seeds(6)) for count in (1, 2, 6)]
    assert torch.equal(found[0].images, unguided.images)
    for less, more in itertools.pairwise(found):
        assert torch.equal(more.scores_before, unguided.scores_after)
        assert bool((more.scores_after >= less.scores_after - 1e-6).all())
    assert float((found[2].scores_after - unguided.scores_after).mean()) > 0.02
    for count in (0, 2.5):
        with pytest.raises(ValueError, match="count="):
            BestOfN(sampler, count=count)  # type: ignore[arg-type]


@pytest.mark.parametrize("real", [False, True])
def test_pixels_stay_in_their_box(real: bool) -> None:
    sampler, images = make_sampler(steps=2), pictures() if real else None
    start = pictures() if real else Unguided(sampler)(score(), labels(), seeds=seeds()).images
    for settings in ({}, {"eps": 0.1, "steps": 3, "alpha": 1.0}):
        found = PixelPGD(sampler, **settings)(score(), labels(), seeds=seeds(), images=images)  # type: ignore[arg-type]
        eps = settings.get("eps", 8 / 255)
        assert float((found.images - start).abs().max()) <= eps + 1e-6
        assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
        assert bool((found.scores_after >= found.scores_before - 1e-6).all())
        assert float((found.scores_after - found.scores_before).mean()) > 0.05
        assert torch.allclose(
            found.scores_before, score().evaluate(start, score().reference(start, labels())), atol=1e-5
        )
    for bad in ({"eps": 0.0}, {"eps": 1.5}, {"steps": 0}, {"alpha": 0.0}, {"alpha": math.nan}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            PixelPGD(sampler, **bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("real", [False, True])
def test_counts(real: bool) -> None:
    rows, steps, extra = 3, 4, 3 if real else 0
    sampler, images = make_sampler(steps=steps), pictures() if real else None

    def spent(search: ImageSearch) -> NFE:
        return search(score(), labels(), seeds=seeds(), images=images).nfe

    one = {"denoiser_forward": steps * rows, "codec_forward": rows + extra}
    assert spent(Unguided(sampler)) == NFE(**one, classifier_forward=2 * rows + extra)
    assert spent(BestOfN(sampler, count=5)) == NFE(
        denoiser_forward=5 * steps * rows, codec_forward=5 * rows + extra, classifier_forward=2 * rows * 6 + extra
    )
    assert spent(PixelPGD(sampler, steps=4)) == NFE(
        **({} if real else one),  # real images are neither encoded nor denoised
        classifier_forward=2 * rows * (1 + 2 * 4 + 1) + extra,
        classifier_backward=2 * rows * 4,
    )
    guided = Unguided(DiffusionSampler(diffusion_model(guidance_scale=3.0), steps=steps))
    assert spent(guided).denoiser_forward == 2 * steps * rows
    total = NFE(1, 2, 3, 4, 5, 6)
    assert total.total == 1 + 3 + 5 + 2 * (2 + 4 + 6)
    assert total + total - total == total
    assert total.as_dict() == {**{field.name: i + 1 for i, field in enumerate(fields(NFE))}, "total": 33}


def test_random_crops() -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(seed) for seed in range(3)]

    assert torch.allclose(RandomCrops(min_side=1.0, noise=0.0)(pictures(), generators()), pictures(), atol=1e-5)
    crops = RandomCrops(min_side=0.5, noise=0.0)(pictures(), generators())
    assert float(crops.min()) >= float(pictures().min()) - 1e-6
    assert float(crops.max()) <= float(pictures().max()) + 1e-6
    assert torch.allclose(
        crops[1:2], RandomCrops(min_side=0.5, noise=0.0)(pictures()[1:2], generators()[1:2]), atol=1e-6
    )
    flat = RandomCrops(noise=0.1)(torch.full((3, CHANNELS, 64, 64), 0.5), generators())
    assert float(flat.std()) == pytest.approx(0.1, rel=0.05)
    for bad in ({"min_side": 0.0}, {"min_side": 1.1}, {"noise": -0.1}, {"noise": 1.0}):
        with pytest.raises(ValueError, match=next(iter(bad))):
            RandomCrops(**bad)
