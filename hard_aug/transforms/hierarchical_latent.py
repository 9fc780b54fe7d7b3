"""HierarchicalLatent: edits of a hierarchical VAE's posteriors, in the style of HARD-VAE (arXiv:2305.14890).

"HARD-VAE-style": in the first author's public hook a network acts on the posterior's mean and log-scale maps of the
levels in [start, end); that network is not published. Here each latent channel of each level is shifted, and its
log-scale changed, by parameters of each image:

    mean' = mean + latent_std shift,    log_scale' = log_scale + change,    z = mean' + scale_of(log_scale') noise

| parameter | unit |
|---|---|
| shift_l_c | standard deviations, of latent channel c of level l everywhere |
| log_scale_l_c | change of the logarithm of the posterior's scale there |

`latent_std` is the posterior's own scale or, which makes levels more comparable, measured by `measure_latent_std`.
Coarse levels change the content, fine ones details; if finer levels stay posteriors, they see the coarse edit and undo
most of it, unless `prior_beyond`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, cast, runtime_checkable

import torch
from torch import Tensor, nn

from hard_aug.generative.finite import FiniteCheck
from hard_aug.generative.hierarchical_vae import Editor
from hard_aug.generative.hierarchical_vae_layers import scale_of
from hard_aug.transforms.argument_checks import check_positive
from hard_aug.transforms.latent_edit import LatentEdit
from hard_aug.transforms.spec import Parameter
from hard_aug.utils.checks import as_seed, check_integer


@runtime_checkable
class Hierarchical(Protocol):
    """Interface of a hierarchical VAE whose latents can be edited; wrap another implementation in a module with it.

    With `noise_seed=` the module also needs `draw_noise(count, *, generator) -> list[Tensor]`, maps `(count, latent
    channels, h, w)` for each level. If it has an attribute `channels`, the images must have this number of channels.

    Example:
        >>> class OneLevel(nn.Module):
        ...     levels, latent_channels = 1, 3
        ...
        ...     def edit(self, images, editor, *, start, end, noise):
        ...         mean, log_scale = images, torch.zeros_like(images)  # of the posterior: `images` itself
        ...         if start == 0 and end == 1:
        ...             mean, log_scale = editor(0, mean, log_scale)
        ...         return mean if noise is None else mean + scale_of(log_scale) * noise[0]
        >>> isinstance(OneLevel(), Hierarchical)
        True
        >>> HierarchicalLatent(OneLevel()).size
        3
    """

    @property
    def levels(self) -> int:
        """Number of latent levels, from coarse to fine."""

    @property
    def latent_channels(self) -> int:
        """Channels of each level's latent map."""

    def edit(self, images: Tensor, editor: Editor, *, start: int, end: int, noise: Sequence[Tensor] | None) -> Tensor:
        """Decode the edited latents of images; must be differentiable in the editor's outputs and deterministic.

        Latents are `mean + scale_of(log_scale) * noise`, or the mean if `noise` is None, of the posterior below
        `start`, of what `editor(level, mean, log_scale)` returns for the posterior's maps for start <= level < end, and
        of the prior from `end` on.

        Args:
            images: `(B, C, H, W)` float32 in [0, 1].
            editor: maps a level and its posterior's mean and log-scale maps to new maps.
            start: first edited level.
            end: first level taken from the prior.
            noise: one tensor per level, with a batch of 1 for all images; or None.

        Returns:
            Images `(B, C, H, W)`, about in [0, 1].
        """


