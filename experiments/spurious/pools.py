"""Pools of generated images for the spurious experiment: unguided, best of N at equal compute, and guided.

| pool | score |
|---|---|
| `unguided` | none |
| `best_of_n` | as `diffusion` |
| `best_of_n_away` | the gap of confidence in the true class |
| `diffusion` | the gap of confidence towards each wrong class in turn (`ConfidenceGap(towards=...)`) |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from experiments.runs.failure_metrics import finite_failure_metrics
from experiments.training.fit import Trainer
from hard_aug.generative import DiffusionModel, DiffusionSampler
from hard_aug.objectives import ConfidenceGap
from hard_aug.synthesis import Acceptance, BestOfN, GuidedSampler, ImageSearch, Score, Unguided, synthesize

#: Distance between the image seeds of two runs with consecutive seeds.
SEEDS = 10_000_000


def parse_name(name: str) -> tuple[str, str | None]:
    """Split a method's name into its kind and the generative models it uses ("all", "train" or None)."""
    for models in ("all", "train"):
        if name.endswith(f"_{models}"):
            return name.removesuffix(f"_{models}"), models
    return name, None


class Pools:
    """Generates the pool of each round once, against the current student, and stores it in the trainer's checkpoint.

    Args:
        settings: `generation` of the configuration.
        models: folders of the generative models by name.
        trainer: the trainer whose checkpoint is used.
        teacher: teacher of the score.
        rounds: number of training rounds, among which the images are divided.
        classes: number of classes K.
        seed: seed of the run.
    """

    def __init__(
        self,
        settings: DictConfig,
        models: DictConfig,
        trainer: Trainer,
        *,
        teacher: nn.Module,
        rounds: int,
        classes: int,
        seed: int,
    ) -> None:
        self.settings, self.models, self.trainer = settings, models, trainer
        self.teacher, self.rounds, self.classes, self.seed = teacher, rounds, classes, seed
        self.device = next(teacher.parameters()).device

    def generate_or_load(self, name: str, turn: int, student: nn.Module) -> dict[str, Any]:
        """Return images `(N, C, H, W)` uint8, their labels, which of them are accepted, and numbers for the results.

        Args:
            name: name of the method.
            turn: the round, from 0.
            student: student of the score; unused if the pool exists already.
        """
        key, settings = f"pool {name} {turn}", self.settings
        stored = self.trainer.finished(key)
        if stored is not None:
            return stored
        kind, models = parse_name(name)
        sampler, acceptance = DiffusionSampler(self.load_model(models), steps=settings.steps), Acceptance(self.teacher)
        numbers = torch.arange(turn * settings.images // self.rounds, (turn + 1) * settings.images // self.rounds)
        labels, seeds = numbers % self.classes, self.seed * SEEDS + numbers
        spent: dict[str, Any] = {}
        search: ImageSearch = Unguided(sampler)
        if kind == "diffusion":
            search = self._guided(sampler)
        elif kind.startswith("best_of_n"):
            search = BestOfN(sampler, count=self._equal_count(sampler, self._score(student, None)))
            spent["count"] = search.count
        bar = self.trainer.progress.add_task(f"images {name} {turn}", total=len(numbers), note="")
        parts: list[dict[str, Any]] = self.trainer.load_partial(key) or []
        blocks = [
            (towards, rows)
            for towards, block in enumerate(torch.arange(len(numbers)).chunk(self.classes - 1), 1)
            for rows in block.split(settings.batch_size)
        ]
        for number, (towards, rows) in enumerate(blocks):
            if number < len(parts):
                self.trainer.progress.update(bar, advance=len(rows))
                continue
            score = self._score(student, None if kind == "best_of_n_away" else towards)
            given = labels[rows].to(self.device)
            made = synthesize(search, score, acceptance, given, seeds=seeds[rows], batch_size=settings.batch_size)
            parts.append(
                {
                    "images": made.images.cpu(),
                    "accepted": made.accepted.cpu(),
                    "scores": made.scores_after.cpu(),
                    "nfe": made.nfe.total,
                    "seconds": made.seconds,
                }
            )
            self.trainer.save_partial(key, parts)
            self.trainer.progress.update(bar, advance=len(made.seeds))
            if self.trainer.stop.requested:
                raise KeyboardInterrupt
        images, accepted, scores = (
            torch.cat([part[name] for part in parts]) for name in ("images", "accepted", "scores")
        )
        value = {
            "images": images,
            "labels": labels,
            "accepted": accepted,
            "numbers": {
                **spent,
                "accepted": round(float(accepted.float().mean()), 4),
                "score": round(float(scores.mean()), 4),  # depends on the kind, see the module's docstring
                "nfe_per_image": sum(part["nfe"] for part in parts) / len(images),
                "seconds_per_image": round(sum(part["seconds"] for part in parts) / len(images), 4),
            },
        }
        self.trainer.save_finished(key, value)
        return value

    def _score(self, student: nn.Module, towards: int | None) -> Score:
        objective = ConfidenceGap(self.settings.gamma, start=self.settings.gamma_start, towards=towards)
        return Score(teacher=self.teacher, student=student, objective=objective)

    def _guided(self, sampler: DiffusionSampler) -> GuidedSampler:
        return GuidedSampler(sampler, **self.settings.guidance, measure_before=False)

    def _equal_count(self, sampler: DiffusionSampler, score: Score) -> int:
        """Return how many samples need at least as many network evaluations as the guided sampler."""
        labels, seeds = torch.zeros(1, dtype=torch.int64, device=self.device), torch.zeros(1, dtype=torch.int64)
        guided = self._guided(sampler)(score, labels, seeds=seeds).nfe.total
        one, two = (BestOfN(sampler, count=n)(score, labels, seeds=seeds).nfe.total for n in (1, 2))
        return 1 + max(0, -(-(guided - one) // (two - one)))  # each further sample costs the same

    def load_model(self, models: str | None) -> DiffusionModel:
        """Load the diffusion model of a name, see `parse_name`."""
        return DiffusionModel.from_pretrained(self.folder(models)).to(self.device)

    def folder(self, models: str | None) -> Path:
        """Return the folder of the generative models of a name, see `parse_name`.

        Raises:
            FileNotFoundError: the models do not exist; the error says how to train them.
        """
        folder = Path(self.models[models or "all"])
        if not all((folder / part / "config.json").is_file() for part in ("vae", "unet")):
            raise FileNotFoundError(
                f"no generative models in {folder}; train them with python -m experiments.train_generative --config-name "
                f"generative_spurious {'data.rare=0.1 ' if models == 'all' else ''}hydra.run.dir={folder}"
            )
        return folder

    def failure_metrics(
        self, name: str, student: nn.Module, *, judge: nn.Module, other_student: nn.Module
    ) -> dict[str, float]:
        """Compute the failure metrics of the first round's images, compared with unguided ones.

        Args:
            name: name of the method.
            student: student of the first round.
            judge: a classifier that is not part of the score.
            other_student: student with another seed.
        """
        pool = self.generate_or_load(name, 0, student)
        unguided = self.generate_or_load(f"unguided_{parse_name(name)[1]}", 0, student)
        networks = {"student": student, "judge": judge, "other_student": other_student}
        return finite_failure_metrics(
            pool["images"], unguided["images"], pool["labels"], teacher=self.teacher, **networks
        )
