"""Kill a run again and again, go on with the same command, and compare with a run that was left alone.

`python -m experiments.kill_test --kills 20 --seed 0 [--sweep] [overrides of experiments.train]`

A process is sent SIGKILL after a random time, uniform from its start to the length of the run that was left alone.
After four kills it is left to end, and a new run is begun in another folder, until there were so many kills. Each time
everything has to be equal: weights, policies and histories in the checkpoint, `metrics.json` apart from seconds (and
from where the teacher came from), and the curves of both loggers. On a CPU; a GPU's sums may differ from one run to the
next.
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

#: A run of seconds: a teacher, then students with a generator, an optimiser and a policy of their own to be kept.
SMALL = (
    "steps=60",
    "batch_size=32",
    "teacher.steps=60",
    "teacher.batch_size=32",
    "log_every=4",
    "checkpoint_every=10",
    "threads=1",
    "device=cpu",
    "students=[random,hard]",
    "logger=[tensorboard,csv]",
)
SWEPT = ("steps=20", "seed=0,1,2")
#: Kills of one run: a run that is nearly done has little but its start-up left to be killed in.
EACH = 4
#: What may differ: how long it took, and whether a former attempt had trained the teacher.
APART = ("seconds", "cached")


@dataclass
class Seen:
    """What happened.

    Attributes:
        device, torch: where, and its version.
        seconds_alone: that the run took that was left alone.
        kills: after how many seconds each, and how many files of results there were.
        runs: that were compared with the one left alone.
        differences: where they differ; none is what is wanted.
    """

    device: str = field(default_factory=lambda: f"CPU {platform.machine()}, 1 threads")
    torch: str = str(torch.__version__)
    seconds_alone: float = 0.0
    kills: list[dict[str, float]] = field(default_factory=list)
    runs: int = 0
    differences: list[str] = field(default_factory=list)


def command(folder: Path, overrides: list[str], *, sweep: bool) -> list[str]:
    """The command of one run, or of a sweep, with its results and its teacher's cache in `folder`."""
    place = [f"hydra.sweep.dir={folder}/runs"] if sweep else [f"hydra.run.dir={folder}/runs/run"]
    found = [sys.executable, "-m", "experiments.train", *(["-m"] if sweep else []), *place]
    return [*found, f"teacher_cache={folder}/teachers", *SMALL, *(SWEPT if sweep else ()), *overrides]


def attempt(line: list[str], kill_after: float | None) -> bool:
    """Start it, kill it and its children after so many seconds if it has not ended; whether it has ended by itself.

    Raises:
        RuntimeError: it failed by itself.
    """
    environment = {"OMP_NUM_THREADS": "1", **os.environ}
    process = subprocess.Popen(
        line,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _, errors = process.communicate(timeout=kill_after)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return False
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(line)} failed by itself:\n{errors[-3000:]}")
    return True


def results(folder: Path) -> dict[str, Any]:
    """All that has to be equal, by file."""
    found: dict[str, Any] = {}
    for path in sorted((folder / "runs").rglob("*")):
        name = str(path.relative_to(folder / "runs"))
        if path.name == "metrics.json":
            found[name] = json.loads(path.read_text())
        elif path.name == "checkpoint.pt":
            found[name] = torch.load(path, map_location="cpu", weights_only=True)
        elif path.suffix == ".csv":
            found[name] = path.read_text()
        elif path.suffix in (".tmp", ".partial"):
            found[name] = "left over"
    for folder_of_events in sorted((folder / "runs").rglob("tensorboard/**/")):
        if any(folder_of_events.glob("events.*")):
            found[str(folder_of_events.relative_to(folder / "runs"))] = _curves(folder_of_events)
    return found


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard shows."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


