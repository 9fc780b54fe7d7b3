"""Covariate shift by a spurious background: `python -m experiments.spurious [key=value ...]`.

ConfiG-style (arXiv:2506.02294), on real items with painted backgrounds (`experiments.backgrounds`): each class's images
are all on its home background in the student's training data, every other group is absent; the teacher is robust by
its own training. The student is distilled on those images first, and is biased then; each method goes on from there,
with equal steps on as many images.

| method | second view of a step |
|---|---|
| `kd` | other clean images |
| `cutmix` | CutMix |
| `jitter` | random colours of `color`'s ranges |
| `color` | `HardAugmenter` with `Color`: it is handed the spurious feature |
| `vae_random` | random edits of latents, of the ranges of `vae` |
| `vae` | `HardAugmenter` with `VAELatent` |
| `unguided` | a pool of samples of the diffusion model |
| `best_of_n` | the same, each the best, by the score of `diffusion`, of as many as take its network evaluations |
| `best_of_n_away` | the same, by how sure the student is of the right class alone |
| `diffusion` | the same, guided to where the teacher is sure and the student takes it for another class, each in turn |

The training is in rounds. Pools grow by a share of the images in each, made against the student of that moment.

Nothing sees a group label, and nothing is chosen by test groups. In the run's folder: `metrics.json`, `views.png` (real
images, and each method's views of the same classes) and `checkpoint.pt`. Ctrl-C stops at the end of a step; the same
command goes on from there.
"""

from __future__ import annotations

import json
import logging
import platform
from importlib.metadata import version
from pathlib import Path
from statistics import fmean
from typing import Any

import hydra
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from torch import Tensor, nn
from torchvision.utils import save_image

from experiments import checkpoint, disk, teachers
from experiments.baselines_mixing import CutMixed
from experiments.evaluation import accuracy, finite
from experiments.groups import Grouped, GroupedSplits, group_accuracies
from experiments.memory import keep_freed_memory
from experiments.methods import Distillation, Hard, Method, RandomViews
from experiments.models import ConvTeacher
from experiments.shipped import autoencoder
from experiments.spurious_builders import BUILDERS, POOLED, add_images, check_methods
from experiments.spurious_methods import Pool
from experiments.spurious_pools import Pools, parsed
from experiments.stop import Stop, graceful, told
from experiments.train import choose_device, device_name
from experiments.trainer import Trainer
from experiments.training import progress_bar
from experiments.views import random_views
from hard_aug.models import latent_directions
from hard_aug.solvers import detect
from hard_aug.transforms import Color, Transform, VAELatent

logger = logging.getLogger(__name__)
FREE = ("threads", "device", "resume", "checkpoint_every", "teacher_cache", "methods")  # which are kept by name
#: Of the judge and of the second student, whose networks take no part in any search.
OTHER_SEED = 1000
#: Images whose views the detectors look at.
DETECTED = 500
#: What is measured of each network; the last is on the groups that the training images lack.
MEASURES = ("worst_group", "mean_group", "in_distribution", "absent_groups")


def identity(config: DictConfig) -> dict[str, Any]:
    """All settings that the outcome depends on."""
    return checkpoint.identity(config, FREE)


