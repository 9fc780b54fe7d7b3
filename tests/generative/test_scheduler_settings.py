"""Settings of schedulers: all are accounted for, and sampling with each of them is diffusers' own."""

from __future__ import annotations

import inspect
import math
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.known_settings import own_settings, unknown_settings
from hard_aug.generative.noise_schedule import make_noise_schedule
from hard_aug.generative.scheduler_settings import (
    APPLIED,
    FAMILIES,
    OF_NOISE_LEVELS,
    OF_THE_SOLVER,
    REFUSED,
    WITHOUT_EFFECT,
    Clipping,
    check_scheduler,
    default_eta,
    prediction_type,
    scheduler_family,
)
from tests.helpers.generative_parts import autoencoder_kl, ddim, labels, unet
from tests.helpers.scheduler_parts import (
    FIRST_ORDER,
    STEPS,
    Denoiser,
    difference,
    made,
    our_samples,
    own_samples,
    start,
)

diffusers = pytest.importorskip("diffusers")
pytestmark = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")  # of NumPy, by diffusers
CPU = torch.device("cpu")
TABLES = (OF_NOISE_LEVELS, APPLIED, OF_THE_SOLVER, WITHOUT_EFFECT, frozenset(REFUSED))

FLOW = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
TRAILING_V = {"timestep_spacing": "trailing", "prediction_type": "v_prediction"}
#: Other values of each setting that acts on the samples, with settings without which it has no effect.
OTHERS: dict[str, list[dict[str, Any]]] = {
    "num_train_timesteps": [{"num_train_timesteps": 500}],
    "beta_start": [{"beta_start": 0.001}],
    "beta_end": [{"beta_end": 0.03}],
    "beta_schedule": [{"beta_schedule": "squaredcos_cap_v2"}, {"beta_schedule": "scaled_linear"}],
    "trained_betas": [{"trained_betas": torch.linspace(0.001, 0.03, 1000).tolist()}],
    "rescale_betas_zero_snr": [{"rescale_betas_zero_snr": True} | TRAILING_V],
    "snr_shift_scale": [{"snr_shift_scale": 1.5}],
    "set_alpha_to_one": [{"set_alpha_to_one": True}, {"set_alpha_to_one": False}],
    "steps_offset": [{"steps_offset": 1, "timestep_spacing": "leading"}],
    "timestep_spacing": [{"timestep_spacing": spacing} for spacing in ("leading", "trailing", "linspace")],
    "timestep_type": [{"timestep_type": "continuous", "prediction_type": "v_prediction"}],
    "interpolation_type": [{"interpolation_type": "log_linear"}],
    "use_karras_sigmas": [{"use_karras_sigmas": True}],
    "use_exponential_sigmas": [{"use_exponential_sigmas": True}],
    "use_beta_sigmas": [{"use_beta_sigmas": True}],
    "use_lu_lambdas": [{"use_lu_lambdas": True}],
    "use_flow_sigmas": [FLOW],
    "flow_shift": [{"flow_shift": 3.0} | FLOW],
    "sigma_min": [{"sigma_min": 0.05, "use_karras_sigmas": True}],
    "sigma_max": [{"sigma_max": 20.0, "use_karras_sigmas": True}],
    "final_sigmas_type": [{"final_sigmas_type": "sigma_min"}],
    "lambda_min_clipped": [{"lambda_min_clipped": -4.0}],
    "shift": [{"shift": 3.0}],
    "shift_terminal": [{"shift_terminal": 0.1} | FLOW],
    "original_inference_steps": [{"original_inference_steps": 12}],
    "skip_prk_steps": [{"skip_prk_steps": True}],
    "prediction_type": [{"prediction_type": kind} for kind in ("epsilon", "v_prediction", "sample")],
    "clip_sample": [{"clip_sample": True, "prediction_type": "epsilon"}, {"clip_sample": False}],
    "clip_sample_range": [{"clip_sample_range": 0.5, "clip_sample": True}],
    "thresholding": [{"thresholding": True, "prediction_type": "epsilon"}],
    "dynamic_thresholding_ratio": [{"dynamic_thresholding_ratio": 0.8, "thresholding": True, "sample_max_value": 9.0}],
    "sample_max_value": [{"sample_max_value": value, "thresholding": True} for value in (1.5, 0.5)],
    "timestep_scaling": [{"timestep_scaling": 0.001}],
    "predict_x0": [{"predict_x0": False, "thresholding": True, "final_sigmas_type": "sigma_min"}],
    "stochastic_sampling": [{"stochastic_sampling": True}],
}


