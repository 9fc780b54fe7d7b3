"""What each setting of diffusers' schedulers does here: all are accounted for, by name.

Of a scheduler, its noise levels are used (`noise_schedule`), and what its own step does to the predicted clean image
(`Clipping`). The step itself is the sampler's, of the first order, deterministic or with the sampler's own `eta`. So a
setting acts through the noise levels, is applied here, is of the solver that is not used, or is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from hard_aug.generative.known_settings import names, own_settings, unknown_settings
from hard_aug.ops.elementwise import clamp_with_gradient

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample", "flow_prediction")

#: Settings that act through the scheduler's own `set_timesteps` and tables, which give the noise levels.
OF_NOISE_LEVELS = names(
    "num_train_timesteps beta_start beta_end beta_schedule trained_betas rescale_betas_zero_snr snr_shift_scale "
    "set_alpha_to_one steps_offset timestep_spacing timestep_type interpolation_type use_karras_sigmas "
    "use_exponential_sigmas use_beta_sigmas use_lu_lambdas use_flow_sigmas flow_shift sigma_min sigma_max "
    "final_sigmas_type lambda_min_clipped shift shift_terminal original_inference_steps skip_prk_steps"
)
#: Settings that are applied to predictions; those of clipping only where the scheduler's own step applies them.
APPLIED = names(
    "prediction_type clip_sample clip_sample_range thresholding dynamic_thresholding_ratio sample_max_value "
    "predict_x0 timestep_scaling stochastic_sampling"
)
#: Settings of the scheduler's own solver, which is not used: the order and kind of its steps, and its own noise.
OF_THE_SOLVER = names(
    "solver_order solver_type solver_p algorithm_type lower_order_final euler_at_final disable_corrector "
    "predictor_order corrector_order tau_func variance_type noise_sampler_seed"
)
#: Settings that are refused unless they have this value, and what to use instead.
REFUSED: dict[str, tuple[object, str]] = {
    "use_dynamic_shifting": (
        False,
        "the shift would depend on the size of the images; give the shift of your size, use_dynamic_shifting=False, "
        "shift=math.exp(mu) (flow_shift= for solvers)",
    ),
    "invert_sigmas": (False, "noise would increase while sampling; use invert_sigmas=False"),
    "scale_factors": (None, "latents would change their size while sampling; use scale_factors=None"),
}
#: Settings that only matter together with one that is refused.
WITHOUT_EFFECT = names("base_shift max_shift base_image_seq_len max_image_seq_len time_shift_type upscale_mode")


@dataclass(frozen=True)
class SchedulerFamily:
    """How schedulers keep their noise levels, and what their own step does.

    Attributes:
        levels: `table`: `alphas_cumprod` at the timesteps; `scaled`: sigmas of samples `x0 + sigma e`; `solver`: sigmas
            of samples as they are here, or of flow matching with `use_flow_sigmas`; `flow`: sigmas of flow matching.
        final: for `table`, where the last step ends: without noise (`one`), at the scheduler's `final_alpha_cumprod`
            (`set_alpha_to_one`), or at the first entry of the table.
        strides: for `table`, whether a step goes to `timestep - num_train_timesteps // steps`, which is not always the
            next timestep.
        clips: whether the scheduler's own step clips or thresholds the predicted clean image.
        rederives: whether it computes the noise from the clipped image, rather than taking the predicted one.
        eta: the sampler's default `eta`.
    """

    levels: Literal["table", "scaled", "solver", "flow"]
    final: Literal["one", "final_alpha_cumprod", "first"] = "one"
    strides: bool = False
    clips: bool = False
    rederives: bool = True
    eta: float = 0.0


_DDIM = SchedulerFamily("table", "final_alpha_cumprod", strides=True, clips=True, rederives=False)
_COGVIDEOX = SchedulerFamily("table", "final_alpha_cumprod", strides=True)
_DDPM = SchedulerFamily("table", strides=True, clips=True)
_SCALED = SchedulerFamily("scaled")
_SOLVER = SchedulerFamily("solver", clips=True)
_FLOW = SchedulerFamily("flow")

FAMILIES: dict[str, SchedulerFamily] = {
    "DDIMScheduler": _DDIM,
    "DDIMParallelScheduler": _DDIM,
    "CogVideoXDDIMScheduler": _COGVIDEOX,
    "CogVideoXDPMScheduler": _COGVIDEOX,
    "DDPMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "UnCLIPScheduler": SchedulerFamily("table", clips=True),
    "PNDMScheduler": SchedulerFamily("table", "final_alpha_cumprod"),
    "TCDScheduler": SchedulerFamily("table", "first"),
    "LCMScheduler": SchedulerFamily("table", clips=True, rederives=False, eta=1.0),
    "EulerDiscreteScheduler": _SCALED,
    "EulerAncestralDiscreteScheduler": _SCALED,
    "HeunDiscreteScheduler": SchedulerFamily("scaled", clips=True),
    "KDPM2DiscreteScheduler": _SCALED,
    "KDPM2AncestralDiscreteScheduler": _SCALED,
    "LMSDiscreteScheduler": _SCALED,
    "DPMSolverSDEScheduler": _SCALED,
    "DPMSolverMultistepScheduler": _SOLVER,
    "DPMSolverSinglestepScheduler": _SOLVER,
    "DEISMultistepScheduler": _SOLVER,
    "UniPCMultistepScheduler": _SOLVER,
    "SASolverScheduler": _SOLVER,
    "FlowMatchEulerDiscreteScheduler": _FLOW,
    "FlowMatchHeunDiscreteScheduler": _FLOW,
    "FlowMatchLCMScheduler": SchedulerFamily("flow", eta=1.0),
}


def scheduler_family(scheduler: object) -> SchedulerFamily:
    """Return the family of a scheduler's class, or of the base class it is derived from.

    Raises:
        ValueError: no such class.
    """
    for kind in type(scheduler).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__]
    raise ValueError(
        f"scheduler: {type(scheduler).__name__} is none of those whose noise levels and predictions are known: "
        f"{', '.join(FAMILIES)}; use one of them that fits the denoiser's training, such as "
        "diffusers.DDIMScheduler.from_config(scheduler.config)"
    )


def check_scheduler(scheduler: Any) -> None:
    """Check that a scheduler is served, with its settings.

    Raises:
        ValueError: an unknown class, or a setting that changes results and is not served.
    """
    family, settings, name = scheduler_family(scheduler), own_settings(scheduler), type(scheduler).__name__
    for key, (served, advice) in REFUSED.items():
        if key in settings and settings[key] != served:
            raise ValueError(f"{name} has {key}={settings[key]!r}, which is not served: {advice}")
    known = OF_NOISE_LEVELS | APPLIED | OF_THE_SOLVER | WITHOUT_EFFECT | REFUSED.keys()
    for key, (value, default) in unknown_settings(scheduler, known).items():
        raise ValueError(
            f"{name} has {key}={value!r}, a setting that is not known here, so that results could differ from those of "
            f"diffusers; use the default, {name}.from_config(scheduler.config, {key}={default!r})"
        )
    prediction, flow = prediction_type(scheduler), has_flow_levels(scheduler)
    if prediction == "flow_prediction" and not flow:
        raise ValueError(f"{name} has prediction_type='flow_prediction' without the levels: set use_flow_sigmas=True")
    if prediction == "v_prediction" and flow:
        raise ValueError(
            f"{name} has prediction_type='v_prediction' and use_flow_sigmas=True, which do not fit together; set "
            "use_flow_sigmas=False, or prediction_type='flow_prediction' if the denoiser was trained by flow matching"
        )
    if family.levels != "flow" and not hasattr(scheduler, "alphas_cumprod"):
        raise ValueError(f"{name} has no alphas_cumprod; use diffusers.DDIMScheduler.from_config(scheduler.config)")


def has_flow_levels(scheduler: Any) -> bool:
    """Return whether the noise levels of a scheduler are those of flow matching."""
    return scheduler_family(scheduler).levels == "flow" or bool(own_settings(scheduler).get("use_flow_sigmas"))


def prediction_type(scheduler: Any) -> str:
    """Return what a denoiser with this scheduler predicts, one of `PREDICTION_TYPES`.

    Args:
        scheduler: a scheduler of diffusers.

    Raises:
        ValueError: the scheduler has another prediction type, or is of an unknown class.
    """
    if scheduler_family(scheduler).levels == "flow":
        return "flow_prediction"
    found = own_settings(scheduler).get("prediction_type")
    if found not in PREDICTION_TYPES:
        raise ValueError(
            f"{type(scheduler).__name__} has prediction_type={found!r}: expected one of {', '.join(PREDICTION_TYPES)}; "
            "use another scheduler, such as diffusers.DDIMScheduler.from_config(scheduler.config, "
            "prediction_type='epsilon')"
        )
    return str(found)


def default_eta(scheduler: Any) -> float:
    """Return the `eta` at which sampling is as the scheduler's own, 0 or 1."""
    return 1.0 if own_settings(scheduler).get("stochastic_sampling") else scheduler_family(scheduler).eta


