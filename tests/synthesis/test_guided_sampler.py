"""GuidedSampler: stochastic and clamped steps against closed forms, presets, counts, smoothing and bad settings."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.generative import NFE, DiffusionSampler
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.objectives import KL, ConfidenceGap, ConfidenceMargin
from hard_aug.synthesis import GuidedSampler, RandomCrops, Unguided
from hard_aug.synthesis.guided_sampler import MIN_RATIO, unit_rms
from tests.helpers.generative_parts import (
    CHANNELS,
    CLASSES,
    LATENT,
    ddim,
    diffusion_model,
    labels,
    make_sampler,
    pictures,
    pixel_diffusion_model,
    score,
    seeds,
)

diffusers = pytest.importorskip("diffusers")


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", ["DDIM", "LCM"])
def test_classifier_guidance_with_stochastic_sampling(name: str, eta: float) -> None:
    """The edit of `e` reaches the next level through `x0` and through what is kept of `e`."""
    steps, scale, what = 3, 2.0, score(ConfidenceGap(2.0))
    scheduler = getattr(diffusers, f"{name}Scheduler")(prediction_type="v_prediction", timestep_spacing="trailing")
    if name == "DDIM":
        scheduler = ddim(beta_start=1e-3, beta_end=8e-3)
    sampler = DiffusionSampler(
        diffusion_model(scheduler), steps=steps, eta=eta, strength=1.0 if name == "DDIM" else 0.5
    )
    real = None if name == "DDIM" else pictures()
    settings = {"rho": scale, "shape": "classifier", "normalized": False, "measure_before": False}
    found = GuidedSampler(sampler, **settings)(what, labels(), seeds=seeds(), images=real).images
    signal, noise = sampler.noise_schedule.signal, sampler.noise_schedule.noise
    assert all(float(signal[i] / signal[i + 1]) > MIN_RATIO for i in sampler.indices)
    reference = what.reference(real, labels(), classes=CLASSES)
    count = 1 + (len(sampler) if eta else 0)
    drawn = noise_from_seeds(seeds(), (count, CHANNELS, LATENT, LATENT), torch.device("cpu")).movedim(1, 0)
    x = (
        drawn[0]
        if real is None
        else signal[sampler.first] * sampler.model.encode(real) + noise[sampler.first] * drawn[0]
    )
    for row, i in enumerate(sampler.indices):
        x = x.detach().requires_grad_()
        x0, e = sampler.predict(x, labels(), i)
        (gradient,) = torch.autograd.grad(what(sampler.model.decode(x0), reference).sum(), x)
        e_edited = e - scale * noise[i] * gradient
        x0_edited = x0 + (noise[i] / signal[i]) * (e - e_edited)  # the same x
        fresh = eta * drawn[1 + row] if eta else 0.0
        x = signal[i + 1] * x0_edited + noise[i + 1] * ((1 - eta**2) ** 0.5 * e_edited + fresh)
    assert torch.allclose(found, sampler.model.decode(x).detach(), atol=1e-5)
    plain = Unguided(sampler)(what, labels(), seeds=seeds(), images=real).images
    assert float((found - plain).abs().max()) > 0.01


def cosine(**settings: Any) -> Any:
    """The schedule of the shipped models."""
    return ddim(beta_schedule="squaredcos_cap_v2", timestep_spacing="trailing", **settings)


def test_which_steps_are_clamped() -> None:
    """The first step of sampling from nearly pure noise."""
    for scheduler, clamped in ((cosine(), [0]), (ddim(), []), (ddim(timestep_spacing="trailing"), [])):
        signal = make_sampler(scheduler, steps=10).noise_schedule.signal
        ratios = (signal[:-1] / signal[1:]).tolist()
        assert [row for row, ratio in enumerate(ratios) if ratio < MIN_RATIO] == clamped
        if clamped:
            assert ratios[0] == pytest.approx(0.00032, abs=1e-5)


@pytest.mark.parametrize("shape", ["constant", "noise", "classifier"])
def test_the_clamped_step(shape: Any) -> None:
    """Its push is `rho_t / MIN_RATIO` times the gradient, with that ratio in the classifier's `rho_t` too."""
    steps, rho, what = 10, 3.0, score(ConfidenceGap(2.0))
    sampler = DiffusionSampler(diffusion_model(cosine()), steps=steps)
    settings = {"rho": rho, "shape": shape, "normalized": False, "measure_before": False, "window": (0.0, 1 / steps)}
    found = GuidedSampler(sampler, **settings)(what, labels(), seeds=seeds()).images
    signal, noise = sampler.noise_schedule.signal, sampler.noise_schedule.noise
    reference = what.reference(None, labels(), classes=CLASSES)
    x = noise_from_seeds(seeds(), (1, CHANNELS, LATENT, LATENT), torch.device("cpu"))[:, 0].requires_grad_()
    x0, e = sampler.predict(x, labels(), 0)
    (gradient,) = torch.autograd.grad(what(sampler.model.decode(x0), reference).sum(), x)
    factor = {"constant": 1.0, "noise": noise[0], "classifier": noise[0] * (noise[0] - MIN_RATIO * noise[1])}[shape]
    with torch.no_grad():
        x = signal[1] * x0 + noise[1] * e + rho * factor / MIN_RATIO * gradient
        for index in range(1, steps):
            x0, e = sampler.predict(x, labels(), index)
            x = signal[index + 1] * x0 + noise[index + 1] * e
        expected = sampler.model.decode(x)
    assert torch.allclose(found, expected, atol=1e-5)
    plain = Unguided(sampler)(what, labels(), seeds=seeds()).images
    assert float((found - plain).abs().max()) > 0.01


