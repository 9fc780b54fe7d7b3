"""The fused operations against kornia, unfused PyTorch and memcpy, and the cost of a whole training step with them.

Tables, all interleaved, medians and quartiles: `warp` (the augmentation with the gradient of its parameters), `kernels`
(the kernels alone, as a fraction of memcpy bandwidth), `divergence`, and `step` (a training step with each schedule, in
bfloat16). On the CPU only what runs there is measured. Rows that run out of memory are skipped and reported.

Results are written after each table, and added to those in the file if they are from the same environment. If device
time is limited, measure in parts with `--tables`, `--sizes` and `--types`.
"""

from __future__ import annotations

import gc
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import step_cost
from benchmarks.graphs import Call, Row
from benchmarks.ops_divergence import KINDS, divergence_rows
from benchmarks.ops_warp import PASSES, TYPES, warp_rows
from benchmarks.timing import environment, interleaved, parser, progress, table, write

SIZES = {"1x28": (1, 28), "3x32": (3, 32), "3x64": (3, 64), "3x224": (3, 224)}
BATCHES = (64, 256, 1024)
COMPILED_BATCH = 256
CLASSES = (10, 100, 1000, 21841)
STEP_PAIRS = ("resnet18-32", "resnet18-224")
Make = Callable[[], tuple[str, dict[str, Row]]]
OUT_OF_MEMORY = (torch.OutOfMemoryError, torch.AcceleratorError)


def one_table(make: Make, *, label: str, device: torch.device, options: Any) -> dict[str, Any]:
    """Measure milliseconds per call of each row, ratios to the baseline, and fractions of memcpy bandwidth.

    A row that runs out of memory is skipped and reported.
    """
    calls: dict[str, Call] = {}
    found: dict[str, Any] = {}
    try:
        baseline, rows = make()
    except OUT_OF_MEMORY as error:
        progress(f"{label}: {error}")
        return {"all": {"left_out": "out of memory"}}
    for name, row in rows.items():
        try:
            calls[name] = row.make()
            calls[name]()
        except OUT_OF_MEMORY as error:
            progress(f"{label}, {name}: {error}")
            calls.pop(name, None)
            found[name] = {"left_out": "out of memory"}
            _free(device)
    if baseline in calls:
        times = interleaved(
            calls,
            baseline=baseline,
            device=device,
            rounds=options.rounds,
            calls=options.calls,
            warmup=options.warmup,
            label=label,
        )
        found |= {name: _per_call(time, rows[name], rows[baseline]) for name, time in times.items()}
        for name, row in rows.items():
            if row.memcpy in times and name in times:
                found[name]["memcpy_fraction"] = found[row.memcpy]["median_ms"] / found[name]["median_ms"]
    print(table(f"{label}, ratio to {baseline}", {name: found[name] for name in rows if name in found}))
    return found


def _per_call(time: dict[str, float], row: Row, baseline: Row) -> dict[str, float]:
    time = dict(time)
    for key in ("median_ms", "q1_ms", "q3_ms"):
        time[key] /= row.repeats
    for key in ("ratio", "ratio_q1", "ratio_q3"):
        time[key] *= baseline.repeats / row.repeats
    return time


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def warp_tables(kinds: tuple[str, ...], device: torch.device, options: Any) -> Iterator[tuple[str, Any]]:
    """Measure the warp tables by size, batch, types and pass."""
    for size, batch, types, kind in itertools.product(options.sizes, options.batches, options.types, kinds):
        channels, pixels = SIZES[size]
        shape = (batch, channels, pixels, pixels)
        compiled = options.compile == "all" or (options.compile == "some" and batch == COMPILED_BATCH)
        label = f"{batch}x{size}x{pixels} {types}, {kind}"

        def make(
            shape: tuple[int, ...] = shape, types: str = types, kind: str = kind, compiled: bool = compiled
        ) -> tuple[str, dict[str, Row]]:
            return warp_rows(shape, types, kind, device, compiled=compiled, repeats=options.repeats)

        yield label, one_table(make, label=label, device=device, options=options)
        _free(device)