class Experiment:
    """Everything between the configuration and the results of one seed.

    Args:
        config: the composed configuration.
        splits: the student's data, on the device.
        folder: the run's.
        progress: a running bar.
        stop: asked after each step.
    """

    def __init__(self, config: DictConfig, splits: GroupedSplits, folder: Path, progress: Progress, stop: Stop) -> None:
        check_methods(config.methods)
        if not 0 <= config.uniform_floor <= 0.95:
            raise ValueError(f"uniform_floor={config.uniform_floor}: wanted a share in [0, 0.95]")
        if config.data.rare:
            raise ValueError(f"data.rare={config.data.rare}: the student's data has to lack groups; wanted 0")
        self.config, self.splits, self.folder, self.progress, self.stop = config, splits, folder, progress, stop
        self.device = splits.train.images.device
        self.trainer = Trainer(
            folder / "checkpoint.pt",
            identity(config),
            progress,
            stop,
            resume=config.resume,
            every=config.checkpoint_every,
        )
        everything = instantiate(config.data, rare=1 - 1 / config.data.families, seed=config.data.seed + OTHER_SEED).to(
            self.device
        )
        self.teacher = self._classifier(everything, config.seed)
        self.judge = self._classifier(everything, OTHER_SEED)
        self.seconds: dict[str, float] = {}
        self.student = self._biased("student", config.seed)
        self.other_student = self._biased("other student", config.seed + OTHER_SEED)
        self.pools = Pools(
            config.generation,
            config.models,
            self.trainer,
            teacher=self.teacher,
            rounds=config.continued.rounds,
            classes=len(splits.classes),
            seed=config.seed,
        )
        for name in config.methods:  # before hours of work
            if parsed(name)[1] is not None:
                self.pools.folder(parsed(name)[1])

    def _network(self, width: int) -> nn.Module:
        channels, size = self.splits.train.images.shape[1], self.splits.train.images.shape[-1]
        return ConvTeacher(channels=channels, classes=len(self.splits.classes), width=width, size=size).to(
            self.device, memory_format=torch.channels_last
        )

    def _classifier(self, everything: GroupedSplits, seed: int) -> nn.Module:
        settings = self.config.teacher
        model, _ = teachers.obtain(
            lambda: self._network(settings.width),
            everything.train,
            config={"robust": OmegaConf.to_container(settings), "data": identity(self.config)["data"], "seed": seed},
            cache=Path(self.config.teacher_cache),
            progress=self.progress,
            steps=settings.steps,
            batch_size=settings.batch_size,
            learning_rate=settings.learning_rate,
            views=lambda images, generator: images,
            seed=seed,
            stop=self.stop,
        )
        return model

    def _biased(self, name: str, seed: int) -> nn.Module:
        torch.manual_seed(seed + 1)
        student = self._network(self.config.student.width)
        method = Distillation(self.teacher, student, temperature=self.config.temperature)
        took = self.trainer.train(name, student, self.splits.train, self.config.student, method.loss, seed=seed)
        self.seconds[name] = took["seconds"]
        return student.eval()

    def measure(self, model: nn.Module) -> dict[str, Any]:
        """Accuracies on the test groups, and in distribution: on test images of the groups of the training data."""
        test: Grouped = self.splits.test
        present = torch.isin(test.group, self.splits.train.group.unique())
        found = group_accuracies(model, test)
        return {
            "worst_group": round(found["worst_group"], 4),
            "worst_group_name": found["worst_group_name"],
            "mean_group": round(found["mean_group"], 4),
            "in_distribution": round(accuracy(model, test[present.nonzero().flatten()]), 4),
            "absent_groups": round(accuracy(model, test[(~present).nonzero().flatten()]), 4),
            "groups": {name: round(value, 4) for name, value in found["groups"].items()},
        }

    def transform(self, name: str) -> Transform:
        """Of the methods that edit real images."""
        kind, models = parsed(name)
        if kind in ("color", "jitter"):
            return Color(**self.config.color)
        model = autoencoder(str(self.pools.folder(models)), device=str(self.device))
        settings: dict[str, Any] = dict(self.config.vae)
        count, images = settings.pop("directions"), settings.pop("direction_images")
        directions = latent_directions(model, self.splits.train.images[:images], count)
        return VAELatent(model, directions=directions, **settings)

    def method(self, name: str, student: nn.Module) -> Method:
        """A way of teaching by name."""
        return BUILDERS[parsed(name)[0]](self, name, student)

    def teach(self, name: str) -> dict[str, Any]:
        """Train one student from the biased one on, and measure it."""
        student = self._network(self.config.student.width)
        student.load_state_dict(self.student.state_dict())
        method, seconds, logged = self.method(name, student), 0.0, {}
        for turn in range(self.config.continued.rounds):
            if parsed(name)[0] in POOLED and isinstance(method, Pool):
                add_images(self, name, method, turn)
            key = f"{name} {turn}"
            took = self.trainer.train(
                key,
                student,
                self.splits.train,
                self.config.continued,
                method.loss,
                seed=self.config.seed + turn * OTHER_SEED,
                after_step=method.after_step,
                extra=method,
                log=lambda step: method.scalars(),
            )
            method.load_state_dict(self.trainer.finished(key)["extra"])
            seconds, logged = seconds + took["seconds"], took["log"]
        return {**self.measure(student), "seconds": round(seconds, 1), **logged}

    def views(self, name: str, images: Tensor, labels: Tensor) -> Tensor | None:
        """What a finished method shows beside real images, for the picture and the detectors."""
        kind, _ = parsed(name)
        if kind in POOLED:
            pool, rows = self.pools.obtain(name, 0, self.student), []
            for row, label in enumerate(labels.cpu()):
                kept = pool["images"][(pool["labels"] == label) & pool["accepted"]]
                number = int((labels[:row] == label).sum())
                rows.append(kept[number] if number < len(kept) else torch.zeros_like(pool["images"][0]))
            return torch.stack(rows).to(self.device).float() / 255
        if kind == "kd":
            return None
        student = self._network(self.config.student.width)
        state = self.trainer.finished(f"{name} {self.config.continued.rounds - 1}")
        student.load_state_dict(self.student.state_dict() if state is None else state["model"])
        method = self.method(name, student)
        if isinstance(method, Hard):
            if state is not None:
                method.load_state_dict(state["extra"])
            return method.augmenter(images, labels).images.detach()
        if isinstance(method, RandomViews):
            return random_views(method.transform, images, torch.Generator().manual_seed(self.config.seed))
        if isinstance(method, CutMixed):
            return method.views(images, labels)
        return None

    def detectors(self, name: str) -> dict[str, float]:
        """How a method's views fail, if they do; see `hard_aug.solvers.detectors`. Edits are compared with images.

        Whether they fool another student too is asked of images made against `self.student`, and of random edits; a
        learned policy has gone with its own student.
        """
        networks: dict[str, nn.Module] = {"judge": self.judge}
        if parsed(name)[0] not in ("color", "vae"):
            networks["other_student"] = self.other_student
        if parsed(name)[0] in POOLED:
            return self.pools.detectors(name, self.student, **networks)
        shown = self.splits.train[slice(0, DETECTED)]
        views = self.views(name, shown.images, shown.labels)
        if views is None or name == "cutmix":  # whose images are of no one class
            return {}
        found = detect(views, shown.images, shown.labels, teacher=self.teacher, student=self.student, **networks)
        return finite(found)

    def draw(self) -> None:
        """`views.png`: a row of real images, and one of each method's views of the same classes."""
        count = len(self.splits.classes)
        rows = [int((self.splits.train.labels == label).nonzero()[0]) for label in range(count)]
        shown = self.splits.train[torch.tensor(rows * 2, device=self.device)]
        pictures = [shown.images]
        for name in self.config.methods:
            views = self.views(name, shown.images, shown.labels)
            if views is not None:
                pictures.append(views)
        save_image(torch.cat(pictures), self.folder / "views.png", nrow=2 * count)

    def run(self) -> dict[str, Any]:
        """All methods; what `metrics.json` holds."""
        results: dict[str, Any] = {}
        for name in self.config.methods:
            results[name] = self.teach(name)
            results[name]["pool"] = self.detectors(name)
            if parsed(name)[0] in POOLED:
                rounds = range(self.config.continued.rounds)
                numbers = [self.pools.obtain(name, turn, self.student)["numbers"] for turn in rounds]
                results[name]["pool"] |= {key: fmean(part[key] for part in numbers) for key in numbers[0]}
                seconds = results[name]["pool"]["seconds_per_image"] * self.config.generation.images
                results[name]["generation_seconds"] = round(seconds, 1)
        found = {"biased": self.measure(self.student) | {"seconds": self.seconds["student"]}, **results}
        teacher = self.measure(self.teacher)
        gap = teacher["worst_group"] - found.get("kd", found["biased"])["worst_group"]
        return {
            "teacher": teacher,
            "students": found,
            "sets": list(MEASURES),
            "main": "worst_group",
            "gap": round(gap, 4),
            "size": self.splits.train.images.shape[-1],
            "train_counts": self.splits.train.counts(),
            "seed": self.config.seed,
        }


