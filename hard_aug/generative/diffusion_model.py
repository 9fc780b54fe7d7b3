"""DiffusionModel: denoiser, scheduler and optional autoencoder of diffusers, as parts of a custom sampling loop.

The pipelines of diffusers run without gradients and do not expose the prediction of the clean image, so guidance by
other networks needs the parts. Every denoiser (`UNet2DModel`, `UNet2DConditionModel`, `DiTTransformer2DModel`, ...) is
called as `denoiser(sample, timestep=..., **condition)`; of outputs with twice the channels (a learned variance) the
first half is used. Settings of the parts that change results are applied as diffusers applies them, or refused by name:
see `denoiser_settings`, `scheduler_settings` and `autoencoder_settings`.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hard_aug.generative.conditioning import ClassLabels, Conditioning, map_tensors
from hard_aug.generative.denoiser_settings import check_condition, check_denoiser, default_condition, has_argument
from hard_aug.generative.finite import FiniteCheck
from hard_aug.generative.latent_codec import LatentCodec
from hard_aug.generative.nfe import NFE
from hard_aug.generative.noise_schedule import NoiseSchedule, make_noise_schedule, split_prediction
from hard_aug.generative.pretrained import load_autoencoder, load_part
from hard_aug.generative.scheduler_settings import Clipping, check_scheduler, prediction_type
from hard_aug.ops.elementwise import clamp_with_gradient
from hard_aug.utils.extras import requires_extra


class DiffusionModel:
    """Encodes, denoises and decodes.

    Args:
        denoiser: predicts what the scheduler's `prediction_type` says. It is put in evaluation mode and frozen.
        scheduler: scheduler of diffusers; its noise levels are used, and the clipping of its predictions.
        autoencoder: the autoencoder whose scaled latents are denoised; None: the denoiser works on pixels in [-1, 1].
        preview: a cheaper autoencoder with the same latents (`AutoencoderTiny`), used to decode during searches; final
            images and final scores use `autoencoder`.
        condition: how labels are passed to the denoiser. None: `ClassLabels` if the denoiser is a
            `DiTTransformer2DModel` or its config has `num_class_embeds` (all of them classes), else unconditional.
            Text-to-image models require `ClassEmbeddings`.
        guidance_scale: scale of classifier-free guidance (Ho & Salimans, arXiv:2207.12598),
            `none + scale (class - none)`; 1: no guidance at half the cost. A denoiser distilled with guidance (LCM)
            gets the scale as an input and is called once.
        checkpointing: recompute the denoiser and the decoder in the backward pass instead of storing activations.

    Attributes:
        nfe: number of function evaluations so far.

    Raises:
        TypeError: a part is not one of diffusers, or of a class that is not served.
        ValueError: the parts do not fit together, or have a setting that changes results and is not served.

    Example:
        >>> import diffusers
        >>> unet = diffusers.UNet2DModel(
        ...     sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,) * 4, norm_num_groups=8
        ... )
        >>> model = DiffusionModel(unet, diffusers.DDIMScheduler())
        >>> schedule, labels = model.noise_schedule(4), torch.zeros(2, dtype=torch.int64)
        >>> clean, noise = model.predict(torch.randn(2, 1, 8, 8), labels, schedule, 0)
        >>> model.decode(clean).shape
        torch.Size([2, 1, 8, 8])
        >>> model.nfe.denoiser_forward
        2
    """

    def __init__(
        self,
        denoiser: nn.Module,
        scheduler: Any,
        autoencoder: nn.Module | None = None,
        *,
        preview: nn.Module | None = None,
        condition: Conditioning | None = None,
        guidance_scale: float = 1.0,
        checkpointing: bool = False,
    ) -> None:
        check_denoiser(denoiser)
        check_scheduler(scheduler)
        config: Any = denoiser.config
        self.prediction = prediction_type(scheduler)
        self.denoiser, self.scheduler, self.config = denoiser.eval().requires_grad_(False), scheduler, config
        self.codec = None if autoencoder is None else LatentCodec(autoencoder)
        self.preview = None if preview is None else LatentCodec(preview)
        for name, codec in (("autoencoder", self.codec), ("preview", self.preview)):
            if codec is not None and codec.latent_channels != config.in_channels:
                raise ValueError(
                    f"the {name} has {codec.latent_channels} latent channels, the denoiser takes {config.in_channels}"
                )
        if self.preview is not None and (self.codec is None or self._layout(self.preview) != self._layout(self.codec)):
            expected = "an autoencoder" if self.codec is None else f"the autoencoder, {self._layout(self.codec)}"
            raise ValueError(
                f"the preview has (channels, stride) {self._layout(self.preview)}: expected those of {expected}"
            )
        self.clipping = Clipping.of(scheduler, latents=self.codec is not None)
        if self.codec is not None and Clipping.of(scheduler, latents=False) != self.clipping:
            warnings.warn(
                f"{type(scheduler).__name__} has clip_sample=True, which is for pixels: latents are not clipped here; "
                "to say so, use scheduler.from_config(scheduler.config, clip_sample=False)",
                stacklevel=2,
            )
        self.condition = default_condition(denoiser) if condition is None else condition
        check_condition(denoiser, self.condition)
        self.guidance_scale = float(guidance_scale)
        self._embeds_scale = has_argument(denoiser, "timestep_cond") and config.time_cond_proj_dim is not None
        self.guided = self.guidance_scale != 1 and not self._embeds_scale
        if self.guided:
            self.condition.none(1, self.device)  # raises if there is no unconditional case
        self.checkpointing = checkpointing
        self._latents_check = FiniteCheck(
            f"the denoiser ({type(denoiser).__name__}) produced NaN or infinite values: it overflows in its precision, "
            "or its weights are broken; use denoiser.float() or denoiser.bfloat16()"
        )
        self.nfe = NFE()

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        preview: nn.Module | None = None,
        condition: Conditioning | None = None,
        guidance_scale: float = 1.0,
        checkpointing: bool = False,
        torch_dtype: torch.dtype | None = None,
        variant: str | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> DiffusionModel:
        """Load the parts from the folders `unet` (or `transformer`), `scheduler` and, if it exists, `vae`.

        Args:
            name: a folder, or a name on the hub such as "stable-diffusion-v1-5/stable-diffusion-v1-5". A file
                `condition.json` in a folder holds the arguments of `ClassLabels` (which label stands for no class).
            preview: see the class.
            condition: see the class.
            guidance_scale: see the class.
            checkpointing: see the class.
            torch_dtype: dtype of the weights; None: float32. See `load_autoencoder` for autoencoders that stay float32.
            variant: variant of the weight files, such as "fp16".
            revision: branch, tag or commit of the repository on the hub.
            local_files_only: whether to use downloaded files only.

        Raises:
            OSError: the files do not exist (error of diffusers).
            ValueError: a part is not of diffusers, or the parts do not fit together.
        """
        with requires_extra("DiffusionModel.from_pretrained", "diffusion", "diffusers"):
            import diffusers

        where: dict[str, Any] = {"revision": revision, "local_files_only": local_files_only}
        weights: dict[str, Any] = {"torch_dtype": torch_dtype, "variant": variant}
        if Path(name).is_dir():
            parts = {folder.name for folder in Path(name).iterdir() if folder.is_dir()}
        else:
            index = diffusers.DiffusionPipeline.load_config(str(name), **where)
            parts = {part for part, kind in index.items() if isinstance(kind, list) and kind[0] is not None}
        subfolder = "unet" if "unet" in parts else "transformer"
        denoiser = load_part(name, diffusers.UNet2DModel, subfolder=subfolder, weights=weights, **where)
        autoencoder = load_autoencoder(name, **weights, **where) if "vae" in parts else None
        scheduler = load_part(name, diffusers.DDIMScheduler, subfolder="scheduler", **where)
        stored = Path(name) / "condition.json"
        if condition is None and stored.is_file():
            try:
                condition = ClassLabels(**json.loads(stored.read_text(encoding="utf-8")))
            except (TypeError, ValueError) as error:
                raise ValueError(f"{stored} is damaged ({error}); remove it, and give condition=") from error
        return cls(
            denoiser,
            scheduler,
            autoencoder,
            preview=preview,
            condition=condition,
            guidance_scale=guidance_scale,
            checkpointing=checkpointing,
        )

    def __repr__(self) -> str:
        parts = {"denoiser": self.denoiser, "scheduler": self.scheduler}
        parts |= {
            name: codec.autoencoder for name, codec in (("autoencoder", self.codec), ("preview", self.preview)) if codec
        }
        shown = [f"{name}={type(part).__name__}" for name, part in parts.items()]
        settings = f"guidance_scale={self.guidance_scale}, checkpointing={self.checkpointing}"
        return f"DiffusionModel({', '.join(shown)}, condition={self.condition!r}, {settings})"

    @staticmethod
    def _layout(codec: LatentCodec) -> tuple[int, int]:
        return codec.channels, codec.stride

    @property
    def device(self) -> torch.device:
        """Device of the denoiser."""
        return next(self.denoiser.parameters()).device

    def to(self, device: torch.device | str) -> DiffusionModel:
        """Move the networks to a device and return `self`."""
        for network in (self.denoiser, *(c.autoencoder for c in (self.codec, self.preview) if c is not None)):
            network.to(device)
        return self

    def latent_shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape `(c, h, w)` of the latents of an image.

        Args:
            height: height of the image.
            width: width of the image.

        Raises:
            ValueError: the autoencoder's stride does not divide the size.
        """
        stride = 1
        if self.codec is not None:
            self.codec.check_size(height, width)
            stride = self.codec.stride
        return int(self.config.in_channels), height // stride, width // stride

    def image_size(self) -> tuple[int, int]:
        """Return the height and width of the images that the denoiser was trained on.

        Raises:
            ValueError: the denoiser's config has no `sample_size`.
        """
        size = getattr(self.config, "sample_size", None)
        if size is None:
            raise ValueError("the denoiser's config has no sample_size; give height and width")
        height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        stride = 1 if self.codec is None else self.codec.stride
        return height * stride, width * stride

    def noise_schedule(self, steps: int) -> NoiseSchedule:
        """Build the scheduler's noise schedule of `steps` steps; see `make_noise_schedule`."""
        return make_noise_schedule(self.scheduler, steps, self.device)

    def encode(self, images: Tensor) -> Tensor:
        """Return the scaled latents `(B, c, h, w)` of images `(B, C, H, W)` in [0, 1].

        Raises:
            ValueError: the number of channels or the size does not fit the networks.
            FloatingPointError: see `LatentCodec.encode`.
        """
        if self.codec is None:
            if images.shape[1] != self.config.in_channels:
                raise ValueError(
                    f"the denoiser takes images of {self.config.in_channels} channels, got {images.shape[1]}"
                )
            return 2 * images.float() - 1
        self.codec.check_channels(images.shape[1])
        self.codec.check_size(*images.shape[-2:])
        self.nfe.codec_forward += len(images)
        return self.codec.scale(self.codec.encode(images))

    def decode(self, latents: Tensor, *, preview: bool = False) -> Tensor:
        """Decode scaled latents to images clamped to [0, 1]; the gradient passes through the clamp unchanged.

        Gradients: latents yes.

        Args:
            latents: `(B, c, h, w)`.
            preview: whether to use the cheaper autoencoder, if there is one.

        Raises:
            FloatingPointError: latents or images are not finite. On a GPU this raises at the first call of a shape,
                later see `pop_nonfinite_reports`.
        """
        latents = self._latents_check(latents)
        codec = self.preview if preview and self.preview is not None else self.codec
        if codec is None:
            return clamp_with_gradient((latents + 1) / 2)
        differentiated = _is_differentiated(latents)
        self.nfe.codec_forward += len(latents) * (2 if differentiated and self.checkpointing else 1)
        self.nfe.codec_backward += len(latents) if differentiated else 0
        decoded: Tensor = self._run(codec.decode, codec.unscale(latents))
        return clamp_with_gradient(decoded)

    def pop_nonfinite_reports(self) -> list[str]:
        """Return and clear the reports of non-finite values on a GPU since the last call; synchronises with it."""
        codecs = [codec for codec in (self.codec, self.preview) if codec is not None]
        return [
            *self._latents_check.pop_nonfinite_reports(),
            *(report for codec in codecs for report in codec.pop_nonfinite_reports()),
        ]

    def predict(
        self, sample: Tensor, labels: Tensor, noise_schedule: NoiseSchedule, index: int, *, guided: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Predict `x0` and `e`, both float32, of a noisy sample.

        `x0` is clipped as the scheduler's own step does, see `Clipping`. Gradients: sample yes.

        Args:
            sample: `(B, c, h, w)`.
            labels: `(B,)`.
            noise_schedule: noise levels, see `noise_schedule()`.
            index: index of the step in the noise schedule.
            guided: whether to use classifier-free guidance, if the model has it.
        """
        guided = guided and self.guided
        rows, differentiated = len(sample) * (2 if guided else 1), _is_differentiated(sample)
        self.nfe.denoiser_forward += rows * (2 if differentiated and self.checkpointing else 1)
        self.nfe.denoiser_backward += rows if differentiated else 0
        return self._run(self._predict, sample, labels, noise_schedule, index, guided)  # type: ignore[no-any-return]

    def _run(self, function: Callable[..., Any], sample: Tensor, *rest: Any) -> Any:
        if self.checkpointing and _is_differentiated(sample):
            return checkpoint(function, sample, *rest, use_reentrant=False, preserve_rng_state=False)
        return function(sample, *rest)

    def _predict(
        self, sample: Tensor, labels: Tensor, noise_schedule: NoiseSchedule, index: int, guided: bool
    ) -> tuple[Tensor, Tensor]:
        if self.denoiser.training:  # because a module that holds it was put in training mode since
            self.denoiser.eval()
        weight = next(self.denoiser.parameters())
        arguments = self.condition(labels)
        rows = len(sample) * (2 if guided else 1)
        timesteps = noise_schedule.timesteps[index].to(sample.device).expand(rows)
        if (scale := getattr(self.config, "timestep_scale", 1.0)) != 1:
            timesteps = timesteps * scale
        inputs = sample
        if guided:
            none = self.condition.none(len(sample), sample.device)
            arguments = map_tensors(lambda *both: torch.cat(both), arguments, none)
            inputs = torch.cat((sample, sample))
        arguments = map_tensors(lambda value: value.to(weight.dtype) if value.is_floating_point() else value, arguments)
        arguments |= self._guidance_embedding(rows, weight)
        output = self.denoiser(inputs.to(weight.dtype), timestep=timesteps, **arguments)
        out = cast(Tensor, output[0] if isinstance(output, tuple) else output.sample).float()
        if out.shape[1] < sample.shape[1] or out.shape[2:] != sample.shape[2:]:
            raise ValueError(
                f"{type(self.denoiser).__name__} returned {tuple(out.shape[1:])} for samples of shape "
                f"{tuple(sample.shape[1:])}: this size of images does not fit it"
            )
        out = out[:, : sample.shape[1]]
        if guided:
            conditional, unconditional = out.chunk(2)
            out = unconditional + self.guidance_scale * (conditional - unconditional)
        levels = noise_schedule.signal[index], noise_schedule.noise[index]
        predicted = split_prediction(self.prediction, sample, out, *levels)
        predicted_clean, predicted_noise = self.clipping(*predicted, sample, *levels)
        if noise_schedule.boundary is not None:
            of_sample, of_clean = noise_schedule.boundary[index]
            predicted_clean = of_clean * predicted_clean + of_sample * sample
        return predicted_clean, predicted_noise

    def _guidance_embedding(self, rows: int, weight: Tensor) -> dict[str, Tensor]:
        """Return the embedding of the guidance scale that a distilled denoiser takes (LCM, arXiv:2310.04378)."""
        if not self._embeds_scale:
            return {}
        from diffusers.models.embeddings import get_timestep_embedding

        scale = torch.full((rows,), 1000 * (self.guidance_scale - 1), dtype=torch.float32, device=weight.device)
        embedding = get_timestep_embedding(scale, self.config.time_cond_proj_dim, downscale_freq_shift=1)
        return {"timestep_cond": embedding.to(weight.dtype)}


def _is_differentiated(tensor: Tensor) -> bool:
    """Return whether autograd records operations on `tensor`."""
    return torch.is_grad_enabled() and tensor.requires_grad
