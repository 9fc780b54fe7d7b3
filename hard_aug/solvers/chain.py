"""Chain: the denoising loop, from noise or from the middle of a real image's way to noise (SDEdit, arXiv:2108.01073).

A step predicts `x0` and `e` of `x` and goes to the next level,

    x' = signal' x0 + noise' (sqrt(1 - renoise^2) e + renoise n)

with fresh noise `n`. `renoise = 0` is DDIM (arXiv:2010.02502) and, on straight paths, Euler's step of flow matching;
`renoise = 1` is the sampling of consistency models (LCM, arXiv:2310.04378).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hard_aug.solvers.diffuser import Diffuser


class Chain:
    """The steps that are done, and what they start from.

    Args:
        diffuser: the networks.
        steps: N, of the whole way, as the scheduler spaces them.
        strength: the share of it that is done, in (0, 1]: an image keeps its coarse form at 0.5, and nothing at 1.
        renoise: in [0, 1]; None: 1 for LCM's scheduler, else 0.

    Raises:
        ValueError: names the setting.
    """

    def __init__(
        self,
        diffuser: Diffuser,
        *,
        steps: int = 10,
        strength: float = 1.0,
        renoise: float | None = None,
    ) -> None:
        if not 0 < strength <= 1:
            raise ValueError(f"strength={strength}: wanted a share of the chain in (0, 1]")
        if renoise is None:
            renoise = 1.0 if "LCM" in type(diffuser.scheduler).__name__ else 0.0
        if not 0 <= renoise <= 1:
            raise ValueError(f"renoise={renoise}: wanted a number in [0, 1]")
        self.diffuser, self.renoise = diffuser, float(renoise)
        self.strength = float(strength)
        self.levels = diffuser.levels(steps)
        self.first = len(self.levels) - max(1, round(len(self.levels) * strength))

    def __len__(self) -> int:
        return len(self.levels) - self.first

    @property
    def indices(self) -> range:
        """Of the steps that are done."""
        return range(self.first, len(self.levels))

    def start(self, noise: Tensor, clean: Tensor | None) -> Tensor:
        """The noisy latents that the chain starts with.

        Args:
            noise: `(B, c, h, w)` standard normal.
            clean: scaled latents of real images; None: nothing but noise.

        Raises:
            ValueError: no image, and a chain that starts in the middle.
        """
        if clean is None:
            if self.first:
                raise ValueError(
                    f"a chain of strength={self.strength} starts from images: give images=, or strength=1.0 to start "
                    "from noise"
                )
            return noise
        return self.levels.signal[self.first] * clean + self.levels.noise[self.first] * noise

    def onward(self, clean: Tensor, found: Tensor, index: int, fresh: Tensor | None) -> Tensor:
        """The latents at the next level, from both parts of those at step `index`."""
        signal, noise = self.levels.signal[index + 1], self.levels.noise[index + 1]
        if self.renoise:
            if fresh is None:
                raise ValueError(f"renoise={self.renoise}: wanted fresh noise (steps, B, c, h, w)")
            found = (1 - self.renoise**2) ** 0.5 * found + self.renoise * fresh
        return signal * clean + noise * found

    def predict(self, sample: Tensor, labels: Tensor, index: int, *, guided: bool = True) -> tuple[Tensor, Tensor]:
        """See `Diffuser.predict`."""
        return self.diffuser.predict(sample, labels, self.levels, index, guided=guided)

    def run(self, start: Tensor, labels: Tensor, *, fresh: Tensor | None = None, last: int | None = None) -> Tensor:
        """Clean scaled latents `(B, c, h, w)` from noisy ones.

        Args:
            fresh: `(steps, B, c, h, w)`, the noise of each step where `renoise` is above 0.
            last: steps whose denoiser a gradient runs through, at least 1; None: all. That of the others is taken as if
                they had predicted the very noise that was put in, which then only shrinks (after DRaFT,
                arXiv:2309.17400).

        Gradients: start yes.
        """
        sample, through = start, len(self) - (len(self) if last is None else min(last, len(self)))
        if through and start.requires_grad:
            with torch.no_grad():
                for row in range(through):
                    sample = self._step(sample, labels, row, fresh)
            entry = self.first + through
            sample = sample + self.levels.noise[entry] / self.levels.noise[self.first] * (start - start.detach())
        else:
            through = 0
        for row in range(through, len(self)):
            sample = self._step(sample, labels, row, fresh)
        return sample

    def _step(self, sample: Tensor, labels: Tensor, row: int, fresh: Tensor | None) -> Tensor:
        index = self.first + row
        drawn = fresh[row] if self.renoise and fresh is not None else None
        return self.onward(*self.predict(sample, labels, index), index, drawn)

    def invert(self, clean: Tensor, labels: Tensor) -> Tensor:
        """The noise `(B, c, h, w)` from which the chain, without renoising, comes back to about `clean`.

        DDIM's steps in reverse (arXiv:2010.02502): each takes the prediction at the level it comes from, the first that
        at the cleanest level, of the image without noise. Without classifier-free guidance, under which it diverges
        (arXiv:2211.09794).
        """
        signal, noise = self.levels.signal, self.levels.noise
        last = len(self.levels) - 1
        sample = signal[last] * clean
        for index in reversed(self.indices):
            found_clean, found = self.predict(sample, labels, min(index + 1, last), guided=False)
            sample = signal[index] * (clean if index == last else found_clean) + noise[index] * found
        return (sample - signal[self.first] * clean) / noise[self.first]


def noise_of(seeds: Tensor, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """Standard normal numbers `(B, *shape)`, each row from its own seed: a row knows nothing of its batch.

    Args:
        seeds: `(B,)` integers of at least 0.
    """
    return drawn([torch.Generator().manual_seed(int(seed)) for seed in seeds], shape).to(device)


def drawn(generators: Sequence[torch.Generator], shape: tuple[int, ...]) -> Tensor:
    """Standard normal numbers `(B, *shape)`, float32 on the CPU, a row from each generator."""
    rows = [torch.randn(shape, generator=generator) for generator in generators]
    return torch.stack(rows) if rows else torch.zeros(0, *shape)


def mixed_seed(seed: int, draw: int) -> int:
    """Another seed for each draw, from 1, of each image: seeds follow on one another, these do not."""
    return (seed * 0x9E3779B97F4A7C15 + draw * 0xBF58476D1CE4E5B9) % 2**63


def on_shell(noise: Tensor, like: Tensor) -> Tensor:
    """`noise` brought to the norm of `like`, row by row: standard normal vectors lie close to a sphere."""
    wanted, found = (t.flatten(1).norm(dim=1).view(-1, 1, 1, 1) for t in (like, noise))
    projected: Tensor = noise * (wanted / found.clamp(min=1e-12))
    return projected
