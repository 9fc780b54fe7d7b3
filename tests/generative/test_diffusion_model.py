"""DiffusionModel and DiffusionSampler: parts of diffusers with random weights, on the CPU."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hard_aug.generative import ClassEmbeddings, ClassLabels, DiffusionModel, DiffusionSampler
from hard_aug.generative.latent_codec import LatentCodec
from hard_aug.synthesis import GuidedSampler, NoiseOptimizer, Unguided
from tests.helpers.generative_parts import (
    CHANNELS,
    CLASSES,
    CONDITION,
    LATENT,
    SIZE,
    autoencoder_kl,
    autoencoder_tiny,
    ddim,
    diffusion_model,
    dit,
    labels,
    make_sampler,
    pictures,
    pixel_diffusion_model,
    score,
    seeds,
    unet,
    unet_condition,
)

diffusers = pytest.importorskip("diffusers")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def noisy(count: int = 3, size: int = LATENT) -> Tensor:
    return normal(count, CHANNELS, size, size)


def direction_of(found: DiffusionModel, index: int = 1) -> Tensor:
    """`e`, for the same noisy latents."""
    with torch.no_grad():
        return found.predict(noisy(), labels(), found.noise_schedule(4), index)[1]


# Conditioning -------------------------------------------------------------------------------------------------------


def test_classifier_free_guidance_against_its_formula() -> None:
    denoiser = unet()
    plain, guided, none = (
        DiffusionModel(denoiser, ddim(prediction_type="epsilon"), condition=CONDITION, guidance_scale=scale)
        for scale in (1.0, 3.0, 0.0)
    )
    nothing = torch.full((3,), CLASSES)
    time = plain.noise_schedule(4).timesteps[1]
    with torch.no_grad():
        without = denoiser(noisy(), time, class_labels=nothing).sample
        given = denoiser(noisy(), time, class_labels=labels()).sample
    assert not torch.allclose(without, given, atol=1e-3)
    assert torch.allclose(direction_of(plain), given, atol=1e-5)
    assert torch.allclose(direction_of(none), without, atol=1e-5)
    assert torch.allclose(direction_of(guided), without + 3 * (given - without), atol=1e-5)
    assert plain.nfe.denoiser_forward == 3
    assert guided.nfe.denoiser_forward == 6
    with pytest.raises(ValueError, match="use guidance_scale=1"):
        DiffusionModel(unet(classes=None), ddim(), guidance_scale=2.0)
    with pytest.raises(ValueError, match="ClassLabels has no unconditional case"):
        DiffusionModel(denoiser, ddim(), guidance_scale=2.0, condition=ClassLabels(3))
    unsaid = DiffusionModel(denoiser, ddim()).condition  # whether the last is a class is not in the config
    assert isinstance(unsaid, ClassLabels)
    assert (unsaid.classes, unsaid.none_label) == (CLASSES + 1, None)
    with pytest.raises(ValueError, match="ClassLabels has no unconditional case"):
        DiffusionModel(denoiser, ddim(), guidance_scale=2.0)


def test_embeddings_of_prompts() -> None:
    rows, none = normal(CLASSES, 4, 6), normal(1, 4, 6, seed=1)
    condition = ClassEmbeddings({"encoder_hidden_states": rows}, none={"encoder_hidden_states": none})
    denoiser = unet_condition()
    found = DiffusionModel(denoiser, ddim(prediction_type="epsilon"), condition=condition, guidance_scale=2.0)
    time = found.noise_schedule(4).timesteps[1]
    with torch.no_grad():
        given = denoiser(noisy(), time, encoder_hidden_states=rows[labels()]).sample
        without = denoiser(noisy(), time, encoder_hidden_states=none.expand(3, -1, -1)).sample
    assert torch.allclose(direction_of(found), 2 * given - without, atol=1e-5)
    # From noise, the number of classes is that of the prompts.
    solved = Unguided(
        DiffusionSampler(DiffusionModel(denoiser, ddim(), autoencoder_kl(), condition=condition), steps=2)
    )
    assert solved(score(), labels(), seeds=seeds()).images.shape == (3, CHANNELS, SIZE, SIZE)
    with pytest.raises(ValueError, match=r"rows: expected at least one argument"):
        ClassEmbeddings({"encoder_hidden_states": rows, "text": none})
    with pytest.raises(ValueError, match=r"\[\] rows"):
        ClassEmbeddings({})
    with pytest.raises(ValueError, match=r"none has \['text'\]: expected the arguments of embeddings"):
        ClassEmbeddings({"encoder_hidden_states": rows}, none={"text": none})


def test_nested_embeddings_as_those_of_stable_diffusion_xl() -> None:
    def told(count: int, seed: int) -> dict[str, Any]:
        added = {"text_embeds": normal(count, 5, seed=seed), "time_ids": 16 * normal(count, 6, seed=seed + 1).abs()}
        return {"encoder_hidden_states": normal(count, 4, 6, seed=seed + 2), "added_cond_kwargs": added}

    rows, none = told(CLASSES, 0), told(1, 9)
    denoiser = unet_condition(
        addition_embed_type="text_time", addition_time_embed_dim=4, projection_class_embeddings_input_dim=6 * 4 + 5
    )
    condition = ClassEmbeddings(rows, none=none)
    scheduler = ddim(prediction_type="epsilon")
    found = DiffusionModel(denoiser, scheduler, condition=condition, guidance_scale=3.0, checkpointing=True)

    def predicted(row: int, which: dict[str, Any]) -> Tensor:
        states = which["encoder_hidden_states"][row : row + 1]
        added = {name: value[row : row + 1] for name, value in which["added_cond_kwargs"].items()}
        time = found.noise_schedule(4).timesteps[1]
        return denoiser(noisy()[given : given + 1], time, encoder_hidden_states=states, added_cond_kwargs=added).sample

    shown = direction_of(found)
    for given, label in enumerate(labels().tolist()):
        with torch.no_grad():
            with_class, without = predicted(label, rows), predicted(0, none)
        assert not torch.allclose(with_class, without, atol=1e-3)
        assert torch.allclose(shown[given : given + 1], without + 3 * (with_class - without), atol=1e-4)
    start = noisy().requires_grad_()
    clean, _ = found.predict(start, labels(), found.noise_schedule(4), 1)
    assert bool(torch.autograd.grad(clean.sum(), start)[0].isfinite().all())
    uneven = {**rows, "added_cond_kwargs": {"text_embeds": normal(CLASSES - 1, 5)}}
    with pytest.raises(ValueError, match=r"embeddings have \[2, 3\] rows"):
        ClassEmbeddings(uneven)
    half = {**none, "added_cond_kwargs": {"time_ids": normal(1, 6)}}
    with pytest.raises(ValueError, match=r"none has \['added_cond_kwargs\.time_ids', .*: expected the arguments"):
        ClassEmbeddings(rows, none=half)


@pytest.mark.parametrize("settings", [{}, {"num_class_embeds": CLASSES}])
def test_text_to_image_denoisers_require_embeddings(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"UNet2DConditionModel is conditioned on text: .*ClassEmbeddings\("):
        DiffusionModel(unet_condition(**settings), ddim())


def test_a_denoiser_distilled_with_guidance_gets_the_scale_and_is_called_once() -> None:
    rows = normal(CLASSES, 4, 6)
    denoiser = unet_condition(time_cond_proj_dim=8)
    angles = 1000 * (8.5 - 1) * torch.exp(-math.log(1e4) * torch.arange(4) / 3)  # as LCM's pipeline
    embedding = torch.cat((angles.sin(), angles.cos())).expand(3, -1)
    scheduler = ddim(prediction_type="epsilon")
    found = DiffusionModel(
        denoiser, scheduler, condition=ClassEmbeddings({"encoder_hidden_states": rows}), guidance_scale=8.5
    )
    time = found.noise_schedule(4).timesteps[1]
    with torch.no_grad():
        expected = denoiser(noisy(), time, timestep_cond=embedding, encoder_hidden_states=rows[labels()]).sample
        other = denoiser(noisy(), time, timestep_cond=0 * embedding, encoder_hidden_states=rows[labels()]).sample
    assert not torch.allclose(expected, other, atol=1e-4)
    assert torch.allclose(direction_of(found), expected, atol=1e-5)
    assert found.nfe.denoiser_forward == 3


@pytest.mark.parametrize("learned", [True, False])
def test_a_transformer_whose_variance_is_learned(learned: bool) -> None:
    denoiser = dit(learned_variance=learned)
    found = DiffusionModel(denoiser, ddim(prediction_type="epsilon"), autoencoder_kl(), guidance_scale=2.0)
    times = found.noise_schedule(4).timesteps[1].expand(3)
    with torch.no_grad():
        given = denoiser(noisy(), times, class_labels=labels()).sample
        without = denoiser(noisy(), times, class_labels=torch.full((3,), CLASSES)).sample
    assert given.shape[1] == CHANNELS * (2 if learned else 1)
    assert torch.allclose(direction_of(found), (2 * given - without)[:, :CHANNELS], atol=1e-5)
    assert isinstance(found.condition, ClassLabels)
    assert found.condition.classes == CLASSES
    images = NoiseOptimizer(DiffusionSampler(found, steps=2), iterations=1)(score(), labels(), seeds=seeds()).images
    assert bool(images.isfinite().all())


# Autoencoders -------------------------------------------------------------------------------------------------------


def test_latents_are_scaled_as_the_config_says() -> None:
    codec = autoencoder_kl()
    found = DiffusionModel(unet(), ddim(), codec)
    with torch.no_grad():
        raw = codec.encode(2 * pictures() - 1).latent_dist.mode()
        assert torch.allclose(found.encode(pictures()), (raw - 0.1) * 0.7, atol=1e-6)
        decoded = ((codec.decode(raw).sample + 1) / 2).clamp(0, 1)
        assert torch.allclose(found.decode(found.encode(pictures())), decoded, atol=1e-5)
    assert found.latent_shape(SIZE, 2 * SIZE) == (CHANNELS, LATENT, 2 * LATENT)
    assert found.image_size() == (SIZE, SIZE)
    assert DiffusionModel(unet(size=(4, 6)), ddim(), codec).image_size() == (8, 12)
    pixels = pixel_diffusion_model()
    assert torch.allclose(pixels.decode(pixels.encode(pictures())), pictures(), atol=1e-6)


def test_a_preview_is_used_by_searches_alone() -> None:
    tiny = autoencoder_tiny()
    found = diffusion_model(preview=tiny)
    latents = found.encode(pictures())
    cheap, full = found.decode(latents, preview=True).detach(), found.decode(latents).detach()
    with torch.no_grad():
        assert torch.allclose(cheap, ((tiny.decode(latents).sample + 1) / 2).clamp(0, 1), atol=1e-5)
    assert not torch.allclose(cheap, full, atol=1e-2)
    assert torch.equal(diffusion_model().decode(latents, preview=True), full)
    for search in (
        NoiseOptimizer(DiffusionSampler(found, steps=2), iterations=2),
        GuidedSampler.mpgd(DiffusionSampler(found, steps=2)),
    ):
        result = search(score(), labels(), seeds=seeds())
        again = Unguided(DiffusionSampler(diffusion_model(), steps=2))(score(), labels(), seeds=seeds())
        assert torch.allclose(result.scores_before, again.scores_after, atol=1e-5)
        assert not torch.allclose(result.images, again.images, atol=1e-3)
    for unfit, codec in ((autoencoder_tiny(3), autoencoder_kl()), (tiny, None)):
        with pytest.raises(ValueError, match=r"the preview has \(channels, stride\)"):
            DiffusionModel(unet(), ddim(), codec, preview=unfit)


def test_an_autoencoder_that_overflows() -> None:
    with pytest.raises(ValueError, match=r"overflows in float16 \(force_upcast\)"):
        DiffusionModel(unet(), ddim(), autoencoder_kl(force_upcast=True).half()).encode(pictures())
    codec = autoencoder_kl()
    with torch.no_grad():
        codec.decoder.conv_in.weight.mul_(1e6)
    half = DiffusionModel(unet(), ddim(), codec.half(), condition=CONDITION)
    for search in (
        Unguided(DiffusionSampler(half, steps=2)),
        NoiseOptimizer(DiffusionSampler(half, steps=2), iterations=1),
    ):
        with pytest.raises(FloatingPointError, match=r"use autoencoder\.float\(\) or autoencoder\.bfloat16\(\)"):
            search(score(), labels(), seeds=seeds())
    broken = unet()
    with torch.no_grad():
        broken.conv_in.weight.fill_(math.nan)
    with pytest.raises(FloatingPointError, match=r"the denoiser \(UNet2DModel\) produced NaN"):
        Unguided(DiffusionSampler(DiffusionModel(broken, ddim(), autoencoder_kl(), condition=CONDITION), steps=2))(
            score(), labels(), seeds=seeds()
        )


def test_half_precision_networks_give_float32() -> None:
    found = DiffusionModel(unet().bfloat16(), ddim(), autoencoder_kl().bfloat16(), condition=CONDITION)
    result = NoiseOptimizer(DiffusionSampler(found, steps=2), iterations=1)(score(), labels(), seeds=seeds())
    assert result.images.dtype == result.scores_after.dtype == torch.float32
    full = Unguided(DiffusionSampler(diffusion_model(), steps=2))(score(), labels(), seeds=seeds()).images
    half = Unguided(DiffusionSampler(found, steps=2))(score(), labels(), seeds=seeds()).images
    assert torch.allclose(full, half, atol=0.1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = Unguided(DiffusionSampler(diffusion_model(), steps=2))(score(), labels(), seeds=seeds())
    assert torch.equal(inside.images, full)
    assert torch.equal(inside.scores_after, inside.scores_before)


# Gradients ----------------------------------------------------------------------------------------------------------


def gradient_of(found: DiffusionModel, *, backprop_steps: int | None = None, steps: int = 4) -> tuple[Tensor, Tensor]:
    sampler = DiffusionSampler(found, steps=steps)
    start = noisy().requires_grad_()
    images = found.decode(sampler.run(sampler.start(start, None), labels(), backprop_steps=backprop_steps))
    weight = normal(*images.shape, seed=3)
    return images.detach(), torch.autograd.grad((images * weight).sum(), start)[0]


def test_checkpointed_gradients_are_the_plain_ones() -> None:
    plain, thrifty = diffusion_model(), diffusion_model(checkpointing=True)
    (images, gradient), (again, recomputed) = gradient_of(plain), gradient_of(thrifty)
    assert torch.equal(images, again)
    assert float(gradient.abs().max()) > 1e-3
    assert torch.allclose(gradient, recomputed, rtol=1e-5, atol=1e-7)
    assert plain.nfe.as_dict() == {
        "denoiser_forward": 12,
        "denoiser_backward": 12,
        "codec_forward": 3,
        "codec_backward": 3,
        "classifier_forward": 0,
        "classifier_backward": 0,
        "total": 12 + 3 + 2 * (12 + 3),
    }
    assert thrifty.nfe.denoiser_forward == 24
    assert thrifty.nfe.codec_forward == 6
    weights = (*plain.denoiser.parameters(), *plain.codec.autoencoder.parameters())  # type: ignore[union-attr]
    assert all(weight.grad is None for weight in weights)


@pytest.mark.parametrize("search", ["noise", "mpgd", "classifier"])
def test_checkpointed_searches_are_the_plain_ones(search: str) -> None:
    found = []
    for checkpointing in (False, True):
        sampler = make_sampler(steps=2, checkpointing=checkpointing)
        made = {
            "noise": lambda sampler=sampler: NoiseOptimizer(sampler, iterations=2),
            "mpgd": lambda sampler=sampler: GuidedSampler.mpgd(sampler),
            "classifier": lambda sampler=sampler: GuidedSampler.classifier(sampler),
        }[search]()
        found.append(made(score(), labels(), seeds=seeds()).images)
    assert torch.allclose(found[0], found[1], atol=1e-5)


def test_the_gradient_matches_finite_differences() -> None:
    found, sampler = diffusion_model(), make_sampler(steps=3)
    codec = LatentCodec(autoencoder_kl())
    _, gradient = gradient_of(found, steps=3)
    weight, step = normal(3, CHANNELS, SIZE, SIZE, seed=3).double(), 2e-2
    change = normal(3, CHANNELS, LATENT, LATENT, seed=4)

    @torch.no_grad()
    def value(start: Tensor) -> Tensor:
        latents = sampler.run(start, labels())  # a clamp's own slope is not the gradient
        return (codec.decode(codec.unscale(latents)).double() * weight).sum()

    slope = (value(noisy() + step * change) - value(noisy() - step * change)) / (2 * step)
    assert float((gradient * change).sum()) == pytest.approx(float(slope), rel=0.02)


def test_a_gradient_of_the_last_steps_points_where_the_whole_does() -> None:
    found = diffusion_model()
    images, whole = gradient_of(found)
    for backprop_steps, least in ((4, 1.0), (9, 1.0), (3, 0.5), (1, 0.2)):
        shown, part = gradient_of(found, backprop_steps=backprop_steps)
        assert torch.equal(shown, images)
        alike = torch.cosine_similarity(whole.flatten(1), part.flatten(1))
        assert float(alike.min()) > least - 1e-5
    before = found.nfe.denoiser_backward
    gradient_of(found, backprop_steps=1)
    assert found.nfe.denoiser_backward - before == 3


@pytest.mark.slow
def test_inversion_leads_back() -> None:
    for scheduler in (None, diffusers.FlowMatchEulerDiscreteScheduler()):
        errors = []
        for steps in (8, 32, 128):
            sampler = make_sampler(scheduler, steps=steps, strength=0.5)
            with torch.no_grad():
                clean = sampler.model.encode(pictures(1))
                noise = sampler.invert(clean, labels(1))
                back = sampler.run(sampler.start(noise, clean), labels(1))
            assert noise.shape == clean.shape
            errors.append(float((back - clean).square().mean().sqrt() / clean.std()))
        assert errors[1] < 0.6 * errors[0]
        assert errors[2] < 0.5 * errors[1]  # of the first order
        assert errors[2] < 0.2
        assert sampler.model.nfe.denoiser_forward == 2 * 64


def test_inversion_takes_no_classifier_free_guidance() -> None:
    plain, guided = (make_sampler(steps=6, strength=0.5, guidance_scale=scale) for scale in (1.0, 4.0))
    with torch.no_grad():
        clean = plain.model.encode(pictures())
        noise = [sampler.invert(clean, labels()) for sampler in (plain, guided)]
        assert torch.equal(*noise)
        assert guided.model.nfe.denoiser_forward == 3 * 3
        back = [sampler.run(sampler.start(noise[0], clean), labels()) for sampler in (plain, guided)]
    assert not torch.allclose(*back, atol=1e-3)  # the sampler back is guided
    assert guided.model.nfe.denoiser_forward == 3 * 3 + 2 * 3 * 3


# Bad input ----------------------------------------------------------------------------------------------------------


def test_parts_that_do_not_fit() -> None:
    with pytest.raises(TypeError, match="denoiser: expected one of diffusers"):
        DiffusionModel(nn.Linear(2, 2), ddim())
    with pytest.raises(TypeError, match="autoencoder: expected one of diffusers"):
        DiffusionModel(unet(), ddim(), nn.Linear(2, 2))
    with pytest.raises(ValueError, match="the autoencoder has 3 latent channels, the denoiser takes 2"):
        DiffusionModel(unet(), ddim(), autoencoder_kl(latent_channels=3))
    with pytest.raises(ValueError, match="the preview has 3 latent channels"):
        DiffusionModel(unet(), ddim(), autoencoder_kl(), preview=autoencoder_kl(latent_channels=3))
    with pytest.raises(ValueError, match="prediction_type='sigma'"):
        DiffusionModel(unet(), ddim(prediction_type="sigma"))
    with pytest.raises(ValueError, match="no sample_size; give height and width"):
        DiffusionModel(unet(size=None), ddim()).image_size()  # type: ignore[arg-type]
    assert LatentCodec(autoencoder_tiny(3)).stride == 4


def test_images_that_do_not_fit() -> None:
    parts = diffusion_model()
    with pytest.raises(ValueError, match=r"stride of 2 does not divide that; pad them to 16 x 16"):
        parts.encode(pictures()[:, :, :15, :15])
    with pytest.raises(ValueError, match="takes images of 2 channels, got 1"):
        parts.encode(pictures()[:, :1])
    with pytest.raises(ValueError, match="the denoiser takes images of 2 channels, got 1"):
        pixel_diffusion_model().encode(pictures()[:, :1])
    search = Unguided(make_sampler(steps=2, strength=0.5))
    with pytest.raises(ValueError, match="does not divide"):
        search(score(), labels(), seeds=seeds(), images=pictures(size=15))
