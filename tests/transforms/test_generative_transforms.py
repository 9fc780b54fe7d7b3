"""What the transforms with generative models have in common: dtypes, copies, and the smallest batches."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug import HardAugmenter
from hard_aug.generative import DiffusionModel, DiffusionSampler, HierarchicalVAE, latent_directions
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.policies import Search
from hard_aug.transforms import Diffusion, HierarchicalLatent, Transform, VAELatent
from hard_aug.transforms.context import Context
from hard_aug.transforms.hierarchical_latent import measure_latent_std
from tests.helpers.defaults import defaults
from tests.helpers.generative_parts import (
    CONDITION,
    SIZE,
    Classifier,
    autoencoder_kl,
    ddim,
    labels,
    make_sampler,
    pictures,
    pixel_diffusion_model,
    unet,
)

diffusers = pytest.importorskip("diffusers")
IMAGES = pictures()
DEFAULTS = [torch.float64, torch.bfloat16, torch.float16]


def ladder() -> HierarchicalVAE:
    torch.manual_seed(0)
    return HierarchicalVAE(channels=2, size=SIZE, blocks=((1, 1), (4, 2)), width=8, latent_channels=2).eval()


def vae_latent() -> VAELatent:
    scaled = autoencoder_kl(latents_mean=[0.5, -0.25], latents_std=[2.0, 0.5], shift_factor=None)
    return VAELatent(scaled, scale=2.0, local=0.5, grid=2, direction=1.0, directions=3)


#: By name: makes a transform, whose networks are float32 whatever the default dtype was.
MAKE: dict[str, Callable[[], Transform]] = {
    "VAELatent": vae_latent,
    "HierarchicalLatent": lambda: HierarchicalLatent(ladder(), log_scale=0.5, noise_seed=1),
    "Diffusion": lambda: Diffusion(make_sampler(steps=3, strength=0.5)),
    "Diffusion of pixels": lambda: Diffusion(
        DiffusionSampler(pixel_diffusion_model(ddim(thresholding=True)), steps=3, strength=0.5)
    ),
    "Diffusion, sigmas": lambda: Diffusion(
        make_sampler(diffusers.EulerDiscreteScheduler(use_karras_sigmas=True, beta_end=0.01), steps=3, strength=0.5)
    ),
}


def edited(transform: Transform, *, count: int = 3, dtype: torch.dtype = torch.float32) -> Tensor:
    u = torch.randn(3, transform.size, generator=torch.Generator().manual_seed(7), dtype=torch.float32)
    with torch.no_grad():
        return transform(IMAGES[:count].to(dtype), 0.5 * u[:count], Context(labels(count)))


@pytest.mark.parametrize("dtype", DEFAULTS)
@pytest.mark.parametrize("name", MAKE)
def test_whatever_the_default_dtype(name: str, dtype: torch.dtype) -> None:
    """Settings, random patterns and noise are made under it; results are those under float32."""
    expected = edited(MAKE[name]())
    networks = MAKE[name]()
    with defaults(dtype):
        found = edited(rebuild(networks))
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def rebuild(made: Transform) -> Transform:
    """Return a transform that was made now, of the networks of another."""
    if isinstance(made, VAELatent):
        return VAELatent(made.autoencoder, scale=2.0, local=0.5, grid=2, direction=1.0, directions=3)
    if isinstance(made, HierarchicalLatent):
        return HierarchicalLatent(made.vae, log_scale=0.5, noise_seed=1)
    assert isinstance(made, Diffusion)
    old = made.sampler.model
    codec = None if old.codec is None else old.codec.autoencoder
    model = DiffusionModel(old.denoiser, old.scheduler, codec, condition=CONDITION)
    return Diffusion(DiffusionSampler(model, steps=3, strength=0.5))


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", MAKE)
def test_results_have_the_dtype_of_the_images(name: str, dtype: torch.dtype) -> None:
    expected, found = edited(MAKE[name]()), edited(MAKE[name](), dtype=dtype)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected, atol=1e-5 if dtype == torch.float64 else 0.05)


@pytest.mark.parametrize("name", MAKE)
def test_networks_that_were_cast_give_the_dtype_of_the_images(name: str) -> None:
    """As by a trainer whose module holds them."""
    transform = MAKE[name]()
    for network in networks_of(transform):
        network.bfloat16()
    found = edited(transform)
    assert found.dtype == torch.float32
    assert torch.allclose(found, edited(MAKE[name]()), atol=0.15)


def networks_of(transform: Transform) -> list[torch.nn.Module]:
    if isinstance(transform, Diffusion):
        model = transform.sampler.model
        return [model.denoiser, *([] if model.codec is None else [model.codec.autoencoder])]
    return [transform.vae if isinstance(transform, HierarchicalLatent) else transform.autoencoder]  # type: ignore[attr-defined]


def pickled(value: Any) -> Any:
    return pickle.loads(pickle.dumps(value))


def saved(value: Any) -> Any:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled, saved])
@pytest.mark.parametrize("name", MAKE)
def test_copies_give_the_same_images(name: str, copied: Callable[[Any], Any]) -> None:
    """Also after a call, when caches are filled, and without sharing networks."""
    transform = MAKE[name]()
    expected = edited(transform)
    other = copied(transform)
    assert torch.equal(edited(other), expected)
    assert repr(other) == repr(transform)
    shared = {id(network) for network in networks_of(transform)} & {id(network) for network in networks_of(other)}
    assert not shared
    for network in networks_of(transform):
        for weight in network.parameters():
            weight.data.zero_()
    assert torch.equal(edited(other), expected)


@pytest.mark.parametrize("copied", [copy.deepcopy, pickled])
def test_copies_of_a_diffusion_model(copied: Callable[[Any], Any]) -> None:
    scheduler = diffusers.LCMScheduler(original_inference_steps=12)
    model = DiffusionModel(unet(), scheduler, autoencoder_kl(), condition=CONDITION, guidance_scale=2.0)
    sampler = DiffusionSampler(model, steps=3)
    other = copied(sampler)
    fresh = noise_from_seeds(torch.arange(4), (3, 2, 8, 8), torch.device("cpu"))
    with torch.no_grad():
        found = [each.run(fresh[0], labels(), step_noise=fresh[1:]) for each in (sampler, other)]
        assert torch.equal(*found)
        assert torch.equal(other.model.decode(found[0]), model.decode(found[0]))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
@pytest.mark.parametrize("name", MAKE)
def test_the_smallest_batches(name: str, count: int) -> None:
    """Each row as in a larger batch."""
    transform = MAKE[name]()
    found = edited(transform, count=count)
    assert found.shape == (count, 2, SIZE, SIZE)
    assert torch.allclose(found, edited(transform)[:count], atol=1e-5)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("name", MAKE)
def test_the_smallest_batches_of_the_augmenter(name: str, count: int) -> None:
    transform = MAKE[name]()
    augmenter = HardAugmenter(
        teacher=Classifier(1), student=Classifier(2), transform=transform, policy=Search(transform.spec, candidates=2)
    )
    hard = augmenter(IMAGES[:count], labels(count))
    assert hard.images.shape == (count, 2, SIZE, SIZE)
    assert bool(hard.loss().isfinite())


def test_statistics_need_no_float64_of_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Devices without it (MPS) would raise; here every conversion that is not to the CPU's does."""

    def refuse(*_: object) -> None:
        raise AssertionError("float64 on a device")

    vae = ladder()
    # The values are on the CPU, so that only what has passed through `cpu()` may become float64.
    seen: set[int] = set()
    to_cpu, to_double = Tensor.cpu, Tensor.double

    def cpu(tensor: Tensor, *args: Any, **settings: Any) -> Tensor:
        found = to_cpu(tensor, *args, **settings).clone()
        seen.add(id(found))
        kept.append(found)
        return found

    kept: list[Tensor] = []
    monkeypatch.setattr(Tensor, "cpu", cpu)
    monkeypatch.setattr(Tensor, "double", lambda tensor: to_double(tensor) if id(tensor) in seen else refuse())
    found = measure_latent_std(vae, IMAGES, micro_batch=2)
    assert [value.dtype for value in found] == [torch.float32] * 3
    assert len(make_sampler(steps=3).noise_schedule) == 3


def test_directions_are_the_same_under_any_default_dtype() -> None:
    model = autoencoder_kl()
    expected = latent_directions(model, IMAGES, 2)
    with defaults(torch.bfloat16):
        assert torch.equal(latent_directions(model, IMAGES, 2), expected)
