"""VAELatent: edits in the latents of a pretrained autoencoder, in the style of HARD-VAE (arXiv:2305.14890).

"HARD-VAE-style": the paper edits posteriors of a very deep VAE, and its network for that is not published. Here the
posterior mean `z` of an autoencoder of images of diffusers (`AutoencoderKL`, `AutoencoderTiny`) is edited, in units of
`latent_std`, the standard deviation of the latents:

    z' = m + scale (z - m) + latent_std (shift + up(local) + sum over k of direction_k D_k)

with `m` the mean of the latents according to the autoencoder's config (`latents_mean` of each channel, `shift_factor`,
or 0), `up` bilinear interpolation from a coarse grid, and `D_k` fixed random patterns of unit mean square, smooth over
the latents. Given directions, such as `latent_directions`, are in raw latents and not multiplied by `latent_std`.

| parameter | unit |
|---|---|
| shift_c | standard deviations, of latent channel c everywhere |
| scale_c | factor, of latent channel c |
| local_c_r_s | standard deviations, of latent channel c near point (r, s) of the grid |
| direction_k | standard deviations, along the k-th pattern |
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.generative.latent_codec import LatentCodec
from hard_aug.transforms.argument_checks import check_factors, check_pair, check_positive
from hard_aug.transforms.latent_edit import LatentEdit
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import as_seed, check_integer

#: Points on each axis of the grid from which a random pattern is interpolated.
PATTERN_POINTS = 4


class VAELatent(LatentEdit):
    """Edits an autoencoder's latents within given ranges. `u = 0` is the identity.

    Gradients: images yes (through the sum of `residual` alone, not through the encoder), parameters yes, second order
    no. None switches a group of parameters off.

    Args:
        autoencoder: autoencoder of diffusers, on the images' device. It is put in evaluation mode and frozen.
        shift: maximum shift of a latent channel, in standard deviations.
        scale: maximum factor of a latent channel, above 1; its reciprocal is the minimum.
        local: maximum shift at a point of the grid, in standard deviations.
        grid: points of that grid, (rows, columns) or one number for both.
        direction: maximum step along a pattern, in standard deviations.
        directions: number of random patterns, or the patterns themselves, `(K, c, h, w)`: a step of 1 adds one of them.
        latent_std: standard deviation of the autoencoder's latents, or of each channel, above 0; None: that of its
            config, `latents_std / scaling_factor` of each channel or `1 / scaling_factor` (1 for `AutoencoderTiny`,
            whose latents are scaled already).
        residual: whether to return the image plus the change by the edit; then the student does not learn the blur of
            a reconstruction, and `u = 0` returns the image itself. Otherwise the decoded latents are returned, and
            `u = 0` is the reconstruction.
        micro_batch: number of images that are decoded at once; None: all.
        checkpointing: whether to decode again in the backward pass instead of storing activations.
        seed: seed of the random patterns.

    Raises:
        TypeError: `autoencoder` is not an autoencoder of diffusers.
        ValueError: a range is not positive, or everything is switched off; at a call, the images have another number of
            channels, or a size that the autoencoder's stride does not divide.
        FloatingPointError: at a call, the autoencoder overflows; see `LatentCodec.decode`.

    Example:
        >>> import diffusers
        >>> autoencoder = diffusers.AutoencoderTiny()
        >>> transform = VAELatent(autoencoder, shift=1.0, direction=0.5, directions=3)
        >>> [parameter.name for parameter in transform.spec]
        ['shift_0', 'shift_1', 'shift_2', 'shift_3', 'direction_0', 'direction_1', 'direction_2']
        >>> images = torch.rand(2, 3, 16, 16)
        >>> torch.allclose(transform(images, torch.zeros(2, transform.size)), images)
        True
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
        latent_std: float | Sequence[float] | None = None,
        residual: bool = True,
        micro_batch: int | None = None,
        checkpointing: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(residual=residual, micro_batch=micro_batch, checkpointing=checkpointing)
        self.autoencoder, self.codec = autoencoder, LatentCodec(autoencoder)
        check_positive(shift=shift, local=local, direction=direction)
        check_factors(scale=scale)
        given = directions if isinstance(directions, Tensor) and directions.ndim else None
        count = directions if given is None else len(given)
        check_integer(directions=count)
        self.shift, self.scale, self.local, self.direction = shift, scale, local, direction
        self.grid = check_pair(grid=grid)
        self.channels = self.codec.latent_channels
        self.latent_std = self._checked_std(latent_std)
        self.seed = as_seed(seed)
        self._patterns: dict[tuple[object, ...], Tensor] = {}
        self._std: dict[torch.device, Tensor] = {}
        self.directions = None if given is None else self._checked(given)
        self.spec = self._spec(int(count))
        if not self.spec:
            raise ValueError("VAELatent with every range switched off has no effect; give at least one range")

    def _spec(self, directions: int) -> tuple[Parameter, ...]:
        unit = "standard deviations"
        spec: list[Parameter] = []
        self._columns: dict[str, slice] = {}

        def add(group: str, names: list[str], low: float, high: float, **more: Any) -> None:
            self._columns[group] = slice(len(spec), len(spec) + len(names))
            spec.extend(Parameter(f"{group}_{name}", low, high, block=group, group=group, **more) for name in names)

        channels = [str(c) for c in range(self.channels)]
        if self.shift is not None:
            add("shift", channels, -self.shift, self.shift, identity=0.0, unit=unit)
        if self.scale is not None:
            add("scale", channels, 1 / self.scale, self.scale, identity=1.0, unit="factor", logarithmic=True)
        if self.local is not None:
            rows, columns = self.grid
            points = [f"{c}_{r}_{s}" for c in channels for r in range(rows) for s in range(columns)]
            add("local", points, -self.local, self.local, identity=0.0, unit=unit)
        if self.direction is not None:
            names = [str(k) for k in range(directions)]
            add("direction", names, -self.direction, self.direction, identity=0.0, unit=unit)
        return tuple(spec)

    def _checked(self, directions: Tensor) -> Tensor:
        if directions.ndim != 4 or directions.shape[1] != self.channels:
            raise ValueError(
                f"directions of shape {tuple(directions.shape)}: expected (K, {self.channels}, h, w), as "
                "hard_aug.generative.latent_directions returns them"
            )
        return directions.float()

    def check_channels(self, channels: int) -> None:
        """See `Transform.check_channels`."""
        self.codec.check_channels(channels)

    def pop_nonfinite_reports(self) -> list[str]:
        """See `Transform.pop_nonfinite_reports`."""
        return self.codec.pop_nonfinite_reports()

    def _check_images(self, images: Tensor) -> None:
        self.codec.check_size(*images.shape[-2:])

    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.codec.encode(images),)

    def _reconstruct(self, images: Tensor, *encoded: Tensor) -> Tensor:
        return self.codec.decode(encoded[0])

    def _decode_edited(self, images: Tensor, values: Tensor, *encoded: Tensor) -> Tensor:
        return self.codec.decode(self.edit(encoded[0], values))

    def _checked_std(self, latent_std: float | Sequence[float] | None) -> float | tuple[float, ...]:
        scale = self.codec.latent_scale
        if latent_std is None:
            given = scale.std / scale.factor
            return given if isinstance(given, float) else tuple(given.flatten().tolist())
        if not isinstance(latent_std, Sequence):
            check_positive(latent_std=latent_std)
            return latent_std
        for value in latent_std:
            check_positive(latent_std=value)
        if len(latent_std) != self.channels:
            raise ValueError(
                f"latent_std of {len(latent_std)} channels: expected {self.channels}, those of the latents"
            )
        return tuple(latent_std)

    def _std_on(self, device: torch.device) -> Tensor:
        """Return the standard deviations, `(1, 1, 1)` or `(c, 1, 1)`, on a device, where they stay."""
        if device not in self._std:
            with torch.inference_mode(False):  # cached tensors may be used in training later
                self._std[device] = torch.tensor(self.latent_std, dtype=torch.float32, device=device).view(-1, 1, 1)
        return self._std[device]

    def edit(self, latents: Tensor, values: Tensor) -> Tensor:
        """Edit raw latents; see the module's docstring.

        Args:
            latents: `(B, c, h, w)`.
            values: `(B, P)`, physical values of the parameters.

        Raises:
            ValueError: given directions have another size.
        """
        groups = {name: values[:, columns] for name, columns in self._columns.items()}
        height, width = latents.shape[-2:]
        out, std = latents, self._std_on(latents.device)
        if "scale" in groups:  # around the mean of all latents, which the config knows
            mean = self.codec.scale_on(latents.device).mean
            out = mean + groups["scale"][:, :, None, None] * (out - mean)
        if "shift" in groups:
            out = out + std * groups["shift"][:, :, None, None]
        if "local" in groups:
            grid = groups["local"].view(-1, self.channels, *self.grid)
            out = out + std * F.interpolate(grid, (height, width), mode="bilinear", align_corners=False)
        if "direction" in groups:
            patterns = self.patterns(groups["direction"].shape[1], height, width, latents.device)
            out = out + torch.einsum("bk,kchw->bchw", groups["direction"], patterns)
        return out

    def patterns(self, count: int, height: int, width: int, device: torch.device) -> Tensor:
        """Return the patterns `(K, c, h, w)` in raw latents; random ones depend on the seed and the size alone.

        Args:
            count: number K of patterns.
            height: height of the latents.
            width: width of the latents.
            device: device of the patterns, where they are cached.

        Raises:
            ValueError: given directions have another size.
        """
        key = (count, height, width, device)
        if key in self._patterns:
            return self._patterns[key]
        if self.directions is not None:
            if tuple(self.directions.shape[-2:]) != (height, width):
                rows, columns = self.directions.shape[-2:]
                raise ValueError(
                    f"the directions are of latents of {rows} x {columns}, these are of {height} x {width}; compute "
                    "them from images of this size"
                )
            patterns = self.directions
        else:
            patterns = self._random_patterns(count, height, width)
        with torch.inference_mode(False):  # cached tensors may be used in training later
            self._patterns[key] = patterns.to(device).clone()
        return self._patterns[key]

    def _random_patterns(self, count: int, height: int, width: int) -> Tensor:
        generator = torch.Generator().manual_seed(self.seed)
        size = (count, self.channels, PATTERN_POINTS, PATTERN_POINTS)
        points = torch.randn(size, generator=generator, dtype=torch.float32, device="cpu")
        smooth = F.interpolate(points, (height, width), mode="bicubic", align_corners=False)
        return self._std_on(smooth.device) * smooth / smooth.square().mean((1, 2, 3), keepdim=True).sqrt()
