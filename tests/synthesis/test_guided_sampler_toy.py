"""Guidance on a toy with an exact denoiser: two pixels, one spurious and one that matters."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.synthesis import Acceptance, GuidedSampler, Score, Unguided, synthesize
from tests.helpers.generative_parts import ddim

TEACHERS_GAIN = 12.0


class ExactDenoiser(nn.Module):
    """`E[x0 | x_t, y]` of a normal distribution for each class, in closed form; pixels are (spurious, core)."""

    def __init__(self, scheduler: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(in_channels=1, sample_size=(1, 2), num_class_embeds=2)
        self.register_buffer("kept", scheduler.alphas_cumprod)
        self.means = nn.Parameter(torch.tensor([[-0.3, -0.35], [0.3, 0.35]]))
        self.variances = nn.Parameter(torch.tensor([0.4, 0.15]) ** 2)

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor) -> tuple[Tensor]:
        kept = self.kept[timestep][:, None, None, None]  # type: ignore[index]  # a buffer
        mean, variance = self.means[class_labels][:, None, None], self.variances
        return ((kept.sqrt() * variance * sample + (1 - kept) * mean) / (kept * variance + 1 - kept),)


class Logistic(nn.Module):
    """Two classes, from a weight for each pixel."""

    def __init__(self, spurious: float, core: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([spurious, core]))

    def forward(self, images: Tensor) -> Tensor:
        drive = (2 * images.flatten(1) - 1) @ self.weight
        return torch.stack((-drive / 2, drive / 2), dim=1)


def drawn(count: int, *, agreeing: bool) -> tuple[Tensor, Tensor]:
    """Real images in which the spurious pixel agrees with the label, as in training, or never does."""
    generator = torch.Generator().manual_seed(3)
    given = torch.randint(2, (count,), generator=generator)
    sign = 2.0 * given - 1
    spurious = 0.4 * (sign if agreeing else -sign) + 0.1 * torch.randn(count, generator=generator)
    core = 0.35 * sign + 0.15 * torch.randn(count, generator=generator)
    return ((torch.stack((spurious, core), 1).view(-1, 1, 1, 2) + 1) / 2).clamp(0, 1), given


def accuracy(model: nn.Module, images: Tensor, given: Tensor) -> float:
    return float((model(images).argmax(1) == given).float().mean())


def retrained(images: Tensor, given: Tensor) -> Logistic:
    model = Logistic(6.0, 0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        F.cross_entropy(model(images), given).backward()
        optimizer.step()
    return model


def test_the_exact_denoiser_samples_its_distribution() -> None:
    scheduler = ddim(prediction_type="sample")
    sampler = DiffusionSampler(DiffusionModel(ExactDenoiser(scheduler), scheduler), steps=250)
    given = torch.arange(2000) % 2
    with torch.no_grad():
        found = sampler.run(noise_from_seeds(torch.arange(2000), (1, 1, 2), torch.device("cpu")), given).view(-1, 2)
    for label, mean in ((0, (-0.3, -0.35)), (1, (0.3, 0.35))):
        assert found[given == label].mean(0).tolist() == pytest.approx(mean, abs=0.04)
        assert found[given == label].std(0).tolist() == pytest.approx((0.4, 0.15), rel=0.08)


@pytest.mark.parametrize("settings", [{"mu": 0.15}, {"rho": 1.0, "shape": "classifier"}])
def test_guided_images_teach_the_absent_group(settings: dict[str, Any]) -> None:
    scheduler = ddim(prediction_type="sample")
    sampler = DiffusionSampler(DiffusionModel(ExactDenoiser(scheduler), scheduler), steps=20)
    teacher = Logistic(0.0, TEACHERS_GAIN)
    train, absent = drawn(300, agreeing=True), drawn(300, agreeing=False)
    student = retrained(*train)
    assert accuracy(teacher, *absent) > 0.95
    assert accuracy(student, *train) > 0.98
    assert accuracy(student, *absent) < 0.2
    given, chosen = torch.arange(200) % 2, torch.arange(200)
    what = Score(teacher=teacher, student=student)
    found = {
        name: synthesize(search, what, Acceptance(teacher, resize=None), given, seeds=chosen, batch_size=100)
        for name, search in (("plain", Unguided(sampler)), ("guided", GuidedSampler(sampler, **settings)))
    }
    plain, guided = found["plain"], found["guided"]
    assert torch.allclose(guided.scores_before, plain.scores_after, atol=1e-6)
    assert float((guided.scores_after - guided.scores_before).mean()) > 0.1
    sure = {name: batch.soft_labels.gather(1, given[:, None]).mean() for name, batch in found.items()}
    assert sure["guided"] > sure["plain"] - 0.01
    after = {
        name: accuracy(
            retrained(
                torch.cat((train[0], batch.images[batch.accepted].float() / 255)),
                torch.cat((train[1], given[batch.accepted])),
            ),
            *absent,
        )
        for name, batch in found.items()
    }
    assert float(guided.accepted.float().mean()) > 0.9
    assert after["guided"] > accuracy(student, *absent) + 0.4
    assert after["guided"] > after["plain"] + 0.2
