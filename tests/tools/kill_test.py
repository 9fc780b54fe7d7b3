"""Kill a run at random times, resume it with the same command, and compare it with an uninterrupted run.

`python -m tests.tools.kill_test --kills 20 --seed 0 [--sweep] [overrides of experiments.train]`

A process is sent SIGKILL after a random time, uniform from its start to the duration of the uninterrupted run. After
four kills it is left to finish, and a new run is started in another folder, until the requested number of kills is
reached. Each time everything must be equal: weights, method and policy history in `student.pt`, `metrics.json` except
for seconds (and whether the teacher came from the cache), and the curves of both loggers. On a CPU only, since sums on
a GPU may differ between runs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

#: A run of a few seconds: a teacher, then a student with generator, optimisers and policy, all of which are restored.
RUN = (
    "steps=60",
    "batch_size=32",
    "teacher.steps=60",
    "teacher.batch_size=32",
    "log_every=4",
    "checkpoint_every=10",
    "threads=1",
    "device=cpu",
    "eval_every=20",
)
SWEEP = ("hydra.mode=MULTIRUN", "method=random,hard")
#: Kills of each run: a run that is nearly finished can only be killed while it starts up.
KILLS_PER_RUN = 4
#: Keys that may differ: the duration, and whether an earlier attempt had trained the teacher.
IGNORED = ("seconds", "cached")
#: Suffixes and names of files that a finished run has not.
UNFINISHED = (".tmp", ".partial", "checkpoint.pt")


@dataclass
class Result:
    """The outcome of a kill test.

    Attributes:
        device: name of the CPU.
        torch: version of torch.
        reference_seconds: duration of the uninterrupted run.
        kills: the time of each kill in seconds, and the number of result files at that time.
        runs: number of runs that were compared with the uninterrupted one.
        differences: between them; empty if the test passed.
    """

    device: str = field(default_factory=lambda: f"CPU {platform.machine()}, 1 thread")
    torch: str = str(torch.__version__)
    reference_seconds: float = 0.0
    kills: list[dict[str, float]] = field(default_factory=list)
    runs: int = 0
    differences: list[str] = field(default_factory=list)


def command(folder: Path, overrides: list[str], *, sweep: bool) -> list[str]:
    """Return the command of one run, or of a sweep, with its results and its teachers in `folder`."""
    given = {one.split("=")[0]: one for one in (*RUN, *(SWEEP if sweep else ()), *overrides)}
    places = (f"hydra.sweep.dir={folder}/runs", f"teacher_cache={folder}/teachers")
    return [sys.executable, "-m", "experiments.train", *given.values(), *places]


def run_until(line: list[str], kill_after: float | None) -> bool:
    """Run a command, kill it and its children after some seconds, and return whether it finished by itself.

    Raises:
        RuntimeError: the command failed without being killed.
    """
    given: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(line, env={"OMP_NUM_THREADS": "1", **os.environ}, start_new_session=True, **given)
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(line)} failed without being killed:\n{errors[-3000:]}")
    return True


def results(folder: Path) -> dict[str, Any]:
    """Return everything that must be equal, by file."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder / "runs"))
        if path.name.endswith(UNFINISHED):
            found[name] = "left over"
        elif path.name == "metrics.json":
            found[name] = json.loads(path.read_text())
        elif path.name == "student.pt":
            found[name] = torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix == ".csv":
            found[name] = path.read_text()
        elif path.name == "tensorboard":
            events = EventAccumulator(str(path), size_guidance={"scalars": 0})
            events.Reload()
            found[name] = {
                key: [(one.step, one.value) for one in events.Scalars(key)] for key in events.Tags()["scalars"]
            }
    return found


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Return the paths and values that differ between two nested results, except for the keys `IGNORED`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [key for key in {**ours, **theirs} if key not in IGNORED]
        missing = [f"{where}/{key}: in one only" for key in keys if (key in ours) != (key in theirs)]
        both = [key for key in keys if key in ours and key in theirs]
        return missing + [found for key in both for found in differences(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [found for index, (a, b) in pairs for found in differences(a, b, f"{where}/{index}")]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [f"{where}: tensors differ"]
    same = ours == theirs or (ours != ours and theirs != theirs)  # NaN equals NaN here
    return [] if same else [f"{where}: {str(ours)[:60]} and {str(theirs)[:60]}"]


def kill_test(folder: Path, *, kills: int, seed: int, sweep: bool, overrides: list[str], console: Console) -> Result:
    """Run the test.

    Args:
        folder: for all runs; must not exist.
        kills: number of kills, at least 1.
        seed: of the random kill times.
        sweep: kill a sweep of two runs as a whole.
        overrides: of experiments.train.
        console: for progress messages.

    Raises:
        ValueError: fewer than one kill.
        FileExistsError: the folder exists.
        RuntimeError: a run failed without being killed.
    """
    if kills < 1:
        raise ValueError(f"--kills {kills}: expected an integer >= 1")
    folder.mkdir(parents=True)
    times, result = random.Random(seed), Result()
    started = time.perf_counter()
    run_until(command(folder / "reference", overrides, sweep=sweep), None)
    result.reference_seconds = round(time.perf_counter() - started, 2)
    reference = results(folder / "reference")
    console.print(f"uninterrupted run: {result.reference_seconds} s, {len(reference)} files to compare")
    while len(result.kills) < kills:
        killed = folder / f"killed_{result.runs}"
        line = command(killed, overrides, sweep=sweep)
        finished, enough = False, min(kills, len(result.kills) + KILLS_PER_RUN)
        while not finished and len(result.kills) < enough:
            kill_after = times.uniform(0, result.reference_seconds)
            finished = run_until(line, kill_after)
            if not finished:
                files = sum(1 for path in killed.rglob("*") if path.is_file())
                result.kills.append({"after_seconds": round(kill_after, 3), "files": files})
                console.print(f"run {result.runs}: killed after {kill_after:.2f} s, {files} files written")
        if not finished:
            run_until(line, None)
        found = differences(reference, results(killed))
        result.differences += [f"run {result.runs}: {difference}" for difference in found]
        console.print(f"run {result.runs}: {'equal' if not found else f'{len(found)} differences'}")
        result.runs += 1
    return result


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return 1 if there are differences."""
    parser = argparse.ArgumentParser(prog="python -m tests.tools.kill_test", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20, help="number of kills (default: 20)")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the kill times (default: 0)")
    parser.add_argument("--sweep", action="store_true", help="kill a sweep of two runs as a whole")
    parser.add_argument("--folder", type=Path, default=Path("outputs/kill_test"), help="output folder, must not exist")
    parser.add_argument("--json", type=Path, help="result file (default: kill_test.json in the output folder)")
    parser.add_argument("overrides", nargs="*", help="overrides of experiments.train, such as steps=100")
    given = parser.parse_args(arguments)
    console = Console(highlight=False)
    settings = {"seed": given.seed, "sweep": given.sweep, "overrides": given.overrides}
    try:
        result = kill_test(given.folder, kills=given.kills, console=console, **settings)
    except FileExistsError:
        parser.error(f"{given.folder} exists: use --folder=<a new one>, or remove it")
    except ValueError as error:
        parser.error(str(error))
    path = given.json or given.folder / "kill_test.json"
    path.write_text(json.dumps({**settings, **asdict(result)}, indent=1) + "\n")
    for difference in result.differences[:20]:
        console.print(difference, markup=False)
    console.print(f"{len(result.kills)} kills in {result.runs} runs, {len(result.differences)} differences: {path}")
    return 1 if result.differences else 0


if __name__ == "__main__":
    sys.exit(main())
