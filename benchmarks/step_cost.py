"""Cost of a whole training step under each schedule, relative to distillation with random augmentation.

The baseline works on the same two views: the teacher on clean and augmented images without gradients, `u ~ N(0, 1)`
through the same transform, one student forward on both views together, backward, one step of Adam. Each row has its
own copy of the student and its own optimizer; all are measured in turn in every round. The ratio is therefore the cost
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
from experiments.training.allocator import keep_freed_memory
from hard_aug import HardAugmenter, calibrate
from hard_aug.compatibility import DEFAULT_SCHEDULE
from hard_aug.inner_loop.cuda_graph import WARM_UP
from hard_aug.losses import distillation_loss
from hard_aug.policies import GroupBandit, Policy, Uniform
from hard_aug.schedules import Alternating, Joint, Schedule, Threshold
from hard_aug.transforms import Affine, Transform, make_context, menu

BASELINE = "KD + random augmentation"
#: The same with `menu()`: uniform in all of its parameters, and one to three groups of them for each image.
RANDOM_MENU, FEW_OF_MENU = "KD + random, all of the menu", "KD + random, 1 to 3 groups of the menu"
#: `HardAugmenter(teacher=, student=)`: the menu and `GroupBandit`, after the calibration.
MENU = "default, menu"
TEMPERATURE = 2.0
#: The row of `HardAugmenter`'s default configuration for a given transform.
DEFAULT = "default"
#: Suffix of the rows whose policy updates are replayed from a CUDA graph.
GRAPHED = ", CUDA graph"


def schedules() -> dict[str, Schedule | None]:
    """Return every schedule that is measured by the name of its row; None: the default.

    The schedule of the experiments is marked, or added if it is not among them; it is often the default.
    """
    rows: list[Schedule] = [
        Alternating(),
        Alternating(fraction=0.25),
        Alternating(steps=3),
        Joint(fraction=0.25, every=6),
        Threshold(),
    ]
    own = experiment_schedule()
    if own not in (*rows, DEFAULT_SCHEDULE):
        rows.append(own)
    names = {f"{schedule!r}{' (experiment)' if schedule == own else ''}": schedule for schedule in rows}
    return {DEFAULT: None, **names}


def period() -> int:
    """Return the number of calls after which every schedule is back at its first call."""
    return math.lcm(*[(schedule or DEFAULT_SCHEDULE).every for schedule in schedules().values()])


def experiment_schedule() -> Schedule:
    """Build the schedule of the experiments' default configuration."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        schedule: Schedule = instantiate(compose("train").augmenter.schedule)
    return schedule


def autocast(images: Tensor, precision: torch.dtype) -> torch.autocast:
    """Return the autocast context for the forwards of a step."""
    return torch.autocast(images.device.type, dtype=precision, enabled=precision != torch.float32)


def random_step(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    precision: torch.dtype,
    *,
    transform: Transform,
    policy: Policy | None = None,
) -> Callable[[], object]:
    """Build the training step of random augmentation, the baseline's with `Affine`."""
    policy = (Uniform(transform.spec) if policy is None else policy).to(images.device)
    generator = torch.Generator(images.device).manual_seed(0)
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        with autocast(images, precision):
            with torch.no_grad():
                u = policy.sample(images, generator)
                augmented = transform.render(images, u, make_context(transform, images, generator=generator))
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
    """Build a step of distillation on the clean view alone: half the student's work."""
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
    schedule: Schedule | None,
    precision: torch.dtype,
    *,
    cuda_graph: bool = False,
) -> Callable[[], object]:
    """Build the training step with a HardAugmenter of the default policy."""
    augmenter = HardAugmenter(
        teacher=teacher, student=student, transform=Affine(), schedule=schedule, cuda_graph=cuda_graph
    )
    return _augmented_step(augmenter, student, images, precision)


