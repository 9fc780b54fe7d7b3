"""HierarchicalVAE: a small very deep VAE in the manner of VDVAE (Child, arXiv:2011.10650), with HARD-VAE's hook.

HARD (arXiv:2305.14890) edits the posteriors of a pretrained very deep VAE; which network and which layers is not
published, so this is one that trains in minutes. The decoder is a chain of levels, from coarse to fine. Each adds a
latent map `z` to its state `h`; the posterior also sees the encoder's activations `a` of that resolution:

    z_l ~ q(z_l | h, a) while encoding,    z_l ~ p(z_l | h) while sampling,    h <- h + f(h) + W z_l, refined

| part | distribution |
|---|---|
| q, p | diagonal normal; a network gives the mean and the log-scale, see `scale_of` |
| image | normal about the decoder's output, one learned scale for all pixels |

`edit` takes a latent from three places, by its level: the posterior as it is below `start`, what an editor makes of the
posterior's maps in [start, end), the prior from `end` on. Posteriors of finer levels see the edited state, and undo a
part of it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from hard_aug.draws import normal

#: `(level, mean, log_scale) -> (mean, log_scale)`, maps `(B, latent channels, h, w)`.
Editor = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
#: Below it scales are equal: exp of much less is 0 in float32, and a divergence infinite.
LOWEST_LOG_SCALE = -10.0
CONFIG, WEIGHTS = "config.json", "model.safetensors"


def scale_of(log_scale: Tensor) -> Tensor:
    """The standard deviation `elu(x) + 1`: `exp(x)` for `x <= 0`, `1 + x` above, so that it can't overflow.

    `elu(x) + 1` in float32 is 0 from about -17 on; here `exp(-10)` is the least.
    """
    below = log_scale.clamp(LOWEST_LOG_SCALE, 1).exp()  # up to 1: priors start at 0, and a bound has no gradient
    return torch.where(log_scale > 0, 1 + log_scale, below)


class HierarchicalVAE(nn.Module):
    """A ladder of normal latents for square images in [0, 1].

    Args:
        channels: of the images.
        size: their height and width.
        blocks: (resolution, number of levels) from coarse to fine. Each resolution divides the next, the last `size`.
        width: channels of the activations.
        latent_channels: of each level's latent map.

    Everything runs in the weights' dtype, also inside autocast.

    Raises:
        TypeError: settings that are no whole numbers.
        ValueError: settings below 1 or resolutions that don't divide; at a call, images of another shape or device.
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
        self.blocks = _checked_blocks(blocks, size)
        _check_whole(channels=channels, width=width, latent_channels=latent_channels)
        self.channels, self.size, self.width, self.latent_channels = channels, size, width, latent_channels
        self.resolutions = tuple(resolution for resolution, count in self.blocks for _ in range(count))
        self.patch = size // self.resolutions[-1]
        values = channels * self.patch**2
        depth = len(self.resolutions)
        self.stem = nn.Conv2d(values, width, 3, padding=1)
        self.encoder = nn.ModuleDict(
            {
                str(r): nn.ModuleList(_bottleneck(width, width, r, last=(2 * len(self.blocks)) ** -0.5) for _ in "ab")
                for r, _ in self.blocks
            }
        )
        self.decoder = nn.ModuleList(_Level(width, latent_channels, r, depth) for r in self.resolutions)
        self.bias = nn.ParameterDict({str(r): nn.Parameter(torch.zeros(1, width, r, r)) for r, _ in self.blocks})
        self.head = nn.Conv2d(width, values, 3, padding=1)
        self.log_scale = nn.Parameter(torch.tensor(-2.5))  # of an image's pixels, in units of [0, 1]

    @property
    def levels(self) -> int:
        """How many latents there are, one above the other."""
        return len(self.resolutions)

    @property
    def config(self) -> dict[str, Any]:
        """What it was made with."""
        return {name: getattr(self, name) for name in ("channels", "size", "blocks", "width", "latent_channels")}

    def forward(self, images: Tensor, *, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """Encode, draw from the posteriors, decode.

        Args:
            images: `(B, C, size, size)` in [0, 1].
            generator: of the noise; None: torch's own.

        Returns:
            The reconstruction, about in [0, 1], shaped as the images, and the divergence of posterior and prior
            `(B, levels)` in nats. Gradients: images yes, weights yes.
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
        """The negative evidence bound, in nats per value of an image; a scalar, to be minimised.

        Args:
            images, generator: as in `forward`.
            kl_weight: of the divergences; below 1 while warming up.
            free_nats: of each level's mean divergence at no price (Kingma et al., arXiv:1606.04934).
            prefix_weight: of the error, too, of a decoding whose levels beyond a random one are the prior's (after
                nested dropout, Rippel et al., arXiv:1402.0915). A short training without it leaves the coarse levels
                unused, and edits of them change little; with it they come to hold what matters most.
        """
        reconstruction, divergence = self(images, generator=generator)
        bound: Tensor = self._surprise(images, reconstruction)
        bound = bound + kl_weight * divergence.mean(0).clamp(min=free_nats).sum() / images.shape[1:].numel()
        if prefix_weight and self.levels > 1:
            device = None if generator is None else generator.device
            end = int(torch.randint(1, self.levels, (), generator=generator, device=device))
            noise = self.draw_noise(len(images), generator=generator)
            prefix = self.edit(images, lambda level, *maps: maps, start=end, end=end, noise=noise)
            bound = bound + prefix_weight * self._surprise(images, prefix)
        return bound

    def _surprise(self, images: Tensor, reconstruction: Tensor) -> Tensor:
        scale = scale_of(self.log_scale)
        squares = ((images - reconstruction) / scale).square()
        surprise: Tensor = (0.5 * squares).mean() + scale.log() + 0.5 * math.log(2 * math.pi)
        return surprise

    def edit(
        self,
        images: Tensor,
        editor: Editor,
        *,
        start: int = 0,
        end: int | None = None,
        noise: Sequence[Tensor] | None = None,
    ) -> Tensor:
        """Decode the latents of `images`, with some levels edited and the last ones from the prior.

        Args:
            images: `(B, C, size, size)` in [0, 1].
            editor: called with the posterior's maps of each level in [start, end); gives back what replaces them.
            start, end: the edited levels; below, the posterior as it is; from `end` on, the prior. None: all levels.
                `start=end=levels` is the reconstruction.
            noise: standard normal, of each level, as `draw_noise` gives it (a batch of 1 serves all images): latents
                are `mean + scale_of(log_scale) * noise`. None: the means.

        Returns:
            Images about in [0, 1], not clamped. Gradients: images, weights and what the editor closes over, yes.

        Raises:
            ValueError: levels outside the model's, noise or an editor's maps of another shape.
        """
        end = self.levels if end is None else end
        if not 0 <= start <= end <= self.levels:
            raise ValueError(f"start={start}, end={end}: wanted 0 <= start <= end <= {self.levels}, the levels")
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
                        f"the editor made maps of shape {tuple(mean.shape)} and {tuple(log_scale.shape)} of level "
                        f"{index}: wanted both {tuple(shape)}, as it was given them"
                    )
            return mean if noise is None else mean + scale_of(log_scale) * noise[index].to(mean)

        with self._checked(images):
            activations = self._encode(images) if end else {}
            return self._decode(len(images), choose)

    def sample(
        self, count: int, *, generator: torch.Generator | None = None, noise: Sequence[Tensor] | None = None
    ) -> Tensor:
        """`(count, C, size, size)`, about in [0, 1], from the prior with this noise, else with noise that is drawn."""
        self._check_noise(noise, count)
        drawn = self.draw_noise(count, generator=generator) if noise is None else noise

        def choose(index: int, state: Tensor, prior: tuple[Tensor, Tensor]) -> Tensor:
            return prior[0] + scale_of(prior[1]) * drawn[index].to(prior[0])

        with torch.autocast(self.head.weight.device.type, enabled=False):
            return self._decode(count, choose)

    def draw_noise(self, count: int, *, generator: torch.Generator | None = None) -> list[Tensor]:
        """Standard normal maps `(count, latent channels, r, r)` for each level, on the weights' device."""
        weight = self.head.weight
        shapes = [(count, self.latent_channels, r, r) for r in self.resolutions]
        if generator is None:
            return [torch.randn(shape, dtype=weight.dtype, device=weight.device) for shape in shapes]
        return [normal(shape, generator).to(weight) for shape in shapes]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `config.json` and `model.safetensors`; a file is replaced only once the new one is whole.

        Raises:
            ImportError: safetensors is not installed.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        _safetensors().save_file(tensors, folder / f"{WEIGHTS}.part")
        (folder / f"{CONFIG}.part").write_text(json.dumps(self.config, indent=2) + "\n")
        for name in (WEIGHTS, CONFIG):
            (folder / f"{name}.part").replace(folder / name)

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> HierarchicalVAE:
        """What `save_pretrained` wrote, on the CPU, in evaluation mode, in the dtype it had.

        Raises:
            ImportError: safetensors is not installed.
            FileNotFoundError: one of the two files is missing.
            ValueError: a configuration that is none of this class, or weights that do not fit it.
        """
        folder = Path(folder)
        missing = [name for name in (CONFIG, WEIGHTS) if not (folder / name).is_file()]
        if missing:
            raise FileNotFoundError(f"{folder} has no {' and no '.join(missing)}: wanted what save_pretrained wrote")
        try:
            model = cls(**json.loads((folder / CONFIG).read_text()))
            tensors = _safetensors().load_file(folder / WEIGHTS)
            model.to(tensors["head.weight"].dtype).load_state_dict(tensors)
        except ImportError:
            raise
        except Exception as error:  # of JSON, of safetensors (its own class), of a constructor, of missing names
            raise ValueError(f"{folder} holds no HierarchicalVAE that can be read: {error}") from error
        return model.eval()

    def _level(self, index: int) -> _Level:
        return cast(_Level, self.decoder[index])

    def _encode(self, images: Tensor) -> dict[int, Tensor]:
        """Activations `(B, width, r, r)` by resolution."""
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
        """`choose` makes the latent of a level from the decoder's state and the prior's maps."""
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
        wanted = (self.channels, self.size, self.size)
        if images.ndim != 4 or images.shape[1:] != wanted:
            raise ValueError(f"images of shape {tuple(images.shape)}: the VAE takes (B, {', '.join(map(str, wanted))})")
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
            raise ValueError(f"noise for {len(noise)} levels of {self.levels}; vae.draw_noise(count) makes it")
        for index, (given, r) in enumerate(zip(noise, self.resolutions, strict=True)):
            wanted = (self.latent_channels, r, r)
            if given.ndim != 4 or given.shape[1:] != wanted or given.shape[0] not in (1, count):
                raise ValueError(
                    f"noise of level {index} has shape {tuple(given.shape)}: wanted {(count, *wanted)}, or a batch of "
                    "1; vae.draw_noise(count) makes it"
                )


