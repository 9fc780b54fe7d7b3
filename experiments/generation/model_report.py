"""Quality of small generative models: reconstruction error, and a judge's accuracy on conditional samples.

The judge is a classifier that was not used in their training. Its accuracy on samples shows whether they are of their
class; whether they are diverse is shown by the diversity relative to that of test images of a class.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn
from torchvision.utils import save_image

from experiments.configuration.devices import device_name
from experiments.configuration.identity import resolved
from experiments.training.accuracy import accuracy
from hard_aug.data import Splits
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.synthesis.failure_metrics import diversity

#: Number of test images of the reconstruction error, of samples per class in the figure, and of images at once.
RECONSTRUCTED, SHOWN, BATCH = 2000, 12, 250


@torch.no_grad()
def report(
    config: DictConfig, splits: Splits, folder: Path, seconds: dict[str, float], *, judge: nn.Module
) -> dict[str, Any]:
    """Measure the models in `folder`, write `report.json` and two figures there, and return the report.

    Args:
        config: the composed configuration.
        splits: the data that the models were trained on.
        folder: of the run.
        seconds: training time of each model.
        judge: classifier that was not used in training.
    """
    model = DiffusionModel.from_pretrained(folder).to(splits.train.device)
    classes, device = len(splits.classes), splits.train.device
    chosen = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:RECONSTRUCTED]
    part, test = splits.test[chosen.to(device)].materialize(), splits.test.materialize()
    images = part.images
    again = torch.cat([model.decode(model.encode(batch)) for batch in images.split(BATCH)])
    labels = (torch.arange(config.samples) % classes).to(device)
    sampler, shape = DiffusionSampler(model, steps=config.sampling_steps), model.latent_shape(*model.image_size())
    parts = []
    for rows in torch.arange(config.samples).split(BATCH):
        start = sampler.start(noise_from_seeds(config.seed + rows, shape, device), None)
        parts.append(model.decode(sampler.run(start, labels[rows])))
    drawn = torch.cat(parts)
    right = judge(drawn).argmax(1) == labels
    error = (again - images).square().mean()
    files = {part: sum(f.stat().st_size for f in (folder / part).glob("*.safetensors")) for part in ("vae", "unet")}
    found: dict[str, Any] = {
        "config": resolved(config),
        "seconds": seconds,
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
            "diversity": round(diversity(drawn, labels) / diversity(test.images, test.labels), 3),
        },
        "device": device_name(device),
        "versions": {name: version(name) for name in ("hard_aug", "torch", "diffusers", "safetensors")},
    }
    pairs = torch.stack((images[:40], again[:40]), 1).flatten(0, 1)
    save_image(pairs, folder / "reconstructions.png", nrow=16)
    rows = torch.cat([torch.nonzero(labels == k).flatten()[:SHOWN] for k in range(classes)])
    save_image(drawn[rows], folder / "samples.png", nrow=SHOWN)
    (folder / "report.json").write_text(json.dumps(found, indent=2) + "\n")
    return found
