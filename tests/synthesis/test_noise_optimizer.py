"""NoiseOptimizer: the sphere of the noise, Adam, the best image, early stopping, and the cost."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.generative import NFE, DiffusionSampler
from hard_aug.generative.finite import FiniteCheck
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.models import Network
from hard_aug.objectives import ConfidenceGap, ConfidenceMargin, Hinge, LogitMSE
from hard_aug.synthesis import NoiseOptimizer, RandomCrops, Unguided
from tests.helpers.generative_parts import (
    CHANNELS,
    LATENT,
    autoencoder_tiny,
    diffusion_model,
    labels,
    make_sampler,
    pictures,
    pixel_diffusion_model,
    score,
    seeds,
)

diffusers = pytest.importorskip("diffusers")


class Watched(DiffusionSampler):
    """Notes the noise that it starts with."""

    def start(self, noise: Tensor, clean: Tensor | None) -> Tensor:
        self.seen = [*getattr(self, "seen", []), noise.detach().clone()]
        return super().start(noise, clean)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_every_noise_that_is_tried_is_on_the_shell(strength: float) -> None:
    sampler = Watched(diffusion_model(), steps=4, strength=strength)
    images = None if strength == 1 else pictures()
    NoiseOptimizer(sampler, iterations=5, learning_rate=0.5)(score(), labels(), seeds=seeds(), images=images)
    assert len(sampler.seen) == 6
    first = noise_from_seeds(seeds(), (1, CHANNELS, LATENT, LATENT), torch.device("cpu"))[:, 0]
    assert torch.allclose(sampler.seen[0], first, atol=1e-6)
    for noise in sampler.seen:
        share = noise.flatten(1).norm(dim=1) / first.flatten(1).norm(dim=1)
        assert torch.allclose(share, torch.ones(3), atol=1e-5)
    assert not torch.allclose(sampler.seen[-1], first, atol=0.1)


def test_the_ascent_is_adams() -> None:
    sampler, what, given = make_sampler(steps=3), score(ConfidenceMargin()), labels()
    found = NoiseOptimizer(sampler, iterations=3, learning_rate=0.1)(what, given, seeds=seeds())
    for row in range(3):  # each image with an optimiser of its own
        pick = slice(row, row + 1)
        base = noise_from_seeds(seeds()[pick], (1, CHANNELS, LATENT, LATENT), torch.device("cpu"))[:, 0]
        edit = torch.zeros_like(base, requires_grad=True)
        optimizer = torch.optim.Adam([edit], lr=0.1, maximize=True)
        tried = []
        for _ in range(4):
            noise = (base + edit) * base.norm() / (base + edit).norm()
            images = sampler.model.decode(sampler.run(noise, given[pick]))
            logits = [m(images)[0] for m in (what.teacher, what.student)]
            others = [torch.cat((z[:row], z[row + 1 :])) for z in logits]
            value = (logits[0][row] - others[0].max()) - (logits[1][row] - others[1].max())
            tried.append((float(value.detach()), images.detach()))
            optimizer.zero_grad()
            (edit.grad,) = torch.autograd.grad(value, edit)
            edit.grad /= edit.grad.square().mean().sqrt()
            optimizer.step()
        best = max(tried, key=lambda pair: pair[0])
        assert float(found.scores_before[row]) == pytest.approx(tried[0][0], abs=1e-3)
        assert float(found.scores_after[row]) == pytest.approx(best[0], abs=1e-2)
        assert torch.allclose(found.images[row], best[1][0], atol=2e-3)


SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "wild": {"learning_rate": 30.0},
    "backprop_steps": {"backprop_steps": 1},
    "one": {"iterations": 1},
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("scheduler", ["DDIM", "LCM"])
def test_never_below_the_unguided(name: str, scheduler: str) -> None:
    sampler = make_sampler(getattr(diffusers, f"{scheduler}Scheduler")(prediction_type="v_prediction"), steps=3)
    what = score(augment=RandomCrops() if name == "wild" else None)
    if name == "backprop_steps" and sampler.eta:
        with pytest.raises(ValueError, match=r"backprop_steps=1 of 3 steps, with eta=1\.0: fresh noise in the"):
            NoiseOptimizer(sampler, backprop_steps=1)
        sampler = DiffusionSampler(sampler.model, steps=3, eta=0.0)
    found = NoiseOptimizer(sampler, **{"iterations": 2} | SETTINGS[name])(what, labels(), seeds=seeds())
    unguided = Unguided(sampler)(what, labels(), seeds=seeds())
    assert torch.allclose(found.scores_before, unguided.scores_after, atol=1e-5)
    assert bool((found.scores_after >= found.scores_before - 1e-6).all())
    if name in ("default", "one") and scheduler == "DDIM":
        assert bool((found.scores_after > found.scores_before + 0.01).all())
    again = NoiseOptimizer(sampler, **{"iterations": 2} | SETTINGS[name])(what, labels(), seeds=seeds())
    assert torch.equal(again.images, found.images)


def test_more_iterations_are_never_worse() -> None:
    what = score(ConfidenceGap(2.0))  # one whose power moves climbs another sampler with other iterations
    found = [NoiseOptimizer(make_sampler(steps=2), iterations=n)(what, labels(), seeds=seeds()) for n in (1, 3, 8)]
    for less, more in itertools.pairwise(found):
        assert bool((more.scores_after >= less.scores_after - 1e-5).all())
    assert float(found[-1].scores_after.mean()) > float(found[0].scores_after.mean())


def test_objectives_that_compare_with_the_clean_image() -> None:
    """From the middle of real images' sampler, without the name of a class."""
    sampler = DiffusionSampler(pixel_diffusion_model(), steps=4, strength=0.5)
    what = score(LogitMSE(), invariance=Hinge(0.05))
    found = NoiseOptimizer(sampler, iterations=4)(what, labels(), seeds=seeds(), images=pictures())
    assert bool((found.scores_after > found.scores_before).all())
    free = NoiseOptimizer(sampler, iterations=4)(score(LogitMSE()), labels(), seeds=seeds(), images=pictures())
    assert not torch.allclose(free.images, found.images, atol=1e-3)


