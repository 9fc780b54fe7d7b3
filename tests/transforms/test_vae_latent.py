"""VAELatent, with autoencoders of diffusers that have random weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.generative import latent_directions
from hard_aug.policies import Search
from hard_aug.schedules import Alternating
from hard_aug.transforms import Color, Compose, VAELatent
from tests.helpers.generative_parts import autoencoder_kl, autoencoder_tiny

EVERYTHING = {"shift": 1.0, "scale": 2.0, "local": 1.0, "grid": (2, 3), "direction": 1.0, "directions": 3}


def autoencoder(kind: str = "kl", channels: int = 1, **settings: Any) -> nn.Module:
    if kind == "tiny":
        return autoencoder_tiny(channels=channels)
    defaults = {"scaling_factor": 0.18215, "shift_factor": None, "force_upcast": True}  # of diffusers
    return autoencoder_kl(**{"in_channels": channels, "out_channels": channels, **defaults, **settings})


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 1, 12, 12, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", ["kl", "tiny"])
def test_the_identity_is_the_image_or_its_reconstruction(kind: str, pictures: Tensor) -> None:
    model = autoencoder(kind)
    for residual in (True, False):
        transform = VAELatent(model, residual=residual, **EVERYTHING)
        out = transform(pictures, torch.zeros(3, transform.size))
        expected = pictures
        if not residual:
            expected = transform.codec.decode(transform.codec.encode(pictures)).detach()
        assert torch.allclose(out, expected, atol=1e-5)
    assert transform.size == 2 + 2 + 2 * 6 + 3


def test_what_each_edit_does() -> None:
    transform = VAELatent(autoencoder(scaling_factor=0.5, shift_factor=0.3), **EVERYTHING)
    assert transform.latent_std == 2.0
    latents = torch.randn(1, 2, 6, 6)
    names = [parameter.name for parameter in transform.spec]

    def edited(**values: float) -> Tensor:
        row = torch.tensor([[values.get(n, p.identity) for n, p in zip(names, transform.spec, strict=True)]])
        return transform.edit(latents, row) - latents

    assert torch.allclose(edited(shift_1=0.5)[:, 1], torch.ones(1, 6, 6))
    assert float(edited(shift_1=0.5)[:, 0].abs().max()) < 1e-5
    assert torch.allclose(edited(scale_0=1.5)[:, 0], 0.5 * (latents[:, 0] - 0.3), atol=1e-6)
    corner = edited(local_0_0_0=1.0)
    assert float(corner[0, 0, 0, 0]) == pytest.approx(2.0)
    assert float(corner[0, 0, 5, 5]) == pytest.approx(0.0, abs=1e-5)
    step = edited(direction_2=0.5)
    assert float(step.square().mean().sqrt()) == pytest.approx(1.0, rel=1e-4)
    again = VAELatent(autoencoder(scaling_factor=0.5), **EVERYTHING).patterns(3, 6, 6, torch.device("cpu"))
    assert torch.equal(again, transform.patterns(3, 6, 6, torch.device("cpu")))


def test_given_directions_are_steps_of_one() -> None:
    given = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(4))
    transform = VAELatent(autoencoder(scaling_factor=0.5), shift=None, direction=2.0, directions=given)
    latents = torch.randn(2, 2, 6, 6)
    out = transform.edit(latents, torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.5, -1.0]]))
    assert torch.equal(out[0], latents[0])
    assert torch.allclose(out[1], latents[1] + 1.5 * given[1] - given[2], atol=1e-6)
    with pytest.raises(ValueError, match="latents of 6 x 6, these are of 5 x 6"):
        transform.edit(latents[:, :, :5], torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"expected \(K, 2, h, w\)"):
        VAELatent(autoencoder(), direction=2.0, directions=given[:, :1])


def test_principal_directions_are_those_of_the_latents() -> None:
    model = autoencoder()
    images = torch.rand(40, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    images = images * torch.linspace(0.1, 1, 40).view(-1, 1, 1, 1)
    found = latent_directions(model, images, 5, batch_size=7)
    with torch.no_grad():
        rows = VAELatent(model).codec.encode(images).flatten(1)
    centred = (rows - rows.mean(0)).double()
    exact = torch.linalg.svd(centred, full_matrices=False)
    assert torch.allclose(found.flatten(1).norm(dim=1).double(), exact.S[:5] / 39**0.5, rtol=1e-3)
    cosines = (found.flatten(1).double() * exact.Vh[:5]).sum(1) / found.flatten(1).norm(dim=1)
    assert float(cosines.abs().min()) > 0.999
    state = torch.get_rng_state()
    assert torch.allclose(found, latent_directions(model, images, 5), atol=1e-5)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="more images"):
        latent_directions(model, images[:5], 5)


@pytest.mark.parametrize("settings", [{"checkpointing": True}, {"micro_batch": 2}])
def test_memory_savings_do_not_change_values(settings: dict[str, Any], pictures: Tensor) -> None:
    found = []
    for more in ({}, settings):
        transform = VAELatent(autoencoder(), **EVERYTHING, **more)
        u = torch.randn(3, transform.size, generator=torch.Generator().manual_seed(2)).requires_grad_()
        out = transform.render(pictures, u)
        found.append((out, torch.autograd.grad(out.square().sum(), u)[0]))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    assert bool(found[0][1].any(0).all())


def test_gradients_match_finite_differences(pictures: Tensor) -> None:
    transform = VAELatent(autoencoder(), **EVERYTHING)
    u = 0.3 * torch.randn(1, transform.size, generator=torch.Generator().manual_seed(2))
    weight = torch.randn(1, 1, 12, 12, generator=torch.Generator().manual_seed(3))

    def score(u: Tensor) -> Tensor:
        return (transform(pictures[:1], u) * weight).double().sum()

    u.requires_grad_()
    (gradient,) = torch.autograd.grad(score(u), u)
    step = 1e-2
    for column in range(0, transform.size, 4):
        change = torch.zeros_like(u)
        change[0, column] = step
        slope = (score(u + change) - score(u - change)).detach() / (2 * step)
        assert float(gradient[0, column]) == pytest.approx(float(slope), rel=0.03, abs=2e-3)


def test_float32_inside_autocast(pictures: Tensor) -> None:
    transform = VAELatent(autoencoder(), **EVERYTHING)
    u = torch.randn(3, transform.size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = transform(pictures, u)
    assert torch.equal(inside, transform(pictures, u))
    half = transform(pictures.bfloat16(), u)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), inside, atol=0.05)


@pytest.mark.parametrize("parts", ["alternating", "search", "composed"])
def test_the_augmenter_ascends_latents(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, parts: str
) -> None:
    transform: Any = VAELatent(autoencoder(), shift=2.0, local=2.0, grid=2)
    settings: dict[str, Any] = {"schedule": Alternating(steps=2)}
    if parts == "search":
        settings = {"policy": Search(transform.spec, candidates=2, steps=1)}
    if parts == "composed":
        transform = Compose(transform, Color(saturation=None, hue=None))
    augmenter = HardAugmenter(teacher=teacher, student=plain_student, transform=transform, **settings)
    weights = [p.clone() for p in getattr(transform, "stages", (transform,))[0].codec.autoencoder.parameters()]
    before = [p.detach().clone() for p in augmenter.policy.parameters()]
    hard = augmenter(images)
    hard.loss().backward()
    assert hard.images.shape == images.shape
    assert 0 <= float(hard.images.detach().min()) <= float(hard.images.detach().max()) <= 1
    assert not torch.equal(hard.images.detach(), images)
    if parts != "search":
        assert any(not torch.equal(a, b) for a, b in zip(before, augmenter.policy.parameters(), strict=True))
    model = getattr(transform, "stages", (transform,))[0].codec.autoencoder
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(weights, model.parameters(), strict=True))


@pytest.mark.parametrize("given", [False, True])
def test_a_call_under_inference_mode_does_not_affect_later_ones(given: bool, pictures: Tensor) -> None:
    settings: dict[str, Any] = dict(EVERYTHING)
    if given:
        settings["directions"] = torch.randn(3, 2, 6, 6, generator=torch.Generator().manual_seed(4))
    transform = VAELatent(autoencoder(), **settings)
    u = torch.randn(3, transform.size, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        inside = transform(pictures, u)
    u.requires_grad_()
    out = transform(pictures, u)
    assert torch.allclose(out, inside, atol=1e-6)
    assert bool((torch.autograd.grad(out.square().sum(), u)[0] != 0).all())


def test_channels_last_and_empty_batches(pictures: Tensor) -> None:
    transform = VAELatent(autoencoder(channels=3))
    wide = pictures.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    out = transform(wide, torch.zeros(3, transform.size))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert transform(wide[:0], torch.zeros(0, transform.size)).shape == (0, 3, 12, 12)


def test_bad_input(pictures: Tensor) -> None:
    model = autoencoder()
    u = torch.zeros(3, 2)
    for settings, message in (
        ({"shift": None}, "every range switched off"),
        ({"shift": -1.0}, "expected a positive number"),
        ({"scale": 1.0}, "expected a factor above 1"),
        ({"directions": 0}, "directions=0"),
        ({"micro_batch": 0}, "micro_batch=0"),
    ):
        with pytest.raises(ValueError, match=message):
            VAELatent(model, **settings)
    with pytest.raises(TypeError, match="expected one of diffusers"):
        VAELatent(nn.Linear(2, 2))
    transform = VAELatent(model)
    with pytest.raises(ValueError, match="takes images of 1 channels, got 3"):
        transform(pictures.expand(-1, 3, -1, -1), u)
    with pytest.raises(ValueError, match=r"stride of 2 does not divide that; pad them to 12 x 10"):
        transform(pictures[:, :, :11, :9], u)
    with pytest.raises(ValueError, match="overflows in float16"):
        VAELatent(autoencoder().half())(pictures, u)
    with pytest.raises(ValueError, match="the autoencoder is on meta"):
        VAELatent(autoencoder().to("meta"))(pictures, u)
