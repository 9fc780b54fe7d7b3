"""Noise schedules and predictions: one form for all schedulers of diffusers.

At each step a noisy latent is `x = signal * x0 + noise * e`, with `x0` clean and `e` standard normal:

| schedulers | signal | noise |
|---|---|---|
| DDIM, DDPM, LCM, PNDM, Euler, DPM-Solver, UniPC (all with `alphas_cumprod`, `ab`) | `sqrt(ab)` | `sqrt(1 - ab)` |
| flow matching (`FlowMatch...`, or `prediction_type="flow_prediction"`) | `1 - sigma` | `sigma` |

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

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")


@dataclass(frozen=True)
class NoiseSchedule:
    """Noise levels of the sampling steps, from the noisiest to the clean image.

    Attributes:
        timesteps: `(N,)`, the timesteps given to the denoiser.
        signal: `(N + 1,)` float32, factor of the clean image; 1 at the end.
        noise: `(N + 1,)` float32, standard deviation of the noise; 0 at the end.
    """

    timesteps: Tensor
    signal: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.timesteps)


def prediction_type(scheduler: Any) -> str:
    """Return what a denoiser with this scheduler predicts, one of `PREDICTION_TYPES`.

    Args:
        scheduler: a scheduler of diffusers.

    Raises:
        ValueError: the scheduler has another prediction type.
    """
    config = getattr(scheduler, "config", None)
    found = getattr(config, "prediction_type", None)
    if found is None and type(scheduler).__name__.startswith("FlowMatch"):
        return "flow_prediction"
    if found not in PREDICTION_TYPES:
        raise ValueError(
            f"{type(scheduler).__name__} has prediction_type={found!r}: expected one of {', '.join(PREDICTION_TYPES)}; "
            "use another scheduler, such as diffusers.DDIMScheduler.from_config(scheduler.config, "
            "prediction_type='epsilon')"
        )
    return str(found)


def make_noise_schedule(scheduler: Any, steps: int, device: torch.device) -> NoiseSchedule:
    """Build the noise schedule of `steps` steps with the scheduler's own spacing; the scheduler is not modified.

    Args:
        scheduler: a scheduler of diffusers.
        steps: number of sampling steps.
        device: device of the tensors.

    Raises:
        ValueError: more steps than in training, or a scheduler without noise levels or with increasing ones.
    """
    trained = int(getattr(scheduler.config, "num_train_timesteps", steps))
    if not (isinstance(steps, int) and 1 <= steps <= trained):
        raise ValueError(f"steps={steps}: expected an integer from 1 to {trained}")
    flow = prediction_type(scheduler) == "flow_prediction"
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.float().cpu()
    first = torch.cat((torch.ones(1, dtype=torch.bool), timesteps.diff() != 0))  # second-order schedulers repeat some
    if flow:
        sigmas = scheduler.sigmas[: len(timesteps)].float().cpu()[first]
        signal, noise = 1 - sigmas, sigmas
    elif hasattr(scheduler, "alphas_cumprod"):
        table = scheduler.alphas_cumprod.double().cpu()
        # Logarithm of noise^2 over signal^2.
        log_ratio = _interpolate((1 - table).log() - table.log(), timesteps[first].double())
        signal, noise = torch.sigmoid(-log_ratio).sqrt().float(), torch.sigmoid(log_ratio).sqrt().float()
    else:
        raise ValueError(
            f"{type(scheduler).__name__} has neither alphas_cumprod nor the sigmas of flow matching; use another "
            "scheduler, such as diffusers.DDIMScheduler"
        )
    timesteps = timesteps[first]
    if bool((noise.diff() > 1e-6).any()) or not bool(((timesteps >= 0) & (timesteps <= trained)).all()):
        raise ValueError(
            f"{type(scheduler).__name__} has timesteps {timesteps.tolist()}: expected decreasing ones from {trained} "
            "to 0; use another scheduler, such as diffusers.DDIMScheduler.from_config(scheduler.config), or one with "
            "timestep_type='discrete'"
        )
    if prediction_type(scheduler) == "epsilon" and float(signal[0]) == 0:
        raise ValueError(
            f"{type(scheduler).__name__} starts at zero signal, where a prediction of epsilon does not determine the "
            "image; use rescale_betas_zero_snr=False, or a denoiser with another prediction_type"
        )
    integral = bool((timesteps == timesteps.round()).all())
    return NoiseSchedule(
        (timesteps.long() if integral else timesteps).to(device),
        torch.cat((signal, torch.ones(1))).to(device),
        torch.cat((noise, torch.zeros(1))).to(device),
    )


def _interpolate(table: Tensor, positions: Tensor) -> Tensor:
    """Interpolate `table` linearly at fractional positions."""
    low = positions.floor().long().clamp(0, len(table) - 1)
    high = (low + 1).clamp(max=len(table) - 1)
    # A last entry without any signal is infinite, and the difference of two infinities is NaN.
    return torch.where(positions == low, table[low], torch.lerp(table[low], table[high], positions - low))


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
