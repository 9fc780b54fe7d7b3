"""NoiseSchedule, predictions, and unguided sampling, against closed forms and the schedulers' own steps."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.generative.noise_schedule import make_noise_schedule, split_prediction
from hard_aug.generative.scheduler_settings import PREDICTION_TYPES, prediction_type
from hard_aug.synthesis import Unguided
from tests.helpers.generative_parts import (
    CHANNELS,
    LATENT,
    SIZE,
    Classifier,
    ddim,
    labels,
    pixel_diffusion_model,
    score,
    seeds,
    unet,
)

diffusers = pytest.importorskip("diffusers")
CPU = torch.device("cpu")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", PREDICTION_TYPES)
@pytest.mark.parametrize("noise", [0.05, 0.6, 0.95])
def test_predictions_against_their_definitions(kind: str, noise: float) -> None:
    flow = kind == "flow_prediction"
    signal = 1 - noise if flow else math.sqrt(1 - noise**2)
    clean, e = normal(4, 2, 3, 3).double(), normal(4, 2, 3, 3, seed=1).double()
    sample = signal * clean + noise * e
    output = {
        "epsilon": e,
        "v_prediction": signal * e - noise * clean,
        "sample": clean,
        "flow_prediction": e - clean,
    }[kind]
    found = split_prediction(kind, sample, output, torch.tensor(signal).double(), torch.tensor(noise).double())
    assert torch.allclose(found[0], clean, atol=1e-6)
    assert torch.allclose(found[1], e, atol=1e-6)


def test_v_prediction_is_what_diffusers_trains() -> None:
    scheduler, clean, e = ddim(), normal(2, 2, 4, 4), normal(2, 2, 4, 4, seed=1)
    schedule = make_noise_schedule(scheduler, 5, CPU)
    for index, time in enumerate(schedule.timesteps):
        sample = scheduler.add_noise(clean, e, time)
        assert torch.allclose(sample, schedule.signal[index] * clean + schedule.noise[index] * e, atol=1e-5)
        output = scheduler.get_velocity(clean, e, time)
        parts = split_prediction("v_prediction", sample, output, schedule.signal[index], schedule.noise[index])
        assert torch.allclose(parts[0], clean, atol=1e-5)
        assert torch.allclose(parts[1], e, atol=1e-5)


#: Noise that the own steps of schedulers leave: that of the first entry of the table.
ENDS = {"PNDMScheduler": 0.01, "DEISMultistepScheduler": 0.01, "TCDScheduler": 0.0291548}


@pytest.mark.parametrize(
    "name",
    [
        "DDIMScheduler",
        "DDPMScheduler",
        "LCMScheduler",
        "PNDMScheduler",
        "EulerDiscreteScheduler",
        "EulerAncestralDiscreteScheduler",
        "HeunDiscreteScheduler",
        "LMSDiscreteScheduler",
        "KDPM2DiscreteScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
        "UniPCMultistepScheduler",
        "TCDScheduler",
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "FlowMatchLCMScheduler",
    ],
)
def test_every_scheduler_has_decreasing_noise_and_is_not_modified(name: str) -> None:
    scheduler = getattr(diffusers, name)()
    before = copy.deepcopy(scheduler.__dict__)
    schedule = make_noise_schedule(scheduler, 6, CPU)
    for key, value in before.items():
        now = scheduler.__dict__[key]
        assert torch.allclose(now, value, 0, 0, True) if isinstance(value, Tensor) else str(now) == str(value)
    assert len(schedule.signal) == len(schedule.noise) == len(schedule.timesteps) + 1
    assert len(schedule) == 6 or name.startswith("PNDM")
    assert float(schedule.noise[-1]) == pytest.approx(ENDS.get(name, 0.0), abs=1e-4)
    assert float(schedule.next_noise[-1]) == float(schedule.noise[-1])
    assert float(schedule.next_signal[-1]) == float(schedule.signal[-1])
    assert bool((schedule.noise[:-1].diff() < 0).all())
    assert float(schedule.noise[-1]) < float(schedule.noise[-2]) or name == "PNDMScheduler"
    assert bool((schedule.timesteps.diff() < 0).all())
    assert bool(schedule.noise.isfinite().all())
    if name.startswith("FlowMatch"):
        assert torch.allclose(schedule.signal + schedule.noise, torch.ones(len(schedule) + 1), atol=1e-6)
    else:
        assert torch.allclose(schedule.signal**2 + schedule.noise**2, torch.ones(len(schedule) + 1), atol=1e-6)
    if not name.startswith("PNDM"):  # its warm-up requires four
        assert len(make_noise_schedule(scheduler, 1, CPU)) == 1


def test_levels_between_times() -> None:
    # Karras's sigmas fall between the table's, and their times are the scheduler's own inverse of its table.
    scheduler = diffusers.EulerDiscreteScheduler(use_karras_sigmas=True)
    schedule = make_noise_schedule(scheduler, 7, CPU)
    assert not bool((schedule.timesteps == schedule.timesteps.round()).all())
    scheduler.set_timesteps(7)
    assert torch.allclose((schedule.noise / schedule.signal)[:-1], scheduler.sigmas[:7].float(), rtol=2e-3)


def test_a_schedule_that_begins_without_signal() -> None:
    def scheduler(kind: str) -> Any:
        return ddim(rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type=kind)

    sampler = DiffusionSampler(pixel_diffusion_model(scheduler("v_prediction")), steps=4)
    assert float(sampler.noise_schedule.signal[0]) == 0
    assert float(sampler.noise_schedule.noise[0]) == 1
    found = Unguided(sampler)(score(), labels(), seeds=seeds())
    assert bool(found.images.isfinite().all())
    with pytest.raises(ValueError, match="starts at zero signal"):
        make_noise_schedule(scheduler("epsilon"), 4, CPU)


def own_steps(scheduler: Any, denoiser: Any, sample: Tensor, given: Tensor, steps: int, **more: Any) -> Tensor:
    """Sample as the pipelines of diffusers do."""
    scheduler.set_timesteps(steps)
    for time in scheduler.timesteps:
        shown = scheduler.scale_model_input(sample, time) if hasattr(scheduler, "scale_model_input") else sample
        output = denoiser(shown, time, class_labels=given).sample
        sample = scheduler.step(output, time, sample, **more, return_dict=False)[0]
    return sample


OWN = {
    "ddim": ("DDIMScheduler", {"clip_sample": False}),
    "ddim, trailing v": (
        "DDIMScheduler",
        {"clip_sample": False, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    ),
    "ddim, sample": ("DDIMScheduler", {"clip_sample": False, "prediction_type": "sample"}),
    "ddim of pixels": ("DDIMScheduler", {"clip_sample": True, "clip_sample_range": 0.8}),
    "euler": ("EulerDiscreteScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    "euler, trailing v": (
        "EulerDiscreteScheduler",
        {"timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    ),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}),
    "flow, shifted": ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    "dpm": ("DPMSolverMultistepScheduler", {"solver_order": 1, "final_sigmas_type": "zero"}),
}


@pytest.mark.parametrize("name", OWN)
def test_unguided_sampling_is_the_schedulers_own(name: str) -> None:
    kind, settings = OWN[name]
    scheduler = getattr(diffusers, kind)(**settings)
    denoiser, given = unet(size=LATENT), labels()
    sampler = DiffusionSampler(DiffusionModel(denoiser, scheduler), steps=5)
    noise = normal(3, CHANNELS, LATENT, LATENT)
    with torch.no_grad():
        found = sampler.run(sampler.start(noise, None), given)
        start = noise
        if kind == "EulerDiscreteScheduler":  # its samples are x0 + sigma e
            scheduler.set_timesteps(5)
            start = noise * (scheduler.sigmas[0] ** 2 + 1).sqrt()
        expected = own_steps(scheduler, denoiser, start, given, 5)
    assert float(expected.std()) > 0.1
    assert torch.allclose(found, expected, atol=2e-5 * float(expected.abs().max().clamp(min=1)))


def test_truncated_sampling_is_the_schedulers_own() -> None:
    """SDEdit: noise is added to the image at an intermediate timestep, and the remaining steps are run."""
    scheduler, denoiser, given = ddim(), unet(size=LATENT), labels()
    sampler = DiffusionSampler(DiffusionModel(denoiser, scheduler), steps=5, strength=0.6)
    clean, noise = 0.5 * normal(3, CHANNELS, LATENT, LATENT), normal(3, CHANNELS, LATENT, LATENT, seed=1)
    assert len(sampler) == 3
    assert list(sampler.indices) == [2, 3, 4]
    scheduler.set_timesteps(5)
    with torch.no_grad():
        sample = scheduler.add_noise(clean, noise, scheduler.timesteps[2])
        assert torch.allclose(sampler.start(noise, clean), sample, atol=1e-5)
        for time in scheduler.timesteps[2:]:
            sample = scheduler.step(denoiser(sample, time, class_labels=given).sample, time, sample).prev_sample
        found = sampler.run(sampler.start(noise, clean), given)
    assert torch.allclose(found, sample, atol=1e-5)


def test_consistency_sampling_is_the_schedulers_own() -> None:
    scheduler = diffusers.LCMScheduler(original_inference_steps=20)
    denoiser, given = unet(size=LATENT), labels()
    sampler = DiffusionSampler(DiffusionModel(denoiser, scheduler), steps=4)
    assert sampler.eta == 1
    noise = normal(3, CHANNELS, LATENT, LATENT)
    drawn = torch.Generator().manual_seed(5)
    fresh = torch.stack([torch.randn(noise.shape, generator=drawn) for _ in range(4)])
    with torch.no_grad():
        found = sampler.run(noise, given, step_noise=fresh)
        again = sampler.run(noise, given, step_noise=fresh)
        other = sampler.run(noise, given, step_noise=-fresh)
        expected = own_steps(scheduler, denoiser, noise, given, 4, generator=torch.Generator().manual_seed(5))
    assert torch.equal(found, again)
    assert not torch.allclose(found, other, atol=1e-3)
    assert torch.allclose(found, expected, atol=1e-5 * float(expected.abs().max()))
    with pytest.raises(ValueError, match=r"expected fresh noise step_noise="):
        sampler.run(noise, given)


def test_views_and_recurrence_do_not_replay_the_noise_of_other_images() -> None:
    search, what = Unguided(DiffusionSampler(pixel_diffusion_model(), steps=2)), score()
    inputs = search._prepare(what, labels(), torch.arange(3), None, None)
    starts = noise_from_seeds(torch.arange(20), (1, CHANNELS, SIZE, SIZE), CPU).flatten(1)
    for generator in inputs.generators:
        drawn = torch.randn((1, CHANNELS, SIZE, SIZE), generator=generator).flatten()
        assert float((starts @ drawn / drawn.numel()).abs().max()) < 0.25


def test_bad_schedulers_and_samplers() -> None:
    with pytest.raises(ValueError, match=r"prediction_type='nonsense': expected one of epsilon"):
        prediction_type(ddim(prediction_type="nonsense"))
    for kind in ("CMStochasticIterativeScheduler", "EDMEulerScheduler", "DDIMInverseScheduler"):
        with pytest.raises(ValueError, match=rf"{kind} is none of those .*use .*DDIMScheduler\.from_config"):
            DiffusionModel(unet(), getattr(diffusers, kind)())
    with pytest.raises(ValueError, match="prediction 'noise'"):
        split_prediction("noise", torch.ones(1), torch.ones(1), torch.ones(()), torch.ones(()))
    reverse = ddim()
    reverse.alphas_cumprod = reverse.alphas_cumprod.flip(0)
    with pytest.raises(ValueError, match=r"expected decreasing noise; use another scheduler, .*DDIMScheduler"):
        make_noise_schedule(reverse, 4, CPU)
    for steps in (0, 1001, 2.5):
        with pytest.raises(ValueError, match="expected an integer from 1 to 1000"):
            make_noise_schedule(ddim(), steps, CPU)  # type: ignore[arg-type]
    parts = DiffusionModel(unet(), ddim())
    for strength in (0.0, -1.0, 1.1, math.nan):
        with pytest.raises(ValueError, match="expected a fraction in"):
            DiffusionSampler(parts, strength=strength)
    for eta in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="eta"):
            DiffusionSampler(parts, eta=eta)
    with pytest.raises(ValueError, match="give images=, or strength=1"):
        Unguided(DiffusionSampler(parts, strength=0.5))(score(), labels(), seeds=seeds())
    assert len(DiffusionSampler(parts, steps=3, strength=1e-6)) == 1
    assert isinstance(Classifier(1)(torch.rand(1, CHANNELS, SIZE, SIZE)), Tensor)
