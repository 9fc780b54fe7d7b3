"""Noise of a batch of images: a seed of its own for each, and its norm."""

from __future__ import annotations

import torch

from hard_aug.generative.noise import derive_seed, match_norm, noise_from_seeds

CPU = torch.device("cpu")


def test_noise_is_each_seeds_own() -> None:
    some = noise_from_seeds(torch.tensor([7, 3]), (2, 4, 4), CPU)
    assert torch.equal(some[1], noise_from_seeds(torch.tensor([3]), (2, 4, 4), CPU)[0])
    assert noise_from_seeds(torch.tensor([], dtype=torch.int64), (2, 4, 4), CPU).shape == (0, 2, 4, 4)
    # Streams of one image must not be those that its neighbour starts with; generators read 32 bits of a seed.
    near = {derive_seed(seed, draw) % 2**32 for seed in range(500) for draw in range(1, 20)}
    assert len(near) == 500 * 19
    assert not near & set(range(2000))


def test_noise_is_scaled_to_a_norm() -> None:
    base = noise_from_seeds(torch.arange(5), (2, 8, 8), CPU)
    for size in (1e-3, 1.0, 1e6):
        moved = match_norm(base + size * torch.randn(base.shape), base)
        target, found = (t.flatten(1).norm(dim=1) for t in (base, moved))
        assert torch.allclose(found / target, torch.ones(5), atol=1e-5)
    assert torch.allclose(match_norm(base, base), base, atol=1e-6)
    assert bool(match_norm(torch.zeros_like(base), base).isfinite().all())
    # Along the radius nothing changes: the gradient is tangent.
    place = (2 * base).requires_grad_()
    (gradient,) = torch.autograd.grad((match_norm(place, base) * torch.randn(base.shape)).sum(), place)
    assert float((gradient * base).flatten(1).sum(1).abs().max()) < 1e-4
