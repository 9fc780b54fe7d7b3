"""Noise levels of schedulers: those at which they add noise, and the first-order limits of their own steps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.noise_schedule import make_noise_schedule
from hard_aug.generative.scheduler_settings import FAMILIES, prediction_type, scheduler_family
from tests.helpers.generative_parts import labels
from tests.helpers.scheduler_parts import STEPS, Denoiser, difference, made, our_samples, own_samples, start

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of NumPy, by diffusers
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "DPMSolverSDEScheduler"])
def test_levels_are_those_at_which_the_scheduler_adds_noise(name: str) -> None:
    """Of the classes too whose own steps are of a higher order, or random."""
    scheduler = getattr(diffusers, name)()
    schedule = make_noise_schedule(scheduler, 6, CPU)
    scheduler.set_timesteps(6)
    clean, noise = start(), start().flip(0)
    for index, time in enumerate(schedule.timesteps):
        given = scheduler.timesteps[scheduler.timesteps.float() == time.float()][:1]
        scheduler._step_index = None
        if hasattr(scheduler, "add_noise"):
            noisy = scheduler.add_noise(clean, noise, given)
            noisy = scheduler.scale_model_input(noisy, given[0])
        else:
            noisy = scheduler.scale_noise(clean, given[0] if "Heun" in name else given, noise)
        expected = schedule.signal[index] * clean + schedule.noise[index] * noise
        assert torch.allclose(noisy, expected, atol=1e-5)
    assert len(schedule) == 6 or name == "PNDMScheduler"


def test_repeated_timesteps_are_steps_of_their_own() -> None:
    """Rounded to integers, the small sigmas of many steps are at one timestep."""
    settings = {"use_karras_sigmas": True, "prediction_type": "v_prediction"}
    scheduler = made("DPMSolverMultistepScheduler", settings)
    schedule = make_noise_schedule(scheduler, 80, CPU)
    assert len(schedule) == 80 > len(schedule.timesteps.unique())
    with torch.no_grad():
        own = own_samples(made("DPMSolverMultistepScheduler", settings), 80)
        assert difference(our_samples(scheduler, 80), own) < 5e-5


def test_the_first_step_of_second_order_is_the_schedulers_own() -> None:
    for name in ("HeunDiscreteScheduler", "FlowMatchHeunDiscreteScheduler"):
        scheduler = made(name, {"clip_sample": True, "clip_sample_range": 0.7})
        scheduler.set_timesteps(STEPS)
        time, sample = scheduler.timesteps[0], start() * float(getattr(scheduler, "init_noise_sigma", 1.0))
        sampler = DiffusionSampler(DiffusionModel(Denoiser(), scheduler), steps=STEPS)
        with torch.no_grad():
            shown = scheduler.scale_model_input(sample, time) if hasattr(scheduler, "scale_model_input") else sample
            own = scheduler.step(Denoiser()(shown, time)[0], time, sample, return_dict=False)[0]
            if scheduler_family(scheduler).levels == "scaled":
                own = own / (1 + scheduler.sigmas[1] ** 2).sqrt()
            found = sampler.step(*sampler.predict(sampler.start(start(), None), labels(2), 0), 0, None)
        assert difference(found, own) < 1e-5


@pytest.mark.parametrize("settings", [{}, {"thresholding": True, "sample_max_value": 2.0}, {"clip_sample_range": 0.5}])
def test_a_step_of_ddpm_is_the_schedulers_own(settings: dict[str, Any]) -> None:
    """With the `eta` that gives its posterior's standard deviation, for one step."""
    scheduler = diffusers.DDPMScheduler(**settings)
    scheduler.set_timesteps(STEPS)
    sampler = DiffusionSampler(DiffusionModel(Denoiser(), scheduler), steps=STEPS)
    index, fresh = 2, torch.randn(start().shape, generator=torch.Generator().manual_seed(5))
    time = scheduler.timesteps[index]
    variance = float(scheduler._get_variance(time))
    sampler.eta = variance**0.5 / float(sampler.noise_schedule.next_noise[index])
    with torch.no_grad():
        output = Denoiser()(start(), time)[0]
        own = scheduler.step(output, time, start(), generator=torch.Generator().manual_seed(5), return_dict=False)[0]
        found = sampler.step(*sampler.predict(start(), labels(2), index), index, fresh)
    assert difference(found, own) < 1e-5


EXACT = [
    ("DDIMScheduler", {"timestep_spacing": "linspace"}),
    ("DDIMScheduler", {"set_alpha_to_one": False, "steps_offset": 1}),
    ("DPMSolverMultistepScheduler", {"final_sigmas_type": "sigma_min", "use_karras_sigmas": True}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "trailing"}),
    ("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
]


@pytest.mark.parametrize(("name", "settings"), EXACT)
def test_inversion_leads_back_at_all_levels(name: str, settings: dict[str, Any]) -> None:
    """Exactly, if the denoiser predicts one noise whatever the sample."""
    noise, clean = start().flip(0), 0.4 * torch.tanh(start())
    scheduler = made(name, {"clip_sample": False} | settings)
    flow = prediction_type(scheduler) == "flow_prediction"
    denoiser = Denoiser()
    denoiser.forward = lambda sample, timestep: (noise - clean if flow else noise,)  # type: ignore[method-assign, assignment]
    sampler = DiffusionSampler(DiffusionModel(denoiser, scheduler), steps=STEPS, strength=0.8)
    with torch.no_grad():
        found = sampler.invert(clean, labels(2))
        back = sampler.run(sampler.start(found, clean), labels(2))
    assert torch.allclose(back, clean, atol=1e-3 if flow else 2e-5)  # of flow, it starts at a sample without noise