class _Level(nn.Module):
    """One level of the decoder: prior, posterior, and what is done with the latent."""

    def __init__(self, width: int, latent_channels: int, resolution: int, depth: int) -> None:
        super().__init__()
        self.sizes = (latent_channels, latent_channels)
        self.posterior = _bottleneck(2 * width, 2 * latent_channels, resolution, hidden=width // 2)
        self.prior = _bottleneck(width, 2 * latent_channels + width, resolution, last=0.0)  # starts at N(0, 1)
        self.put_in = nn.Conv2d(latent_channels, width, 1)
        self.refine = _bottleneck(width, width, resolution, last=depth**-0.5)
        with torch.no_grad():  # else the state's variance grows with the depth
            self.put_in.weight.mul_(depth**-0.5)

    def posterior_of(self, state: Tensor, activations: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_scale = self.posterior(torch.cat((state, activations), dim=1)).split(self.sizes, dim=1)
        return mean, log_scale

    def prior_of(self, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, log_scale, features = self.prior(state).split((*self.sizes, state.shape[1]), dim=1)
        return mean, log_scale, features


def _bottleneck(inputs: int, outputs: int, resolution: int, *, hidden: int = 0, last: float = 1.0) -> nn.Sequential:
    """Two convolutions between two that change the number of channels; the last one starts at `last` of its size."""
    hidden = max(hidden or inputs // 2, 1)
    kernel = 3 if resolution > 2 else 1  # there is nothing beside a pixel of a 1 x 1 map
    layers: list[nn.Module] = []
    for before, after, k in ((inputs, hidden, 1), (hidden, hidden, kernel), (hidden, hidden, kernel)):
        layers += [nn.GELU(), nn.Conv2d(before, after, k, padding=k // 2)]
    exit_ = nn.Conv2d(hidden, outputs, 1)
    with torch.no_grad():
        exit_.weight.mul_(last)
        nn.init.zeros_(cast(Tensor, exit_.bias))
    return nn.Sequential(*layers, nn.GELU(), exit_)


def _check_whole(**settings: int) -> None:
    for name, value in settings.items():
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{name}={value!r}: wanted a whole number")
        if value < 1:
            raise ValueError(f"{name}={value}: wanted at least 1")


def _checked_blocks(blocks: Sequence[tuple[int, int]], size: int) -> tuple[tuple[int, int], ...]:
    _check_whole(size=size)
    if not isinstance(blocks, Sequence) or not all(isinstance(b, Sequence) and len(b) == 2 for b in blocks):
        raise TypeError(f"blocks={blocks!r}: wanted pairs (resolution, number of levels), e.g. ((1, 1), (4, 2))")
    pairs = tuple((resolution, count) for resolution, count in blocks)
    for resolution, count in pairs:
        _check_whole(resolution=resolution, levels=count)
    chain = [resolution for resolution, _ in pairs]
    if not chain or any(b % a or b == a for a, b in pairwise(chain)) or size % chain[-1]:
        raise ValueError(
            f"blocks={pairs}, size={size}: wanted rising resolutions, each dividing the next and the last one size"
        )
    return pairs


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError(
            "saving and loading a HierarchicalVAE wants safetensors: pip install 'hard_aug[vae]'"
        ) from error
    return safetensors.torch