def differences(ours: Any, theirs: Any, where: str = "") -> list[str]:
    """Where two nested results differ, apart from `APART`."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [key for key in {**ours, **theirs} if key not in APART]
        missing = [f"{where}/{key}: in one only" for key in keys if (key in ours) != (key in theirs)]
        both = [key for key in keys if key in ours and key in theirs]
        return missing + [found for key in both for found in differences(ours[key], theirs[key], f"{where}/{key}")]
    if isinstance(ours, list | tuple) and isinstance(theirs, list | tuple) and len(ours) == len(theirs):
        pairs = enumerate(zip(ours, theirs, strict=True))
        return [found for index, (a, b) in pairs for found in differences(a, b, f"{where}/{index}")]
    if isinstance(ours, torch.Tensor) and isinstance(theirs, torch.Tensor):
        return [] if torch.equal(ours, theirs) else [f"{where}: tensors differ"]
    same = ours == theirs or (ours != ours and theirs != theirs)  # NaN is equal to NaN here
    return [] if same else [f"{where}: {str(ours)[:60]} and {str(theirs)[:60]}"]


def kill_test(folder: Path, *, kills: int, seed: int, sweep: bool, overrides: list[str], console: Console) -> Seen:
    """Do it all in `folder`, which has to be new.

    Raises:
        ValueError: fewer than one kill.
        FileExistsError: a folder that is there.
        RuntimeError: a run that fails by itself.
    """
    if kills < 1:
        raise ValueError(f"--kills {kills}: wanted at least 1")
    folder.mkdir(parents=True)
    moments, seen = random.Random(seed), Seen()
    started = time.perf_counter()
    attempt(command(folder / "alone", overrides, sweep=sweep), None)
    seen.seconds_alone = round(time.perf_counter() - started, 2)
    alone = results(folder / "alone")
    console.print(f"left alone: {seen.seconds_alone} s, {len(alone)} files to compare")
    while len(seen.kills) < kills:
        killed = folder / f"killed_{seen.runs}"
        line = command(killed, overrides, sweep=sweep)
        ended, enough = False, min(kills, len(seen.kills) + EACH)
        while not ended and len(seen.kills) < enough:
            moment = moments.uniform(0, seen.seconds_alone)
            ended = attempt(line, moment)
            if not ended:
                kept = sum(1 for path in killed.rglob("*") if path.is_file())
                seen.kills.append({"after_seconds": round(moment, 3), "files": kept})
                console.print(f"run {seen.runs}: kill {len(seen.kills)} after {moment:.2f} s, {kept} files there")
        if not ended:
            attempt(line, None)
        found = differences(alone, results(killed))
        seen.runs += 1
        seen.differences += [f"run {seen.runs - 1}: {difference}" for difference in found]
        console.print(f"run {seen.runs - 1}: {'equal' if not found else f'{len(found)} differences'}")
    return seen


def main(arguments: list[str] | None = None) -> int:
    """The command; 1 where something differs."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--sweep", action="store_true", help="kill a multirun of three runs as a whole")
    parser.add_argument("--folder", type=Path, default=Path("outputs/kill_test"), help="of the runs; has to be new")
    parser.add_argument("--json", type=Path, help="where to write what was seen; default: in the folder")
    parser.add_argument("overrides", nargs="*", help="of experiments.train")
    given = parser.parse_args(arguments)
    console = Console(highlight=False)
    try:
        seen = kill_test(
            given.folder,
            kills=given.kills,
            seed=given.seed,
            sweep=given.sweep,
            overrides=given.overrides,
            console=console,
        )
    except FileExistsError:
        parser.error(f"{given.folder} is there already: give --folder=<a new one>, or remove it")
    except ValueError as error:
        parser.error(str(error))
    path = given.json or given.folder / "kill_test.json"
    what = {"seed": given.seed, "sweep": given.sweep, "overrides": given.overrides, **asdict(seen)}
    path.write_text(json.dumps(what, indent=1) + "\n")
    for difference in seen.differences[:20]:
        console.print(difference, markup=False)
    console.print(f"{len(seen.kills)} kills in {seen.runs} runs, {len(seen.differences)} differences: {path}")
    return 1 if seen.differences else 0


if __name__ == "__main__":
    sys.exit(main())
