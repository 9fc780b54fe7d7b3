"""Settings of autoencoders: all are accounted for, and latents and images with each of them are diffusers' own."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.generative import DiffusionModel
from hard_aug.generative.autoencoder_settings import (
    APPLIED,
    OF_THE_NETWORKS,
    SERVED,
    WITHOUT_EFFECT,
    check_autoencoder,
    stride_of,
)
from hard_aug.generative.latent_codec import LatentCodec
from hard_aug.transforms import VAELatent
from tests.helpers.generative_parts import CONDITION, LATENT, autoencoder_kl, autoencoder_tiny, ddim, pictures, unet

diffusers = pytest.importorskip("diffusers")
CHANNELS = 2
MEAN, STD = [0.5, -0.25], [2.0, 0.5]
_BLOCKS: dict[str, Any] = {
    "in_channels": CHANNELS,
    "out_channels": CHANNELS,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "norm_num_groups": 4,
}


def kl(**settings: Any) -> nn.Module:
    return autoencoder_kl(shift_factor=None, **settings)


def vq(**settings: Any) -> nn.Module:
    return diffusers.VQModel(**_BLOCKS | {"block_out_channels": (8, 8), "num_vq_embeddings": 16} | settings)


def asymmetric(**settings: Any) -> nn.Module:
    widths = {"down_block_out_channels": (8, 8), "up_block_out_channels": (8, 8)}
    return diffusers.AsymmetricAutoencoderKL(**_BLOCKS | widths | settings)


def deep_compression(**settings: Any) -> nn.Module:
    parts = {f"{part}_{key}": value for part in ("encoder", "decoder") for key, value in _STAGES.items()}
    return diffusers.AutoencoderDC(
        **{"in_channels": CHANNELS, "latent_channels": 4, "attention_head_dim": 4} | parts | settings
    )


_STAGES = {
    "block_types": ("ResBlock", "EfficientViTBlock"),
    "block_out_channels": (8, 16),
    "layers_per_block": (1, 1),
    "qkv_multiscales": ((), (5,)),
}


def hunyuan(**settings: Any) -> nn.Module:
    return diffusers.AutoencoderKLHunyuanImage(
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        latent_channels=4,
        block_out_channels=(32, 32, 64),
        layers_per_block=1,
        spatial_compression_ratio=4,
        sample_size=16,
        **settings,
    )


#: Models by name, and mean and standard deviation of their latents according to their config.
CASES: dict[str, tuple[Callable[[], nn.Module], Any, Any]] = {
    "kl": (lambda: kl(scaling_factor=0.5), 0.0, 2.0),
    "kl, shift": (lambda: autoencoder_kl(shift_factor=0.3, scaling_factor=0.5), 0.3, 2.0),
    "kl, shift of nothing": (lambda: autoencoder_kl(shift_factor=0.0, scaling_factor=0.5), 0.0, 2.0),
    "kl, statistics": (lambda: kl(latents_mean=MEAN, latents_std=STD, scaling_factor=0.5), MEAN, [4.0, 1.0]),
    "kl, no convolutions": (lambda: kl(use_quant_conv=False, use_post_quant_conv=False), 0.0, 1 / 0.7),
    "kl, attention": (lambda: kl(mid_block_add_attention=True, act_fn="relu"), 0.0, 1 / 0.7),
    "kl, sizes": (lambda: kl(sample_size=4, force_upcast=True), 0.0, 1 / 0.7),
    "asymmetric": (lambda: asymmetric(scaling_factor=0.5), 0.0, 2.0),
    "tiny": (autoencoder_tiny, 0.0, 1.0),
    "tiny, scaled": (lambda: tiny(scaling_factor=0.5, shift_factor=0.25), 0.25, 2.0),
    "tiny, bytes": (lambda: tiny(latent_magnitude=1, latent_shift=0.1), 0.0, 1.0),
    "vq": (lambda: vq(scaling_factor=0.5, latent_channels=4), 0.0, 2.0),
    "vq, narrow": (lambda: vq(latent_channels=4, vq_embed_dim=2), 0.0, 1 / 0.18215),
    "vq, spatial": (lambda: vq(norm_type="spatial", block_out_channels=(32, 32)), 0.0, 1 / 0.18215),
    "vq, lookup": (lambda: vq(lookup_from_codebook=True), 0.0, 1 / 0.18215),
    "dc": (lambda: deep_compression(scaling_factor=0.5), 0.0, 2.0),
    "hunyuan": (lambda: hunyuan(scaling_factor=0.5), 0.0, 2.0),
    "hunyuan, no scale": (hunyuan, 0.0, 1.0),
}


def tiny(**settings: Any) -> nn.Module:
    torch.manual_seed(0)
    two: dict[str, Any] = {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    blocks = {"num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
    return diffusers.AutoencoderTiny(CHANNELS, CHANNELS, **two | blocks | settings)


def raw_latents(model: Any, images: Tensor) -> Tensor:
    encoded = model.encode(2 * images - 1, return_dict=False)[0]
    return encoded if isinstance(encoded, Tensor) else encoded.mode()


@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_latents_and_images_are_diffusers_own(name: str) -> None:
    make, mean, std = CASES[name]
    torch.manual_seed(0)
    model: Any = make().eval()
    codec, raw = LatentCodec(model), raw_latents(model, pictures())
    assert raw.shape == (3, codec.latent_channels, *(16 // codec.stride,) * 2)
    assert float(raw.std()) > 1e-3
    mean, std = (torch.tensor(value).view(-1, 1, 1) for value in (mean, std))
    scaled = (raw - mean) / std
    assert torch.allclose(codec.encode(pictures()), raw, atol=1e-6)
    assert torch.allclose(codec.scale(codec.encode(pictures())), scaled, atol=1e-5)
    decoded = model.decode(scaled * std + mean, return_dict=False)[0]
    assert torch.allclose(codec.decode(codec.unscale(scaled)), (decoded + 1) / 2, atol=1e-5)
    assert torch.allclose(codec.unscale(codec.scale(raw)), raw, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_edits_are_in_units_of_each_channel(name: str) -> None:
    make, mean, std = CASES[name]
    torch.manual_seed(0)
    transform = VAELatent(make(), shift=1.0, scale=2.0)
    channels = transform.channels
    raw = torch.randn(3, channels, 4, 4)
    mean, std = (torch.tensor(value).expand(channels).view(-1, 1, 1) for value in (mean, std))
    shift, scale = torch.full((3, channels), 0.5), torch.full((3, channels), 1.5)
    edited = transform.edit(raw, torch.cat((shift, scale), dim=1))
    assert torch.allclose(edited, mean + 1.5 * (raw - mean) + 0.5 * std, atol=1e-5)
    if channels == CHANNELS and isinstance(transform.latent_std, tuple):
        assert transform.latent_std == (4.0, 1.0)
        assert "latent_std=(4.0, 1.0)" in repr(transform)
    u = torch.zeros(3, transform.size, requires_grad=True)
    out = transform(pictures(), u)
    assert torch.allclose(out, pictures(), atol=1e-6)
    assert float(torch.autograd.grad(out.square().sum(), u)[0].abs().max()) > 0


def test_a_denoisers_latents_have_the_mean_and_scale_of_each_channel() -> None:
    model = kl(latents_mean=MEAN, latents_std=STD, scaling_factor=0.5)
    found = DiffusionModel(unet(size=LATENT), ddim(), model, condition=CONDITION)
    with torch.no_grad():
        raw = raw_latents(model, pictures())
        expected = (raw - torch.tensor(MEAN).view(-1, 1, 1)) * 0.5 / torch.tensor(STD).view(-1, 1, 1)
        assert torch.allclose(found.encode(pictures()), expected, atol=1e-5)
        decoded = ((raw_decoded(model, raw) + 1) / 2).clamp(0, 1)
        assert torch.allclose(found.decode(expected), decoded, atol=1e-5)


def raw_decoded(model: Any, raw: Tensor) -> Tensor:
    return model.decode(raw, return_dict=False)[0]  # type: ignore[no-any-return]


def test_given_standard_deviations() -> None:
    assert VAELatent(kl(), latent_std=3.0).latent_std == 3.0
    assert VAELatent(kl(), latent_std=[3.0, 1.0]).latent_std == (3.0, 1.0)
    for given, message in (
        ([1.0], "latent_std of 1 channels: expected 2"),
        ([1.0, 0.0], "latent_std"),
        (0.0, "latent_std"),
    ):
        with pytest.raises(ValueError, match=message):
            VAELatent(kl(), latent_std=given)


def test_patterns_are_in_units_of_each_channel() -> None:
    plain = VAELatent(kl(scaling_factor=1.0), shift=None, direction=1.0, directions=3)
    scaled = VAELatent(
        kl(latents_mean=MEAN, latents_std=STD, scaling_factor=1.0), shift=None, direction=1.0, directions=3
    )
    size = (3, 8, 8, torch.device("cpu"))
    assert torch.allclose(scaled.patterns(*size), plain.patterns(*size) * torch.tensor(STD).view(-1, 1, 1), atol=1e-6)


# Tables -------------------------------------------------------------------------------------------------------------


def test_every_setting_is_accounted_for() -> None:
    """A setting of a new version of diffusers fails here: find out what it does, and put it into a table."""
    tables = (OF_THE_NETWORKS, APPLIED, frozenset(WITHOUT_EFFECT))
    known = frozenset().union(*tables)
    assert sum(len(table) for table in tables) == len(known)
    found = {key for name in SERVED for key in inspect.signature(getattr(diffusers, name)).parameters}
    assert found == known


def test_every_class_is_served_or_refused_by_name() -> None:
    others = [name for name in dir(diffusers) if name.startswith(("Autoencoder", "Asymmetric", "VQM", "Consistency"))]
    for name in others:
        kind = getattr(diffusers, name)
        if name not in SERVED and inspect.isclass(kind) and issubclass(kind, nn.Module):
            empty = kind.__new__(kind)
            nn.Module.__init__(empty)
            with pytest.raises(TypeError, match=rf"of images \(AutoencoderKL, .*\), got {name}"):
                check_autoencoder(empty)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: kl(latents_mean=MEAN), "latents_std=None"),
        (lambda: kl(latents_mean=MEAN[:1], latents_std=STD[:1]), "of each of 2 channels"),
        (lambda: autoencoder_kl(latents_mean=MEAN, latents_std=STD, shift_factor=0.1), r"shift_factor=0\.1: expected"),
        (lambda: kl(out_channels=3), "in_channels=2 and out_channels=3"),
        (lambda: tiny(upsampling_scaling_factor=4), "upsampling_scaling_factor=4: expected 2"),
    ],
)
def test_what_is_not_served_is_refused_by_name(make: Callable[[], nn.Module], message: str) -> None:
    for use in (LatentCodec, VAELatent, lambda model: DiffusionModel(unet(), ddim(), model)):
        with pytest.raises(ValueError, match=message):
            use(make())


def test_images_of_another_size_than_the_encoded_ones() -> None:
    codec = LatentCodec(asymmetric(up_block_types=("UpDecoderBlock2D",), up_block_out_channels=(8,)))
    with pytest.raises(ValueError, match=r"decoded images of shape \(3, 2, 8, 8\): expected \(3, 2, 16, 16\)"):
        codec.decode(codec.encode(pictures()))


def test_settings_that_nobody_knows() -> None:
    from diffusers.configuration_utils import register_to_config

    class Later(diffusers.AutoencoderTiny):  # type: ignore[misc, name-defined]
        @register_to_config
        def __init__(self, sharpening: float = 0.0) -> None:
            super().__init__()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        LatentCodec(Later())
    with pytest.warns(UserWarning, match=r"Later has sharpening=0\.5, a setting that is not known here") as caught:
        VAELatent(Later(sharpening=0.5))
    assert caught[0].filename == __file__


def test_strides() -> None:
    assert [stride_of(make().config) for make in (kl, tiny, deep_compression, hunyuan, asymmetric, vq)] == [
        2,
        2,
        2,
        4,
        2,
        1 + 1,
    ]
    assert stride_of(SimpleNamespace(block_out_channels=(4, 8, 8))) == 4  # a config of one's own


def test_a_network_that_was_put_in_training_mode_is_put_back() -> None:
    """By a module that holds it, as a trainer does."""
    model = kl(mid_block_add_attention=True)
    transform = VAELatent(model)
    holder = nn.ModuleDict({"autoencoder": model}).train()
    transform(pictures(), torch.zeros(3, transform.size))
    assert holder.training
    assert not any(part.training for part in model.modules())