def _augmented_step(
    augmenter: HardAugmenter, student: nn.Module, images: Tensor, precision: torch.dtype
) -> Callable[[], object]:
    optimizer = torch.optim.Adam(student.parameters(), lr=1e-3)
    student.train()

    def step() -> None:
        with autocast(images, precision):
            loss = augmenter(images).loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def menu_step(teacher: nn.Module, student: nn.Module, images: Tensor, precision: torch.dtype) -> Callable[[], object]:
    """Build the training step with the `HardAugmenter` of two lines, calibrated."""
    transform = menu()
    calibration = calibrate(teacher, images, transform, max_images=32, progress=False)
    augmenter = HardAugmenter(
        teacher=teacher,
        student=student,
        transform=transform,
        policy=GroupBandit(transform.spec),
        calibration=calibration,
    )
    return _augmented_step(augmenter, student, images, precision)


def memory_format(device: torch.device) -> torch.memory_format:
    """Return the memory format in which convolutions are fastest on a device."""
    return torch.channels_last if device.type == "cuda" else torch.preserve_format


def steps(pair: str, device: torch.device, precision: torch.dtype = torch.float32) -> dict[str, Callable[[], object]]:
    """Build the rows of one table."""
    build, shape = PAIRS[pair]
    torch.manual_seed(0)
    teacher, student = (network.to(memory_format=memory_format(device)) for network in build())
    teacher = teacher.to(device).eval().requires_grad_(False)
    images = torch.rand(shape).to(device).to(memory_format=memory_format(device))

    def own_student() -> nn.Module:
        return copy.deepcopy(student).to(device)

    affine, whole = Affine(), menu()
    few = GroupBandit(whole.spec, power=0.0, floor=1.0)
    rows = {
        BASELINE: random_step(teacher, own_student(), images, precision, transform=affine),
        RANDOM_MENU: random_step(teacher, own_student(), images, precision, transform=whole),
        FEW_OF_MENU: random_step(teacher, own_student(), images, precision, transform=whole, policy=few),
        MENU: menu_step(teacher, own_student(), images, precision),
    }
    for name, schedule in schedules().items():
        rows[name] = hard_step(teacher, own_student(), images, schedule, precision)
        if device.type == "cuda" and not isinstance(schedule, Joint):
            rows[name + GRAPHED] = hard_step(teacher, own_student(), images, schedule, precision, cuda_graph=True)
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
    """Measure time and peak memory of every row of a pair. `calls` should be a multiple of `period()`."""
    rows = steps(pair, device, precision)
    progress(f"{pair}: warming up")
    pools = {name: capture(row, device) for name, row in rows.items() if name.endswith(GRAPHED)}
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
            memory["of"] = "allocated on the device beyond the start of a step, and the memory pool of the graph"
        else:
            progress(f"{pair}: peak memory of {name}")
            memory = memory_of_a_process(pair, name)
        result[name] = {**times[name], "peak_memory": memory}
    return result


def capture(row: Callable[[], object], device: torch.device) -> float:
    """Call a row until its policy updates are captured; return the MiB that the graph's memory pool keeps."""
    for _ in range(WARM_UP * period()):
        row()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_reserved(device)
    for _ in range(period()):
        row()
    torch.cuda.empty_cache()
    return float(torch.cuda.memory_reserved(device) - before) / 2**20


def memory_of_a_process(pair: str, name: str) -> dict[str, Any]:
    """Measure a row's peak memory on the CPU, in a process of its own that runs eight steps of it."""
    command = [sys.executable, "-m", "benchmarks.step_cost", "--pairs", pair, "--only", name, "--device", "cpu"]
    found: dict[str, Any] = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return found


def main() -> None:
    options = parser(__doc__, json_path="benchmarks/results/step_cost.json", rounds=15, calls=period())
    options.add_argument("--pairs", nargs="+", choices=list(PAIRS), default=list(SMALL), help="teachers and students")
    options.add_argument("--only", metavar="ROW", help="run eight steps of one row and print the peak memory")
    arguments = options.parse_args()
    if arguments.calls % period():
        options.error(f"--calls {arguments.calls}: expected a multiple of {period()}, the period of the schedules")
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