def test_images_that_reached_the_score_are_not_optimised_further() -> None:
    sampler = make_sampler(steps=2)
    unguided = Unguided(sampler)(score(), labels(), seeds=seeds())
    level = float(unguided.scores_after.sort().values[1]) + 1e-3  # below the best row alone
    best = int(unguided.scores_after.argmax())
    whole = NoiseOptimizer(sampler, iterations=4)(score(), labels(), seeds=seeds())
    found = NoiseOptimizer(sampler, iterations=4, stop_at=level)(score(), labels(), seeds=seeds())
    assert torch.allclose(found.images[best], unguided.images[best], atol=1e-5)
    assert float(whole.scores_after[best]) > float(found.scores_after[best]) + 1e-3
    others = [row for row in range(3) if row != best]
    assert bool((found.scores_after[others] >= torch.minimum(whole.scores_after[others], torch.tensor(level))).all())
    nothing = NoiseOptimizer(sampler, iterations=4, stop_at=-10.0)(score(), labels(), seeds=seeds())
    assert torch.allclose(nothing.images, unguided.images, atol=1e-5)
    assert nothing.nfe == NFE(
        denoiser_forward=2 * 3,
        denoiser_backward=2 * 3,
        codec_forward=3 + 3,
        codec_backward=3,
        classifier_forward=3 * 2 * 3,
        classifier_backward=2 * 3,
    )
    never = NoiseOptimizer(sampler, iterations=4, stop_at=10.0)(score(), labels(), seeds=seeds())
    assert torch.equal(never.images, whole.images)
    assert never.nfe == whole.nfe


@pytest.mark.parametrize("backprop_steps", [None, 1, 3])
@pytest.mark.parametrize("real", [False, True])
def test_counts(backprop_steps: int | None, real: bool) -> None:
    rows, done, iterations = 3, 3 if real else 6, 2
    sampler = make_sampler(steps=6, strength=0.5 if real else 1.0)
    search = NoiseOptimizer(sampler, iterations=iterations, backprop_steps=backprop_steps)
    found = search(score(), labels(), seeds=seeds(), images=pictures() if real else None)
    assert found.nfe == NFE(
        denoiser_forward=(iterations + 1) * done * rows,
        denoiser_backward=iterations * (backprop_steps or done) * rows,
        codec_forward=(iterations + 1) * rows + rows + (rows if real else 0),
        codec_backward=iterations * rows,
        # At each point the score itself, and at each but the last what is ascended; the final images; the real ones.
        classifier_forward=2 * rows * (iterations + 1 + iterations + 1) + (rows if real else 0),
        classifier_backward=2 * rows * iterations,
    )
    assert found.seconds > 0


def test_counts_with_a_preview_and_checkpointing() -> None:
    sampler = DiffusionSampler(diffusion_model(preview=autoencoder_tiny(), checkpointing=True), steps=2)
    found = NoiseOptimizer(sampler, iterations=1)(score(), labels(), seeds=seeds())
    assert found.nfe == NFE(
        denoiser_forward=3 * (2 * 2 + 2 + 2),  # twice where it is run again in the backward; the unguided one
        denoiser_backward=3 * 2,
        codec_forward=3 * (2 + 1 + 1 + 1),
        codec_backward=3,
        classifier_forward=6 * (4 + 2),  # and the two that are compared
        classifier_backward=6,
    )


