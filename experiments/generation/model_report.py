"""Quality of small generative models: reconstruction error, and a judge's accuracy on conditional samples.

The judge is a classifier that was not used in their training. Its accuracy on samples shows whether they are of their
class; whether they are diverse is shown by the diversity relative to that of test images of a class.
"""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from rich.progress import Progress
from torch import Tensor
from torchvision.utils import save_image

from experiments.models.networks import ConvTeacher
from experiments.training import checkpoint, teachers
from experiments.training.accuracy import accuracy
from experiments.training.interrupts import Stop
from hard_aug.data import Splits
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.synthesis.failure_metrics import diversity

#: Number of test images of the reconstruction error, and of samples per class in the figure.
RECONSTRUCTED, SHOWN = 2000, 12


@torch.no_grad()
def samples(model: DiffusionModel, labels: Tensor, *, steps: int, seed: int = 0, batch_size: int = 250) -> Tensor:
    """Sample images `(N, C, H, W)` in [0, 1], one for each label.

    Args:
        model: the diffusion model.
        labels: `(N,)`.
        steps: sampling steps.
        seed: seed of the first image.
        batch_size: images that are sampled at once.
    """
    sampler = DiffusionSampler(model, steps=steps)
    shape = model.latent_shape(*model.image_size())
    parts = []
    for start in range(0, len(labels), batch_size):
        rows = labels[start : start + batch_size].to(model.device)
        seeds = seed + start + torch.arange(len(rows))
        noise = noise_from_seeds(seeds, shape, model.device)
        parts.append(model.decode(sampler.run(sampler.start(noise, None), rows)))
    return torch.cat(parts)


@torch.no_grad()
def reconstructions(model: DiffusionModel, images: Tensor, *, batch_size: int = 250) -> Tensor:
    """Encode and decode images.

    Args:
        model: the diffusion model.
        images: `(N, C, H, W)` in [0, 1].
        batch_size: images at once.
    """
    return torch.cat([model.decode(model.encode(batch)) for batch in images.split(batch_size)])


def report(
    config: DictConfig, splits: Splits, folder: Path, took: dict[str, Any], *, progress: Progress, stop: Stop
) -> dict[str, Any]:
    """Measure the models in `folder`, write `report.json` and two figures there, and return the report.

    Args:
        config: configuration of `experiments.train_generative`.
        splits: the data that the models were trained on.
        folder: folder of the run.
        took: training time and loss of each model.
        progress: a running progress bar.
        stop: checked after each step of the judge's training.
    """
    model = DiffusionModel.from_pretrained(folder).to(splits.train.images.device)
    classes, device = len(splits.classes), splits.train.images.device
    resolved = checkpoint.resolved(config)
    chosen = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:RECONSTRUCTED]
    part = splits.test[chosen.to(device)]
    images, even = part.images, dict(resolved["data"])
    if "rare" in even:  # if class and background are correlated, the judge is trained on data in which they are not
        even["rare"] = 1 - 1 / even["families"]
    judged = splits if even == resolved["data"] else instantiate(even).to(device)
    judge, _ = teachers.train_or_load(
        lambda: ConvTeacher(
            channels=splits.train.images.shape[1], classes=classes, width=config.judge.width, size=images.shape[-1]
        ),
        judged.train,
        config={"judge": resolved["judge"], "data": even, "seed": config.seed},
        cache=Path(config.teacher_cache),
        progress=progress,
        steps=config.judge.steps,
        batch_size=128,
        learning_rate=1e-3,
        augment=lambda images, generator: images,
        seed=config.seed,
        stop=stop,
    )
    again = reconstructions(model, images)
    labels = torch.arange(config.samples) % classes
    drawn = samples(model, labels, steps=config.sampling_steps, seed=config.seed)
    labels = labels.to(device)
    with torch.no_grad():
        right = judge(drawn).argmax(1) == labels
    error = (again - images).square().mean()
    files = {part: sum(f.stat().st_size for f in (folder / part).glob("*.safetensors")) for part in ("vae", "unet")}
    found: dict[str, Any] = {
        "config": resolved,
        "took": took,
        "megabytes": {part: round(size / 1e6, 2) for part, size in files.items()},
        "reconstruction": {
            "mean_absolute_error": round(float((again - images).abs().mean()), 5),
            "psnr_db": round(float(-10 * error.log10()), 2),
            "judge_on_images": round(accuracy(judge, part), 4),
            "judge_on_reconstructions": round(float((judge(again).argmax(1) == part.labels).float().mean()), 4),
        },
        "samples": {
            "number": len(drawn),
            "steps": config.sampling_steps,
            "judge_accuracy": round(float(right.float().mean()), 4),
            "judge_accuracy_by_class": {
                name: round(float(right[labels == k].float().mean()), 3) for k, name in enumerate(splits.classes)
            },
            "diversity": round(diversity(drawn, labels) / diversity(splits.test.images, splits.test.labels), 3),
        },
        "device": f"{device.type} {platform.machine()}, {torch.get_num_threads()} threads",
        "versions": {name: version(name) for name in ("hard_aug", "torch", "diffusers", "safetensors")},
    }
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    pairs = torch.stack((images[:40], again[:40]), 1).flatten(0, 1)
    save_image(pairs, folder / "reconstructions.png", nrow=16)
    rows = torch.cat([torch.nonzero(labels == k).flatten()[:SHOWN] for k in range(classes)])
    save_image(drawn[rows], folder / "samples.png", nrow=SHOWN)
    return found
