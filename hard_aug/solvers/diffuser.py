"""Diffuser: a denoiser, a scheduler and perhaps an autoencoder of diffusers, as parts of a loop of one's own.

The pipelines of diffusers run without gradients and show no prediction of the clean image, so guidance by other
networks wants the parts. Whatever the denoiser (`UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel`), it is
called as `denoiser(sample, timestep=..., **condition)`; outputs of twice the channels (a learned variance) are halved.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hard_aug.models.autoencoder import LatentCodec
from hard_aug.models.finite import FiniteCheck
from hard_aug.models.pretrained import load_autoencoder, load_part
from hard_aug.ops.warp_color.reference import clamp_with_gradient
from hard_aug.solvers.conditions import ClassLabels, Condition, Unconditional, mapped
from hard_aug.solvers.counts import Evaluations
from hard_aug.solvers.levels import Levels, levels_of, prediction_type, split_prediction


class Diffuser:
    """Encodes, denoises and decodes; counts what it does in `evaluations`.

    Args:
        denoiser: predicts what the scheduler's `prediction_type` says. It is put in evaluation mode, and no gradient is
            taken of its weights.
        scheduler: of diffusers; only its levels are used.
        autoencoder: whose scaled latents are denoised; None: the denoiser works on pixels in [-1, 1].
        preview: a cheaper autoencoder of the same latents (`AutoencoderTiny`) that searches decode with; final images
            and final scores are the autoencoder's.
        condition: what the denoiser is told of a label; None: `ClassLabels` if its config has `num_class_embeds`, all
            of them classes, or if it is a `DiTTransformer2DModel`; nothing if it wants nothing. One of text has to be
            given `ClassEmbeddings`.
        checkpointing: keep no activations of the denoiser and the decoder, and run both again in the backward.
        guidance_scale: of classifier-free guidance (Ho & Salimans, arXiv:2207.12598), `none + scale (class - none)`; 1:
            no guidance, and half the work. A denoiser that was distilled with guidance (LCM) is told the scale, and is
            called once.

    Raises:
        TypeError, ValueError: parts that are none, or don't fit together.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: Any,
        autoencoder: nn.Module | None = None,
        *,
        preview: nn.Module | None = None,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        config: Any = getattr(denoiser, "config", None)
        if not isinstance(denoiser, nn.Module) or not hasattr(config, "in_channels"):
            raise TypeError(f"denoiser: wanted one of diffusers (UNet2DModel, ...), got {type(denoiser).__name__}")
        self.prediction = prediction_type(scheduler)
        self.denoiser, self.scheduler, self.config = denoiser.eval().requires_grad_(False), scheduler, config
        self.codec = None if autoencoder is None else LatentCodec(autoencoder)
        self.preview = None if preview is None else LatentCodec(preview)
        for name, codec in (("autoencoder", self.codec), ("preview", self.preview)):
            if codec is not None and codec.latent_channels != config.in_channels:
                raise ValueError(
                    f"the {name} has {codec.latent_channels} latent channels, the denoiser takes {config.in_channels}"
                )
        if self.preview is not None and (self.codec is None or self._form(self.preview) != self._form(self.codec)):
            wanted = "an autoencoder" if self.codec is None else f"the autoencoder, {self._form(self.codec)}"
            raise ValueError(f"the preview has (channels, stride) {self._form(self.preview)}: wanted those of {wanted}")
        self.condition = _condition_of(denoiser) if condition is None else condition
        self.guidance_scale = float(guidance_scale)
        self.embeds_scale = _takes(denoiser, "timestep_cond") and config.time_cond_proj_dim is not None
        self.guided = self.guidance_scale != 1 and not self.embeds_scale
        if self.guided:
            self.condition.none(1, self.device)  # raises where there is nothing to compare with
        self.checkpointing = checkpointing
        self._denoised = FiniteCheck(
            f"the denoiser ({type(denoiser).__name__}) led to NaN or infinite values: it overflows in its precision, "
            "or its weights are broken; use denoiser.float() or denoiser.bfloat16()"
        )
        self.evaluations = Evaluations()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        preview: nn.Module | None = None,
        condition: Condition | None = None,
        guidance_scale: float = 1.0,
        checkpointing: bool = False,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> Diffuser:
        """Load the parts from the folders `unet` (or `transformer`), `scheduler` and, if there, `vae`.

        Args:
            name: a folder, or a name on the hub such as "stable-diffusion-v1-5/stable-diffusion-v1-5". A file
                `condition.json` in a folder holds the arguments of `ClassLabels`, where one label is none.
            torch_dtype: of the networks' weights; None: float32. See `load_autoencoder` for those of autoencoders that
                overflow in float16.
            variant: of the files of weights, such as "fp16".
            revision: of the repository on the hub: a branch, a tag or a commit.
            local_files_only: do not ask the hub.

        Raises:
            OSError: nothing there, as diffusers says it.
            ValueError: parts that are none of diffusers, or don't fit together.
        """
        import diffusers

        where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        weights: dict[str, Any] = {"torch_dtype": torch_dtype, "variant": variant}
        if Path(name).is_dir():
            there = {folder.name for folder in Path(name).iterdir() if folder.is_dir()}
        else:
            index = diffusers.DiffusionPipeline.load_config(str(name), **where)
            there = {part for part, kind in index.items() if isinstance(kind, list) and kind[0] is not None}
        place = "unet" if "unet" in there else "transformer"
        denoiser = load_part(name, diffusers.UNet2DModel, subfolder=place, weights=weights, **where)
        autoencoder = load_autoencoder(name, **weights, **where) if "vae" in there else None
        scheduler = load_part(name, diffusers.DDIMScheduler, subfolder="scheduler", **where)
        told = Path(name) / "condition.json"
        if condition is None and told.is_file():
            condition = ClassLabels(**json.loads(told.read_text()))
        return cls(
            denoiser,
            scheduler,
            autoencoder,
            preview=preview,
            condition=condition,
            guidance_scale=guidance_scale,
            checkpointing=checkpointing,
        )

    @staticmethod
    def _form(codec: LatentCodec) -> tuple[int, int]:
        return codec.channels, codec.stride

    @property
    def device(self) -> torch.device:
        """Where the denoiser is."""
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device | str) -> Diffuser:
        """Move the networks; returns itself."""
        for model in (self.denoiser, *(c.autoencoder for c in (self.codec, self.preview) if c is not None)):
            model.to(device)
        return self

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """`(c, h, w)` of images of a size."""
        stride = 1
        if self.codec is not None:
            self.codec.check_size(height, width)
            stride = self.codec.stride
        return int(self.config.in_channels), height // stride, width // stride

    def image_size(self) -> tuple[int, int]:
        """Height and width of the images that the denoiser was made for.

        Raises:
            ValueError: its config does not say.
        """
        size = getattr(self.config, "sample_size", None)
        if size is None:
            raise ValueError("the denoiser's config has no sample_size; give height and width")
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        stride = 1 if self.codec is None else self.codec.stride
        return height * stride, width * stride

    def levels(self, steps: int) -> Levels:
        """See `levels_of`."""
        return levels_of(self.scheduler, steps, self.device)

    def encode(self, images: Tensor) -> Tensor:
        """Scaled latents `(B, c, h, w)` of images `(B, C, H, W)` in [0, 1]."""
        if self.codec is None:
            if images.shape[1] != self.config.in_channels:
                raise ValueError(
                    f"the denoiser takes images of {self.config.in_channels} channels, got {images.shape[1]}"
                )
            return 2 * images.float() - 1
        self.codec.check_channels(images.shape[1])
        self.codec.check_size(*images.shape[-2:])
        self.evaluations.codec_forward += len(images)
        return self.codec.scaled(self.codec.encode(images))

    def decode(self, latents: Tensor, *, preview: bool = False) -> Tensor:
        """Images in [0, 1] of scaled latents, clamped with a gradient that passes. Gradients: latents yes.

        Args:
            preview: by the cheaper autoencoder, if there is one.

        Raises:
            FloatingPointError: latents or images that are not finite; on a GPU at the first call of a shape, later see
                `faults`.
        """
        latents = self._denoised(latents)
        codec = self.preview if preview and self.preview is not None else self.codec
        if codec is None:
            return clamp_with_gradient((latents + 1) / 2)
        follows = _follows(latents)
        self.evaluations.codec_forward += len(latents) * (2 if follows and self.checkpointing else 1)
        self.evaluations.codec_backward += len(latents) if follows else 0
        decoded: Tensor = self._run(codec.decode, codec.unscaled(latents))
        return clamp_with_gradient(decoded)

    def faults(self) -> list[str]:
        """What was not finite on a GPU since the last call, and not said yet. Waits for the device."""
        codecs = [codec for codec in (self.codec, self.preview) if codec is not None]
        return [*self._denoised.faults(), *(fault for codec in codecs for fault in codec.faults())]

    def predict(
        self, sample: Tensor, labels: Tensor, levels: Levels, index: int, *, guided: bool = True
    ) -> tuple[Tensor, Tensor]:
        """`x0` and `e`, float32, of a noisy sample `(B, c, h, w)` at a step. Gradients: sample yes.

        A denoiser of pixels whose scheduler clips (`clip_sample`) has its `x0` clamped to that range, with a gradient
        that passes; latents are never clipped.

        Args:
            guided: with classifier-free guidance, if the diffuser has it.
        """
        guided = guided and self.guided
        rows, follows = len(sample) * (2 if guided else 1), _follows(sample)
        self.evaluations.denoiser_forward += rows * (2 if follows and self.checkpointing else 1)
        self.evaluations.denoiser_backward += rows if follows else 0
        found: tuple[Tensor, Tensor] = self._run(self._predict, sample, labels, levels, index, guided)
        return found

    def _run(self, function: Callable[..., Any], sample: Tensor, *rest: Any) -> Any:
        if self.checkpointing and _follows(sample):
            return checkpoint(function, sample, *rest, use_reentrant=False, preserve_rng_state=False)
        return function(sample, *rest)

    def _predict(
        self, sample: Tensor, labels: Tensor, levels: Levels, index: int, guided: bool
    ) -> tuple[Tensor, Tensor]:
        weight = next(self.denoiser.parameters())
        given = self.condition(labels)
        rows = len(sample) * (2 if guided else 1)
        times = levels.times[index].to(sample.device).expand(rows)
        doubled = sample
        if guided:
            none = self.condition.none(len(sample), sample.device)
            given = mapped(lambda *both: torch.cat(both), given, none)
            doubled = torch.cat((sample, sample))
        given = mapped(lambda value: value.to(weight.dtype) if value.is_floating_point() else value, given)
        given |= self._guidance_embedding(rows, weight)
        output = self.denoiser(doubled.to(weight.dtype), timestep=times, **given)
        out = cast(Tensor, output[0] if isinstance(output, tuple) else output.sample).float()
        out = out[:, : sample.shape[1]]
        if guided:
            with_class, without = out.chunk(2)
            out = without + self.guidance_scale * (with_class - without)
        signal, noise = levels.signal[index], levels.noise[index]
        clean, found = split_prediction(self.prediction, sample, out, signal, noise)
        boundary = getattr(self.scheduler, "get_scalings_for_boundary_condition_discrete", None)
        if boundary is not None:  # of consistency models
            skip, keep = (float(scale) for scale in boundary(levels.times[index].cpu()))
            clean = keep * clean + skip * sample
        if self.codec is None and getattr(self.scheduler.config, "clip_sample", False):
            bound = float(getattr(self.scheduler.config, "clip_sample_range", 1.0))
            clean = 2 * bound * clamp_with_gradient((clean / bound + 1) / 2) - bound
        return clean, found

    def _guidance_embedding(self, rows: int, weight: Tensor) -> dict[str, Tensor]:
        """The embedding of the guidance scale that a distilled denoiser takes (LCM, arXiv:2310.04378)."""
        if not self.embeds_scale:
            return {}
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.full((rows,), 1000 * (self.guidance_scale - 1), device=weight.device)
        embedding = get_timestep_embedding(scale, self.config.time_cond_proj_dim, downscale_freq_shift=1)
        return {"timestep_cond": embedding.to(weight.dtype)}


def _takes(denoiser: nn.Module, argument: str) -> bool:
    return argument in inspect.signature(denoiser.forward).parameters


def _condition_of(denoiser: nn.Module) -> Condition:
    config: Any = denoiser.config
    parameter = inspect.signature(denoiser.forward).parameters.get("encoder_hidden_states")
    if parameter is not None and parameter.default is inspect.Parameter.empty:
        raise ValueError(
            f"{type(denoiser).__name__} is conditioned on text: give the embedding of a prompt for each class, "
            'condition=ClassEmbeddings({"encoder_hidden_states": embeddings})'
        )
    classes = getattr(config, "num_class_embeds", None)
    if classes is not None:  # whether one of them stands for no class is not said
        return ClassLabels(classes)
    classes = getattr(config, "num_embeds_ada_norm", None)  # DiT's; its embeddings have a row for no class besides
    if classes is not None and _takes(denoiser, "class_labels"):
        return ClassLabels(classes, none_label=classes)
    return Unconditional()


def _follows(tensor: Tensor) -> bool:
    """Whether a gradient will be asked of what comes out of `tensor`."""
    return torch.is_grad_enabled() and tensor.requires_grad