@dataclass(frozen=True)
class Clipping:
    """Limits the predicted clean image as a scheduler's own step does; the gradient passes through unclipped.

    Attributes:
        bound: largest absolute value (`clip_sample`); None: no bound.
        quantile: quantile of an image's absolute values that is scaled to 1 (dynamic thresholding, arXiv:2205.11487),
            instead of the bound; None: none is.
        maximum: largest such scale.
        rederives: whether the noise is computed again, from the limited image.
    """

    bound: float | None = None
    quantile: float | None = None
    maximum: float = 1.0
    rederives: bool = True

    @classmethod
    def of(cls, scheduler: Any, *, latents: bool) -> Clipping:
        """Read the settings of a scheduler.

        Args:
            scheduler: a scheduler of diffusers.
            latents: whether the denoiser works on latents, which are never clipped (`clip_sample` is on by default;
                the pipelines of latent models switch it off) but thresholded.
        """
        family, settings = scheduler_family(scheduler), own_settings(scheduler)
        bound = quantile = None
        if family.clips and settings.get("thresholding") and settings.get("predict_x0", True):
            quantile = float(settings["dynamic_thresholding_ratio"])
        elif family.clips and settings.get("clip_sample") and not latents:
            bound = float(settings.get("clip_sample_range", 1.0))
        return cls(bound, quantile, float(settings.get("sample_max_value", 1.0)), family.rederives)

    def __call__(
        self, clean: Tensor, noise: Tensor, sample: Tensor, signal_level: Tensor, noise_level: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the limited image and its noise.

        Args:
            clean: `(B, c, h, w)`, the predicted `x0`.
            noise: `(B, c, h, w)`, the predicted `e`.
            sample: `(B, c, h, w)`, the noisy sample that they were predicted from.
            signal_level: scalar, signal of the sample.
            noise_level: scalar, noise level of the sample.
        """
        if self.bound is None and self.quantile is None:
            return clean, noise
        clean = self.limit(clean)
        return clean, (sample - signal_level * clean) / noise_level if self.rederives else noise

    def limit(self, clean: Tensor) -> Tensor:
        """Return the limited image alone.

        Args:
            clean: `(B, c, h, w)`.
        """
        if self.quantile is not None and clean.numel():
            size = torch.quantile(clean.detach().abs().flatten(1), self.quantile, dim=1)
            # In the order of diffusers: where `sample_max_value` is below 1, it is the scale.
            return _limited(clean / size.clamp(min=1).clamp(max=self.maximum).view(-1, 1, 1, 1))
        return clean if self.bound is None else self.bound * _limited(clean / self.bound)


def _limited(values: Tensor) -> Tensor:
    return 2 * clamp_with_gradient((values + 1) / 2) - 1
