"""Quality of small generative models: reconstruction error, and a judge's accuracy on conditional samples.

The judge is a classifier that was not used in their training. Its accuracy on samples shows whether they are of their
class; whether they are diverse is shown by the diversity relative to that of test images of a class.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from kornia.metrics import psnr
from torch import nn
from torch.nn.functional import l1_loss
from torchvision.utils import save_image

from experiments.configuration.devices import device_name
from experiments.configuration.identity import resolved
from experiments.training.accuracy import accuracy
from experiments.training.setup import Setup
from hard_aug.data import ImageSet
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.generative.noise import noise_from_seeds
from hard_aug.synthesis.failure_metrics import diversity
from hard_aug.utils.files import replacing

#: Number of test images of the reconstruction error, of samples per class in the figure, and of images at once.
RECONSTRUCTED, SHOWN, BATCH = 2000, 12, 250


@torch.no_grad()
def report(setup: Setup, folder: Path, seconds: dict[str, float], *, judge: nn.Module) -> dict[str, Any]:
    """Measure the models in `folder`, draw two figures there, and return the content of `report.json`.

    Args:
        setup: configuration, and the data that the models were trained on.
        folder: of the run.
        seconds: training time of each model.
        judge: classifier that was not used in training.
    """
    config, splits, device = setup.config, setup.splits, setup.device
    model, classes = DiffusionModel.from_pretrained(folder).to(device), len(splits.classes)
    chosen = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:RECONSTRUCTED]
    part, test = splits.test[chosen.to(device)].materialize(), splits.test.materialize()
    again = torch.cat([model.decode(model.encode(batch)) for batch in part.images.split(BATCH)])
    labels = (torch.arange(config.samples) % classes).to(device)
    sampler, shape = DiffusionSampler(model, steps=config.sampling_steps), model.latent_shape(*model.image_size())
    parts = []
    for rows in torch.arange(config.samples).split(BATCH):
        start = sampler.start(noise_from_seeds(config.seed + rows, shape, device), None)
        parts.append(model.decode(sampler.run(start, labels[rows])))
    drawn, of_class = torch.cat(parts), [labels == k for k in range(classes)]
    right = (judge(drawn).argmax(1) == labels).float()
    pairs, some = torch.stack((part.images[:40], again[:40]), 1), [drawn[rows][:SHOWN] for rows in of_class]
    for name, shown, columns in (("reconstructions", pairs.flatten(0, 1), 16), ("samples", torch.cat(some), SHOWN)):
        with replacing(folder / f"{name}.png") as unfinished:
            save_image(shown, unfinished, format="png", nrow=columns)
    sizes = {name: sum(f.stat().st_size for f in (folder / name).glob("*.safetensors")) for name in ("vae", "unet")}
    return {
        "config": resolved(config),
        "seconds": seconds,
        "megabytes": {name: round(size / 1e6, 2) for name, size in sizes.items()},
        "reconstruction": {
            "mean_absolute_error": round(float(l1_loss(again, part.images)), 5),
            "psnr_db": round(float(psnr(again, part.images, 1.0)), 2),
            "judge_on_images": round(accuracy(judge, part), 4),
            "judge_on_reconstructions": round(accuracy(judge, ImageSet(again, part.labels)), 4),
        },
        "samples": {
            "number": len(drawn),
            "steps": config.sampling_steps,
            "judge_accuracy": round(float(right.mean()), 4),
            "judge_accuracy_by_class": {
                name: round(float(right[rows].mean()), 3) for name, rows in zip(splits.classes, of_class, strict=True)
            },
            "diversity": round(diversity(drawn, labels) / diversity(test.images, test.labels), 3),
        },
        "device": device_name(device),
        "versions": {name: version(name) for name in ("hard_aug", "torch", "diffusers", "safetensors")},
    }
