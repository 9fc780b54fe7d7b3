"""Noise levels and predictions: what any scheduler of diffusers says, in one form.

At each step a noisy latent is `x = signal * x0 + noise * e`, with `x0` clean and `e` standard normal:

| schedulers | signal | noise |
|---|---|---|
| DDIM, DDPM, LCM, PNDM, Euler, DPM-Solver, UniPC (they hold `alphas_cumprod` `ab`) | `sqrt(ab)` | `sqrt(1 - ab)` |
| flow matching (`FlowMatch...`, or `prediction_type="flow_prediction"`) | `1 - sigma` | `sigma` |

Schedulers that scale their samples otherwise (Euler's is `x0 + sigma e`) give the denoiser this form too, by
`scale_model_input`, so nothing is lost. A denoiser's output is then turned into both parts:

| prediction | x0 | e |
|---|---|---|
| `epsilon` | `(x - noise out) / signal` | `out` |
| `v_prediction` | `signal x - noise out` | `noise x + signal out` |
| `sample` | `out` | `(x - signal out) / noise` |
| `flow_prediction` | `x - noise out` | `x + signal out` |

(Salimans & Ho, arXiv:2202.00512; Lipman et al., arXiv:2210.02747.) The schedulers' own `step` is not used: not all
return `x0`, and many keep a counter.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction", "sample", "flow_prediction")


@dataclass(frozen=True)
class Levels:
    """The steps of a chain, from the noisiest.

    Attributes:
        times: `(N,)`, what the denoiser is told.
        signal, noise: `(N + 1,)` float32; the last is the clean image, 1 and 0.
    """

    times: Tensor
    signal: Tensor
    noise: Tensor

    def __len__(self) -> int:
        return len(self.times)


def prediction_type(scheduler: Any) -> str:
    """What the denoiser of a scheduler predicts.

    Raises:
        ValueError: none of `PREDICTIONS`.
    """
    config = getattr(scheduler, "config", None)
    found = getattr(config, "prediction_type", None)
    if found is None and type(scheduler).__name__.startswith("FlowMatch"):
        return "flow_prediction"
    if found not in PREDICTIONS:
        raise ValueError(
            f"{type(scheduler).__name__} has prediction_type={found!r}: wanted one of {', '.join(PREDICTIONS)}; "
            "take another scheduler, such as diffusers.DDIMScheduler.from_config(scheduler.config, "
            "prediction_type='epsilon')"
        )
    return str(found)


def levels_of(scheduler: Any, steps: int, device: torch.device) -> Levels:
    """The levels of `steps` steps, as the scheduler spaces them. The scheduler itself is left as it was.

    Raises:
        ValueError: more steps than it was trained with, or a scheduler that tells no levels, or none that fall.
    """
    trained = int(getattr(scheduler.config, "num_train_timesteps", steps))
    if not (isinstance(steps, int) and 1 <= steps <= trained):
        raise ValueError(f"steps={steps}: wanted a whole number from 1 to {trained}")
    flow = prediction_type(scheduler) == "flow_prediction"
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(steps)
    times = scheduler.timesteps.float().cpu()
    kept_once = torch.cat((torch.ones(1, dtype=torch.bool), times.diff() != 0))  # second order names some twice
    if flow:
        sigmas = scheduler.sigmas[: len(times)].float().cpu()[kept_once]
        signal, noise = 1 - sigmas, sigmas
    elif hasattr(scheduler, "alphas_cumprod"):
        table = scheduler.alphas_cumprod.double().cpu()
        kept = _interpolated((1 - table).log() - table.log(), times[kept_once].double())  # log of noise^2 over signal^2
        signal, noise = torch.sigmoid(-kept).sqrt().float(), torch.sigmoid(kept).sqrt().float()
    else:
        raise ValueError(
            f"{type(scheduler).__name__} has neither alphas_cumprod nor the sigmas of flow matching; take another "
            "scheduler, such as diffusers.DDIMScheduler"
        )
    times = times[kept_once]
    if bool((noise.diff() > 1e-6).any()) or not bool(((times >= 0) & (times <= trained)).all()):
        raise ValueError(
            f"{type(scheduler).__name__} has times {times.tolist()}: wanted falling ones from 0 to {trained}; take "
            "another scheduler, such as diffusers.DDIMScheduler.from_config(scheduler.config), or one with "
            "timestep_type='discrete'"
        )
    if prediction_type(scheduler) == "epsilon" and float(signal[0]) == 0:
        raise ValueError(
            f"{type(scheduler).__name__} begins without any signal, where epsilon says nothing of the image; use "
            "rescale_betas_zero_snr=False, or a denoiser of another prediction_type"
        )
    whole = bool((times == times.round()).all())
    return Levels(
        (times.long() if whole else times).to(device),
        torch.cat((signal, torch.ones(1))).to(device),
        torch.cat((noise, torch.zeros(1))).to(device),
    )


def _interpolated(table: Tensor, places: Tensor) -> Tensor:
    """`table` at places between its entries."""
    low = places.floor().long().clamp(0, len(table) - 1)
    high = (low + 1).clamp(max=len(table) - 1)
    # A last entry without any signal is infinite, and infinity less itself is not a number.
    return torch.where(places == low, table[low], torch.lerp(table[low], table[high], places - low))


def split_prediction(kind: str, sample: Tensor, output: Tensor, signal: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """`x0` and `e` of a noisy sample `(B, c, h, w)` and the denoiser's output; see the module's head.

    Args:
        kind: one of `PREDICTIONS`.
        signal, noise: scalars, the level of the sample.
    """
    if kind == "epsilon":
        return (sample - noise * output) / signal, output
    if kind == "v_prediction":
        return signal * sample - noise * output, noise * sample + signal * output
    if kind == "sample":
        return output, (sample - signal * output) / noise
    if kind == "flow_prediction":
        return sample - noise * output, sample + signal * output
    raise ValueError(f"prediction {kind!r}: wanted one of {', '.join(PREDICTIONS)}")
