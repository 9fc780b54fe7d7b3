"""Tiny denoisers, autoencoders and classifiers with random weights, for tests of generative models and searches.

Images are `(B, 2, 16, 16)`, latents `(B, 2, 8, 8)`; there are three classes, and a fourth label of the denoiser for no
class.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from hard_aug.generative import ClassLabels, DiffusionModel, DiffusionSampler
from hard_aug.objectives import ConfidenceGap, Disagreement
from hard_aug.synthesis import Acceptance, Score

diffusers = pytest.importorskip("diffusers")

CLASSES = 3
CHANNELS = 2
SIZE = 16
LATENT = 8


def autoencoder_kl(**settings: Any) -> nn.Module:
    torch.manual_seed(10)
    given: dict[str, Any] = {
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 8),
        "latent_channels": CHANNELS,
        "norm_num_groups": 4,
        "layers_per_block": 1,
        "mid_block_add_attention": False,
        "scaling_factor": 0.7,
        "shift_factor": 0.1,
        "force_upcast": False,
    }
    return diffusers.AutoencoderKL(**given | settings).eval()


def autoencoder_tiny(stages: int = 2, *, channels: int = CHANNELS) -> nn.Module:
    torch.manual_seed(11)
    return diffusers.AutoencoderTiny(
        in_channels=channels,
        out_channels=channels,
        encoder_block_out_channels=(8,) * stages,
        decoder_block_out_channels=(8,) * stages,
        num_encoder_blocks=(1,) * stages,
        num_decoder_blocks=(1,) * stages,
        latent_channels=CHANNELS,
    ).eval()


#: Conditioning of `unet`, whose last label stands for no class.
CONDITION = ClassLabels(CLASSES, none_label=CLASSES)


def unet(*, size: int = LATENT, classes: int | None = CLASSES, **settings: Any) -> nn.Module:
    """A denoiser conditioned on a label; unconditional if `classes` is None."""
    torch.manual_seed(12)
    given: dict[str, Any] = {
        "sample_size": size,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "layers_per_block": 1,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 4,
        "num_class_embeds": None if classes is None else classes + 1,
    }
    return diffusers.UNet2DModel(**given | settings).eval()


def unet_condition(*, width: int = 6, **settings: Any) -> nn.Module:
    """A text-to-image denoiser, with embeddings `(B, tokens, width)`."""
    torch.manual_seed(13)
    given: dict[str, Any] = {
        "sample_size": LATENT,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "layers_per_block": 1,
        "block_out_channels": (8, 8),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
        "norm_num_groups": 4,
        "attention_head_dim": 2,
        "cross_attention_dim": width,
    }
    return diffusers.UNet2DConditionModel(**given | settings).eval()


def dit(*, learned_variance: bool = True) -> nn.Module:
    torch.manual_seed(14)
    return diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=CHANNELS,
        out_channels=CHANNELS * (2 if learned_variance else 1),
        num_layers=1,
        norm_num_groups=4,
        sample_size=LATENT,
        patch_size=2,
        num_embeds_ada_norm=CLASSES,
    ).eval()


def ddim(**settings: Any) -> Any:
    return diffusers.DDIMScheduler(**{"clip_sample": False, "prediction_type": "v_prediction"} | settings)


def diffusion_model(scheduler: Any = None, **settings: Any) -> DiffusionModel:
    """A latent diffusion model."""
    return DiffusionModel(unet(), scheduler or ddim(), autoencoder_kl(), **{"condition": CONDITION} | settings)


def pixel_diffusion_model(scheduler: Any = None, **settings: Any) -> DiffusionModel:
    """A diffusion model of pixels."""
    return DiffusionModel(unet(size=SIZE), scheduler or ddim(), **{"condition": CONDITION} | settings)


def make_sampler(scheduler: Any = None, *, steps: int = 4, strength: float = 1.0, **settings: Any) -> DiffusionSampler:
    return DiffusionSampler(diffusion_model(scheduler, **settings), steps=steps, strength=strength)


class Classifier(nn.Sequential):
    """A tiny smooth network: rows of a batch are computed alike whatever its size."""

    def __init__(self, seed: int, *, channels: int = CHANNELS, size: int = SIZE, gain: float = 6.0) -> None:
        torch.manual_seed(seed)
        super().__init__(
            nn.Conv2d(channels, 6, 3, 2, 1), nn.Tanh(), nn.Flatten(), nn.Linear(6 * (size // 2) ** 2, CLASSES)
        )
        with torch.no_grad():
            self[-1].weight.mul_(gain)
        self.eval()


def score(objective: Disagreement | None = None, **settings: Any) -> Score:
    return Score(
        teacher=Classifier(1), student=Classifier(2), objective=objective or ConfidenceGap(2.0, start=1.0), **settings
    )


def labels(count: int = 3) -> Tensor:
    return torch.arange(count) % CLASSES


def seeds(count: int = 3) -> Tensor:
    return torch.arange(count) + 40


def pictures(count: int = 3, *, size: int = SIZE) -> Tensor:
    """Smooth images in [0, 1]."""
    axis = torch.linspace(-1, 1, size)
    centres = torch.linspace(-0.4, 0.4, CHANNELS * count).view(count, CHANNELS, 1, 1)
    return torch.exp(-3 * ((axis - centres) ** 2 + (axis[:, None] + centres) ** 2))


def write_models(folder: Path, *, channels: int = 1, classes: int = 10) -> Path:
    """Write a tiny diffusion model of 32 x 32 images with random weights, as `experiments.train_generative` does."""
    from experiments.train_generative import build_autoencoder, build_scheduler, build_unet

    torch.manual_seed(0)
    build_autoencoder(DictConfig({"widths": [8, 8], "latent_channels": 4}), channels).save_pretrained(folder / "vae")
    build_unet(DictConfig({"widths": [16, 16]}), 4, 16, classes).save_pretrained(folder / "unet")
    build_scheduler().save_pretrained(folder / "scheduler")
    (folder / "condition.json").write_text(json.dumps({"classes": classes, "none_label": classes}))
    return folder


def accept_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Accept all images: a teacher of few steps accepts almost none of a model with random weights."""
    call = Acceptance.__call__

    def everything(self: Acceptance, images: Tensor, labels: Tensor) -> Any:
        result = call(self, images, labels)
        return replace(result, accepted=torch.ones_like(result.accepted))

    monkeypatch.setattr(Acceptance, "__call__", everything)


def run_two_processes(module: str, *arguments: str) -> str:
    """Run a module in two processes that `torchrun` starts, and return its output."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", module]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr
