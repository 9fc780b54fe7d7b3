"""Noise schedules and predictions: one form for all schedulers of diffusers.

At each step a noisy latent is `x = signal * x0 + noise * e`, with `x0` clean and `e` standard normal:

| schedulers | signal | noise |
|---|---|---|
| with a table `alphas_cumprod`, `ab` (DDIM, DDPM, LCM, PNDM, TCD) | `sqrt(ab)` | `sqrt(1 - ab)` |
| with sigmas (Euler, Heun, DPM-Solver, UniPC) | `1 / sqrt(1 + sigma^2)` | `sigma signal` |
| flow matching (`FlowMatch...`, or `use_flow_sigmas`) | `1 - sigma` | `sigma` |

Schedulers with another scale (Euler's samples are `x0 + sigma e`) convert to this form with `scale_model_input` before
they call the denoiser, so nothing is lost. The denoiser's output gives both components:

| prediction | x0 | e |
|---|---|---|
| `epsilon` | `(x - noise out) / signal` | `out` |
| `v_prediction` | `signal x - noise out` | `noise x + signal out` |
| `sample` | `out` | `(x - signal out) / noise` |
| `flow_prediction` | `x - noise out` | `x + signal out` |

(Salimans & Ho, arXiv:2202.00512; Lipman et al., arXiv:2210.02747.) The schedulers' own `step` is not used: some do not
return `x0`, and many keep a counter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hard_aug.generative.known_settings import own_settings
from hard_aug.generative.scheduler_settings import (
    PREDICTION_TYPES,
    check_scheduler,
    has_flow_levels,
    prediction_type,
    scheduler_family,
)
from hard_aug.utils.checks import is_integer


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of the sampling steps, from the noisiest to the clean image.

    Step `i` takes a sample of level `i` to the next level, which is level `i + 1` but for the rounding of some
    schedulers (DDIM's with `timestep_spacing="linspace"`), whose denoiser is told a slightly different level.

    Attributes:
        timesteps: `(N,)`, the timesteps given to the denoiser.
        signal: `(N + 1,)` float32, factor of the clean image; the last is that of the result, usually 1.
        noise: `(N + 1,)` float32, standard deviation of the noise; the last is that of the result, usually 0.
        next_signal: `(N,)` float32, `signal` of what each step returns.
        next_noise: `(N,)` float32, `noise` of what each step returns.
        start: standard deviation of pure noise that sampling starts from; 1 but for some schedulers (Euler's).
        boundary: `(N, 2)` float32, weights of the sample and of the predicted clean image in the one that a consistency
            model returns; None for others.
    """

    timesteps: Tensor
    signal: Tensor
    noise: Tensor
    next_signal: Tensor
    next_noise: Tensor
    start: float = 1.0
    boundary: Tensor | None = None

    def __len__(self) -> int:
        return len(self.timesteps)


