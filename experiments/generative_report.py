"""How good small generative models are: reconstruction error, and what a judge says of conditional samples.

The judge is a classifier that took no part in their training. Its accuracy on samples says whether they are of their
class, not whether they are diverse: the spread beside it does (1: as much as test images of a class).
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

from experiments import checkpoint, teachers
from experiments.data import Splits
from experiments.evaluation import accuracy
from experiments.models import ConvTeacher
from experiments.stop import Stop
from hard_aug.solvers import Chain, Diffuser
from hard_aug.solvers.chain import noise_of
from hard_aug.solvers.detectors import diversity

#: Test images that the reconstruction error is of, and pictures a class on a sheet.
RECONSTRUCTED, SHOWN = 2000, 12


@torch.no_grad()
def samples(diffuser: Diffuser, labels: Tensor, *, steps: int, seed: int = 0, batch_size: int = 250) -> Tensor:
    """Unguided images `(N, C, H, W)` in [0, 1], one for each label."""
    chain = Chain(diffuser, steps=steps)
    shape = diffuser.latent_shape(*diffuser.image_size())
    parts = []
    for start in range(0, len(labels), batch_size):
        rows = labels[start : start + batch_size].to(diffuser.device)
        seeds = seed + start + torch.arange(len(rows))
        parts.append(diffuser.decode(chain.run(chain.start(noise_of(seeds, shape, diffuser.device), None), rows)))
    return torch.cat(parts)


@torch.no_grad()
def reconstructions(diffuser: Diffuser, images: Tensor, *, batch_size: int = 250) -> Tensor:
    """What the autoencoder makes of images in [0, 1]."""
    return torch.cat([diffuser.decode(diffuser.encode(batch)) for batch in images.split(batch_size)])


def report(
    config: DictConfig, splits: Splits, folder: Path, took: dict[str, Any], *, progress: Progress, stop: Stop
) -> dict[str, Any]:
    """Measure the models in `folder`, write `report.json` and two sheets beside them, and return what the report holds.

    Args:
        config: of `experiments.generative`.
        splits: the data they were trained on.
        took: how long.
    """
    diffuser = Diffuser.from_pretrained(folder).to(splits.train.images.device)
    classes, device = len(splits.classes), splits.train.images.device
    resolved = checkpoint.resolved(config)
    chosen = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:RECONSTRUCTED]
    part = splits.test[chosen.to(device)]
    images, even = part.images, dict(resolved["data"])
    if "rare" in even:  # where the background goes with the class, a judge has to have seen that it need not
        even["rare"] = 1 - 1 / even["families"]
    judged = splits if even == resolved["data"] else instantiate(even).to(device)
    judge, _ = teachers.obtain(
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
        views=lambda images, generator: images,
        seed=config.seed,
        stop=stop,
    )
    again = reconstructions(diffuser, images)
    labels = torch.arange(config.samples) % classes
    drawn = samples(diffuser, labels, steps=config.sampling_steps, seed=config.seed)
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
            "spread": round(diversity(drawn, labels) / diversity(splits.test.images, splits.test.labels), 3),
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
