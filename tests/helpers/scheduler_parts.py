"""A smooth denoiser, and sampling with the schedulers' own steps, to compare with."""

from __future__ import annotations

import inspect
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.generative import DiffusionModel, DiffusionSampler
from tests.helpers.generative_parts import labels

diffusers = pytest.importorskip("diffusers")

STEPS = 5
#: What makes the own step of a class that of the sampler: of the first order, without noise of its own.
FIRST_ORDER: dict[str, dict[str, Any]] = {
    "DDIMScheduler": {},
    "DDIMParallelScheduler": {},
    "CogVideoXDDIMScheduler": {},
    "TCDScheduler": {},
    "LCMScheduler": {},
    "EulerDiscreteScheduler": {},
    "LMSDiscreteScheduler": {},
    "DPMSolverMultistepScheduler": {"solver_order": 1},
    "DPMSolverSinglestepScheduler": {"solver_order": 1, "lower_order_final": True},
    "DEISMultistepScheduler": {"solver_order": 1},
    "UniPCMultistepScheduler": {"solver_order": 1, "disable_corrector": list(range(STEPS))},
    "SASolverScheduler": {"predictor_order": 1, "tau_func": lambda time: 0},
    "FlowMatchEulerDiscreteScheduler": {},
    "FlowMatchLCMScheduler": {},
}
#: The same, of arguments of `step`.
OF_STEP: dict[str, dict[str, Any]] = {"TCDScheduler": {"eta": 0.0}, "LMSDiscreteScheduler": {"order": 1}}


class Denoiser(nn.Module):
    """A smooth function of sample and time, whose predictions of clean images leave [-1, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(1.5 * torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
        self.config = SimpleNamespace(in_channels=3, sample_size=4)

    def forward(self, sample: Tensor, timestep: Tensor) -> tuple[Tensor]:
        time = timestep.float().view(-1, 1, 1, 1) / 1000
        return (2 * torch.tanh(torch.einsum("ij,bjhw->bihw", self.weight, sample) + time),)


def start() -> Tensor:
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def made(name: str, settings: dict[str, Any]) -> Any:
    kind = getattr(diffusers, name)
    known = inspect.signature(kind).parameters
    return kind(**{key: value for key, value in (FIRST_ORDER.get(name, {}) | settings).items() if key in known})


def own_samples(scheduler: Any, steps: int = STEPS) -> Tensor:
    """Sample as the pipelines of diffusers do."""
    denoiser, name = Denoiser(), type(scheduler).__name__
    scheduler.set_timesteps(steps)
    sample = start() * float(getattr(scheduler, "init_noise_sigma", 1.0))
    more = dict(OF_STEP.get(name, {}))
    if "generator" in inspect.signature(scheduler.step).parameters:
        more["generator"] = torch.Generator().manual_seed(5)
    for time in scheduler.timesteps:
        shown = scheduler.scale_model_input(sample, time) if hasattr(scheduler, "scale_model_input") else sample
        if name == "SASolverScheduler":
            scheduler.last_sample = None  # so that nothing is corrected
        sample = scheduler.step(denoiser(shown, time)[0], time, sample, **more, return_dict=False)[0]
    return sample


def our_samples(scheduler: Any, steps: int = STEPS) -> Tensor:
    sampler = DiffusionSampler(DiffusionModel(Denoiser(), scheduler), steps=steps)
    generator = torch.Generator().manual_seed(5)
    fresh = torch.stack([torch.randn(start().shape, generator=generator) for _ in range(steps)])
    return sampler.run(sampler.start(start(), None), labels(2), step_noise=fresh if sampler.eta else None)


def difference(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max()) / max(1.0, float(expected.abs().max()))
