"""What a whole training step costs under each schedule, relative to distillation with random augmentation.

The baseline works on the same two views: the teacher on clean and augmented images without gradients, `u ~ N(0, 1)`
through the same transform, one student forward on both views together, backward, one step of Adam. Each row has its
own copy of the student and its own optimiser; all are measured in turn in every round. The ratio is therefore the price
of the adversary alone.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.models import PAIRS
from benchmarks.timing import (
    environment,
    interleaved,
    parser,
    peak_memory,
    progress,
    reset_peak,
    synchronize,
    table,
    write,
)
from experiments.memory import keep_freed_memory
from hard_aug import HardAugmenter
from hard_aug.distillation import distillation_loss
from hard_aug.schedules import Alternating, Joint, Schedule
from hard_aug.transforms import Affine

BASELINE = "KD + random augmentation"
TEMPERATURE = 2.0
CONFIGS = Path(__file__).parents[1] / "experiments" / "conf" / "augmenter"


def schedules() -> dict[str, Schedule]:
    """Every schedule that is measured, by its row's name; the experiment's own is marked."""
    rows: list[Schedule] = [
        Joint(),
        Joint(fraction=0.125),
        Joint(teacher_gradient=False),
        Alternating(),
        Alternating(every=4),
        Alternating(steps=3),
    ]
    own = experiment_schedules()
    rows += [schedule for schedule in own if schedule not in rows]
    return {f"{schedule!r}{' (experiment)' if schedule in own else ''}": schedule for schedule in rows}


def experiment_schedules() -> list[Schedule]:
    """The schedules named in the experiment's configuration; none where Hydra is not installed."""
    try:
        from hydra.utils import instantiate
        from omegaconf import OmegaConf
    except ImportError:
        return []
    found: list[Schedule] = []
    for path in sorted(CONFIGS.glob("*.yaml")):
        config = OmegaConf.load(path)
        node = OmegaConf.select(config, "schedule")
        schedule = None if node is None else instantiate(node)
        if isinstance(schedule, Schedule) and schedule not in found:
            found.append(schedule)
    return found


def random_step(teacher: nn.Module, student: nn.Module, images: Tensor) -> Callable[[], object]:
    """The baseline's training step."""
    transform = Affine()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        with torch.no_grad():
            u = torch.randn(len(images), transform.size, device=images.device)
            augmented = transform(images, u)
            clean_logits, augmented_logits = teacher(images), teacher(augmented)
        clean, hard = student(torch.cat((images, augmented))).chunk(2)
        loss = 0.5 * distillation_loss(student_logits=clean, teacher_logits=clean_logits, temperature=TEMPERATURE)
        loss = loss + 0.5 * distillation_loss(
            student_logits=hard, teacher_logits=augmented_logits, temperature=TEMPERATURE
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def plain_step(teacher: nn.Module, student: nn.Module, images: Tensor) -> Callable[[], object]:
    """Distillation on the clean view alone: half the student's work."""
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        with torch.no_grad():
            logits = teacher(images)
        loss = distillation_loss(student_logits=student(images), teacher_logits=logits, temperature=TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def hard_step(teacher: nn.Module, student: nn.Module, images: Tensor, schedule: Schedule) -> Callable[[], object]:
    """The training step with a HardAugmenter of the default policy."""
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        loss = augmenter(images).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        augmenter.step()

    return step


def steps(pair: str, device: torch.device) -> dict[str, Callable[[], object]]:
    """The rows of one table."""
    build, shape = PAIRS[pair]
    torch.manual_seed(0)
    teacher, student = build()
    teacher = teacher.to(device).eval().requires_grad_(False)
    images = torch.rand(shape).to(device)

    def own_student() -> nn.Module:
        return copy.deepcopy(student).to(device)

    rows = {BASELINE: random_step(teacher, own_student(), images)}
    for name, schedule in schedules().items():
        rows[name] = hard_step(teacher, own_student(), images, schedule)
    rows["plain KD, clean view alone"] = plain_step(teacher, own_student(), images)
    return rows


def measure(pair: str, device: torch.device, *, rounds: int, calls: int, warmup: int) -> dict[str, dict[str, Any]]:
    """Time and peak memory of every row of a pair. `calls` should be a multiple of 4, for `every=4`."""
    rows = steps(pair, device)
    progress(f"{pair}: warming up")
    times = interleaved(rows, baseline=BASELINE, device=device, rounds=rounds, calls=calls, warmup=warmup, label=pair)
    result: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        reset_peak(device)
        for _ in range(4):
            row()
        synchronize(device)
        result[name] = {**times[name], "peak_memory": peak_memory(device)}
    return result


def main() -> None:
    options = parser(__doc__, json_path="benchmarks/results/step_cost.json", rounds=15, calls=4)
    options.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(PAIRS), help="teachers and students")
    arguments = options.parse_args()
    if arguments.calls % 4:
        options.error(f"--calls {arguments.calls}: wanted a multiple of 4, so that every=4 ascends once in four calls")
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    device = torch.device(arguments.device)
    results, skipped = {}, {}
    for pair in arguments.pairs:
        try:
            PAIRS[pair][0]()
        except ImportError as error:
            progress(f"{pair}: SKIPPED, its networks can't be imported: {error}")
            skipped[pair] = str(error)
            continue
        results[pair] = measure(pair, device, rounds=arguments.rounds, calls=arguments.calls, warmup=arguments.warmup)
        shape = "x".join(map(str, PAIRS[pair][1]))
        print(table(f"{pair}, {shape}, ratio to {BASELINE}", results[pair]))
    write(
        arguments.json, {"environment": environment(device, arguments.threads), "tables": results, "skipped": skipped}
    )


if __name__ == "__main__":
    main()
