"""HierarchicalLatent: edits of some levels of a hierarchical VAE's posteriors, HARD-VAE's form (arXiv:2305.14890).

"HARD-VAE-style": in the first author's public hook a network acts on the posterior's mean and log-scale maps of the
levels in [start, end); that network is not published. Here each latent channel of each level is shifted, and its
log-scale changed, by parameters of the image's own:

    mean' = mean + spread shift,    log_scale' = log_scale + scale_log,    z = mean' + scale_of(log_scale') noise

| parameter | unit |
|---|---|
| shift_l_c | standard deviations, of latent channel c of level l everywhere |
| scale_log_l_c | change of the logarithm of the posterior's scale there |

The spread is the posterior's own scale or, better comparable between levels, that of `latent_spread`. Coarse levels
change what is shown, fine ones details; where finer levels stay posteriors, these see the coarse edit and undo most of
it, unless `prior_beyond`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hard_aug.models.finite import FiniteCheck
from hard_aug.models.hierarchical_vae import Editor, scale_of
from hard_aug.ops.formats import memory_format_of
from hard_aug.transforms.base import Context, Parameter, Transform
from hard_aug.transforms.memory import OfImages
from hard_aug.transforms.settings import check_positive


@runtime_checkable
class Hierarchical(Protocol):
    """What a hierarchical VAE offers to be edited; write a module of this form around one from elsewhere.

    Attributes:
        levels: how many latents there are, from coarse to fine.
        latent_channels: of each level's maps.

    With `noise_seed=` it also has `draw_noise(count, *, generator) -> list[Tensor]`, maps `(count, latent channels, h,
    w)` for each level. An attribute `channels`, if there is one, is what the images must have.
    """

    @property
    def levels(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    def edit(self, images: Tensor, editor: Editor, *, start: int, end: int, noise: Sequence[Tensor] | None) -> Tensor:
        """Images `(B, C, H, W)`, about in [0, 1], from latents of `images`, `(B, C, H, W)` float32 in [0, 1].

        Latents are `mean + scale_of(log_scale) * noise`, or the mean where `noise` is None, of: the posterior below
        `start`; what `editor(level, mean, log_scale)` makes of the posterior's maps for start <= level < end; the prior
        from `end` on. `noise` has a batch of 1 for all images. It must be differentiable in what the editor gives back,
        and the same at each call.
        """


class HierarchicalLatent(Transform):
    """Edits of a hierarchical VAE's posteriors inside their ranges. `u = 0` is the identity.

    Args:
        vae: a `HierarchicalVAE`, or a module of the form `Hierarchical`, on the images' device. It is put in evaluation
            mode and frozen, for weights that want a gradient keep the encoder's activations too.
        start, end: the edited levels, those in [start, end); None: up to the last.
        shift: largest shift of a latent channel, in standard deviations.
        scale_log: largest change of the posterior's log-scale, which only counts with noise.
        spread: standard deviations, a tensor `(latent_channels,)` or a number for each of the VAE's levels, as
            `latent_spread` measures them; None: the posterior's own scale at each point.
        prior_beyond: take the levels from `end` on from the prior; else they are the posterior's. Both see the edit.
        noise_seed: latents are drawn with this noise, the same for all images and calls; None: they are the means.
        residual: give back the image plus what the edit changes, so that the student does not learn the blur of a
            reconstruction, and `u = 0` is the very image. Else: what is decoded, and `u = 0` is the reconstruction.
        micro_batch: images that are decoded at once; None: all.
        checkpointing: encode and decode again in the backward instead of keeping activations.

    None switches a part off. Parameters of a level are one block, which a Gaussian policy correlates.

    Raises:
        TypeError: a module that has not the form.
        ValueError: levels outside the VAE's, a range that is not positive, every part switched off, a setting without
            effect; at a call, images on another device, and whatever the VAE raises at sizes that it can't take.
        FloatingPointError: at a call, a VAE that overflows. (On a GPU see `faults`.)

    Gradients: images yes (through `residual`'s sum alone, not through the encoder), parameters yes, second order no.
    """

    def __init__(
        self,
        vae: nn.Module,
        *,
        start: int = 0,
        end: int | None = None,
        shift: float | None = 1.0,
        scale_log: float | None = None,
        spread: Sequence[Tensor | float] | None = None,
        prior_beyond: bool = False,
        noise_seed: int | None = None,
        residual: bool = True,
        micro_batch: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        self.model = _checked_form(vae, noise=noise_seed is not None)
        self.vae = vae.eval().requires_grad_(False)
        levels, self.channels = self.model.levels, self.model.latent_channels
        self.start, self.end = start, levels if end is None else end
        if not 0 <= self.start < self.end <= levels:
            raise ValueError(f"start={start}, end={end}: wanted 0 <= start < end <= {levels}, the levels of the VAE")
        check_positive(shift=shift, scale_log=scale_log)
        if shift is None and scale_log is None:
            raise ValueError("HierarchicalLatent with every part switched off does nothing; give at least one range")
        if scale_log is not None and noise_seed is None:
            raise ValueError(f"scale_log={scale_log} changes what noise does, and there is none; give noise_seed=0")
        if prior_beyond and self.end == levels:
            raise ValueError(f"prior_beyond=True: no level is beyond end={levels}; give a smaller end")
        if micro_batch is not None and not (isinstance(micro_batch, int) and micro_batch >= 1):
            raise ValueError(f"micro_batch={micro_batch}: wanted a whole number of at least 1")
        self.spread = None if spread is None else _checked_spread(spread, levels, self.channels)
        self.prior_beyond, self.noise_seed, self.residual = prior_beyond, noise_seed, residual
        self.micro_batch, self.checkpointing = micro_batch, checkpointing
        self._clean: OfImages[tuple[Tensor, ...]] = OfImages()
        self._finite = FiniteCheck(
            f"the VAE ({type(vae).__name__}) decoded NaN or infinite values: it overflows in its precision, "
            "or its weights are broken; use vae.float() or vae.bfloat16()"
        )
        self._noise: dict[torch.device, list[Tensor]] = {}
        self._parts = [name for name, value in (("shift", shift), ("scale_log", scale_log)) if value is not None]
        ranges = {"shift": (shift, "standard deviations"), "scale_log": (scale_log, "change of the log-scale")}
        spec = []
        for level in range(self.start, self.end):
            for part in self._parts:
                largest, unit = ranges[part]
                high = float(cast(float, largest))
                spec += [
                    Parameter(f"{part}_{level}_{c}", -high, high, identity=0.0, unit=unit, block=f"level_{level}")
                    for c in range(self.channels)
                ]
        self.spec = tuple(spec)

    def check_channels(self, channels: int) -> None:
        wanted = getattr(self.vae, "channels", channels)
        if channels != wanted:
            raise ValueError(f"the VAE takes images of {wanted} channels, got {channels}")

    def faults(self) -> list[str]:
        return self._finite.faults()

    def apply(self, images: Tensor, u: Tensor, context: Context) -> Tensor:
        if images.numel() == 0:
            return images
        weight = next(self.vae.parameters(), None)
        if weight is not None and weight.device != images.device:
            raise ValueError(
                f"the VAE is on {weight.device} and the images are on {images.device}; move it with "
                f"vae.to('{images.device}')"
            )
        values = torch.stack(tuple(self.decode(u).values()), dim=1)
        size = self.micro_batch or len(images)
        clean = self._clean(lambda: self._reconstructed(images, size), images) if self.residual else ()
        given = (images, values, *clean)
        parts = [self._edited(*part) for part in zip(*(torch.split(each, size) for each in given), strict=True)]
        out = torch.cat(parts) if len(parts) > 1 else parts[0]
        return out.contiguous(memory_format=memory_format_of(images))

    @torch.no_grad()
    def _reconstructed(self, images: Tensor, size: int) -> tuple[Tensor, ...]:
        """What the VAE makes of images without an edit."""
        nothing = images.new_zeros(size, self.size, dtype=torch.float32)
        return (torch.cat([self._decoded(part, nothing[: len(part)]) for part in torch.split(images, size)]),)

    def _edited(self, images: Tensor, values: Tensor, plain: Tensor | None = None) -> Tensor:
        if self.checkpointing and values.requires_grad:
            decode = cast(Callable[..., Tensor], checkpoint)
            out = decode(self._decoded, images, values, use_reentrant=False, preserve_rng_state=False)
        else:
            out = self._decoded(images, values)
        return (out if plain is None else images + (out - plain)).to(images.dtype)

    def _decoded(self, images: Tensor, values: Tensor) -> Tensor:
        """`decode_edited` of images as they come, checked."""
        out = self.decode_edited(images.detach().float(), values)
        if out.shape != images.shape:
            raise ValueError(f"the VAE made {tuple(out.shape)} of images of shape {tuple(images.shape)}")
        return self._finite(out)

    def decode_edited(self, images: Tensor, values: Tensor) -> Tensor:
        """What the VAE decodes when its posteriors are changed by physical values `(B, P)`; zeros change nothing."""
        changes = values.view(len(values), self.end - self.start, len(self._parts), self.channels, 1, 1)

        def editor(level: int, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
            if level >= self.end:
                return mean, log_scale
            change = dict(zip(self._parts, changes[:, level - self.start].to(mean.dtype).unbind(1), strict=True))
            if "shift" in change:
                mean = mean + self._spread_of(level, log_scale) * change["shift"]
            if "scale_log" in change:
                log_scale = log_scale + change["scale_log"]
            return mean, log_scale

        end = self.end if self.prior_beyond else self.model.levels
        return self.model.edit(images, editor, start=self.start, end=end, noise=self._noise_on(images.device))

    def _spread_of(self, level: int, log_scale: Tensor) -> Tensor:
        if self.spread is None:
            return scale_of(log_scale)
        return self.spread[level].to(log_scale)[:, None, None]

    def _noise_on(self, device: torch.device) -> list[Tensor] | None:
        if self.noise_seed is None:
            return None
        if device not in self._noise:
            generator = torch.Generator().manual_seed(self.noise_seed)
            with torch.inference_mode(False), torch.no_grad():  # it is kept, and may be trained through later
                self._noise[device] = self.vae.draw_noise(1, generator=generator)  # type: ignore[operator]  # was checked
        return self._noise[device]


@torch.no_grad()
def latent_spread(vae: nn.Module, images: Tensor, *, micro_batch: int = 64) -> list[Tensor]:
    """Standard deviations `(latent_channels,)` of each level's latents over images and positions.

    Args:
        vae: a module of the form `Hierarchical`, put in evaluation mode.
        images: `(N, C, H, W)` in [0, 1], of the data, N at least 2; a few hundred do.
        micro_batch: how many are encoded at once.

    The variance is that of the posteriors' means plus their own: of draws, not of means.

    Raises:
        TypeError: a module that has not the form.
        ValueError: fewer than two images.
    """
    model = _checked_form(vae, noise=False)
    if len(images) < 2:
        raise ValueError(f"got {len(images)} images: a spread over images wants at least 2")
    vae.eval()
    count = [0.0] * model.levels
    sums: list[tuple[Tensor, ...]] = [() for _ in count]

    def editor(level: int, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        wide = mean.double()
        axes = (0, 2, 3)
        found = (wide.sum(axes), (wide.square() + scale_of(log_scale).double().square()).sum(axes))
        sums[level] = tuple(a + b for a, b in zip(sums[level], found, strict=True)) if sums[level] else found
        count[level] += wide.numel() / wide.shape[1]
        return mean, log_scale

    for part in torch.split(images.float(), micro_batch):
        model.edit(part, editor, start=0, end=model.levels, noise=None)
    pairs = zip(sums, count, strict=True)
    return [(square / n - (total / n).square()).sqrt().float() for (total, square), n in pairs]


def _checked_form(vae: object, *, noise: bool) -> Hierarchical:
    if isinstance(vae, nn.Module) and isinstance(vae, Hierarchical) and (not noise or hasattr(vae, "draw_noise")):
        return vae
    wanted = "levels, latent_channels and edit(images, editor, *, start, end, noise)"
    wanted += ", and for noise_seed= draw_noise(count, *, generator)" if noise else ""
    raise TypeError(
        f"vae: wanted a HierarchicalVAE, or a torch module with {wanted}; got {type(vae).__name__}; "
        "write a module around it (see Hierarchical)"
    )


def _checked_spread(spread: Sequence[Tensor | float], levels: int, channels: int) -> list[Tensor]:
    given = [torch.as_tensor(value, dtype=torch.float32) for value in spread]
    if len(given) != levels or any(value.shape not in ((), (channels,)) for value in given):
        raise ValueError(
            f"spread of shapes {[tuple(value.shape) for value in given]}: wanted a number or ({channels},) for each of "
            f"{levels} levels; latent_spread(vae, images) measures it"
        )
    if not all(bool((value.isfinite() & (value > 0)).all()) for value in given):
        raise ValueError("spread: wanted positive finite numbers; latent_spread(vae, images) measures it")
    return [value.expand(channels) for value in given]
