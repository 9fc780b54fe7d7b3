"""Pools of generated images of the spurious experiment: unguided, best of N at equal compute, and guided."""

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
    """Makes each pool once, against the biased student, and keeps it in the trainer's checkpoint.

    Args:
        settings: `generation` of the configuration.
        models: folders of the generative models by name.
        trainer: whose checkpoint is used.
        teacher, student: of the score.
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
        student: nn.Module,
        classes: int,
        seed: int,
    ) -> None:
        self.settings, self.models, self.trainer = settings, models, trainer
        self.teacher, self.student, self.classes, self.seed = teacher, student, classes, seed
        self.device = next(student.parameters()).device

    def obtain(self, name: str) -> dict[str, Any]:
        """Images `(N, C, H, W)` uint8, labels, which are accepted, and numbers of what they took, by method."""
        kept = self.trainer.finished(f"pool {name}")
        if kept is not None:
            return kept
        kind, models = parsed(name)
        settings = self.settings
        chain = Chain(self.diffuser(models), steps=settings.steps)
        objective = ConfidenceGap(settings.gamma, start=settings.gamma_start)
        score = Score(teacher=self.teacher, student=self.student, objective=objective)
        acceptance = Acceptance(self.teacher)
        labels = torch.arange(settings.images) % self.classes
        seeds = self.seed * SEEDS + torch.arange(settings.images)
        spent: dict[str, Any] = {}
        solver: Solver = Unguided(chain)
        if kind == "diffusion":
            solver = GuidedSampler.mpgd(chain, step=settings.guidance, measure_before=False)
        elif kind == "best_of_n":
            solver = BestOfN(chain, count=self._equal_count(chain, score))
            spent["count"] = solver.count
        bar = self.trainer.progress.add_task(f"images {name}", total=settings.images, note="")
        parts: list[dict[str, Any]] = self.trainer.unfinished(f"pool {name}") or []
        for start in range(0, settings.images, settings.batch_size):
            if start // settings.batch_size < len(parts):
                self.trainer.progress.update(bar, advance=settings.batch_size)
                continue
            rows = slice(start, start + settings.batch_size)
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
            self.trainer.begin(f"pool {name}", parts)
            self.trainer.progress.update(bar, advance=len(made.seeds))
            if self.trainer.stop.requested:
                raise KeyboardInterrupt
        images, accepted, scores = (
            torch.cat([part[key] for part in parts]) for key in ("images", "accepted", "scores")
        )
        count = len(images)
        value = {
            "images": images,
            "labels": labels,
            "accepted": accepted,
            "numbers": {
                **spent,
                "accepted": round(float(accepted.float().mean()), 4),
                "score": round(float(scores.mean()), 4),
                "evaluations_per_image": sum(part["evaluations"] for part in parts) / count,
                "seconds_per_image": round(sum(part["seconds"] for part in parts) / count, 4),
            },
        }
        self.trainer.keep(f"pool {name}", value)
        return value

    def _equal_count(self, chain: Chain, score: Score) -> int:
        """How many samples take at least the network evaluations of the guided sampler."""
        labels, seeds = torch.zeros(1, dtype=torch.int64, device=self.device), torch.zeros(1, dtype=torch.int64)
        guided = GuidedSampler.mpgd(chain, step=self.settings.guidance, measure_before=False)
        wanted = guided(score, labels, seeds=seeds).evaluations.total
        count = 1
        while BestOfN(chain, count=count)(score, labels, seeds=seeds).evaluations.total < wanted:
            count += 1
        return count

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

    def detectors(self, name: str, *, judge: nn.Module, other_student: nn.Module) -> dict[str, float]:
        """How a pool of generated images fails, if it does; see `hard_aug.solvers.detectors`."""
        pool, plain = self.obtain(name), self.obtain(f"unguided_{parsed(name)[1]}")
        images, unguided = (pool_["images"].to(self.device).float() / 255 for pool_ in (pool, plain))
        found = detect(
            images,
            unguided,
            pool["labels"].to(self.device),
            teacher=self.teacher,
            student=self.student,
            judge=judge,
            other_student=other_student,
        )
        return finite(found)