def table(metrics: dict[str, Any]) -> Table:
    """Accuracies in per cent, and how much of the gap in the worst group between KD and the teacher is closed."""
    drawn = Table("", *(name.replace("_", " ") for name in MEASURES), "gap closed", "seconds")
    for column in drawn.columns[1:]:
        column.justify = "right"
    plain = metrics["students"].get("kd", metrics["students"]["biased"])["worst_group"]
    for name, found in {"teacher": metrics["teacher"], **metrics["students"]}.items():
        closed = (found["worst_group"] - plain) / metrics["gap"] if metrics["gap"] > 0 else 0.0
        drawn.add_row(
            name,
            *(f"{100 * found[key]:.1f}" for key in MEASURES),
            f"{100 * closed:.0f} %",
            f"{found['seconds']:.0f}" if "seconds" in found else "",
        )
    return drawn


def write(metrics: dict[str, Any], config: DictConfig, device: torch.device, folder: Path) -> None:
    """`metrics.json`, in the form that `experiments.report` reads."""
    metrics |= {
        "config": {
            **identity(config),
            "methods": list(config.methods),
            "task": {"name": "images of all groups"},  # what experiments.report says of the teacher
            "steps": config.continued.steps,
        },
        "device": device_name(device),
        "versions": {name: version(name) for name in ("hard_aug", "torch", "diffusers", "kornia", "numpy")},
        "machine": platform.machine(),
    }
    (folder / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")


@hydra.main(version_base="1.3", config_path="conf", config_name="spurious")
def main(config: DictConfig) -> float:
    """Hydra's entry; returns the last method's accuracy in its worst group, for sweepers."""
    torch.set_num_threads(config.threads)
    keep_freed_memory()
    folder = Path(HydraConfig.get().runtime.output_dir)
    device = choose_device(config.device)
    splits = instantiate(config.data).to(device)
    with told(folder), disk.explained(folder), graceful() as stop, progress_bar() as progress:
        experiment = Experiment(config, splits, folder, progress, stop)
        metrics = experiment.run()
        write(metrics, config, device, folder)
        experiment.draw()
    console = Console(width=130)
    console.print(table(metrics))
    console.print(f"{folder}/metrics.json, views.png", soft_wrap=True, markup=False)
    return float(list(metrics["students"].values())[-1]["worst_group"])


if __name__ == "__main__":
    main()
