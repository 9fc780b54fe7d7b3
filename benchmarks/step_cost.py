"""What a whole training step costs under each schedule, relative to distillation with random augmentation.

The baseline works on the same two views: the teacher on clean and augmented images without gradients, `u ~ N(0, 1)`
through the same transform, one student forward on both views together, backward, one step of Adam. Each row has its
own copy of the student and its own optimiser; all are measured in turn in every round. The ratio is therefore the price
of the adversary alone.
"""

from __future__ import annotations

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.utils import instantiate
from torch import Tensor, nn

from benchmarks.models import PAIRS, SMALL
from benchmarks.timing import (
    environment,
    interleaved,
    parser,
    peak_memory,
    progress,
    reset_peak,
    resident,
    table,
    write,
)
from experiments.memory import keep_freed_memory
from hard_aug import HardAugmenter
from hard_aug.captured import WARM_UP
from hard_aug.distillation import distillation_loss
from hard_aug.schedules import Alternating, Joint, Schedule, Threshold
from hard_aug.transforms import Affine

BASELINE = "KD + random augmentation"
TEMPERATURE = 2.0
#: Ends the names of rows whose ascents are played back from a CUDA graph.
CAPTURED = ", captured"


def schedules() -> dict[str, Schedule]:
    """Every schedule that is measured, by its row's name; the experiment's own is marked."""
    rows: list[Schedule] = [
        Joint(),
        Joint(fraction=0.25),
        Joint(fraction=0.25, every=6),
        Joint(teacher_gradient=False),
        Alternating(),
        Alternating(fraction=0.25),
        Alternating(fraction=0.25, every=6),
        Alternating(steps=3),
        Threshold(),
    ]
    own = experiment_schedule()
    if own not in rows:
        rows.append(own)
    return {f"{schedule!r}{' (experiment)' if schedule == own else ''}": schedule for schedule in rows}


def period() -> int:
    """After how many calls every schedule is where it began."""
    return math.lcm(*[schedule.every for schedule in schedules().values()])


def experiment_schedule() -> Schedule:
    """The schedule of the experiment's default configuration, whose accuracies the README shows."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        schedule: Schedule = instantiate(compose("train").augmenter.schedule)
    return schedule


def autocast(images: Tensor, precision: torch.dtype) -> torch.autocast:
    """Around the forwards of a step."""
    return torch.autocast(images.device.type, dtype=precision, enabled=precision != torch.float32)


def random_step(teacher: nn.Module, student: nn.Module, images: Tensor, precision: torch.dtype) -> Callable[[], object]:
    """The baseline's training step."""
    transform = Affine()
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        with autocast(images, precision):
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


def plain_step(teacher: nn.Module, student: nn.Module, images: Tensor, precision: torch.dtype) -> Callable[[], object]:
    """Distillation on the clean view alone: half the student's work."""
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        with autocast(images, precision):
            with torch.no_grad():
                logits = teacher(images)
            loss = distillation_loss(student_logits=student(images), teacher_logits=logits, temperature=TEMPERATURE)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def hard_step(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    schedule: Schedule,
    precision: torch.dtype,
    *,
    capture: bool = False,
) -> Callable[[], object]:
    """The training step with a HardAugmenter of the default policy."""
    augmenter = HardAugmenter(teacher=teacher, student=student, transform=Affine(), schedule=schedule, capture=capture)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        with autocast(images, precision):
            loss = augmenter(images).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        augmenter.step()

    return step


def memory_format(device: torch.device) -> torch.memory_format:
    """That in which a GPU's convolutions are fastest."""
    return torch.channels_last if device.type == "cuda" else torch.preserve_format


def steps(pair: str, device: torch.device, precision: torch.dtype = torch.float32) -> dict[str, Callable[[], object]]:
    """The rows of one table."""
    build, shape = PAIRS[pair]
    torch.manual_seed(0)
    teacher, student = (network.to(memory_format=memory_format(device)) for network in build())
    teacher = teacher.to(device).eval().requires_grad_(False)
    images = torch.rand(shape).to(device).to(memory_format=memory_format(device))

    def own_student() -> nn.Module:
        return copy.deepcopy(student).to(device)

    rows = {BASELINE: random_step(teacher, own_student(), images, precision)}
    for name, schedule in schedules().items():
        rows[name] = hard_step(teacher, own_student(), images, schedule, precision)
        if device.type == "cuda" and not isinstance(schedule, Joint):
            rows[name + CAPTURED] = hard_step(teacher, own_student(), images, schedule, precision, capture=True)
    rows["plain KD, clean view alone"] = plain_step(teacher, own_student(), images, precision)
    return rows


def measure(
    pair: str,
    device: torch.device,
    *,
    rounds: int,
    calls: int,
    warmup: int,
    precision: torch.dtype = torch.float32,
) -> dict[str, dict[str, Any]]:
    """Time and peak memory of every row of a pair. `calls` should be a multiple of `period()`."""
    rows = steps(pair, device, precision)
    progress(f"{pair}: warming up")
    pools = {name: recording(row, device) for name, row in rows.items() if name.endswith(CAPTURED)}
    times = interleaved(rows, baseline=BASELINE, device=device, rounds=rounds, calls=calls, warmup=warmup, label=pair)
    result: dict[str, dict[str, Any]] = {}
    for name, row in rows.items():
        if device.type == "cuda":
            reset_peak(device)
            before = torch.cuda.memory_allocated(device) / 2**20
            for _ in range(calls):
                row()
            memory = peak_memory(device)
            memory["mib"] += pools.get(name, 0.0) - before
            memory["of"] = "allocated on the device beyond the start of a step, and the pool of a graph"
        else:
            progress(f"{pair}: peak memory of {name}")
            memory = memory_of_a_process(pair, name)
        result[name] = {**times[name], "peak_memory": memory}
    return result


def recording(row: Callable[[], object], device: torch.device) -> float:
    """Call a row until its ascents have been recorded; MiB of the memory that this took for good."""
    for _ in range(WARM_UP * period()):
        row()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    for _ in range(period()):
        row()
    torch.cuda.empty_cache()
    return float(torch.cuda.memory_reserved(device) - before) / 2**20


def memory_of_a_process(pair: str, name: str) -> dict[str, Any]:
    """On the CPU only a process has a peak, so each row gets one of its own, which does eight steps of nothing else."""
    command = [sys.executable, "-m", "benchmarks.step_cost", "--pairs", pair, "--only", name, "--device", "cpu"]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def main() -> None:
    options = parser(__doc__, json_path="benchmarks/results/step_cost.json", rounds=15, calls=period())
    options.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(SMALL), help="teachers and students")
    options.add_argument("--only", metavar="ROW", help="do eight steps of one row and print the process's peak memory")
    arguments = options.parse_args()
    if arguments.calls % period():
        options.error(
            f"--calls {arguments.calls}: wanted a multiple of {period()}, so that each schedule ascends its due"
        )
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    if arguments.only:
        row = steps(arguments.pairs[0], device)[arguments.only]
        reset_peak(device)
        before = resident("VmRSS")
        for _ in range(8):
            row()
        print(json.dumps(peak_memory(device, before=before)))
        return
    keep_freed_memory()
    results = {}
    for pair in arguments.pairs:
        results[pair] = measure(pair, device, rounds=arguments.rounds, calls=arguments.calls, warmup=arguments.warmup)
        shape = "x".join(map(str, PAIRS[pair][1]))
        print(table(f"{pair}, {shape}, ratio to {BASELINE}", results[pair]))
    write(arguments.json, {"environment": environment(device, arguments.threads), "tables": results})


if __name__ == "__main__":
    main()