def test_presets() -> None:
    sampler = make_sampler()
    assert vars(GuidedSampler.mpgd(sampler, step=0.2)) == vars(GuidedSampler(sampler, mu=0.2, mu_shape="noise"))
    assert vars(GuidedSampler.classifier(sampler, scale=2.0)) == vars(
        GuidedSampler(sampler, rho=2.0, shape="classifier")
    )
    unguided = Unguided(sampler)(score(), labels(), seeds=seeds())
    found = GuidedSampler(sampler)(score(), labels(), seeds=seeds())
    assert torch.equal(found.images, unguided.images)
    assert torch.equal(found.scores_before, found.scores_after)


@pytest.mark.parametrize(
    "settings", [{"mu": 0.5}, {"rho": 0.5}, {"rho": 1.0, "shape": "classifier"}, {"mu": 0.2, "recurrence": 2}]
)
@pytest.mark.parametrize("objective", [ConfidenceGap(2.0, start=1.0), ConfidenceMargin(), KL()])
def test_guidance_raises_the_score(settings: dict[str, Any], objective: Any) -> None:
    sampler = make_sampler(diffusers.EulerDiscreteScheduler(prediction_type="v_prediction"), steps=4)
    found = GuidedSampler(sampler, **settings)(score(objective), labels(), seeds=seeds())
    unguided = Unguided(sampler)(score(objective), labels(), seeds=seeds())
    assert torch.equal(found.scores_before, unguided.scores_after)
    assert bool((found.scores_after > found.scores_before).all())
    assert torch.allclose(score(objective).evaluate(found.images, reference_of(objective)), found.scores_after)


def reference_of(objective: Any) -> Any:
    return score(objective).reference(None, labels(), classes=CLASSES)


@pytest.mark.parametrize("name", ["DDIM", "EulerDiscrete", "FlowMatchEulerDiscrete", "LCM", "DPMSolverMultistep"])
@pytest.mark.parametrize("steps", [1, 3])
def test_every_scheduler_is_guided(name: str, steps: int) -> None:
    sampler = make_sampler(getattr(diffusers, f"{name}Scheduler")(), steps=steps)
    for settings in ({"mu": 0.3, "smooth": 2, "smooth_sigma": 0.1}, {"rho": 0.2, "recurrence": 2}):
        found = GuidedSampler(sampler, **settings)(score(), labels(), seeds=seeds())
        assert bool(found.images.isfinite().all())
        assert 0 <= float(found.images.min()) <= float(found.images.max()) <= 1
        again = GuidedSampler(sampler, **settings)(score(), labels(), seeds=seeds())
        assert torch.equal(found.images, again.images)


def test_counts() -> None:
    rows, steps, iterations, recurrence, smooth = 3, 4, 2, 2, 3
    guided = 2  # of four steps in the window

    def spent(*, images: Tensor | None = None, scale: float = 1.0, **settings: Any) -> Any:
        sampler = DiffusionSampler(diffusion_model(guidance_scale=scale), steps=steps)
        found = GuidedSampler(sampler, window=(0.0, 0.5), **settings)(score(), labels(), seeds=seeds(), images=images)
        return found.nfe

    for measured in (True, False):  # what `scores_before` costs is not counted
        gradients = guided * iterations * rows
        assert spent(mu=0.1, iterations=iterations, measure_before=measured) == NFE(
            denoiser_forward=steps * rows,
            codec_forward=gradients + rows,
            codec_backward=gradients,
            classifier_forward=2 * (gradients + rows),
            classifier_backward=2 * gradients,
        )
    calls = guided * recurrence
    gradients = calls * (iterations + 1) * smooth * rows
    everything = {"iterations": iterations, "recurrence": recurrence, "smooth": smooth, "smooth_sigma": 0.1}
    assert spent(mu=0.1, rho=0.1, scale=2.0, images=pictures(), **everything) == NFE(
        denoiser_forward=2 * (calls + steps - guided) * rows,
        denoiser_backward=2 * calls * rows,
        codec_forward=rows + gradients + rows,  # the real images' latents, the searches' and the final images
        codec_backward=gradients,
        classifier_forward=rows + 2 * (gradients + rows),  # the teacher's prediction for the real images
        classifier_backward=2 * gradients,
    )
    assert spent() == NFE(denoiser_forward=12, codec_forward=3, classifier_forward=6)


