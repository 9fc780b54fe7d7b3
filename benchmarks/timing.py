"""Interleaved timing: every round measures all rows of a table, so that load on the machine affects all of them."""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from hard_aug.utils.files import write_text

PACKAGES = ("torch", "triton", "torchvision", "kornia", "timm", "liger-kernel", "hard_aug")


def parser(description: str | None, *, json_path: str, rounds: int, calls: int) -> argparse.ArgumentParser:
    """Create a parser with the options that all benchmarks share."""
    headline = (description or "").split("\n", 1)[0]
    options = argparse.ArgumentParser(description=headline, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    options.add_argument("--json", type=Path, default=Path(json_path), help="output file")
    options.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="cpu or cuda")
    options.add_argument("--threads", type=int, default=2, help="CPU threads of torch")
    options.add_argument("--rounds", type=int, default=rounds, help="number of rounds; each measures every row once")
    options.add_argument("--calls", type=int, default=calls, help="calls per measurement; their mean is one sample")
    options.add_argument("--warmup", type=int, default=3, help="calls of each row before the first round")
    return options


def synchronize(device: torch.device) -> None:
    """Synchronise with a CUDA device; do nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def interleaved(
    rows: Mapping[str, Callable[[], object]],
    *,
    baseline: str,
    device: torch.device,
    rounds: int,
    calls: int,
    warmup: int,
    label: str = "",
) -> dict[str, dict[str, float]]:
    """Measure the median and quartiles of each row in milliseconds, and its ratio to `baseline`.

    Each round measures every row once, in a new random order. The ratio is the median over rounds of the ratio *within*
    a round, so that slow phases of the machine cancel.
    """
    if baseline not in rows:
        raise ValueError(f"baseline={baseline!r}: expected one of the rows, {', '.join(rows)}")
    if rounds < 2 or calls < 1:
        raise ValueError(f"rounds={rounds}, calls={calls}: expected at least 2 rounds of at least 1 call")
    for row in rows.values():
        for _ in range(warmup):
            row()
    samples: dict[str, list[float]] = {name: [] for name in rows}
    order = list(rows)
    shuffler = random.Random(0)
    for number in range(rounds):
        shuffler.shuffle(order)
        for name in order:
            synchronize(device)
            start = time.perf_counter()
            for _ in range(calls):
                rows[name]()
            synchronize(device)
            samples[name].append((time.perf_counter() - start) * 1000 / calls)
        progress(f"{label}: round {number + 1} of {rounds}")
    return {name: _summary(samples[name], samples[baseline]) for name in rows}


def _summary(times: list[float], baseline: list[float]) -> dict[str, float]:
    low, median, high = statistics.quantiles(times, n=4, method="inclusive")
    ratios = [own / other for own, other in zip(times, baseline, strict=True)]
    ratio_low, ratio, ratio_high = statistics.quantiles(ratios, n=4, method="inclusive")
    return {
        "median_ms": median,
        "q1_ms": low,
        "q3_ms": high,
        "ratio": ratio,
        "ratio_q1": ratio_low,
        "ratio_q3": ratio_high,
        "samples": len(times),
    }


def reset_peak(device: torch.device) -> None:
    """Reset the peak of memory; on the CPU this requires Linux."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        Path("/proc/self/clear_refs").write_text("5")  # see proc(5): sets the peak to the current resident size


def resident(key: str) -> float:
    """Return MiB of the process on Linux: `VmRSS` is the resident size, `VmHWM` its peak."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith(key)) / 2**10


def peak_memory(device: torch.device, *, before: float = 0.0) -> dict[str, Any]:
    """Return MiB at the peak since `reset_peak`: allocated on CUDA, or resident minus `before` on Linux."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return {"mib": torch.cuda.max_memory_allocated(device) / 2**20, "of": "allocated on the device"}
    if sys.platform != "linux":
        return {"mib": float("nan"), "of": "not measured on this system"}
    return {"mib": resident("VmHWM") - before, "of": "resident beyond the start of the first step"}


def environment(device: torch.device, threads: int) -> dict[str, Any]:
    """Describe what the results depend on: versions, device, threads."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = None
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {
        "python": platform.python_version(),
        **versions,
        "device": device.type,
        "device_name": name,
        "threads": threads,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def progress(message: str) -> None:
    """Print to stderr, so that stdout has the tables only."""
    print(message, file=sys.stderr, flush=True)


def table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a Markdown table: median, quartiles, ratio; memory and the fraction of memcpy bandwidth if measured."""
    memory = any("peak_memory" in row for row in rows.values())
    bandwidth = any("memcpy_fraction" in row for row in rows.values())
    more = " peak MiB |" * memory + " of memcpy bandwidth |" * bandwidth
    lines = [f"### {title}", "", f"| | median ms | quartiles | ratio | quartiles |{more}"]
    lines.append("|---|---|---|---|---|" + "---|" * (memory + bandwidth))
    for name, row in rows.items():
        if "left_out" in row:
            lines.append(f"| {name} | {row['left_out']} | | | |" + " |" * (memory + bandwidth))
            continue
        line = f"| {name} | {_number(row['median_ms'])} | {_number(row['q1_ms'])} to {_number(row['q3_ms'])} "
        line += f"| {row['ratio']:.2f} | {row['ratio_q1']:.2f} to {row['ratio_q3']:.2f} |"
        if memory:
            line += f" {row['peak_memory']['mib']:.0f} |"
        if bandwidth:
            line += f" {row['memcpy_fraction']:.0%} |" if "memcpy_fraction" in row else " |"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _number(milliseconds: float) -> str:
    """Format with three digits, down to tens of nanoseconds."""
    decimals = 2 if milliseconds >= 1 else 3 if milliseconds >= 0.1 else 5
    return f"{milliseconds:.{decimals}f}"


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; create the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, json.dumps(content, indent=2) + "\n")
    progress(f"wrote {path}")