def accepted() -> Iterator[tuple[str, Any]]:
    for name in FAMILIES:
        kind = getattr(diffusers, name, None)
        if kind is not None and "dummy" not in kind.__module__:  # of a package that is not installed
            yield name, kind


def tolerance(scheduler: Any) -> float:
    """The own steps with sigmas are less exact in float32: differences of samples that are large as the sigmas are."""
    if scheduler_family(scheduler).levels in ("table", "flow"):
        return 1e-5
    schedule = make_noise_schedule(scheduler, STEPS, CPU)
    return max(1e-5, 3e-7 * float(schedule.noise[0] / schedule.signal[0]))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", FIRST_ORDER)
@torch.no_grad()
def test_samples_are_the_schedulers_own_with_each_setting(name: str) -> None:
    parameters = inspect.signature(getattr(diffusers, name)).parameters
    base = {"prediction_type": "v_prediction"}
    cases = [base] + [base | other for key in parameters for other in OTHERS.get(key, [])]
    for settings in cases:
        found, expected = our_samples(made(name, settings)), own_samples(made(name, settings))
        assert float(expected.std()) > 0.1
        assert difference(found, expected) < tolerance(made(name, settings)), settings


@pytest.mark.parametrize("key", sorted(OTHERS.keys() - {"skip_prk_steps"}))
@torch.no_grad()
def test_each_setting_changes_samples(key: str) -> None:
    """Of some class, so that the test above would see if it were ignored."""
    for name in FIRST_ORDER:
        if key in inspect.signature(getattr(diffusers, name)).parameters:
            for other in OTHERS[key]:
                plain = {k: v for k, v in other.items() if k != key and (k, v) not in FLOW.items()}
                if key == "predict_x0":
                    plain |= {"predict_x0": True}
                base = {} if key == "prediction_type" else {"prediction_type": "v_prediction"}
                without, given = (own_samples(made(name, base | settings)) for settings in (plain, other))
                if difference(without, given) > 1e-4:
                    return
    pytest.fail(f"{key} changes nothing")


def test_every_setting_is_accounted_for() -> None:
    """A setting of a new version of diffusers fails here: find out what it does, and put it into a table."""
    known = set().union(*TABLES)
    assert sum(len(table) for table in TABLES) == len(known)  # each in one table
    found = set()
    for name, kind in accepted():
        keys = {k for k, p in inspect.signature(kind).parameters.items() if p.kind is not p.VAR_KEYWORD}
        assert keys <= known, name
        found |= keys
        check_scheduler(kind())
    assert known - found <= {"noise_sampler_seed"}  # of a class that may not be installed
    assert OTHERS.keys() == OF_NOISE_LEVELS | APPLIED


def test_every_scheduler_is_served_or_refused_by_name() -> None:
    served = [name for name, _ in accepted()]
    assert len(served) >= 24
    for name in [name for name in dir(diffusers) if "Scheduler" in name]:
        kind = getattr(diffusers, name)
        if not (inspect.isclass(kind) and issubclass(kind, diffusers.SchedulerMixin)) or name in served:
            continue
        with pytest.raises(ValueError, match="is none of those whose noise levels and predictions are known: DDIM"):
            check_scheduler(kind.__new__(kind))


# Clipping -----------------------------------------------------------------------------------------------------------


def test_thresholding_bounds_the_images_and_keeps_the_gradient() -> None:
    sampler = DiffusionSampler(DiffusionModel(Denoiser(), diffusers.DDIMScheduler(thresholding=True)), steps=STEPS)
    sample = start().requires_grad_()
    clean, _ = sampler.predict(sample, labels(2), 0)
    assert float(clean.detach().abs().max()) <= 1
    bare = DiffusionSampler(DiffusionModel(Denoiser(), diffusers.DDIMScheduler(clip_sample=False)), steps=STEPS)
    assert float(bare.predict(sample, labels(2), 0)[0].detach().abs().max()) > 9
    gradient = torch.autograd.grad(clean.sum(), sample)[0]
    assert float(gradient.abs().min()) > 0
    assert Clipping(quantile=0.5).limit(torch.zeros(0, 3, 4, 4)).shape == (0, 3, 4, 4)


