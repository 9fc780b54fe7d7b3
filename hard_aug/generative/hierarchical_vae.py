"""HierarchicalVAE: a small very deep VAE in the style of VDVAE (Child, arXiv:2011.10650), with HARD-VAE's hook.

HARD (arXiv:2305.14890) edits the posteriors of a pretrained very deep VAE; which network and which layers is not
published, so this is one that trains in minutes. The decoder is a sequence of levels, from coarse to fine. Each adds a
latent map `z` to its state `h`; the posterior also sees the encoder's activations `a` of that resolution:

    z_l ~ q(z_l | h, a) when encoding,    z_l ~ p(z_l | h) when sampling,    h <- h + f(h) + W z_l, refined

| part | distribution |
|---|---|
| q, p | diagonal normal; a network gives the mean and the log-scale, see `scale_of` |
| image | normal around the decoder's output, with one learned scale for all pixels |

`edit` takes the latent of each level from one of three sources: the unchanged posterior below `start`, the editor's
version of the posterior's maps in [start, end), the prior from `end` on. Posteriors of finer levels see the edited
state, and undo a part of the edit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from hard_aug.generative.hierarchical_vae_layers import (
    LatentLevel,
    bottleneck,
    checked_blocks,
    scale_of,
)
from hard_aug.utils.checks import check_integer
from hard_aug.utils.files import replacing, write_text
from hard_aug.utils.rng import randn
from hard_aug.utils.settings_repr import describe_settings

#: `(level, mean, log_scale) -> (mean, log_scale)`, maps `(B, latent channels, h, w)`.
Editor = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
CONFIG, WEIGHTS = "config.json", "model.safetensors"


class HierarchicalVAE(nn.Module):
    """A VAE with a hierarchy of normal latents, for square images in [0, 1].

    Everything runs in the dtype of the weights, also inside autocast.

    Args:
        channels: channels of the images.
        size: height and width of the images.
        blocks: pairs (resolution, number of levels) from coarse to fine. Each resolution divides the next one, and the
            last one divides `size`.
        width: channels of the activations.
        latent_channels: channels of each level's latent map.

    Raises:
        TypeError: a setting is not an integer.
        ValueError: a setting is below 1, or the resolutions do not divide; at a call, the images have another shape or
            device.

    Example:
        >>> vae = HierarchicalVAE(channels=1, size=8, blocks=((1, 1), (4, 2)), width=8, latent_channels=2)
        >>> vae.levels, vae.resolutions
        (3, (1, 4, 4))
        >>> images = torch.rand(2, 1, 8, 8)
        >>> reconstruction, divergence = vae(images)
        >>> reconstruction.shape, divergence.shape
        (torch.Size([2, 1, 8, 8]), torch.Size([2, 3]))
        >>> vae.edit(images, lambda level, mean, log_scale: (mean + 1, log_scale), end=1).shape
        torch.Size([2, 1, 8, 8])
    """

    def __init__(
        self,
        *,
        channels: int = 1,
        size: int = 32,
        blocks: Sequence[tuple[int, int]] = ((1, 2), (4, 2), (8, 1)),
        width: int = 64,
        latent_channels: int = 8,
    ) -> None:
        super().__init__()
        self.blocks = checked_blocks(blocks, size)
        check_integer(channels=channels, width=width, latent_channels=latent_channels)
        self.channels, self.size, self.width, self.latent_channels = channels, size, width, latent_channels
        self.resolutions = tuple(resolution for resolution, count in self.blocks for _ in range(count))
        self.patch = size // self.resolutions[-1]
        values = channels * self.patch**2
        depth = len(self.resolutions)
        self.stem = nn.Conv2d(values, width, 3, padding=1)
        residual_scale = (2 * len(self.blocks)) ** -0.5
        self.encoder = nn.ModuleDict(
            {
                str(r): nn.ModuleList(bottleneck(width, width, r, output_scale=residual_scale) for _ in "ab")
                for r, _ in self.blocks
            }
        )
        self.decoder = nn.ModuleList(LatentLevel(width, latent_channels, r, depth) for r in self.resolutions)
        self.bias = nn.ParameterDict({str(r): nn.Parameter(torch.zeros(1, width, r, r)) for r, _ in self.blocks})
        self.head = nn.Conv2d(width, values, 3, padding=1)
        self.log_scale = nn.Parameter(torch.tensor(-2.5))  # of an image's pixels, in units of [0, 1]

    @property
    def levels(self) -> int:
        """Number of latent levels."""
        return len(self.resolutions)

    @property
    def config(self) -> dict[str, Any]:
        """Arguments of the constructor."""
        return {name: getattr(self, name) for name in ("channels", "size", "blocks", "width", "latent_channels")}

    def extra_repr(self) -> str:
        """Return the settings for `repr`."""
        return describe_settings(self)

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Encode, sample from the posteriors, and decode.

        Gradients: images yes, weights yes.

        Args:
            images: `(B, C, size, size)` in [0, 1].
            generator: generator of the noise; None: torch's default.

        Returns:
            The reconstruction, about in [0, 1], of the shape of the images, and the KL divergence of posterior and
            prior, `(B, levels)` in nats.
        """
        noise = self.draw_noise(len(images), generator=generator)
        divergences: list[Tensor] = []
        with self._checked(images):
            activations = self._encode(images)

            def choose(index: int, state: Tensor, prior: tuple[Tensor, Tensor]) -> Tensor:
                mean, log_scale = self._level(index).posterior_of(state, activations[self.resolutions[index]])
                posterior = Normal(mean, scale_of(log_scale), validate_args=False)
                against = Normal(prior[0], scale_of(prior[1]), validate_args=False)
                divergences.append(kl_divergence(posterior, against).sum((1, 2, 3)))
                return mean + posterior.scale * noise[index]

            return self._decode(len(images), choose), torch.stack(divergences, dim=1)

    def loss(
        self,
        images: Tensor,
        *,
        generator: torch.Generator | None = None,
        kl_weight: float = 1.0,
        free_nats: float = 0.0,
        prefix_weight: float = 0.0,
    ) -> Tensor:
        """Compute the negative evidence lower bound in nats per value of an image; a scalar, to be minimised.

        Args:
            images: `(B, C, size, size)` in [0, 1].
            generator: generator of the noise; None: torch's default.
            kl_weight: weight of the KL divergences; below 1 during warm-up.
            free_nats: nats of each level's mean KL divergence that are free (Kingma et al., arXiv:1606.04934).
            prefix_weight: weight of the reconstruction error when all levels beyond a random one are taken from the
                prior (after nested dropout, Rippel et al., arXiv:1402.0915). Without it, a short training leaves the
                coarse levels unused, and edits of them change little; with it they encode what matters most.
        """
        reconstruction, divergence = self(images, generator=generator)
        bound = self._negative_log_likelihood(images, reconstruction) + (
            kl_weight * divergence.mean(0).clamp(min=free_nats).sum() / images.shape[1:].numel()
        )
        if prefix_weight and self.levels > 1:
            device = None if generator is None else generator.device
            end = int(torch.randint(1, self.levels, (), generator=generator, device=device))
            noise = self.draw_noise(len(images), generator=generator)
            prefix = self.edit(images, lambda level, *maps: maps, start=end, end=end, noise=noise)
            bound = bound + prefix_weight * self._negative_log_likelihood(images, prefix)
        return bound  # type: ignore[no-any-return]  # the module call is untyped

    def _negative_log_likelihood(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        scale = scale_of(self.log_scale)
        squares = ((images - reconstruction) / scale).square()
        return (0.5 * squares).mean() + scale.log() + 0.5 * math.log(2 * math.pi)

    def edit(
        self,
        images: Tensor,
        editor: Editor,
        *,
        start: int = 0,
        end: int | None = None,
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Decode the latents of `images`, with some levels edited and the last ones taken from the prior.

        Gradients: images, weights and tensors that the editor uses, yes.

        Args:
            images: `(B, C, size, size)` in [0, 1].
            editor: called with the posterior's mean and log-scale maps of each level in [start, end); returns the maps
                that replace them.
            start: first edited level; levels below keep their posterior. `start=end=levels` is the reconstruction.
            end: first level taken from the prior; None: none is.
            noise: standard normal noise of each level, as `draw_noise` returns it (a batch of 1 is used for all
                images): latents are `mean + scale_of(log_scale) * noise`. None: latents are the means.

        Returns:
            Images about in [0, 1], not clamped.

        Raises:
            ValueError: levels out of range, or noise or maps of another shape.
        """
        end = self.levels if end is None else end
        if not 0 <= start <= end <= self.levels:
            raise ValueError(f"start={start}, end={end}: expected 0 <= start <= end <= {self.levels}, the levels")
        self._check_noise(noise, len(images))

        def choose(index: int, state: Tensor, prior: tuple[Tensor, Tensor]) -> Tensor:
            mean, log_scale = prior
            if index < end:
                mean, log_scale = self._level(index).posterior_of(state, activations[self.resolutions[index]])
            if start <= index < end:
                shape = mean.shape
                mean, log_scale = editor(index, mean, log_scale)
                if mean.shape != shape or log_scale.shape != shape:
                    raise ValueError(
                        f"the editor returned maps of shape {tuple(mean.shape)} and {tuple(log_scale.shape)} for level "
                        f"{index}: expected both {tuple(shape)}, the shape of its inputs"
                    )
            return mean if noise is None else mean + scale_of(log_scale) * noise[index].to(mean)

        with self._checked(images):
            activations = self._encode(images) if end else {}
            return self._decode(len(images), choose)

    def sample(
        self, count: int, *, generator: torch.Generator | None = None, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """Sample images `(count, C, size, size)`, about in [0, 1], from the prior.

        Args:
            count: number of images.
            generator: generator of the noise; None: torch's default.
            noise: noise to use instead, see `draw_noise`.
        """
        self._check_noise(noise, count)
        drawn = self.draw_noise(count, generator=generator) if noise is None else noise

        def choose(index: int, state: Tensor, prior: tuple[Tensor, Tensor]) -> Tensor:
            return prior[0] + scale_of(prior[1]) * drawn[index].to(prior[0])

        with torch.autocast(self.head.weight.device.type, enabled=False):
            return self._decode(count, choose)

    def draw_noise(self, count: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """Draw standard normal maps `(count, latent channels, r, r)` for each level, on the weights' device.

        Args:
            count: number of images.
            generator: generator of the noise; None: torch's default.
        """
        weight = self.head.weight
        shapes = [(count, self.latent_channels, r, r) for r in self.resolutions]
        if generator is None:
            return [torch.randn(shape, dtype=weight.dtype, device=weight.device) for shape in shapes]
        return [randn(shape, generator).to(weight) for shape in shapes]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`; a file is replaced only when the new one is complete.

        Args:
            folder: created if it does not exist.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        with replacing(folder / WEIGHTS) as unfinished:
            save_file(tensors, unfinished)
            write_text(folder / CONFIG, json.dumps(self.config, indent=2) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> HierarchicalVAE:
        """Load a model written by `save_pretrained`, on the CPU, in evaluation mode, in the dtype it was saved in.

        Args:
            folder: folder with `config.json` and `model.safetensors`.

        Raises:
            FileNotFoundError: one of the two files is missing.
            ValueError: the configuration is not that of this class, or the weights do not fit it.
        """
        folder = Path(folder)
        missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}: expected files of save_pretrained")
        try:
            model = cls(**json.loads((folder / CONFIG).read_text(encoding="utf-8")))
            tensors = load_file(folder / WEIGHTS)
            model.to(tensors["head.weight"].dtype).load_state_dict(tensors)
        except Exception as error:  # of JSON, safetensors (its own class), the constructor, missing names
            raise ValueError(f"{folder} holds no HierarchicalVAE that can be read: {error}") from error
        return model.eval()

    def _level(self, index: int) -> LatentLevel:
        return cast(LatentLevel, self.decoder[index])

    def _encode(self, images: Tensor) -> dict[int, Tensor]:
        """Return the activations `(B, width, r, r)` by resolution."""
        patches = F.pixel_unshuffle(2 * images.to(self.head.weight.dtype) - 1, self.patch)
        state: Tensor = self.stem(patches)
        activations = {}
        for resolution, _ in reversed(self.blocks):
            state = F.avg_pool2d(state, state.shape[-1] // resolution)
            for block in cast(nn.ModuleList, self.encoder[str(resolution)]):
                state = state + block(state)
            activations[resolution] = state
        return activations

    def _decode(self, count: int, choose: Callable[[int, Tensor, tuple[Tensor, Tensor]], Tensor]) -> Tensor:
        """Decode; `choose` returns the latent of a level given the decoder's state and the prior's maps."""
        first = self.resolutions[0]
        state = self.head.weight.new_zeros(count, self.width, first, first)
        for index, resolution in enumerate(self.resolutions):
            if index == 0 or resolution != self.resolutions[index - 1]:
                larger = F.interpolate(state, (resolution, resolution), mode="nearest") if index else state
                state = larger + self.bias[str(resolution)]
            level = self._level(index)
            *prior, features = level.prior_of(state)
            latent = choose(index, state, (prior[0], prior[1]))
            state = state + features + level.put_in(latent)
            state = state + level.refine(state)
        return (F.pixel_shuffle(self.head(state), self.patch) + 1) / 2

    @contextmanager
    def _checked(self, images: Tensor) -> Iterator[None]:
        """Check the images, and disable autocast for the duration of a block."""
        expected = (self.channels, self.size, self.size)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(
                f"images of shape {tuple(images.shape)}: the VAE takes (B, {', '.join(map(str, expected))})"
            )
        device = self.head.weight.device
        if images.device != device:
            raise ValueError(
                f"the VAE is on {device}, the images are on {images.device}; use vae.to('{images.device}')"
            )
        with torch.autocast(device.type, enabled=False):
            yield

    def _check_noise(self, noise: Sequence[Tensor] | None, count: int) -> None:
        if noise is None:
            return
        if len(noise) != self.levels:
            raise ValueError(f"noise for {len(noise)} levels of {self.levels}; vae.draw_noise(count) draws it")
        for index, (given, r) in enumerate(zip(noise, self.resolutions, strict=True)):
            expected = (self.latent_channels, r, r)
            if given.ndim != 4 or given.shape[1:] != expected or given.shape[0] not in (1, count):
                raise ValueError(
                    f"noise of level {index} has shape {tuple(given.shape)}: expected {(count, *expected)}, or a batch "
                    "of 1; vae.draw_noise(count) draws it"
                )
