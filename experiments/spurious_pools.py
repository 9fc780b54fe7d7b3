"""Pools of generated images of the spurious experiment: unguided, best of N at equal compute, and guided.

| pool | score |
|---|---|
| `unguided` | none |
| `best_of_n` | that of `diffusion` |
| `best_of_n_away` | the gap of confidence in the right class alone |
| `diffusion` | the gap of confidence towards each wrong class in turn (`ConfidenceGap(towards=...)`) |
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from torch import nn

from experiments.evaluation import finite
from experiments.trainer import Trainer
from hard_aug.objectives import ConfidenceGap
from hard_aug.solvers import (
    Acceptance,
    BestOfN,
    Chain,
    Diffuser,
    GuidedSampler,
    Score,
    Solver,
    Unguided,
    detect,
    synthesize,
)

#: Seeds of one run are apart from those of the next by this.
SEEDS = 10_000_000


def parsed(name: str) -> tuple[str, str | None]:
    """A method, and which generative models it uses ("all", "train" or None)."""
    for models in ("all", "train"):
        if name.endswith(f"_{models}"):
            return name.removesuffix(f"_{models}"), models
    return name, None


class Pools:
    """Makes each round's pool once, against the student of that moment, and keeps it in the trainer's checkpoint.

    Args:
        settings: `generation` of the configuration.
        rounds: of the training; each makes its share of the images.
        models: folders of the generative models by name.
        trainer: whose checkpoint is used.
        teacher: of the score.
        classes: K.
        seed: of the run.
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

    def obtain(self, name: str, turn: int, student: nn.Module) -> dict[str, Any]:
        """Images `(N, C, H, W)` uint8, labels, which are accepted, and numbers of what they took.

        Args:
            name: of the method.
            turn: the round, from 0.
            student: of the score; not looked at where the pool is there already.
        """
        key, settings = f"pool {name} {turn}", self.settings
        kept = self.trainer.finished(key)
        if kept is not None:
            return kept
        kind, models = parsed(name)
        chain, acceptance = Chain(self.diffuser(models), steps=settings.steps), Acceptance(self.teacher)
        numbers = torch.arange(turn * settings.images // self.rounds, (turn + 1) * settings.images // self.rounds)
        labels, seeds = numbers % self.classes, self.seed * SEEDS + numbers
        spent: dict[str, Any] = {}
        solver: Solver = Unguided(chain)
        if kind == "diffusion":
            solver = self._guided(chain)
        elif kind.startswith("best_of_n"):
            solver = BestOfN(chain, count=self._equal_count(chain, self._score(student, None)))
            spent["count"] = solver.count
        bar = self.trainer.progress.add_task(f"images {name} {turn}", total=len(numbers), note="")
        parts: list[dict[str, Any]] = self.trainer.unfinished(key) or []
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
            made = synthesize(solver, score, acceptance, given, seeds=seeds[rows], batch_size=settings.batch_size)
            parts.append(
                {
                    "images": made.images.cpu(),
                    "accepted": made.accepted.cpu(),
                    "scores": made.scores_after.cpu(),
                    "evaluations": made.evaluations.total,
                    "seconds": made.seconds,
                }
            )
            self.trainer.begin(key, parts)
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
                "score": round(float(scores.mean()), 4),  # of two kinds; see the module's head
                "evaluations_per_image": sum(part["evaluations"] for part in parts) / len(images),
                "seconds_per_image": round(sum(part["seconds"] for part in parts) / len(images), 4),
            },
        }
        self.trainer.keep(key, value)
        return value

    def _score(self, student: nn.Module, towards: int | None) -> Score:
        objective = ConfidenceGap(self.settings.gamma, start=self.settings.gamma_start, towards=towards)
        return Score(teacher=self.teacher, student=student, objective=objective)

    def _guided(self, chain: Chain) -> GuidedSampler:
        return GuidedSampler(chain, **self.settings.guidance, measure_before=False)

    def _equal_count(self, chain: Chain, score: Score) -> int:
        """How many samples take at least the network evaluations of the guided sampler."""
        labels, seeds = torch.zeros(1, dtype=torch.int64, device=self.device), torch.zeros(1, dtype=torch.int64)
        wanted = self._guided(chain)(score, labels, seeds=seeds).evaluations.total
        one, two = (BestOfN(chain, count=n)(score, labels, seeds=seeds).evaluations.total for n in (1, 2))
        return 1 + max(0, -(-(wanted - one) // (two - one)))  # each further sample takes the same

    def diffuser(self, models: str | None) -> Diffuser:
        """The generative models of a name."""
        return Diffuser.from_pretrained(self.folder(models)).to(self.device)

    def folder(self, models: str | None) -> Path:
        """Where they are.

        Raises:
            FileNotFoundError: says how to train them.
        """
        folder = Path(self.models[models or "all"])
        if not all((folder / part / "config.json").is_file() for part in ("vae", "unet")):
            raise FileNotFoundError(
                f"no generative models in {folder}; train them with python -m experiments.generative --config-name "
                f"generative_spurious {'data.rare=0.1 ' if models == 'all' else ''}hydra.run.dir={folder}"
            )
        return folder

    def detectors(
        self, name: str, student: nn.Module, *, judge: nn.Module, other_student: nn.Module
    ) -> dict[str, float]:
        """How the first round's images fail, if they do; see `hard_aug.solvers.detectors`.

        Args:
            student: that the first round was made against.
        """
        pool, plain = self.obtain(name, 0, student), self.obtain(f"unguided_{parsed(name)[1]}", 0, student)
        images, unguided = (pool_["images"].to(self.device).float() / 255 for pool_ in (pool, plain))
        found = detect(
            images,
            unguided,
            pool["labels"].to(self.device),
            teacher=self.teacher,
            student=student,
            judge=judge,
            other_student=other_student,
        )
        return finite(found)