def test_latents_are_thresholded_and_not_clipped() -> None:
    with pytest.warns(UserWarning, match=r"DDIMScheduler has clip_sample=True.*latents are not clipped"):
        found = DiffusionModel(unet(), diffusers.DDIMScheduler(), autoencoder_kl())
    assert found.clipping == Clipping(rederives=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DiffusionModel(unet(), ddim(), autoencoder_kl())
        thresholded = DiffusionModel(unet(), ddim(thresholding=True), autoencoder_kl())
    assert thresholded.clipping.quantile == 0.995


def test_settings_of_another_scheduler_have_no_effect() -> None:
    """`from_config` keeps them in the config, and the scheduler ignores them."""
    pixels = diffusers.DDIMScheduler(thresholding=True, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    euler = diffusers.EulerDiscreteScheduler.from_config(pixels.config)
    assert euler.config.thresholding
    assert Clipping.of(euler, latents=False) == Clipping()
    assert "thresholding" not in own_settings(euler)
    flow = diffusers.FlowMatchEulerDiscreteScheduler.from_config(pixels.config)
    assert flow.config.prediction_type == "v_prediction"
    assert prediction_type(flow) == "flow_prediction"
    with torch.no_grad():
        assert difference(our_samples(euler), own_samples(euler)) < 2e-4  # rounding, of samples of up to 4
        assert difference(our_samples(flow), own_samples(flow)) < 2e-5


# What is refused ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True}, r"shift=math\.exp\(mu\)"),
        ("DPMSolverMultistepScheduler", {"use_dynamic_shifting": True} | FLOW, r"use_dynamic_shifting=False"),
        ("FlowMatchEulerDiscreteScheduler", {"invert_sigmas": True}, "invert_sigmas=True, which is not served"),
        ("FlowMatchLCMScheduler", {"scale_factors": [0.5, 1.0]}, r"scale_factors=\[0\.5, 1\.0\]"),
        ("UniPCMultistepScheduler", {"prediction_type": "flow_prediction"}, "set use_flow_sigmas=True"),
        (
            "UniPCMultistepScheduler",
            {"prediction_type": "v_prediction", "use_flow_sigmas": True},
            "do not fit together",
        ),
        ("EulerDiscreteScheduler", {"prediction_type": "original_sample"}, "prediction_type='original_sample'"),
    ],
)
def test_what_is_not_served_is_refused_by_name(name: str, settings: dict[str, Any], message: str) -> None:
    scheduler = getattr(diffusers, name)(**settings)
    with pytest.raises(ValueError, match=message):
        DiffusionModel(Denoiser(), scheduler)
    with pytest.raises(ValueError, match=message):
        make_noise_schedule(scheduler, STEPS, CPU)


def test_the_advice_on_dynamic_shifting_is_what_it_would_do() -> None:
    """Of flow matching with the shift `mu` of an image's size."""
    dynamic = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    dynamic.set_timesteps(STEPS, mu=0.9)
    fixed = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=False, shift=1.0)
    fixed.set_shift(math.exp(0.9))
    assert torch.allclose(make_noise_schedule(fixed, STEPS, CPU).noise, dynamic.sigmas, atol=1e-6)


def test_settings_that_nobody_knows() -> None:
    from diffusers.configuration_utils import register_to_config

    class Later(diffusers.DDIMScheduler):  # type: ignore[misc, name-defined]
        @register_to_config
        def __init__(self, clip_sample: bool = False, sharpening: float = 0.0, pair: tuple[int, int] = (1, 2)) -> None:
            super().__init__(clip_sample=clip_sample)

    check_scheduler(Later())
    check_scheduler(Later(pair=[1, 2]))  # as a JSON file has it
    assert unknown_settings(Later(sharpening=0.5), {"pair"}) == {"sharpening": (0.5, 0.0)}
    with pytest.raises(
        ValueError, match=r"Later has sharpening=0\.5, a setting that is not known here.*sharpening=0\.0"
    ):
        DiffusionModel(Denoiser(), Later(sharpening=0.5))


def test_the_default_eta() -> None:
    assert default_eta(diffusers.LCMScheduler()) == default_eta(diffusers.FlowMatchLCMScheduler()) == 1
    assert default_eta(diffusers.FlowMatchEulerDiscreteScheduler(stochastic_sampling=True)) == 1
    assert default_eta(diffusers.EulerAncestralDiscreteScheduler()) == default_eta(ddim()) == 0


@pytest.mark.parametrize(("name", "steps"), [("UnCLIPScheduler", 1), ("LCMScheduler", 51), ("PNDMScheduler", 2)])
def test_numbers_of_steps_that_the_scheduler_does_not_have(name: str, steps: int) -> None:
    with pytest.raises(ValueError, match=f"{name} has no schedule of {steps} steps: .*; give another number of steps"):
        make_noise_schedule(getattr(diffusers, name)(), steps, CPU)
