"""Networks with random weights for the cost of generative methods, and counters of their evaluations.

| size | denoiser | autoencoder | teacher, student | pixels |
|---|---|---|---|---|
| `small` | `UNet2DModel` of experiments/conf/generative.yaml | its `AutoencoderKL` | `ConvTeacher`, `MLPStudent` | 32 |
| `stable-diffusion` | `UNet2DConditionModel`, 860 million weights | `AutoencoderKL`, 84 million | ResNet-50, 18 | any |

The second has the configuration of Stable Diffusion 1.5 (Rombach et al., arXiv:2112.10752), with both of its parts in
bfloat16; teacher and student are in float32. Weights are frozen, as otherwise autograd would store the inputs of their
layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from hydra import compose, initialize_config_module
from torch import Tensor, nn

from benchmarks.models import timm_pair
from experiments.models import ConvTeacher, MLPStudent
from experiments.train_generative import build_autoencoder, build_scheduler, build_unet
from hard_aug.generative import NFE, ClassEmbeddings, Conditioning, DiffusionModel

CLASSES = 10
#: Number of tokens of a prompt and width of their embeddings in Stable Diffusion 1.5.
TOKENS, EMBEDDING = 77, 768


@dataclass
class Parts:
    """Networks and images of a method.

    Attributes:
        condition: conditioning of the denoiser; None: that of its config.
        images: `(B, C, H, W)` in [0, 1].
        labels: `(B,)`.
        iterations: iterations of noise optimisation.
    """

    denoiser: nn.Module
    autoencoder: nn.Module
    scheduler: Any
    teacher: nn.Module
    student: nn.Module
    images: Tensor
    condition: Conditioning | None = None
    iterations: int = 10

    def __post_init__(self) -> None:
        self.labels = torch.arange(len(self.images), device=self.images.device) % CLASSES
        for network in (self.denoiser, self.autoencoder, self.teacher, self.student):
            network.to(self.images.device).eval().requires_grad_(False)

    def diffusion_model(self, *, checkpointing: bool = False) -> DiffusionModel:
        """Return a new diffusion model of the same networks."""
        return DiffusionModel(
            self.denoiser, self.scheduler, self.autoencoder, condition=self.condition, checkpointing=checkpointing
        )

    def networks(self) -> dict[str, tuple[Any, ...]]:
        """Return the networks by the names of `NFE`'s fields."""
        codec: Any = self.autoencoder
        return {
            "denoiser": (self.denoiser,),
            "codec": (codec.encoder, codec.decoder),
            "classifier": (self.teacher, self.student),
        }


def small(pixels: int, batch: int, iterations: int, device: torch.device) -> Parts:
    """Build the models of `experiments.train_generative`, for grayscale images."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        config = compose("generative")
    autoencoder = build_autoencoder(config.autoencoder, 1)
    latents = pixels // 2 ** (len(config.autoencoder.widths) - 1)
    return Parts(
        build_unet(config.unet, config.autoencoder.latent_channels, latents, CLASSES),
        autoencoder,
        build_scheduler(),
        ConvTeacher(size=pixels, classes=CLASSES),
        MLPStudent(size=pixels, classes=CLASSES),
        torch.rand(batch, 1, pixels, pixels).to(device),
        iterations=iterations,
    )


def stable_diffusion_networks(pixels: int) -> tuple[UNet2DConditionModel, AutoencoderKL]:
    """Build denoiser and autoencoder of Stable Diffusion 1.5; arguments equal to diffusers' defaults are omitted."""
    denoiser = UNet2DConditionModel(sample_size=pixels // 8, cross_attention_dim=EMBEDDING)
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        sample_size=pixels,
    )
    return denoiser, autoencoder


def stable_diffusion(pixels: int, batch: int, iterations: int, device: torch.device) -> Parts:
    """Build a denoiser conditioned on one prompt's embedding per class, without classifier-free guidance."""
    with device:  # initialising a billion weights takes long on the CPU
        denoiser, autoencoder = (network.bfloat16() for network in stable_diffusion_networks(pixels))
        embeddings = torch.randn(CLASSES, TOKENS, EMBEDDING)
    scheduler = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
    return Parts(
        denoiser,
        autoencoder,
        scheduler,
        *timm_pair(CLASSES)(),
        torch.rand(batch, 3, pixels, pixels).to(device),
        ClassEmbeddings({"encoder_hidden_states": embeddings}),
        iterations,
    )


@dataclass(frozen=True)
class Size:
    """Default settings of a size.

    Attributes:
        build: makes the parts from pixels, batch, iterations and device.
        multiple: pixels must be a multiple of it.
    """

    build: Callable[[int, int, int, torch.device], Parts]
    multiple: int
    pixels: tuple[int, ...]
    batch: int
    iterations: int
    repeats: int


SIZES = {
    "small": Size(small, 8, (32,), 16, 10, 7),
    "stable-diffusion": Size(stable_diffusion, 64, (256, 512), 1, 1, 3),
}


@contextmanager
def counted(parts: Parts) -> Iterator[NFE]:
    """Count the evaluations inside the block by hooks on the networks, independently of the library's own counters.

    A backward counts when a gradient arrives at a network's output, so that recomputation by checkpointing counts as
    one more forward and no more backward.
    """
    found = NFE()

    def add(name: str, rows: int) -> None:
        setattr(found, name, getattr(found, name) + rows)

    def watch(network: nn.Module, kind: str) -> list[Any]:
        def entered(module: nn.Module, given: tuple[Any, ...]) -> None:
            add(f"{kind}_forward", len(given[0]))

        def left(module: nn.Module, given: tuple[Any, ...], output: Any) -> None:
            out: Tensor = output if isinstance(output, Tensor) else output[0]
            if out.requires_grad:
                out.register_hook(lambda gradient: add(f"{kind}_backward", len(gradient)))

        return [network.register_forward_pre_hook(entered), network.register_forward_hook(left)]

    handles = [
        handle for kind, group in parts.networks().items() for network in group for handle in watch(network, kind)
    ]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
