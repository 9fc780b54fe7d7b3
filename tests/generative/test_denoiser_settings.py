"""Settings of denoisers that change what they are given: served as diffusers' own call, or refused by name."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.generative import (
    ClassEmbeddings,
    ClassLabels,
    Conditioning,
    DiffusionModel,
    DiffusionSampler,
    Unconditional,
)
from hard_aug.generative.denoiser_settings import APPLIED, OF_THE_NETWORKS, REFUSED, REQUIRED, REQUIRED_BY_SETTING
from tests.helpers.generative_parts import CHANNELS, CLASSES, LATENT, ddim, dit, labels, unet, unet_condition

diffusers = pytest.importorskip("diffusers")


def rows(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(CLASSES, *shape, generator=torch.Generator().manual_seed(seed))


TEXT = {"encoder_hidden_states": rows(4, 6)}
MASK = {"encoder_attention_mask": torch.tensor([[1, 1, 1, 0]] * CLASSES)}
IMAGE = {"added_cond_kwargs": {"image_embeds": rows(5)}}
TIMES = {"added_cond_kwargs": {"text_embeds": rows(5), "time_ids": 16 * rows(6).abs()}}
TIME_SETTINGS: dict[str, Any] = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 6 * 4 + 5,
}


def transformer(name: str, **settings: Any) -> nn.Module:
    torch.manual_seed(0)
    given = {"in_channels": CHANNELS, "sample_size": LATENT, "num_layers": 1, "attention_head_dim": 4}
    return getattr(diffusers, name)(**given | {"num_attention_heads": 2} | settings).eval()  # type: ignore[no-any-return]


def pixart(**settings: Any) -> nn.Module:
    return transformer(
        "PixArtTransformer2DModel",
        **{"out_channels": 2 * CHANNELS, "cross_attention_dim": 8, "caption_channels": 6, "norm_num_groups": 1}
        | settings,
    )


def sd3() -> nn.Module:
    widths = {"joint_attention_dim": 6, "caption_projection_dim": 8, "pooled_projection_dim": 5}
    return transformer("SD3Transformer2DModel", out_channels=CHANNELS, pos_embed_max_size=LATENT, **widths)


def sana(**settings: Any) -> nn.Module:
    cross = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 4, "cross_attention_dim": 8}
    more = {"out_channels": CHANNELS, "caption_channels": 6, "patch_size": 1}
    return transformer("SanaTransformer2DModel", **cross | more | settings)


#: Denoisers with what they take of each class.
CASES: dict[str, tuple[Callable[[], nn.Module], dict[str, Any]]] = {
    "labels": (unet, {"class_labels": torch.arange(CLASSES)}),
    "labels, as times": (lambda: unet(classes=None, class_embed_type="timestep"), {"class_labels": 100 * rows().abs()}),
    "labels, as they are": (lambda: unet(classes=None, class_embed_type="identity"), {"class_labels": rows(32)}),
    "centred": (lambda: unet(classes=None, center_input_sample=True), {}),
    "text": (unet_condition, TEXT),
    "text, labels": (lambda: unet_condition(num_class_embeds=CLASSES), TEXT | {"class_labels": torch.arange(CLASSES)}),
    "text, labels apart": (
        lambda: unet_condition(num_class_embeds=CLASSES, class_embeddings_concat=True),
        TEXT | {"class_labels": torch.arange(CLASSES)},
    ),
    "text, projected labels": (
        lambda: unet_condition(class_embed_type="projection", projection_class_embeddings_input_dim=5),
        TEXT | {"class_labels": rows(5)},
    ),
    "text, projected": (lambda: unet_condition(encoder_hid_dim=6, encoder_hid_dim_type="text_proj", width=8), TEXT),
    "text, added": (lambda: unet_condition(addition_embed_type="text", addition_embed_type_num_heads=2), TEXT),
    "text, times": (lambda: unet_condition(**TIME_SETTINGS), TEXT | TIMES),
    "text, image": (lambda: unet_condition(encoder_hid_dim=5, encoder_hid_dim_type="image_proj"), TEXT | IMAGE),
    "text, mask": (unet_condition, TEXT | MASK),
    "text, residuals": (unet_condition, TEXT | {"mid_block_additional_residual": rows(8, 4, 4)}),
    "dit": (dit, {"class_labels": torch.arange(CLASSES)}),
    "pixart": (pixart, TEXT | MASK),
    "sd3": (sd3, TEXT | {"pooled_projections": rows(5)}),
    "sana": (lambda: sana(timestep_scale=0.25), TEXT | MASK),
}


def condition_of(given: dict[str, Any]) -> Conditioning:
    return ClassEmbeddings(given) if given else Unconditional()


def of_labels(given: dict[str, Any]) -> dict[str, Any]:
    return {name: of_labels(value) if isinstance(value, dict) else value[labels()] for name, value in given.items()}


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("name", CASES)
def test_predictions_are_those_of_diffusers_own_call(name: str) -> None:
    make, given = CASES[name]
    denoiser = make()
    found = DiffusionModel(denoiser, ddim(prediction_type="epsilon"), condition=condition_of(given))
    schedule = found.noise_schedule(4)
    sample = torch.randn(3, CHANNELS, LATENT, LATENT, generator=torch.Generator().manual_seed(1))
    time = schedule.timesteps[1].expand(3) * getattr(denoiser.config, "timestep_scale", 1.0)
    with torch.no_grad():
        expected = denoiser(sample, timestep=time, **of_labels(given)).sample[:, :CHANNELS]
        assert torch.allclose(found.predict(sample, labels(), schedule, 1)[1], expected, atol=1e-5)
    for argument in given:  # each is required, or has its effect
        left = {key: value for key, value in given.items() if key != argument}
        if argument not in ("encoder_attention_mask", "mid_block_additional_residual"):
            with pytest.raises(ValueError, match=rf"requires .*{argument}.* according to its config"):
                DiffusionModel(denoiser, ddim(), condition=condition_of(left))


def test_added_embeddings_are_asked_for_one_by_one() -> None:
    half = {"added_cond_kwargs": {"text_embeds": rows(5)}}
    with pytest.raises(ValueError, match=r"requires added_cond_kwargs\.time_ids according to its config"):
        DiffusionModel(unet_condition(**TIME_SETTINGS), ddim(), condition=ClassEmbeddings(TEXT | half))


@pytest.mark.parametrize(
    ("make", "given", "message"),
    [
        (unet_condition, TEXT | {"class_labels": rows()}, "does not use class_labels"),
        (unet_condition, TEXT | TIMES, r"does not use added_cond_kwargs\.text_embeds, added_cond_kwargs\.time_ids"),
        (lambda: unet(classes=None), {"class_labels": rows()}, "does not use class_labels"),
        (unet, {"class_labels": rows(), "style": rows()}, "does not use style"),
    ],
)
def test_what_has_no_effect(make: Callable[[], nn.Module], given: dict[str, Any], message: str) -> None:
    """Some denoisers would take it and go on without."""
    with pytest.raises(ValueError, match=message + ".*leave them out"):
        DiffusionModel(make(), ddim(), condition=ClassEmbeddings(given))


def test_labels_without_an_embedding() -> None:
    for condition in (
        ClassLabels(CLASSES + 2),
        ClassLabels(CLASSES, none_label=CLASSES + 1),
        ClassLabels(2, none_label=-1),
    ):
        with pytest.raises(ValueError, match="UNet2DModel has embeddings of 4 labels, from 0 to 3"):
            DiffusionModel(unet(), ddim(), condition=condition)
    with pytest.raises(ValueError, match="DiTTransformer2DModel has embeddings of 4 labels"):
        DiffusionModel(dit(), ddim(), condition=ClassLabels(5))
    for condition in (ClassLabels(CLASSES + 1), ClassLabels(CLASSES, none_label=CLASSES)):
        DiffusionModel(unet(), ddim(), condition=condition)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: unet(time_embedding_type="fourier"), ValueError, "time_embedding_type='fourier', which is not served"),
        (lambda: sana(guidance_embeds=True), ValueError, "guidance_embeds=True, which is not served"),
        (lambda: unet(in_channels=2 * CHANNELS), ValueError, "in_channels=4 and out_channels=2: .* beside the noisy"),
        (lambda: unet(out_channels=1), ValueError, "in_channels=2 and out_channels=1"),
        (lambda: diffusers.UNet1DModel(), TypeError, r"expected one of diffusers \(UNet2DModel, .* got UNet1DModel"),
    ],
)
def test_what_is_not_served_is_refused_by_name(make: Callable[[], nn.Module], error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        DiffusionModel(make(), ddim())


def test_an_output_of_another_size() -> None:
    """`DiTTransformer2DModel` is for squares whose patches it covers."""
    found = DiffusionModel(dit(), ddim())
    schedule = found.noise_schedule(4)
    for size in ((LATENT, LATENT + 1), (16, 4)):
        with pytest.raises(ValueError, match="this size of images does not fit it"):
            found.predict(torch.zeros(3, CHANNELS, *size), labels(), schedule, 0)


def test_every_setting_is_accounted_for() -> None:
    """A setting of a new version of diffusers fails here: find out what it changes, and put it into a table."""
    assert not APPLIED & OF_THE_NETWORKS
    known = APPLIED | OF_THE_NETWORKS
    found = {key for name in REQUIRED for key in inspect.signature(getattr(diffusers, name)).parameters}
    assert found == known
    assert {key for key, _ in REQUIRED_BY_SETTING} | {key for _, key, _ in REFUSED} <= APPLIED


def test_settings_that_nobody_knows() -> None:
    from diffusers.configuration_utils import register_to_config

    class Later(diffusers.UNet2DModel):  # type: ignore[misc, name-defined]
        @register_to_config
        def __init__(self, sharpening: float = 0.0, **settings: Any) -> None:
            super().__init__(**settings)

    small = {"block_out_channels": (8,) * 4, "norm_num_groups": 8}
    assert isinstance(DiffusionModel(Later(**small), ddim()).condition, Unconditional)
    with pytest.raises(ValueError, match=r"Later has sharpening=0\.5, a setting that is not known here"):
        DiffusionModel(Later(sharpening=0.5, **small), ddim())


def test_a_denoiser_that_was_put_in_training_mode_is_put_back() -> None:
    """By a module that holds it: dropout, and dropped labels, would make its predictions random."""
    denoiser = unet(dropout=0.5)
    sampler = DiffusionSampler(DiffusionModel(denoiser, ddim(), condition=ClassLabels(CLASSES)), steps=2)
    sample = torch.randn(3, CHANNELS, LATENT, LATENT)
    nn.ModuleDict({"unet": denoiser}).train()
    one, two = (sampler.predict(sample, labels(), 0)[0] for _ in range(2))
    assert torch.equal(one, two)
    assert not any(part.training for part in denoiser.modules())
