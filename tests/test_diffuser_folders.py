"""`Diffuser.from_pretrained`: folders as diffusers writes them, and what the hub's client has fetched."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from generative_parts import (
    CLASSES,
    CONDITION,
    SIZE,
    autoencoder_kl,
    ddim,
    diffuser,
    dit,
    labels,
    pixel_diffuser,
    score,
    seeds,
    unet,
    unet_condition,
)
from torch import Tensor

from hard_aug.solvers import Chain, ClassEmbeddings, ClassLabels, Diffuser, Unguided

diffusers = pytest.importorskip("diffusers")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def saved(folder: Path, **parts: Any) -> Path:
    for name, part in parts.items():
        part.save_pretrained(folder / name)
    return folder


def with_none(folder: Path) -> Path:
    """Says that the last label stands for no class."""
    (folder / "condition.json").write_text(json.dumps({"classes": CLASSES, "none_label": CLASSES}))
    return folder


def same_images(folder: str | Path, expected: Diffuser, **settings: Any) -> Diffuser:
    loaded = Diffuser.from_pretrained(folder, local_files_only=True, **settings)
    shown = [
        Unguided(Chain(made, steps=3))(score(), labels(), seeds=seeds(), classes=CLASSES).images
        for made in (loaded, expected)
    ]
    assert torch.equal(*shown)
    return loaded


def test_folders_with_and_without_an_autoencoder(tmp_path: Path) -> None:
    latent = with_none(saved(tmp_path / "latent", unet=unet(), vae=autoencoder_kl(), scheduler=ddim()))
    assert same_images(latent, diffuser()).scheduler.config.prediction_type == "v_prediction"
    assert same_images(str(latent), diffuser(guidance_scale=2.0), guidance_scale=2.0).guided
    flow = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    pixels = saved(tmp_path / "pixels", unet=unet(size=SIZE), scheduler=flow)
    assert same_images(pixels, pixel_diffuser(flow), condition=CONDITION).codec is None
    other = saved(tmp_path / "transformer", transformer=dit(), vae=autoencoder_kl(), scheduler=ddim())
    assert same_images(other, Diffuser(dit(), ddim(), autoencoder_kl())).condition.classes == CLASSES
    with pytest.raises(OSError, match="scheduler"):
        Diffuser.from_pretrained(saved(tmp_path / "half", unet=unet()), local_files_only=True)
    with pytest.raises(OSError, match="no-such"):
        Diffuser.from_pretrained("no-such/model-here", local_files_only=True)


def test_a_folder_says_which_label_is_none(tmp_path: Path) -> None:
    folder = saved(tmp_path, unet=unet(size=SIZE), scheduler=ddim())
    silent = Diffuser.from_pretrained(folder).condition
    assert isinstance(silent, ClassLabels)
    assert (silent.classes, silent.none_label) == (CLASSES + 1, None)
    with pytest.raises(ValueError, match="nothing to say of no class"):
        Diffuser.from_pretrained(folder, guidance_scale=2.0)
    told = Diffuser.from_pretrained(with_none(folder), guidance_scale=2.0)
    assert isinstance(told.condition, ClassLabels)
    assert (told.condition.classes, told.condition.none_label) == (CLASSES, CLASSES)
    assert told.guided
    same_images(folder, pixel_diffuser(guidance_scale=2.0), guidance_scale=2.0)
    given = ClassLabels(2)
    assert Diffuser.from_pretrained(folder, condition=given).condition is given


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
    expected = Diffuser(denoiser, scheduler, codec, condition=condition, guidance_scale=4.0)
    folder = saved(tmp_path, unet=denoiser, vae=codec, scheduler=scheduler)
    loaded = same_images(folder, expected, condition=condition, guidance_scale=4.0)
    assert loaded.codec is not None
    assert (loaded.codec.scaling_factor, loaded.codec.shift_factor) == (0.18215, 0.0)
    assert loaded.guided is not distilled
    assert Chain(loaded, steps=3).renoise == (1.0 if distilled else 0.0)
    with pytest.raises(ValueError, match=r"conditioned on text: .*condition=ClassEmbeddings"):
        Diffuser.from_pretrained(folder)


def test_names_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the hub's client leaves what it fetched: a transformer and no unet is what the index of the model says."""
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    home = tmp_path / "models--someone--dit"
    snapshot = saved(home / "snapshots" / ("1" * 40), transformer=dit(), vae=autoencoder_kl(), scheduler=ddim())
    names = {"transformer": "DiTTransformer2DModel", "vae": "AutoencoderKL", "scheduler": "DDIMScheduler"}
    listed = ", ".join(f'"{part}": ["diffusers", "{kind}"]' for part, kind in names.items())
    (snapshot / "model_index.json").write_text(f'{{"_class_name": "DiTPipeline", "unet": [null, null], {listed}}}')
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text(snapshot.name)
    same_images("someone/dit", Diffuser(dit(), ddim(), autoencoder_kl()))