@pytest.mark.parametrize("stop_at", [None, 0.9])
def test_a_preview_that_misleads_costs_nothing(stop_at: float | None) -> None:
    """What the preview finds better is worse for some rows; these keep the unguided image."""
    given, chosen = labels(24), seeds(24)
    what, sampler = score(), DiffusionSampler(diffusion_model(preview=autoencoder_tiny()), steps=2)
    unguided = Unguided(DiffusionSampler(diffusion_model(), steps=2))(what, given, seeds=chosen)
    found = NoiseOptimizer(sampler, iterations=3, learning_rate=0.5, stop_at=stop_at)(what, given, seeds=chosen)
    assert torch.allclose(found.scores_before, unguided.scores_after, atol=1e-5)
    assert bool((found.scores_after >= found.scores_before).all())
    same = torch.tensor([torch.equal(a, b) for a, b in zip(found.images, unguided.images, strict=True)])
    assert 0 < int(same.sum()) < 24
    assert bool((found.scores_after[~same] > unguided.scores_after[~same]).all())


class Broken(ConfidenceGap):
    """NaN for images of class 1, at the first of its calls or at all; networks' logits are finite."""

    def __init__(self, *, always: bool) -> None:
        super().__init__(2.0)
        self.always, self.calls = always, 0

    def _score(self, teacher: Tensor, student: Tensor, right: Tensor) -> Tensor:
        self.calls += 1
        found = super()._score(teacher, student, right)
        return found.masked_fill(right[:, 0] == 1, math.nan) if self.always or self.calls == 1 else found


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("preview", [False, True])
@pytest.mark.parametrize("stop_at", [None, 0.5])
def test_a_first_score_that_is_nan_ends_the_search(always: bool, preview: bool, stop_at: float | None) -> None:
    sampler = DiffusionSampler(diffusion_model(preview=autoencoder_tiny() if preview else None), steps=2)
    search = NoiseOptimizer(sampler, iterations=2, stop_at=stop_at)
    with pytest.raises(FloatingPointError, match="1 of 3 scores are NaN"):
        search(score(Broken(always=always)), labels(), seeds=seeds())


@pytest.mark.parametrize("part", ["a row's latents", "preview"])
def test_what_is_not_finite_ends_the_search_where_nothing_is_read(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU, where neither images nor logits are checked on the sampler."""
    monkeypatch.setattr(Network, "__call__", lambda network, images: network.module(images))
    monkeypatch.setattr("hard_aug.synthesis.score.check_finite", lambda images: None)
    monkeypatch.setattr(FiniteCheck, "_reads", lambda check, values: False)
    preview = autoencoder_tiny()
    parts = diffusion_model(preview=preview if part == "preview" else None)
    broken = next(preview.decoder.parameters()) if part == "preview" else parts.denoiser.class_embedding.weight[1]
    with torch.no_grad():
        broken.fill_(math.nan)
    assert Unguided(DiffusionSampler(parts, steps=2))(score(), labels(1), seeds=seeds(1)).images.isfinite().all()
    with pytest.raises(FloatingPointError, match=r"(1|3) of 3 scores are NaN"):
        NoiseOptimizer(DiffusionSampler(parts, steps=2), iterations=2)(score(), labels(), seeds=seeds())


def test_within_no_grad() -> None:
    sampler = make_sampler(steps=2)
    with torch.no_grad():
        inside = NoiseOptimizer(sampler, iterations=2)(score(), labels(), seeds=seeds())
    outside = NoiseOptimizer(sampler, iterations=2)(score(), labels(), seeds=seeds())
    assert torch.equal(inside.images, outside.images)
    assert not outside.images.requires_grad
    assert not outside.scores_after.requires_grad


def test_bad_settings() -> None:
    for settings, message in (
        ({"iterations": 0}, "iterations=0"),
        ({"backprop_steps": 0}, "backprop_steps=0"),
        ({"backprop_steps": 1.5}, r"backprop_steps=1\.5"),
        ({"learning_rate": 0.0}, r"learning_rate=0\.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"learning_rate": math.inf}, "learning_rate=inf"),
    ):
        with pytest.raises(ValueError, match=message):
            NoiseOptimizer(make_sampler(), **settings)


def test_stochastic_sampling_is_optimised_as_a_whole() -> None:
    sampler = DiffusionSampler(diffusion_model(), steps=3, eta=0.3)
    with pytest.raises(ValueError, match=r"backprop_steps=2 of 3 steps, with eta=0\.3: .* use backprop_steps=None"):
        NoiseOptimizer(sampler, backprop_steps=2)
    for backprop_steps in (None, 3, 9):
        found = NoiseOptimizer(sampler, iterations=1, backprop_steps=backprop_steps)(score(), labels(), seeds=seeds())
        assert bool((found.scores_after >= found.scores_before).all())
