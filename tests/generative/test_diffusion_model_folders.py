"""`from_pretrained` and `load_autoencoder`: folders as diffusers writes them, and the cache of the hub's client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.models import pretrained_generative as shipped
from hard_aug.generative import ClassEmbeddings, ClassLabels, DiffusionModel, DiffusionSampler, load_autoencoder
from hard_aug.synthesis import Unguided
from hard_aug.transforms import VAELatent
from tests.helpers.generative_parts import (
    CLASSES,
    CONDITION,
    SIZE,
    autoencoder_kl,
    autoencoder_tiny,
    ddim,
    diffusion_model,
    dit,
    labels,
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


def saved(folder: Path, **parts: Any) -> Path:
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


def with_none(folder: Path) -> Path:
    """Write that the last label stands for no class."""
    (folder / "condition.json").write_text(json.dumps({"classes": CLASSES, "none_label": CLASSES}))
    return folder


def same_images(folder: str | Path, expected: DiffusionModel, **settings: Any) -> DiffusionModel:
    loaded = DiffusionModel.from_pretrained(folder, local_files_only=True, **settings)
    shown = [
        Unguided(DiffusionSampler(made, steps=3))(score(), labels(), seeds=seeds(), classes=CLASSES).images
        for made in (loaded, expected)
    ]
    assert torch.equal(*shown)
    return loaded


@pytest.mark.slow
def test_folders_with_and_without_an_autoencoder(tmp_path: Path) -> None:
    latent = with_none(saved(tmp_path / "latent", unet=unet(), vae=autoencoder_kl(), scheduler=ddim()))
    assert same_images(latent, diffusion_model()).scheduler.config.prediction_type == "v_prediction"
    assert same_images(str(latent), diffusion_model(guidance_scale=2.0), guidance_scale=2.0).guided
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    pixels = saved(tmp_path / "pixels", unet=unet(size=SIZE), scheduler=flow)
    assert same_images(pixels, pixel_diffusion_model(flow), condition=CONDITION).codec is None
    other = saved(tmp_path / "transformer", transformer=dit(), vae=autoencoder_kl(), scheduler=ddim())
    assert same_images(other, DiffusionModel(dit(), ddim(), autoencoder_kl())).condition.classes == CLASSES
    with pytest.raises(OSError, match="scheduler"):
        DiffusionModel.from_pretrained(saved(tmp_path / "half", unet=unet()), local_files_only=True)
    with pytest.raises(OSError, match="no-such"):
        DiffusionModel.from_pretrained("no-such/model-here", local_files_only=True)


def test_a_folder_says_which_label_is_none(tmp_path: Path) -> None:
    folder = saved(tmp_path, unet=unet(size=SIZE), scheduler=ddim())
    silent = DiffusionModel.from_pretrained(folder).condition
    assert isinstance(silent, ClassLabels)
    assert (silent.classes, silent.none_label) == (CLASSES + 1, None)
    with pytest.raises(ValueError, match="has no unconditional case"):
        DiffusionModel.from_pretrained(folder, guidance_scale=2.0)
    told = DiffusionModel.from_pretrained(with_none(folder), guidance_scale=2.0)
    assert isinstance(told.condition, ClassLabels)
    assert (told.condition.classes, told.condition.none_label) == (CLASSES, CLASSES)
    assert told.guided
    same_images(folder, pixel_diffusion_model(guidance_scale=2.0), guidance_scale=2.0)
    given = ClassLabels(2)
    assert DiffusionModel.from_pretrained(folder, condition=given).condition is given


@pytest.mark.parametrize("distilled", [False, True])
def test_folders_of_text_to_image(tmp_path: Path, distilled: bool) -> None:
    """Configurations like those of Stable Diffusion and of LCM."""
    condition = ClassEmbeddings(
        {"encoder_hidden_states": normal(CLASSES, 4, 6)}, none={"encoder_hidden_states": normal(1, 4, 6, seed=1)}
    )
    noise = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    scheduler = (
        diffusers.LCMScheduler(**noise)
        if distilled
        else diffusers.DDIMScheduler(**noise, set_alpha_to_one=False, steps_offset=1)
    )
    denoiser = unet_condition(time_cond_proj_dim=8 if distilled else None)
    codec = autoencoder_kl(scaling_factor=0.18215, shift_factor=None, force_upcast=True)
    expected = DiffusionModel(denoiser, scheduler, codec, condition=condition, guidance_scale=4.0)
    folder = saved(tmp_path, unet=denoiser, vae=codec, scheduler=scheduler)
    loaded = same_images(folder, expected, condition=condition, guidance_scale=4.0)
    assert loaded.codec is not None
    assert (loaded.codec.latent_scale.factor, loaded.codec.latent_scale.mean) == (0.18215, 0.0)
    assert loaded.guided is not distilled
    assert DiffusionSampler(loaded, steps=3).eta == (1.0 if distilled else 0.0)
    with pytest.raises(ValueError, match=r"conditioned on text: .*condition=ClassEmbeddings"):
        DiffusionModel.from_pretrained(folder)


def fetched(hub: Path, name: str, *, commit: str = "1" * 40, reference: str = "main") -> Path:
    """Return the folder where the hub's client caches a repository."""
    home = hub / f"models--{name.replace('/', '--')}"
    (home / "refs").mkdir(parents=True, exist_ok=True)
    (home / "refs" / reference).write_text(commit)
    return home / "snapshots" / commit


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def transformer_of(folder: Path, denoiser: nn.Module) -> None:
    saved(folder, transformer=denoiser, vae=autoencoder_kl(), scheduler=ddim())
    names = {"transformer": "DiTTransformer2DModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    listed = ", ".join(f'"{part}": ["diffusers", "{kind}"]' for part, kind in names.items())
    (folder / "model_index.json").write_text(f'{{"_class_name": "DiTPipeline", "unet": [null, null], {listed}}}')


def test_names_on_the_hub(hub: Path) -> None:
    """As the hub's client leaves what it fetched: a transformer and no unet is what the index of the model says."""
    transformer_of(fetched(hub, "someone/dit"), dit())
    same_images("someone/dit", DiffusionModel(dit(), ddim(), autoencoder_kl()))


def test_revisions(hub: Path) -> None:
    changed = dit()
    with torch.no_grad():
        changed.proj_out_2.bias.add_(0.5)
    transformer_of(fetched(hub, "someone/dit"), dit())
    transformer_of(fetched(hub, "someone/dit", commit="2" * 40, reference="next"), changed)
    same_images("someone/dit", DiffusionModel(dit(), ddim(), autoencoder_kl()))
    expected = DiffusionModel(changed, ddim(), autoencoder_kl())
    same_images("someone/dit", expected, revision="next")
    same_images("someone/dit", expected, revision="2" * 40)
    assert load_autoencoder("someone/dit", revision="next", local_files_only=True).config.scaling_factor == 0.7
    with pytest.raises(OSError, match="someone/dit"):
        DiffusionModel.from_pretrained("someone/dit", revision="none", local_files_only=True)
    with pytest.raises(OSError, match="someone/dit has no autoencoder in vae/, nor at its root"):
        load_autoencoder("someone/dit", revision="none", local_files_only=True)


def test_precision_and_variants(tmp_path: Path) -> None:
    networks = {"unet": unet(), "vae": autoencoder_kl()}
    folder = with_none(saved(tmp_path, **networks, scheduler=ddim()))
    half = DiffusionModel.from_pretrained(folder, torch_dtype=torch.bfloat16)
    assert half.codec is not None
    for model in (half.denoiser, half.codec.autoencoder):
        assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    found = Unguided(DiffusionSampler(half, steps=2))(score(), labels(), seeds=seeds()).images
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    for name, model in networks.items():
        with torch.no_grad():
            next(model.parameters()).fill_(0.25)
        model.save_pretrained(folder / name, variant="other")
    other = DiffusionModel.from_pretrained(folder, variant="other")
    assert other.codec is not None
    for model in (other.denoiser, other.codec.autoencoder):
        assert bool((next(model.parameters()) == 0.25).all())
    same_images(folder, diffusion_model())
    with pytest.raises(OSError, match="absent"):
        DiffusionModel.from_pretrained(folder, variant="absent", local_files_only=True)


def test_autoencoders_that_overflow_in_float16_stay_in_float32(tmp_path: Path) -> None:
    folder = with_none(saved(tmp_path, unet=unet(), vae=autoencoder_kl(force_upcast=True), scheduler=ddim()))
    loaded = DiffusionModel.from_pretrained(folder, torch_dtype=torch.float16)
    assert loaded.codec is not None
    assert next(loaded.denoiser.parameters()).dtype == torch.float16
    assert next(loaded.codec.autoencoder.parameters()).dtype == torch.float32
    assert next(load_autoencoder(folder, torch_dtype=torch.bfloat16).parameters()).dtype == torch.bfloat16
    latents = loaded.encode(pictures())
    assert bool(loaded.decode(latents).isfinite().all())


KINDS = {"AutoencoderKL": autoencoder_kl, "AutoencoderTiny": autoencoder_tiny}


def same_autoencoder(given: str | Path, kind: str) -> None:
    """By the loader, and by what configurations name."""
    expected = VAELatent(KINDS[kind]())
    u = torch.full((3, expected.size), 0.7)
    for loaded in (load_autoencoder(given, local_files_only=True), shipped.autoencoder(str(given), device="cpu")):
        assert type(loaded).__name__ == kind
        assert not loaded.training
        assert torch.equal(VAELatent(loaded)(pictures(), u), expected(pictures(), u))


@pytest.mark.parametrize("kind", KINDS)
def test_an_autoencoder_alone(tmp_path: Path, hub: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Like `stabilityai/sd-vae-ft-mse` and `madebyollin/taesd` at the root; like Stable Diffusion in `vae/`."""
    model = KINDS[kind]()
    model.save_pretrained(tmp_path / "root")
    model.save_pretrained(tmp_path / "within" / "vae")
    unet().save_pretrained(tmp_path / "within")  # the folder `vae` goes before the root
    same_autoencoder(tmp_path / "root", kind)
    same_autoencoder(tmp_path / "within", kind)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    model.save_pretrained(fetched(hub, "someone/alone"))
    model.save_pretrained(fetched(hub, "someone/whole") / "vae")
    same_autoencoder("someone/alone", kind)
    same_autoencoder("someone/whole", kind)


def test_where_there_is_no_autoencoder(tmp_path: Path, hub: Path) -> None:
    (tmp_path / "empty" / "vae").mkdir(parents=True)
    with pytest.raises(OSError, match=r"empty has neither vae/config\.json nor config\.json: expected a folder with"):
        shipped.autoencoder(str(tmp_path / "empty"))
    unet().save_pretrained(tmp_path / "unet")
    with pytest.raises(ValueError, match="holds the config of a UNet2DModel, which is no autoencoder"):
        load_autoencoder(tmp_path / "unet")
    (tmp_path / "empty" / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(ValueError, match="names the class None, which diffusers"):
        load_autoencoder(tmp_path / "empty")
    unet().save_pretrained(fetched(hub, "someone/unet"))
    with pytest.raises(ValueError, match="UNet2DModel, which is no autoencoder"):
        load_autoencoder("someone/unet", local_files_only=True)
    for absent in ("no-such/model-here", str(tmp_path / "no" / "such" / "folder")):
        with pytest.raises(OSError, match="has no autoencoder in vae/, nor at its root: "):
            load_autoencoder(absent, local_files_only=True)
