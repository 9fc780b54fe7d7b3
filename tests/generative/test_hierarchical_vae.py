"""HierarchicalVAE: training, the hook that edits posteriors, files; with small networks and real digits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from experiments.data.sources import load
from hard_aug.generative.hierarchical_vae import HierarchicalVAE
from hard_aug.generative.hierarchical_vae_layers import LOWEST_LOG_SCALE, scale_of
from hard_aug.transforms.hierarchical_latent import HierarchicalLatent

BLOCKS = ((1, 1), (3, 2), (6, 1))
LEVELS = 4


def small(channels: int = 1, size: int = 12, blocks: Sequence[tuple[int, int]] = BLOCKS) -> HierarchicalVAE:
    """With priors that are not all the same, as after training."""
    torch.manual_seed(0)
    vae = HierarchicalVAE(channels=channels, size=size, blocks=blocks, width=16, latent_channels=3)
    with torch.no_grad():
        for name, weight in vae.named_parameters():
            if ".prior." in name and weight.ndim == 4:
                weight.normal_(std=weight[0].numel() ** -0.5)
    return vae.requires_grad_(False)


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def identity(level: int, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
    return mean, log_scale


def random_u(transform: HierarchicalLatent, rows: int = 3, **more: Any) -> Tensor:
    return torch.randn(rows, transform.size, generator=_seeded(2), **more)


@pytest.fixture
def pictures() -> Tensor:
    return torch.rand(3, 1, 12, 12, generator=_seeded(1))


def test_the_scale_is_stable() -> None:
    x = torch.tensor([-1e30, -1e4, -9.5, -1.0, 0.0, 1e-6, 2.0, 1e4, 1e30], requires_grad=True)
    scale = scale_of(x)
    (slope,) = torch.autograd.grad(scale.sum(), x)
    assert torch.allclose(scale[2:], nn.functional.elu(x[2:]) + 1, rtol=1e-3)
    assert torch.allclose(scale[2:5], x[2:5].exp(), rtol=1e-6)
    assert bool((scale > 0).all())
    assert bool(scale.isfinite().all())
    assert bool(slope.isfinite().all())
    assert torch.allclose(slope[2:], torch.tensor([-9.5, -1.0, 0, 0, 0, 0, 0]).exp())
    assert float(scale[0].detach()) == pytest.approx(float(torch.tensor(LOWEST_LOG_SCALE).exp()))


@pytest.mark.slow
def test_training_on_digits_lowers_the_loss_and_the_error() -> None:
    splits = load("mnist5k", canvas=32)
    digits, held = splits.train.images[:256], splits.test.images[:64]
    torch.manual_seed(0)
    vae = HierarchicalVAE(blocks=((1, 1), (4, 1), (8, 1)), width=16, latent_channels=4)
    optimizer = torch.optim.Adam(vae.parameters(), lr=4e-3)
    generator = _seeded(0)

    def error() -> float:
        return float((vae.edit(held, identity, start=vae.levels) - held).detach().square().mean())

    before = error(), float(vae.loss(held, generator=generator).detach())
    for step in range(36):
        loss = vae.loss(digits[step % 16 * 16 :][:16], generator=generator, free_nats=2.0, prefix_weight=0.5)
        optimizer.zero_grad()
        loss.backward()
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in vae.parameters())
        nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
    after = error(), float(vae.loss(held, generator=generator).detach())
    assert after[0] < 0.7 * float(held.var()) < before[0]
    assert after[1] < before[1] / 5
    _, divergence = vae(held, generator=generator)
    assert divergence.shape == (64, vae.levels)
    assert bool((divergence >= 0).all())


def test_the_bound_is_that_of_its_parts(pictures: Tensor) -> None:
    vae = small()
    reconstruction, divergence = vae(pictures, generator=_seeded(5))
    pixels = torch.distributions.Normal(reconstruction, scale_of(vae.log_scale))
    per_image = -pixels.log_prob(pictures).sum((1, 2, 3)) + divergence.sum(1)
    loss = vae.loss(pictures, generator=_seeded(5))
    assert float(loss) == pytest.approx(float(per_image.mean()) / 144, rel=1e-4)
    free = vae.loss(pictures, generator=_seeded(5), free_nats=1e6)
    assert float(free) == pytest.approx(float(loss - divergence.sum(1).mean() / 144) + LEVELS * 1e6 / 144, rel=1e-4)
    pair = [small(blocks=((3, 1), (6, 1))).loss(pictures, prefix_weight=w, generator=_seeded(5)) for w in (0.0, 2.0)]
    vae, generator = small(blocks=((3, 1), (6, 1))), _seeded(5)
    vae(pictures, generator=generator)
    torch.randint(1, 2, (), generator=generator)
    prefix = vae.edit(pictures, identity, start=1, end=1, noise=vae.draw_noise(3, generator=generator))
    error = -torch.distributions.Normal(prefix, scale_of(vae.log_scale)).log_prob(pictures).mean()
    assert float(pair[1] - pair[0]) == pytest.approx(2 * float(error), rel=1e-4)


def test_an_identity_editor_gives_the_reconstruction(pictures: Tensor) -> None:
    vae = small()
    for noise in (None, vae.draw_noise(3), vae.draw_noise(1)):
        plain = vae.edit(pictures, identity, start=LEVELS, end=LEVELS, noise=noise)
        assert torch.equal(vae.edit(pictures, identity, noise=noise), plain)
    assert not torch.equal(plain, vae.edit(pictures, identity))  # noise counts
    one = [part.expand(3, -1, -1, -1) for part in (noise or [])]
    assert torch.equal(vae.edit(pictures, identity, noise=one), plain)
    drawn, _ = vae(pictures, generator=_seeded(7))
    noise = vae.draw_noise(3, generator=_seeded(7))
    assert torch.equal(vae.edit(pictures, identity, noise=noise), drawn)


@pytest.mark.parametrize(("start", "end"), [(0, 4), (1, 3), (2, 2), (0, 0), (3, 4)])
def test_where_each_level_comes_from(start: int, end: int, pictures: Tensor) -> None:
    vae = small()
    seen: list[int] = []

    def editor(level: int, mean: Tensor, log_scale: Tensor) -> tuple[Tensor, Tensor]:
        seen.append(level)
        assert mean.shape == log_scale.shape == (3, 3, vae.resolutions[level], vae.resolutions[level])
        return mean, log_scale

    posteriors: list[tuple[int, Tensor]] = []
    for index in range(LEVELS):
        level = vae._level(index)
        level.posterior.register_forward_hook(lambda m, a, out, index=index: posteriors.append((index, out)))
    out = vae.edit(pictures, editor, start=start, end=end)
    assert seen == list(range(start, end))
    assert [index for index, _ in posteriors] == list(range(end))  # beyond it no posterior is asked
    plain = posteriors[:start]
    posteriors.clear()
    vae.edit(pictures, lambda level, mean, scale: (mean + 1, scale), start=start, end=end)
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(plain, posteriors[:start], strict=True))
    if end == 0:  # all of the prior: the image does not count
        zeros = [torch.zeros_like(part) for part in vae.draw_noise(1)]
        assert torch.allclose(out, vae.sample(1, noise=zeros).expand(3, -1, -1, -1), atol=1e-6)
    else:
        assert not torch.allclose(out[0], out[1], atol=1e-6)


def test_samples_are_replayed(pictures: Tensor) -> None:
    vae = small()
    a, b = (vae.sample(2, generator=_seeded(3)) for _ in "ab")
    assert a.shape == (2, 1, 12, 12)
    assert torch.equal(a, b)
    noise = vae.draw_noise(2, generator=_seeded(3))
    assert torch.equal(a, vae.sample(2, noise=noise))
    assert torch.allclose(a, vae.edit(pictures[:2], identity, start=0, end=0, noise=noise), atol=1e-6)
    assert vae.sample(0).shape == (0, 1, 12, 12)


def test_every_level_changes_the_picture_the_coarsest_everywhere(pictures: Tensor) -> None:
    vae = small()
    for index, resolution in enumerate(vae.resolutions):

        def editor(level: int, mean: Tensor, log_scale: Tensor, index: int = index) -> tuple[Tensor, Tensor]:
            change = torch.zeros_like(mean)
            change[:, :, 0, 0] = float(level == index)
            return mean + change, log_scale

        out = vae.edit(pictures, editor)
        moved = (out - vae.edit(pictures, identity)).abs().amax((0, 1))
        assert float(moved.max()) > 1e-4
        if resolution == 1:
            assert bool((moved > 0).all())
        if index == LEVELS - 1:  # the last point is out of the reach of its convolutions
            assert float(moved[-1, -1]) == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_saved_model_is_the_same(dtype: torch.dtype, pictures: Tensor, tmp_path: Path) -> None:
    vae = small().to(dtype)
    vae.save_pretrained(tmp_path / "new" / "folder")
    vae.save_pretrained(tmp_path / "new" / "folder")  # over itself
    again = HierarchicalVAE.from_pretrained(tmp_path / "new" / "folder")
    assert again.config == vae.config
    assert not again.training
    assert sorted(file.name for file in (tmp_path / "new" / "folder").iterdir()) == ["config.json", "model.safetensors"]
    out = again.edit(pictures, identity)
    assert out.dtype == dtype
    assert torch.equal(out, vae.edit(pictures, identity))


def test_files_that_are_no_model(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no config\.json and no model\.safetensors"):
        HierarchicalVAE.from_pretrained(tmp_path)
    small().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for wrong in (json.dumps(config | {"width": 8}), json.dumps({"a": 1}), "{", "3"):
        (tmp_path / "config.json").write_text(wrong)
        with pytest.raises(ValueError, match="holds no HierarchicalVAE that can be read"):
            HierarchicalVAE.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    whole = (tmp_path / "model.safetensors").read_bytes()
    for broken in (b"", whole[: len(whole) // 2], b"no tensors"):
        (tmp_path / "model.safetensors").write_bytes(broken)
        with pytest.raises(ValueError, match="can be read"):
            HierarchicalVAE.from_pretrained(tmp_path)