class HierarchicalLatent(LatentEdit):
    """Edits a hierarchical VAE's posteriors within given ranges. `u = 0` is the identity.

    The parameters of a level are one block, which a Gaussian policy correlates. None switches a group of parameters
    off. Gradients: images yes (through the sum of `residual` alone, not through the encoder), parameters yes, second
    order no.

    Args:
        vae: a `HierarchicalVAE`, or a module with the interface `Hierarchical`, on the images' device. It is put in
            evaluation mode and frozen, since weights that require a gradient keep the encoder's activations too.
        start: first edited level.
        end: end of the edited levels (exclusive); None: up to the last.
        shift: maximum shift of a latent channel, in standard deviations.
        log_scale: maximum change of the posterior's log-scale, which requires `noise_seed`.
        latent_std: standard deviations, a tensor `(latent_channels,)` or a number for each of the VAE's levels, see
            `measure_latent_std`; None: the posterior's own scale at each point.
        prior_beyond: whether to take the levels from `end` on from the prior; otherwise from the posterior. Both see
            the edit.
        noise_seed: seed of the noise of the latents, which is the same for all images and calls; None: latents are the
            means.
        residual: whether to return the image plus the change by the edit; then the student does not learn the blur of
            a reconstruction, and `u = 0` returns the image itself. Otherwise the decoded images are returned, and
            `u = 0` is the reconstruction.
        micro_batch: number of images that are decoded at once; None: all.
        checkpointing: whether to encode and decode again in the backward pass instead of storing activations.

    Raises:
        TypeError: `vae` has not the interface `Hierarchical`.
        ValueError: levels are out of range, a range is not positive, everything is switched off, or a setting has no
            effect; at a call, the images are on another device, or the VAE can't process their size.
        FloatingPointError: at a call, the VAE overflows. (On a GPU see `pop_nonfinite_reports`.)

    Example:
        >>> from hard_aug.generative import HierarchicalVAE
        >>> vae = HierarchicalVAE(channels=1, size=8, blocks=((1, 1), (4, 2)), width=8, latent_channels=2)
        >>> transform = HierarchicalLatent(vae, start=0, end=2)
        >>> [parameter.name for parameter in transform.spec]
        ['shift_0_0', 'shift_0_1', 'shift_1_0', 'shift_1_1']
        >>> images = torch.rand(3, 1, 8, 8)
        >>> torch.equal(transform(images, torch.zeros(3, 4)), images)
        True
    """

    def __init__(
        self,
        vae: nn.Module,
        *,
        start: int = 0,
        end: int | None = None,
        shift: float | None = 1.0,
        log_scale: float | None = None,
        latent_std: Sequence[Tensor | float] | None = None,
        prior_beyond: bool = False,
        noise_seed: int | None = None,
        residual: bool = True,
        micro_batch: int | None = None,
        checkpointing: bool = False,
    ) -> None:
        super().__init__(residual=residual, micro_batch=micro_batch, checkpointing=checkpointing)
        self.model = _checked_interface(vae, noise=noise_seed is not None)
        self.vae = vae.eval().requires_grad_(False)
        levels, self.channels = self.model.levels, self.model.latent_channels
        if not 0 <= start < (levels if end is None else end) <= levels:
            raise ValueError(f"start={start}, end={end}: expected 0 <= start < end <= {levels}, the levels of the VAE")
        check_integer(0, start=start, end=end)
        self.start, self.end = int(start), levels if end is None else int(end)
        check_positive(shift=shift, log_scale=log_scale)
        if shift is None and log_scale is None:
            raise ValueError("HierarchicalLatent with every range switched off has no effect; give at least one range")
        if log_scale is not None and noise_seed is None:
            raise ValueError(f"log_scale={log_scale} has no effect without noise; give noise_seed=0")
        if prior_beyond and self.end == levels:
            raise ValueError(f"prior_beyond=True: no level is beyond end={levels}; give a smaller end")
        self.shift, self.log_scale = shift, log_scale
        self.latent_std = None if latent_std is None else _checked_std(latent_std, levels, self.channels)
        self.prior_beyond = prior_beyond
        self.noise_seed = None if noise_seed is None else as_seed(noise_seed, name="noise_seed")
        self._finite = FiniteCheck(
            f"the VAE ({type(vae).__name__}) decoded NaN or infinite values: it overflows in its precision, "
            "or its weights are broken; use vae.float() or vae.bfloat16()"
        )
        self._noise: dict[torch.device, list[Tensor]] = {}
        self._std: dict[torch.device, list[Tensor]] = {}
        self._groups = [name for name, value in (("shift", shift), ("log_scale", log_scale)) if value is not None]
        ranges = {"shift": (shift, "standard deviations"), "log_scale": (log_scale, "change of the log-scale")}
        spec = []
        for level in range(self.start, self.end):
            for group in self._groups:
                maximum, unit = ranges[group]
                high = float(cast(float, maximum))
                spec += [
                    Parameter(
                        f"{group}_{level}_{c}", -high, high, 0.0, unit, block=f"level_{level}", group=f"{group}_{level}"
                    )
                    for c in range(self.channels)
                ]
        self.spec = tuple(spec)

    def check_channels(self, channels: int) -> None:
        """See `Transform.check_channels`."""
        expected = getattr(self.vae, "channels", channels)
        if channels != expected:
            raise ValueError(f"the VAE takes images of {expected} channels, got {channels}")

    def pop_nonfinite_reports(self) -> list[str]:
        """See `Transform.pop_nonfinite_reports`."""
        return self._finite.pop_nonfinite_reports()

    def _check_images(self, images: Tensor) -> None:
        weight = next(self.vae.parameters(), None)
        if weight is not None and weight.device != images.device:
            raise ValueError(
                f"the VAE is on {weight.device} and the images are on {images.device}; move it with "
                f"vae.to('{images.device}')"
            )

    def _encode(self, images: Tensor) -> tuple[Tensor, ...]:
        return ()  # posteriors depend on the edits of coarser levels, so that every decoding encodes

    def _reconstruct(self, images: Tensor, *encoded: Tensor) -> Tensor:
        return self._decode_edited(images, images.new_zeros(len(images), self.size, dtype=torch.float32))

    def _decode_edited(self, images: Tensor, values: Tensor, *encoded: Tensor) -> Tensor:
        out = self.decode_edited(images.detach().float(), values)
        if out.shape != images.shape:
            raise ValueError(f"the VAE returned {tuple(out.shape)} for images of shape {tuple(images.shape)}")
        return self._finite(out)

    def decode_edited(self, images: Tensor, values: Tensor) -> Tensor:
        """Decode with posteriors changed by physical values; zeros change nothing.

        Args:
            images: `(B, C, H, W)` float32 in [0, 1].
            values: `(B, P)`, physical values of the parameters.
        """
        changes = values.view(len(values), self.end - self.start, len(self._groups), self.channels, 1, 1)

        def editor(level: int, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
            if level >= self.end:
                return mean, log_scale
            change = dict(zip(self._groups, changes[:, level - self.start].to(mean.dtype).unbind(1), strict=True))
            if "shift" in change:
                mean = mean + self._std_of(level, log_scale) * change["shift"]
            if "log_scale" in change:
                log_scale = log_scale + change["log_scale"]
            return mean, log_scale

        end = self.end if self.prior_beyond else self.model.levels
        return self.model.edit(images, editor, start=self.start, end=end, noise=self._noise_on(images.device))

    def _std_of(self, level: int, log_scale: Tensor) -> Tensor:
        if self.latent_std is None:
            return scale_of(log_scale)
        device = log_scale.device
        if device not in self._std:
            with torch.inference_mode(False):  # cached tensors may be used in training later
                self._std[device] = [std.to(device)[:, None, None] for std in self.latent_std]
        return self._std[device][level].to(log_scale.dtype)

    def _noise_on(self, device: torch.device) -> list[Tensor] | None:
        if self.noise_seed is None:
            return None
        if device not in self._noise:
            generator = torch.Generator().manual_seed(self.noise_seed)
            with torch.inference_mode(False), torch.no_grad():  # cached tensors may be used in training later
                self._noise[device] = self.vae.draw_noise(1, generator=generator)  # type: ignore[operator]  # was checked
        return self._noise[device]


@torch.no_grad()
def measure_latent_std(vae: nn.Module, images: Tensor, *, micro_batch: int = 64) -> list[Tensor]:
    """Measure the standard deviation of each level's latents over images and positions, for `HierarchicalLatent`.

    The variance is that of samples: the variance of the posteriors' means plus the mean of their own variances.

    Args:
        vae: a module with the interface `Hierarchical`; it is put in evaluation mode.
        images: `(N, C, H, W)` in [0, 1], N at least 2; a few hundred are enough.
        micro_batch: number of images that are encoded at once.

    Returns:
        A tensor `(latent_channels,)` for each level.

    Raises:
        TypeError: `vae` has not the interface.
        ValueError: fewer than two images.
    """
    model = _checked_interface(vae, noise=False)
    if len(images) < 2:
        raise ValueError(f"got {len(images)} images: a standard deviation over images requires at least 2")
    vae.eval()
    parts: list[list[tuple[int, Tensor, Tensor]]] = [[] for _ in range(model.levels)]

    def editor(level: int, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        axes, wide = (0, 2, 3), mean.float()
        variance, average = torch.var_mean(wide, axes, correction=0)
        own = scale_of(log_scale).float().square().mean(axes)
        # Joined in float64 on the CPU: not every device has it.
        parts[level].append((wide.numel() // wide.shape[1], average.cpu().double(), (variance + own).cpu().double()))
        return mean, log_scale

    for part in torch.split(images.float(), int(micro_batch)):
        model.edit(part, editor, start=0, end=model.levels, noise=None)
    return [_joined_std(found).to(images.device) for found in parts]


def _joined_std(parts: list[tuple[int, Tensor, Tensor]]) -> Tensor:
    """Return the standard deviation of all values from number, mean and variance of each part."""
    total = sum(count for count, _, _ in parts)
    mean = torch.stack([count * average for count, average, _ in parts]).sum(0) / total
    squares = [count * (variance + (average - mean).square()) for count, average, variance in parts]
    return (torch.stack(squares).sum(0) / total).sqrt().float()


def _checked_interface(vae: object, *, noise: bool) -> Hierarchical:
    if isinstance(vae, nn.Module) and isinstance(vae, Hierarchical) and (not noise or hasattr(vae, "draw_noise")):
        return vae
    expected = "levels, latent_channels and edit(images, editor, *, start, end, noise)"
    expected += ", and for noise_seed= draw_noise(count, *, generator)" if noise else ""
    raise TypeError(
        f"vae: expected a HierarchicalVAE, or a torch module with {expected}; got {type(vae).__name__}; "
        "wrap it in such a module (see Hierarchical)"
    )


def _checked_std(latent_std: Sequence[Tensor | float], levels: int, channels: int) -> list[Tensor]:
    given = [torch.as_tensor(value, dtype=torch.float32, device="cpu") for value in latent_std]
    if len(given) != levels or any(value.shape not in ((), (channels,)) for value in given):
        raise ValueError(
            f"latent_std of shapes {[tuple(value.shape) for value in given]}: expected a number or ({channels},) for "
            f"each of {levels} levels; measure_latent_std(vae, images) measures it"
        )
    if not all(bool((value.isfinite() & (value > 0)).all()) for value in given):
        raise ValueError("latent_std: expected positive finite numbers; measure_latent_std(vae, images) measures it")
    return [value.expand(channels) for value in given]
