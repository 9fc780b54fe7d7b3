"""GuidedSampler against short references of the methods that it contains, written from the papers' formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hard_aug.generative import DiffusionSampler
from hard_aug.generative.noise import derive_seed, noise_from_seeds
from hard_aug.objectives import ConfidenceGap
from hard_aug.synthesis import GuidedSampler
from hard_aug.synthesis.guided_sampler import MIN_RATIO
from tests.helpers.generative_parts import (
    CHANNELS,
    LATENT,
    Classifier,
    autoencoder_kl,
    ddim,
    diffusion_model,
    labels,
    make_sampler,
    score,
    seeds,
    unet,
)

STEPS = 8


class Reference:
    """DDIM sampling of latents, with v prediction, and the gradient of `t^2 + (1 - f)^2`."""

    def __init__(self) -> None:
        self.unet, self.vae, self.scheduler = unet(), autoencoder_kl(), ddim()
        self.teacher, self.student = Classifier(1), Classifier(2)
        self.scheduler.set_timesteps(STEPS)
        times = self.scheduler.timesteps
        kept = self.scheduler.alphas_cumprod
        self.levels = list(zip(times, kept[times], [*kept[times][1:], torch.ones(())], strict=True))
        self.noise = noise_from_seeds(seeds(), (1, CHANNELS, LATENT, LATENT), torch.device("cpu"))[:, 0]

    def split(self, x: Tensor, time: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
        v = self.unet(x, time, class_labels=labels()).sample
        return kept.sqrt() * x - (1 - kept).sqrt() * v, kept.sqrt() * v + (1 - kept).sqrt() * x

    def images(self, x0: Tensor) -> Tensor:
        shown = (self.vae.decode(x0 / 0.7 + 0.1).sample + 1) / 2
        return shown + (shown.clamp(0, 1) - shown).detach()

    def gradient(self, x0: Tensor, place: Tensor) -> Tensor:
        shown = self.images(x0)
        t, f = (m(shown).softmax(1).gather(1, labels()[:, None]) for m in (self.teacher, self.student))
        return torch.autograd.grad((t**2 + (1 - f) ** 2).sum(), place)[0]

    def unguided(self) -> Tensor:
        x = self.noise
        with torch.no_grad():
            for time in self.scheduler.timesteps:
                v = self.unet(x, time, class_labels=labels()).sample
                x = self.scheduler.step(v, time, x, eta=0.0).prev_sample
            return self.images(x)

    def mpgd(self, mu: float, *, falling: bool = False) -> Tensor:
        x = self.noise
        for time, kept, kept_next in self.levels:
            with torch.no_grad():
                x0, e = self.split(x, time, kept)
            x0.requires_grad_()
            size = mu * float((1 - kept).sqrt()) if falling else mu
            x0 = (x0 + size * self.gradient(x0, x0)).detach()
            x = kept_next.sqrt() * x0 + (1 - kept_next).sqrt() * e
        return self.images(x).detach()

    def freedom(self, rho: float) -> Tensor:
        x = self.noise
        for time, kept, kept_next in self.levels:
            x = x.detach().requires_grad_()
            x0, e = self.split(x, time, kept)
            push = rho * self.gradient(x0, x) / (kept / kept_next).sqrt()
            x = kept_next.sqrt() * x0 + (1 - kept_next).sqrt() * e + push
        return self.images(x).detach()

    def classifier(self, scale: float) -> Tensor:
        x = self.noise
        for time, kept, kept_next in self.levels:
            x = x.detach().requires_grad_()
            x0, e = self.split(x, time, kept)
            e = e - scale * (1 - kept).sqrt() * self.gradient(x0, x)
            x0 = (x - (1 - kept).sqrt() * e) / kept.sqrt()
            x = kept_next.sqrt() * x0 + (1 - kept_next).sqrt() * e
        return self.images(x).detach()

    def whole(self, mu: float, rho: float, sigma: float) -> Tensor:
        """Two iterations, two recurrences, two copies; the first half is guided; rho falls with the noise."""
        x = self.noise
        draws = [torch.Generator().manual_seed(derive_seed(derive_seed(int(seed), 1), 1)) for seed in seeds()]

        def drawn() -> Tensor:
            return torch.stack([torch.randn((CHANNELS, LATENT, LATENT), generator=draw) for draw in draws])

        for row, (time, kept, kept_next) in enumerate(self.levels):
            if row >= STEPS // 2:
                with torch.no_grad():
                    x0, e = self.split(x, time, kept)
                x = kept_next.sqrt() * x0 + (1 - kept_next).sqrt() * e
                continue
            for again in (True, False):
                x = x.detach().requires_grad_()
                x0, e = self.split(x, time, kept)
                copies = [sigma * (1 - kept).sqrt() * drawn() for _ in range(2)]
                through = sum(self.gradient(self.split(x, time, kept)[0] + copy, x) for copy in copies) / 2
                edit = torch.zeros_like(x)
                for _ in range(2):
                    place = (x0.detach() + edit).requires_grad_()
                    edit = edit + mu * sum(self.gradient(place + copy, place) for copy in copies) / 2
                push = rho * (1 - kept).sqrt() * through / (kept / kept_next).sqrt()
                x_next = kept_next.sqrt() * (x0 + edit) + (1 - kept_next).sqrt() * e + push
                ratio = kept / kept_next
                x = ratio.sqrt() * x_next + (1 - ratio).sqrt() * drawn() if again else x_next
        return self.images(x).detach()


def sampled(**settings: Any) -> Tensor:
    sampler = DiffusionSampler(diffusion_model(), steps=STEPS)
    search = GuidedSampler(sampler, normalized=False, measure_before=False, **settings)
    return search(score(ConfidenceGap(2.0)), labels(), seeds=seeds()).images


@pytest.mark.slow
def test_the_methods_that_it_contains() -> None:
    levels = make_sampler(steps=STEPS).noise_schedule
    assert float((levels.signal[:-1] / levels.signal[1:]).min()) > MIN_RATIO  # below it is another method
    reference = Reference()
    plain = reference.unguided()
    cases = {
        "unguided": ({}, plain),
        "mpgd": ({"mu": 1.0}, reference.mpgd(1.0)),
        "falling": ({"mu": 1.0, "mu_shape": "noise"}, reference.mpgd(1.0, falling=True)),
        "freedom": ({"rho": 0.5}, reference.freedom(0.5)),
        "classifier": ({"rho": 1.0, "shape": "classifier"}, reference.classifier(1.0)),
        "whole": (
            {
                "mu": 0.3,
                "rho": 0.3,
                "iterations": 2,
                "recurrence": 2,
                "smooth": 2,
                "smooth_sigma": 0.2,
                "shape": "noise",
                "window": (0.0, 0.5),
            },
            reference.whole(0.3, 0.3, 0.2),
        ),
    }
    for name, (settings, expected) in cases.items():
        assert torch.allclose(sampled(**settings), expected, atol=1e-5), name
        if name != "unguided":
            assert float((expected - plain).abs().max()) > 0.02, name
