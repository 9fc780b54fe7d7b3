"""VAELatent: edits in the latents of a pretrained autoencoder, the unconstrained augmenter of HARD (arXiv:2305.14890).

"HARD-VAE-style": the paper edits posteriors of a very deep VAE, and its network for that is not published. Here the
posterior mean `z` of any autoencoder of diffusers (`AutoencoderKL`, `AutoencoderTiny`) is edited, in units of `spread`,
the standard deviation of the latents:

    z' = m + scale (z - m) + spread (shift + up(local) + sum over k of direction_k D_k)

with `m` the mean of the latents that the autoencoder's config knows (`shift_factor`, else 0), `up` bilinear from a
coarse grid, and `D_k` fixed random patterns of unit mean square, smooth over the latents, or directions that are given,
in raw latents (then without `spread`), such as `latent_directions`.

| parameter | unit |
|---|---|
| shift_c | standard deviations, of latent channel c everywhere |
| scale_c | factor, of latent channel c |
| local_c_r_s | standard deviations, of latent channel c near point (r, s) of the grid |
| direction_k | standard deviations, along the k-th pattern |
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hard_aug.models.autoencoder import LatentCodec
from hard_aug.ops.formats import memory_format_of
from hard_aug.transforms.base import Context, Parameter, Transform
from hard_aug.transforms.memory import OfImages
from hard_aug.transforms.settings import check_factors, check_pair, check_positive

#: Points on each axis of the grid that a random pattern is drawn at.
PATTERN_POINTS = 4


class VAELatent(Transform):
    """Edits of latents inside their ranges. `u = 0` is the identity.

    Args:
        autoencoder: of diffusers, on the images' device. It is put in evaluation mode and frozen.
        shift: largest shift of a latent channel, in standard deviations.
        scale: largest factor of a latent channel, above 1; its reciprocal is the smallest.
        local: largest shift at a point of the grid, in standard deviations.
        grid: points of that, (rows, columns) or one number for both.
        direction: largest step along a pattern, in standard deviations.
        directions: how many random patterns, or the patterns themselves, `(K, c, h, w)`: a step of 1 adds one of them.
        spread: standard deviation of the autoencoder's latents, above 0; None: `1 / scaling_factor` of its config
            (for `AutoencoderTiny`, whose latents are scaled already, 1).
        residual: give back the image plus what the edit changes, so that the student does not learn the blur of a
            reconstruction, and `u = 0` is the very image. Else: the decoded latents, and `u = 0` is the reconstruction.
        micro_batch: images that are decoded at once; None: all.
        checkpointing: decode again in the backward instead of keeping activations.
        seed: of the patterns.

    None switches a part off.

    Raises:
        TypeError: no autoencoder.
        ValueError: a range that is not positive, every part switched off; at a call, images of other channels, or of a
            size that the autoencoder's stride does not divide.
        FloatingPointError: at a call, an autoencoder that overflows; see `LatentCodec.decode`.

    Gradients: images yes (through `residual`'s sum alone, not through the encoder), parameters yes, second order no.
    """

    def __init__(
        self,
        autoencoder: nn.Module,
        *,
        shift: float | None = 1.0,
        scale: float | None = None,
        local: float | None = None,
        grid: int | tuple[int, int] = 4,
        direction: float | None = None,
        directions: int | Tensor = 8,
        spread: float | None = None,
        residual: bool = True,
        micro_batch: int | None = None,
        checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        self.codec = LatentCodec(autoencoder)
        check_positive(shift=shift, local=local, direction=direction, spread=spread)
        check_factors(scale=scale)
        count = directions if isinstance(directions, int) else len(directions)
        for name, value in (("directions", count), ("micro_batch", micro_batch)):
            if value is not None and not (isinstance(value, int) and value >= 1):
                raise ValueError(f"{name}={value}: wanted a whole number of at least 1")
        self.residual, self.micro_batch, self.checkpointing = residual, micro_batch, checkpointing
        self.grid = check_pair(grid=grid)
        self.spread = spread or 1 / self.codec.scaling_factor
        self.channels = self.codec.latent_channels
        self.seed = seed
        self._clean: OfImages[tuple[Tensor, ...]] = OfImages()
        self._patterns: dict[tuple[object, ...], Tensor] = {}
        self.directions = None if isinstance(directions, int) else self._checked(directions)
        self.spec = self._spec(shift, scale, local, direction, count)
        if not self.spec:
            raise ValueError("VAELatent with every part switched off does nothing; give at least one range")

    def _spec(
        self,
        shift: float | None,
        scale: float | None,
        local: float | None,
        direction: float | None,
        directions: int,
    ) -> tuple[Parameter, ...]:
        unit = "standard deviations"
        spec: list[Parameter] = []
        self._parts: dict[str, slice] = {}

        def add(part: str, names: list[str], low: float, high: float, **more: Any) -> None:
            self._parts[part] = slice(len(spec), len(spec) + len(names))
            spec.extend(Parameter(f"{part}_{name}", low, high, block=part, **more) for name in names)

        channels = [str(c) for c in range(self.channels)]
        if shift is not None:
            add("shift", channels, -shift, shift, identity=0.0, unit=unit)
        if scale is not None:
            add("scale", channels, 1 / scale, scale, identity=1.0, unit="factor", logarithmic=True)
        if local is not None:
            rows, columns = self.grid
            points = [f"{c}_{r}_{s}" for c in channels for r in range(rows) for s in range(columns)]
            add("local", points, -local, local, identity=0.0, unit=unit)
        if direction is not None:
            add("direction", [str(k) for k in range(directions)], -direction, direction, identity=0.0, unit=unit)
        return tuple(spec)

    def _checked(self, directions: Tensor) -> Tensor:
        if directions.ndim != 4 or directions.shape[1] != self.channels:
            raise ValueError(
                f"directions of shape {tuple(directions.shape)}: wanted (K, {self.channels}, h, w), as "
                "hard_aug.models.latent_directions gives them"
            )
        return directions.float()

    def check_channels(self, channels: int) -> None:
        self.codec.check_channels(channels)

    def faults(self) -> list[str]:
        return self.codec.faults()

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        if images.numel() == 0:
            return images
        self.codec.check_size(*images.shape[-2:])
        values = torch.stack(tuple(self.decode(u).values()), dim=1)
        size = self.micro_batch or len(images)
        clean = self._clean(lambda: self._encoded(images, size), images)
        given = (images, values, *clean)
        parts = [self._edited(*part) for part in zip(*(torch.split(each, size) for each in given), strict=True)]
        out = torch.cat(parts) if len(parts) > 1 else parts[0]
        return out.contiguous(memory_format=memory_format_of(images))

    @torch.no_grad()
    def _encoded(self, images: Tensor, size: int) -> tuple[Tensor, ...]:
        """The latents of images, and their reconstruction where the residual wants it."""
        latents = self.codec.encode_in_parts(images, size)
        if not self.residual:
            return (latents,)
        return latents, torch.cat([self.codec.decode(part) for part in torch.split(latents, size)])

    def _edited(self, images: Tensor, values: Tensor, latents: Tensor, plain: Tensor | None = None) -> Tensor:
        edited = self.edit(latents, values)
        if self.checkpointing and edited.requires_grad:
            decode = cast(Callable[..., Tensor], checkpoint)
            out = decode(self.codec.decode, edited, use_reentrant=False, preserve_rng_state=False)
        else:
            out = self.codec.decode(edited)
        return (out if plain is None else images + (out - plain)).to(images.dtype)

    def edit(self, latents: Tensor, values: Tensor) -> Tensor:
        """Latents `(B, c, h, w)` changed by physical values `(B, P)`; see the module's head."""
        parts = {name: values[:, columns] for name, columns in self._parts.items()}
        height, width = latents.shape[-2:]
        out = latents
        if "scale" in parts:  # about the mean of all latents, which the config knows
            mean = self.codec.shift_factor
            out = mean + parts["scale"][:, :, None, None] * (out - mean)
        if "shift" in parts:
            out = out + self.spread * parts["shift"][:, :, None, None]
        if "local" in parts:
            grid = parts["local"].view(-1, self.channels, *self.grid)
            out = out + self.spread * F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
        if "direction" in parts:
            patterns = self.patterns(parts["direction"].shape[1], height, width, latents.device)
            out = out + torch.einsum("bk,kchw->bchw", parts["direction"], patterns)
        return out

    def patterns(self, count: int, height: int, width: int, device: torch.device) -> Tensor:
        """`(K, c, h, w)` in raw latents; random ones are the same for one seed and size, and kept.

        Raises:
            ValueError: given directions of another size.
        """
        key = (count, height, width, device)
        if key in self._patterns:
            return self._patterns[key]
        if self.directions is not None:
            if tuple(self.directions.shape[-2:]) != (height, width):
                rows, columns = self.directions.shape[-2:]
                raise ValueError(
                    f"the directions are of latents of {rows} x {columns}, these are of {height} x {width}; take "
                    "them of images of this size"
                )
            patterns = self.directions
        else:
            patterns = self._random_patterns(count, height, width)
        with torch.inference_mode(False):  # they are kept, and may be trained through later
            self._patterns[key] = patterns.to(device).clone()
        return self._patterns[key]

    def _random_patterns(self, count: int, height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        points = torch.randn(count, self.channels, PATTERN_POINTS, PATTERN_POINTS, generator=generator)
        smooth = F.interpolate(points, (height, width), mode="bicubic", align_corners=False)
        return self.spread * smooth / smooth.square().mean((1, 2, 3), keepdim=True).sqrt()