def divergence_tables(device: torch.device, options: Any) -> Iterator[tuple[str, Any]]:
    """Measure the divergence tables by classes, batch and type."""
    for classes, batch, kind, dtype in itertools.product(
        options.classes, options.batches, KINDS, (torch.float32, torch.bfloat16)
    ):
        compiled = options.compile == "all" or (options.compile == "some" and batch == COMPILED_BATCH)
        label = f"{batch}x{classes} {str(dtype).removeprefix('torch.')}, {kind}"

        def make(
            classes: int = classes,
            batch: int = batch,
            kind: str = kind,
            dtype: torch.dtype = dtype,
            compiled: bool = compiled,
        ) -> tuple[str, dict[str, Row]]:
            return divergence_rows(batch, classes, dtype, kind, device, compiled=compiled, repeats=options.repeats)

        yield label, one_table(make, label=label, device=device, options=options)
        _free(device)


def step_tables(device: torch.device, options: Any) -> Iterator[tuple[str, Any]]:
    """Measure a training step by pair of networks; see `benchmarks.step_cost`."""
    for pair in options.pairs:
        try:
            times = step_cost.measure(
                pair,
                device,
                rounds=options.rounds,
                calls=step_cost.period(),
                warmup=options.warmup,
                precision=torch.bfloat16,
            )
        except OUT_OF_MEMORY as error:
            progress(f"{pair}: {error}")
            yield pair, {"all": {"left_out": "out of memory"}}
            continue
        finally:
            _free(device)
        print(table(f"{pair} in bfloat16, ratio to {step_cost.BASELINE}", times))
        yield pair, times


def load_previous(path: Path, environment: dict[str, Any]) -> dict[str, Any]:
    """Load the results measured before in the same environment, to add to them; otherwise start a new file."""
    if not path.exists():
        return {"environment": environment}
    before: dict[str, Any] = json.loads(path.read_text())
    same = {**before["environment"], "date": environment["date"]} == environment
    return {**before, "environment": environment} if same else {"environment": environment}


def main() -> None:
    options = parser(__doc__, json_path="benchmarks/results/ops.json", rounds=9, calls=3)
    options.add_argument("--tables", nargs="+", choices=["warp", "kernels", "divergence", "step"], help="default: all")
    options.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="channels x pixels")
    options.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), help="batch sizes")
    options.add_argument("--types", nargs="+", choices=list(TYPES), default=list(TYPES), help="input and output")
    options.add_argument("--classes", nargs="+", type=int, default=list(CLASSES), help="numbers of classes")
    options.add_argument("--pairs", nargs="+", choices=list(step_cost.PAIRS), default=list(STEP_PAIRS), help="networks")
    options.add_argument("--repeats", type=int, default=20, help="calls in a CUDA graph")
    options.add_argument(
        "--compile",
        choices=["none", "some", "all"],
        default="some" if torch.cuda.is_available() else "none",
        help=f"rows with torch.compile, up to a minute each; some: only batches of {COMPILED_BATCH}",
    )
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    tables = arguments.tables or ["warp", "kernels", "divergence", "step"]
    if device.type != "cuda" and "kernels" in tables:
        progress("skipping the table kernels, which requires a CUDA device")
        tables.remove("kernels")
    results = load_previous(arguments.json, environment(device, arguments.threads))
    makers = {
        "warp": lambda: warp_tables(PASSES[:2], device, arguments),
        "kernels": lambda: warp_tables(PASSES[2:], device, arguments),
        "divergence": lambda: divergence_tables(device, arguments),
        "step": lambda: step_tables(device, arguments),
    }
    for name in tables:
        for label, times in makers[name]():
            results.setdefault(name, {})[label] = times
            write(arguments.json, results)  # after each table, so that an interruption loses at most one


if __name__ == "__main__":
    main()
