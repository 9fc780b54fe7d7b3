"""Networks inside transforms that overflow in float16 are named, and not the teacher that gets their images."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

from hard_aug import HardAugmenter
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.finite import FiniteCheck
from hard_aug.models import Network
from hard_aug.policies import Search
from hard_aug.synthesis import Unguided
from hard_aug.transforms import Compose, Context, Diffusion, Filter, HierarchicalLatent, Transform, VAELatent
from tests.generative.test_hierarchical_vae import small
from tests.helpers.generative_parts import (
    CONDITION,
    Classifier,
    autoencoder_kl,
    autoencoder_tiny,
    ddim,
    labels,
    pictures,
    score,
    seeds,
    unet,
)

diffusers = pytest.importorskip("diffusers")
REMEDY = r"overflows in its precision.*use autoencoder\.float\(\) or autoencoder\.bfloat16\(\).*force_upcast"


def times(factor: float, part: nn.Module) -> None:
    with torch.no_grad():
        for weight in part.parameters():
            weight.mul_(factor)


def overflowing_tiny() -> nn.Module:
    codec = autoencoder_tiny()
    times(30.0, codec.decoder)
    return codec.half()


def overflowing_kl() -> nn.Module:
    codec = autoencoder_kl()
    times(1e6, codec.decoder.conv_in)
    return codec.half()


def overflowing_encoder() -> nn.Module:
    codec = autoencoder_kl()
    times(1e6, codec.encoder.conv_in)
    return codec.half()


def overflowing_ladder() -> nn.Module:
    vae = small(channels=2)
    times(2e5, vae.head)
    return vae.half()


def diffuser_of(*, denoiser: float = 1.0, codec: Any = None, pixels: bool = False) -> DiffusionModel:
    network = unet(size=16 if pixels else 8)
    times(denoiser, network.conv_out)
    return DiffusionModel(
        network.half(), ddim(), None if pixels else codec or autoencoder_kl().half(), condition=CONDITION
    )


def diffusion(**settings: Any) -> Diffusion:
    return Diffusion(DiffusionSampler(diffuser_of(**settings), steps=2, strength=0.5))


def augmenter_of(transform: Transform) -> HardAugmenter:
    return HardAugmenter(
        teacher=Classifier(1), student=Classifier(2), transform=transform, policy=Search(transform.spec, candidates=2)
    )


CASES: dict[str, tuple[Any, str]] = {
    "tiny": (lambda: VAELatent(overflowing_tiny()), r"autoencoder \(AutoencoderTiny\) decoded images.*" + REMEDY),
    "kl": (lambda: VAELatent(overflowing_kl(), residual=False), r"autoencoder \(AutoencoderKL\) decoded.*" + REMEDY),
    "encoder": (lambda: VAELatent(overflowing_encoder()), r"autoencoder \(AutoencoderKL\) encoded latents.*" + REMEDY),
    "diffusion": (lambda: diffusion(codec=overflowing_tiny()), r"\(AutoencoderTiny\) decoded images.*" + REMEDY),
    "denoiser": (lambda: diffusion(denoiser=1e6), r"denoiser \(UNet2DModel\).*denoiser\.float\(\)"),
    "pixels": (lambda: diffusion(denoiser=1e6, pixels=True), r"denoiser \(UNet2DModel\).*denoiser\.bfloat16\(\)"),
    "composed": (lambda: Compose(Filter(), VAELatent(overflowing_tiny())), r"\(AutoencoderTiny\)"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_network_that_overflows_is_named(name: str) -> None:
    make, message = CASES[name]
    transform = make()
    with pytest.raises(FloatingPointError, match=message):
        augmenter_of(transform)(pictures(), labels())


def test_a_hierarchical_vae_that_overflows_is_named() -> None:
    transform = HierarchicalLatent(overflowing_ladder())
    with pytest.raises(FloatingPointError, match=r"the VAE \(HierarchicalVAE\).*use vae\.float\(\) or vae\.bfloat16"):
        transform(pictures(size=12), torch.zeros(3, transform.size))
    transform.vae.float()
    assert bool(transform(pictures(size=12), torch.zeros(3, transform.size)).isfinite().all())


def test_nothing_has_changed_and_the_suggested_fix_works() -> None:
    transform = VAELatent(overflowing_tiny())
    augmenter = HardAugmenter(teacher=Classifier(1), student=Classifier(2), transform=transform)
    before = augmenter.state_dict()
    with pytest.raises(FloatingPointError, match="AutoencoderTiny"):
        augmenter(pictures())
    after = augmenter.state_dict()
    assert torch.equal(before["generator"], after["generator"])
    assert before["calls"] == after["calls"] == 0
    transform.codec.autoencoder.float()
    assert bool(augmenter(pictures()).images.isfinite().all())
    augmenter.check()


def test_infinities_are_not_clamped_away() -> None:
    """Clamped to black and white pixels they would pass every other check."""
    codec = autoencoder_tiny()
    with torch.no_grad():
        codec.decoder.layers[-1].bias.fill_(6e4)
    transform = VAELatent(codec.half(), residual=False)
    with pytest.raises(FloatingPointError, match=REMEDY):
        transform.render(pictures(), torch.zeros(3, transform.size))


def test_a_search_names_it_too() -> None:
    for parts, message in (
        (diffuser_of(codec=overflowing_kl()), r"AutoencoderKL\) decoded"),
        (diffuser_of(denoiser=1e6), "denoiser"),
        (diffuser_of(denoiser=1e6, pixels=True), "denoiser"),
    ):
        with pytest.raises(FloatingPointError, match=message):
            Unguided(DiffusionSampler(parts, steps=2))(score(), labels(), seeds=seeds())


@pytest.mark.parametrize("name", CASES)
def test_check_reports_it_where_no_value_is_read(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU after the first call of a shape, where neither images nor logits are read."""
    monkeypatch.setattr(Network, "_logits", lambda network, module, images, check_finite: module(images))
    monkeypatch.setattr(FiniteCheck, "_reads", lambda check, values: False)
    make, message = CASES[name]
    transform = make()
    augmenter = augmenter_of(transform)
    augmenter.check()
    with torch.inference_mode():  # the flag that is set in it is no inference tensor
        transform.render(
            pictures(1), torch.zeros(1, transform.size), Context(labels(1), noise=torch.zeros(1, 2, 16, 16))
        )
    transform.pop_nonfinite_reports()
    augmenter(pictures(), labels())
    with pytest.raises(FloatingPointError, match="since the last check the .*" + message):
        augmenter.check()
    augmenter.check()  # the report is cleared


def test_the_first_call_of_a_shape_is_read() -> None:
    """On another device than the CPU, and only there."""
    check = FiniteCheck("it overflows")
    seen = [check._reads(torch.zeros(shape, device="meta")) for shape in ((2, 3), (2, 3))]
    assert seen == [True, True]  # until one has been read
    check._seen_shapes.add((2, 3))
    assert not check._reads(torch.zeros(2, 3, device="meta"))
    assert check._reads(torch.zeros(3, 3, device="meta"))
    assert check._reads(torch.zeros(2, 3))
    good = torch.ones(2, 3, requires_grad=True)
    assert check(good) is good
    assert check.pop_nonfinite_reports() == []
    for value in (math.nan, math.inf, -math.inf):
        with pytest.raises(FloatingPointError, match="it overflows"):
            check(torch.tensor([[0.0, value]]))