def test_one_graph_is_held_at_a_time() -> None:
    """Noisy copies are differentiated one after the other, so more of them take no more memory."""
    most = []
    for smooth in (1, 4):
        held, peak = 0, 0

        class Saved:
            def __init__(self, value: Tensor) -> None:
                nonlocal held, peak
                self.value, self.size = value, value.numel()
                held += self.size
                peak = max(peak, held)

            def __del__(self) -> None:
                nonlocal held
                held -= self.size

        search = GuidedSampler(make_sampler(steps=1), mu=0.3, smooth=smooth, smooth_sigma=0.1, measure_before=False)
        with torch.autograd.graph.saved_tensors_hooks(Saved, lambda saved: saved.value):
            search(score(), labels(), seeds=seeds())
        most.append(peak)
    assert 0 < most[1] < 1.2 * most[0]


def test_before_is_unknown_where_it_is_not_measured() -> None:
    found = GuidedSampler.mpgd(make_sampler(), measure_before=False)(score(), labels(), seeds=seeds())
    assert bool(found.scores_before.isnan().all())
    assert bool(found.scores_after.isfinite().all())


def test_randomness_is_the_seeds() -> None:
    def found(which: Tensor, seed: int = 0) -> Tensor:
        search = GuidedSampler(make_sampler(steps=2), mu=0.3, recurrence=2, seed=seed, measure_before=False)
        return search(score(augment=RandomCrops()), labels(), seeds=which).images

    assert torch.equal(found(seeds()), found(seeds()))
    assert not torch.allclose(found(seeds()), found(seeds(), seed=1), atol=1e-3)
    assert not torch.allclose(found(seeds()), found(seeds() + 1), atol=1e-3)


def test_unit_rms() -> None:
    gradient = torch.randn(8, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    rows = gradient * torch.tensor([1.0, 1e-10, 1e-25, 1e-37, 1e20, 0.0, 1.0, 1.0])[:, None, None, None]
    rows[6, 0, 0, 0], rows[7, 1, 2, 2] = torch.inf, torch.nan
    found = unit_rms(rows)
    size = found.square().mean((1, 2, 3)).sqrt()
    assert torch.allclose(size, torch.tensor([1.0, 1, 1, 1, 1, 0, 0, 0]), atol=1e-4)
    assert torch.allclose(found[2], found[2] / size[2])
    assert torch.allclose(F.cosine_similarity(found[:5].flatten(1), gradient[:5].flatten(1)), torch.ones(5), atol=1e-4)
    assert unit_rms(torch.zeros(0, 2, 3, 3)).shape == (0, 2, 3, 3)


def test_a_student_that_is_sure_gives_no_wild_push() -> None:
    """What is left of a gradient has squares that are zeros in float32; its direction is as good as any."""
    found = []
    for surety in (40.0, 52.0):
        sure = score(ConfidenceGap(1.0))
        for network in (sure.teacher, sure.student):
            assert isinstance(network, nn.Sequential)
            with torch.no_grad():
                network[-1].weight.mul_(1e-2)
                network[-1].bias.copy_(torch.tensor([surety, 0.0, 0.0]))
        search = GuidedSampler.mpgd(DiffusionSampler(pixel_diffusion_model(), steps=4), measure_before=False)
        found.append(search(sure, torch.zeros(3, dtype=torch.int64), seeds=seeds()).images)
    assert torch.allclose(*found, atol=1e-2)


def test_bad_settings() -> None:
    for settings, message in (
        ({"mu": -1.0}, "mu=-1.0"),
        ({"rho": float("nan")}, "rho=nan"),
        ({"smooth_sigma": -0.1}, "smooth_sigma"),
        ({"iterations": 0}, "iterations=0"),
        ({"recurrence": 1.5}, "recurrence=1.5"),
        ({"smooth": 0}, "smooth=0"),
        ({"shape": "linear"}, "shape='linear'"),
        ({"window": (0.5, 0.5)}, "window"),
        ({"window": (-0.1, 0.5)}, "window"),
        ({"window": (0.0, 1.5)}, "window"),
        ({"window": (0.8, 1.0)}, "contains none of the sampler's 4 steps; make it wider"),
        ({"window": (0.3, 0.45)}, "none of the sampler's 4 steps"),
        ({"mu_shape": "classifier"}, "mu_shape='classifier': expected constant or noise"),
    ):
        with pytest.raises(ValueError, match=message):
            GuidedSampler(make_sampler(), **settings)
