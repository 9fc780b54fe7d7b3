"""HierarchicalLatent: the hook of HARD-VAE as a transform, with small networks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug import HardAugmenter
from hard_aug.generative.hierarchical_vae import HierarchicalVAE
from hard_aug.generative.hierarchical_vae_layers import scale_of
from hard_aug.policies import Gaussian, Search
from hard_aug.schedules import Alternating
from hard_aug.transforms import Color, Compose
from hard_aug.transforms.hierarchical_latent import HierarchicalLatent, measure_latent_std
from tests.generative.test_hierarchical_vae import LEVELS, _seeded, identity, random_u, small


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 1, 12, 12, generator=_seeded(1))


def test_the_identity_is_the_image_or_its_reconstruction(pictures: Tensor) -> None:
    vae = small()
    everything = {"log_scale": 1.0, "noise_seed": 0}
    for settings in ({}, everything, {"start": 1, "end": 3}, {"end": 2, "prior_beyond": True, **everything}):
        transform = HierarchicalLatent(vae, **settings)
        u = torch.zeros(3, transform.size)
        assert torch.equal(transform(pictures, u), pictures)
        noise = vae.draw_noise(1, generator=_seeded(0)) if "noise_seed" in settings else None
        end = transform.end if transform.prior_beyond else LEVELS
        expected = vae.edit(pictures, identity, start=0, end=end, noise=noise)
        assert torch.equal(HierarchicalLatent(vae, residual=False, **settings)(pictures, u), expected)
    assert transform.size == 2 * 2 * 3
    assert [p.block for p in transform.spec] == ["level_0"] * 6 + ["level_1"] * 6
    assert transform.spec[9].name == "log_scale_1_0"


def test_what_each_parameter_does(pictures: Tensor) -> None:
    vae = small()
    stds = [torch.tensor([1.0, 2.0, 3.0]) * (level + 1) for level in range(LEVELS)]
    noise = vae.draw_noise(1, generator=_seeded(4))
    for given in (None, stds):
        settings: dict[str, Any] = {"start": 1, "end": 3, "residual": False, "noise_seed": 4, "log_scale": 1.0}
        transform = HierarchicalLatent(vae, latent_std=given, **settings)
        names = [p.name for p in transform.spec]
        values = torch.zeros(3, transform.size)
        values[:, names.index("shift_2_1")] = 0.5
        values[1, names.index("log_scale_1_2")] = -0.7

        def editor(level: int, mean: Tensor, log_scale: Tensor, given: Any = given) -> tuple[Tensor, Tensor]:
            mean, log_scale = mean.clone(), log_scale.clone()
            if level == 2:
                mean[:, 1] += 0.5 * (scale_of(log_scale[:, 1]) if given is None else 6.0)
            if level == 1:
                log_scale[1, 2] -= 0.7
            return mean, log_scale

        expected = vae.edit(pictures, editor, noise=noise)
        assert torch.allclose(transform.decode_edited(pictures, values), expected, atol=1e-6)


def test_the_standard_deviation_is_that_of_samples(pictures: Tensor) -> None:
    vae = small()
    found = measure_latent_std(vae, pictures, micro_batch=2)
    assert [tuple(value.shape) for value in found] == [(3,)] * LEVELS
    assert bool(torch.stack(found).isfinite().all())
    maps: list[tuple[Tensor, Tensor]] = []

    def editor(level: int, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        maps.append((mean, scale_of(log_scale)))
        return mean, log_scale

    vae.edit(pictures, editor)
    for (mean, scale), std in zip(maps, found, strict=True):
        drawn = mean + scale * torch.randn(4000, *mean.shape)
        assert torch.allclose(drawn.transpose(0, 2).flatten(1).std(1), std, rtol=0.05)
    HierarchicalLatent(vae, latent_std=found)
    with pytest.raises(ValueError, match="at least 2"):
        measure_latent_std(vae, pictures[:1])


def test_gradients_match_finite_differences(pictures: Tensor) -> None:
    vae = small().double()
    transform = HierarchicalLatent(vae, end=3, log_scale=1.0, noise_seed=0, prior_beyond=True)
    u = 0.5 * random_u(transform, rows=2, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda u: transform(pictures[:2].double(), u), u.requires_grad_(), fast_mode=True)
    weight = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    (gradient,) = torch.autograd.grad((transform(pictures[:2], u).double() * weight).sum(), u)
    assert bool((gradient.abs() > 0).all())  # each parameter of each level counts


@pytest.mark.parametrize("settings", [{"checkpointing": True}, {"micro_batch": 2}])
def test_memory_is_saved_at_no_price_in_values(settings: dict[str, Any], pictures: Tensor) -> None:
    vae = small()
    found = []
    for more in ({}, settings):
        transform = HierarchicalLatent(vae, log_scale=1.0, noise_seed=0, **more)
        u = random_u(transform).requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = transform.render(pictures, u)
            gradient = torch.autograd.grad(out.square().sum(), u)[0]
        found.append((out, gradient))
    assert torch.allclose(found[0][0], found[1][0], atol=1e-6)
    assert torch.allclose(found[0][1], found[1][1], rtol=1e-4, atol=1e-6)
    assert bool(found[0][1].any(0).all())


def test_the_network_is_frozen_in_evaluation_mode(pictures: Tensor) -> None:
    vae = small().requires_grad_(True).train()
    transform = HierarchicalLatent(vae)
    assert not vae.training
    assert not any(weight.requires_grad for weight in vae.parameters())
    assert not transform(pictures, random_u(transform)).requires_grad


@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_call_under_inference_mode_does_not_affect_later_ones(checkpointing: bool, pictures: Tensor) -> None:
    transform = HierarchicalLatent(small(), log_scale=1.0, noise_seed=0, checkpointing=checkpointing)
    u = random_u(transform)
    with torch.inference_mode():
        inside = transform(pictures, u)
    out = transform(pictures, u.requires_grad_())
    assert torch.allclose(out, inside, atol=1e-6)
    assert bool((torch.autograd.grad(out.square().sum(), u)[0] != 0).any(0).all())


def test_checkpointing_keeps_less(pictures: Tensor) -> None:
    kept = []
    for checkpointing in (False, True):
        transform = HierarchicalLatent(small(), checkpointing=checkpointing)
        bytes_ = 0

        def pack(value: Tensor) -> Tensor:
            nonlocal bytes_
            bytes_ += value.numel() * value.element_size()
            return value

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
            transform(pictures, random_u(transform).requires_grad_())
        kept.append(bytes_)
    assert kept[1] < kept[0] / 10


def test_float32_inside_autocast(pictures: Tensor) -> None:
    vae = small()
    transform = HierarchicalLatent(vae)
    u = random_u(transform)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = transform(pictures, u), vae.edit(pictures, identity), vae.sample(2, noise=vae.draw_noise(1))
        _, divergence = vae(pictures)
    assert torch.equal(inside[0], transform(pictures, u))
    assert torch.equal(inside[1], vae.edit(pictures, identity))
    assert {value.dtype for value in (*inside, divergence)} == {torch.float32}
    half = transform(pictures.bfloat16(), u)
    assert half.dtype == torch.bfloat16
    assert torch.allclose(half.float(), inside[0], atol=0.05)


@pytest.mark.parametrize("parts", ["alternating", "search", "composed"])
def test_the_augmenter_ascends_levels(teacher: nn.Module, plain_student: nn.Module, images: Tensor, parts: str) -> None:
    vae = small().requires_grad_(True)
    transform: Any = HierarchicalLatent(vae, start=0, end=3, shift=3.0)
    policy: Any = Gaussian(transform.spec)
    if parts == "search":
        policy = Search(transform.spec, candidates=2, steps=1)
    if parts == "composed":
        transform = Compose(transform, Color(saturation=None, hue=None))
        policy = Gaussian(transform.spec)
    schedule = Alternating(steps=2)
    augmenter = HardAugmenter(
        teacher=teacher, student=plain_student, transform=transform, policy=policy, schedule=schedule
    )
    weights = [p.detach().clone() for p in vae.parameters()]
    before = [p.detach().clone() for p in augmenter.policy.parameters()]
    hard = augmenter(images)
    hard.loss().backward()
    assert hard.images.shape == images.shape
    assert 0 <= float(hard.images.detach().min()) <= float(hard.images.detach().max()) <= 1
    assert not torch.equal(hard.images.detach(), images)
    if parts != "search":
        assert any(not torch.equal(a, b) for a, b in zip(before, augmenter.policy.parameters(), strict=True))
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(weights, vae.parameters(), strict=True))


class Foreign(nn.Module):
    """Another VAE, without parameters: one level, whose posterior is centred at the image itself."""

    levels = 1
    latent_channels = 1

    def edit(self, images: Tensor, editor: Any, *, start: int, end: int, noise: Any) -> Tensor:
        mean, log_scale = images, torch.full_like(images, -1.0)
        if start == 0 and end == 1:
            mean, log_scale = editor(0, mean, log_scale)
        return mean if noise is None else mean + scale_of(log_scale) * noise[0]


def test_a_module_with_the_interface_is_accepted(pictures: Tensor) -> None:
    transform = HierarchicalLatent(Foreign(), shift=2.0)
    out = transform(pictures, torch.full((3, 1), 50.0))
    assert torch.allclose(out - pictures, torch.full_like(out, 2 * torch.e**-1), atol=1e-5)
    with pytest.raises(TypeError, match=r"and for noise_seed= draw_noise\(count, \*, generator\); got Foreign"):
        HierarchicalLatent(Foreign(), noise_seed=0)
    for wrong in (nn.Linear(2, 2), object(), None, HierarchicalVAE):
        with pytest.raises(TypeError, match="vae: expected a HierarchicalVAE, or a torch module with levels"):
            HierarchicalLatent(wrong)  # type: ignore[arg-type]


def test_channels_last_and_empty_batches(pictures: Tensor) -> None:
    transform = HierarchicalLatent(small(channels=3))
    wide = pictures.expand(-1, 3, -1, -1).contiguous(memory_format=torch.channels_last)
    out = transform(wide, random_u(transform))
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(out, transform(wide.contiguous(), random_u(transform)), atol=1e-5)
    assert transform(wide[:0], torch.zeros(0, transform.size)).shape == (0, 3, 12, 12)


def test_bad_settings() -> None:
    for settings, message in (
        ({"blocks": ((1, 1), (4, 0))}, "levels=0: expected an integer >= 1"),
        ({"blocks": ((4, 1), (1, 1))}, "expected increasing resolutions"),
        ({"blocks": ((4, 1), (4, 1))}, "expected increasing resolutions"),
        ({"blocks": ((3, 1), (6, 1))}, "the last size"),
        ({"blocks": ()}, "expected increasing resolutions"),
        ({"width": 0}, "width=0"),
        ({"size": -32}, "size=-32"),
    ):
        with pytest.raises(ValueError, match=message):
            HierarchicalVAE(**settings)
    for settings in ({"blocks": 3}, {"blocks": ((1, 2, 3),)}, {"width": 2.5}, {"channels": True}):
        with pytest.raises((TypeError, ValueError), match="expected"):
            HierarchicalVAE(**settings)
    vae = small()
    for settings, message in (
        ({"start": 4}, r"start=4, end=None: expected 0 <= start < end <= 4"),
        ({"start": -1}, "expected 0 <= start"),
        ({"end": 5}, "end <= 4"),
        ({"start": 2, "end": 2}, "start < end"),
        ({"shift": None}, "every range switched off"),
        ({"shift": -1.0}, "expected a positive number"),
        ({"log_scale": 1.0}, "give noise_seed=0"),
        ({"prior_beyond": True}, "no level is beyond end=4"),
        ({"micro_batch": 0}, "micro_batch=0"),
        ({"latent_std": [1.0] * 3}, "for each of 4 levels"),
        ({"latent_std": [torch.ones(2)] * 4}, r"expected a number or \(3,\)"),
        ({"latent_std": [0.0] * 4}, "positive finite"),
    ):
        with pytest.raises(ValueError, match=message):
            HierarchicalLatent(vae, **settings)


def test_bad_input(pictures: Tensor) -> None:
    vae = small()
    transform = HierarchicalLatent(vae)
    u = torch.zeros(3, transform.size)
    with pytest.raises(ValueError, match="takes images of 1 channels, got 3"):
        transform(pictures.expand(-1, 3, -1, -1), u)
    with pytest.raises(ValueError, match=r"the VAE takes \(B, 1, 12, 12\)"):
        transform(pictures[:, :, :9], u)
    with pytest.raises(ValueError, match=r"the VAE is on meta and the images are on cpu; move it with vae\.to\('cpu'"):
        HierarchicalLatent(small().to("meta"))(pictures, u)
    with pytest.raises(ValueError, match=r"the VAE is on meta, the images are on cpu"):
        small().to("meta").edit(pictures, identity)
    with pytest.raises(ValueError, match="start=3, end=2"):
        vae.edit(pictures, identity, start=3, end=2)
    with pytest.raises(ValueError, match="noise for 1 levels of 4"):
        vae.edit(pictures, identity, noise=vae.draw_noise(3)[:1])
    with pytest.raises(ValueError, match=r"noise of level 0 has shape \(2, 3, 1, 1\): expected \(3, 3, 1, 1\)"):
        vae.edit(pictures, identity, noise=vae.draw_noise(2))
    with pytest.raises(ValueError, match="the editor returned maps of shape"):
        vae.edit(pictures, lambda level, mean, log_scale: (mean[:1], log_scale))