def make_noise_schedule(scheduler: Any, steps: int, device: torch.device) -> NoiseSchedule:
    """Build the noise schedule of `steps` steps with the scheduler's own spacing; the scheduler is not modified.

    Args:
        scheduler: a scheduler of diffusers.
        steps: number of sampling steps.
        device: device of the tensors.

    Raises:
        ValueError: a scheduler that is not served, more steps than in training, or a schedule that does not begin with
            the most noise.
    """
    check_scheduler(scheduler)
    settings, family = own_settings(scheduler), scheduler_family(scheduler)
    name, trained = type(scheduler).__name__, int(settings.get("num_train_timesteps", 1000))
    if not (is_integer(steps) and 1 <= int(steps) <= trained):
        raise ValueError(f"steps={steps}: expected an integer from 1 to {trained}")
    scheduler = copy.deepcopy(scheduler)
    try:
        scheduler.set_timesteps(int(steps))
    except (ValueError, ZeroDivisionError, IndexError) as error:
        raise ValueError(f"{name} has no schedule of {steps} steps: {error}; give another number of steps") from error
    given = scheduler.timesteps.cpu()
    count = len(given)
    every = int(getattr(scheduler, "order", 1))  # second-order schedulers list a midpoint, or a level twice
    timesteps = given[::every].float()
    if family.levels == "table":
        timesteps = timesteps[_first(timesteps)]
        signal, noise, following = _of_table(scheduler, timesteps.long(), int(steps))
    else:
        sigmas = scheduler.sigmas.cpu()
        sigmas = torch.cat((sigmas[:count:every], sigmas[count : count + 1])).double()
        scale = 1 / (1 + sigmas**2).sqrt()
        if family.levels == "scaled":  # the result, `x0 + sigma e`, is shown to no denoiser
            scale[-1] = 1
        signal, noise = (1 - sigmas, sigmas) if has_flow_levels(scheduler) else (scale, sigmas * scale)
        following = torch.stack((signal[1:], noise[1:]))
    if bool((noise.diff() > 1e-6).any()):
        raise ValueError(
            f"{name} has noise levels {[round(float(level), 4) for level in noise]}: expected decreasing noise; use "
            "another scheduler, such as diffusers.DDIMScheduler.from_config(scheduler.config)"
        )
    if prediction_type(scheduler) == "epsilon" and float(signal[0]) == 0:
        raise ValueError(
            f"{name} starts at zero signal, where a prediction of epsilon does not determine the image; use "
            "rescale_betas_zero_snr=False, or a denoiser with another prediction_type"
        )
    boundary = _boundary(scheduler, timesteps)
    integral = bool((timesteps == timesteps.round()).all())
    next_signal, next_noise = following.float().to(device)
    return NoiseSchedule(
        (timesteps.long() if integral else timesteps).to(device),
        signal.float().to(device),
        noise.float().to(device),
        next_signal,
        next_noise,
        start=float(scheduler.init_noise_sigma * signal[0]) if family.levels == "scaled" else 1.0,
        boundary=None if boundary is None else boundary.to(device),
    )


def _first(timesteps: Tensor) -> Tensor:
    """Return which timesteps differ from the one before; PNDM's repeats some."""
    return torch.cat((torch.ones(1, dtype=torch.bool, device="cpu"), timesteps.diff() != 0))


def _of_table(scheduler: Any, timesteps: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return signal and noise at the timesteps and of the result, and both `(2, N)` where each step ends."""
    family = scheduler_family(scheduler)
    table = scheduler.alphas_cumprod.cpu().double()
    last = {"one": 1.0, "first": table[0]}.get(family.final, getattr(scheduler, "final_alpha_cumprod", 1.0))
    kept = torch.cat((table[timesteps], torch.as_tensor(last, dtype=torch.float64, device="cpu").view(1)))
    following = kept[1:]
    if family.strides:
        ends = timesteps - scheduler.config.num_train_timesteps // steps
        following = torch.where(ends >= 0, table[ends.clamp(min=0)], kept[-1])
        kept = torch.cat((kept[:-1], following[-1:]))
    return kept.sqrt(), (1 - kept).sqrt(), torch.stack((following.sqrt(), (1 - following).sqrt()))


def _boundary(scheduler: Any, timesteps: Tensor) -> Tensor | None:
    scalings = getattr(scheduler, "get_scalings_for_boundary_condition_discrete", None)
    if scalings is None:
        return None
    rows = [[float(scale) for scale in scalings(time)] for time in timesteps]
    return torch.tensor(rows, dtype=torch.float32, device="cpu")


def split_prediction(kind: str, sample: Tensor, output: Tensor, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """Compute `x0` and `e` from a noisy sample and the denoiser's output; see the module's docstring.

    Args:
        kind: one of `PREDICTION_TYPES`.
        sample: `(B, c, h, w)`.
        output: `(B, c, h, w)`, the denoiser's output for the sample.
        signal: scalar, signal of the sample.
        noise: scalar, noise level of the sample.

    Raises:
        ValueError: `kind` is unknown.
    """
    if kind == "epsilon":
        return (sample - noise * output) / signal, output
    if kind == "v_prediction":
        return signal * sample - noise * output, noise * sample + signal * output
    if kind == "sample":
        return output, (sample - signal * output) / noise
    if kind == "flow_prediction":
        return sample - noise * output, sample + signal * output
    raise ValueError(f"prediction {kind!r}: expected one of {', '.join(PREDICTION_TYPES)}")
