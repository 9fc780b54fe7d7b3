"""The fused operations against kornia, PyTorch and a plain copy, and what they make of a whole training step.

Tables, all interleaved, medians and quartiles: `warp` (the augmentation with the gradient of its parameters), `kernels`
(ours alone, as a share of the copy), `divergence`, and `step` (a training step under each schedule, in bfloat16). On a
CUDA device everything is measured; on the CPU what runs there. Rows that run out of memory are left out and named.
"""

from __future__ import annotations

import gc
import itertools
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import step_cost
from benchmarks.ops_divergence import KINDS, divergence_rows
from benchmarks.ops_warp import PASSES, TYPES, warp_rows
from benchmarks.timing import environment, interleaved, parser, progress, table, write

SIZES = {"1x28": (1, 28), "3x32": (3, 32), "3x64": (3, 64), "3x224": (3, 224)}
BATCHES = (64, 256, 1024)
COMPILED_BATCH = 256
CLASSES = (10, 100, 1000, 21841)
COPY = "copy of the same bytes"
STEP_PAIRS = ("resnet18-32", "resnet18-224")
Rows = dict[str, tuple[Callable[[], object], int]]


def measured(rows: Rows, *, baseline: str, device: torch.device, label: str, options: Any) -> dict[str, Any]:
    """Milliseconds of one call of each row, and ratios to `baseline`; with a copy among them, shares of it."""
    times: dict[str, Any] = interleaved(
        {name: call for name, (call, _) in rows.items()},
        baseline=baseline,
        device=device,
        rounds=options.rounds,
        calls=options.calls,
        warmup=options.warmup,
        label=label,
    )
    for name, (_, repeats) in rows.items():
        for key in ("median_ms", "q1_ms", "q3_ms"):
            times[name][key] /= repeats
        for key in ("ratio", "ratio_q1", "ratio_q3"):
            times[name][key] *= rows[baseline][1] / repeats
    if COPY in times:
        for row in times.values():
            row["share_of_copy"] = times[COPY]["median_ms"] / row["median_ms"]
    return times


def one_table(make: Callable[[], tuple[str, Rows]], *, label: str, device: torch.device, options: Any) -> Any:
    """Measure one table; on a device that is too small for it, say so."""
    try:
        baseline, rows = make()
        times = measured(rows, baseline=baseline, device=device, label=label, options=options)
    except torch.OutOfMemoryError as error:
        progress(f"{label}: {error}")
        return {"left out": "out of memory"}
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    print(table(f"{label}, ratio to {baseline}", times))
    if COPY in times:
        print(f"{baseline}: {times[baseline]['share_of_copy']:.0%} of the copy of the same bytes\n")
    return times


def warp_tables(kinds: tuple[str, ...], device: torch.device, options: Any) -> dict[str, Any]:
    """By size, batch, types and pass."""
    found = {}
    for size, batch, types, kind in itertools.product(options.sizes, options.batches, options.types, kinds):
        channels, pixels = SIZES[size]
        shape = (batch, channels, pixels, pixels)
        compiled = options.compile == "all" or (options.compile == "some" and batch == COMPILED_BATCH)
        label = f"{batch}x{size}x{pixels} {types}, {kind}"

        def make(
            shape: tuple[int, ...] = shape, types: str = types, kind: str = kind, compiled: bool = compiled
        ) -> tuple[str, Rows]:
            return warp_rows(shape, types, kind, device, compiled=compiled, repeats=options.repeats)

        found[label] = one_table(make, label=label, device=device, options=options)
    return found


def divergence_tables(device: torch.device, options: Any) -> dict[str, Any]:
    """By classes, batch and type."""
    found = {}
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
        ) -> tuple[str, Rows]:
            return divergence_rows(batch, classes, dtype, kind, device, compiled=compiled, repeats=options.repeats)

        found[label] = one_table(make, label=label, device=device, options=options)
    return found


def step_tables(device: torch.device, options: Any) -> dict[str, Any]:
    """By pair of networks; see `benchmarks.step_cost`."""
    found = {}
    for pair in options.pairs:
        found[pair] = step_cost.measure(
            pair,
            device,
            rounds=options.rounds,
            calls=step_cost.period(),
            warmup=options.warmup,
            precision=torch.bfloat16,
        )
        print(table(f"{pair} in bfloat16, ratio to {step_cost.BASELINE}", found[pair]))
    return found


def main() -> None:
    options = parser(__doc__, json_path="benchmarks/results/ops.json", rounds=9, calls=3)
    options.add_argument("--tables", nargs="+", choices=["warp", "kernels", "divergence", "step"], help="which (all)")
    options.add_argument("--sizes", nargs="+", choices=list(SIZES), default=list(SIZES), help="channels x pixels")
    options.add_argument("--batches", nargs="+", type=int, default=list(BATCHES), help="images, and rows of logits")
    options.add_argument("--types", nargs="+", choices=list(TYPES), default=list(TYPES), help="in, and out")
    options.add_argument("--classes", nargs="+", type=int, default=list(CLASSES), help="of the logits")
    options.add_argument("--pairs", nargs="+", choices=list(step_cost.PAIRS), default=list(STEP_PAIRS), help="networks")
    options.add_argument("--repeats", type=int, default=20, help="calls in a CUDA graph")
    options.add_argument(
        "--compile",
        choices=["none", "some", "all"],
        default="some" if torch.cuda.is_available() else "none",
        help=f"torch.compile's rows, up to a minute each; some: at batches of {COMPILED_BATCH}",
    )
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    device = torch.device(arguments.device)
    tables = arguments.tables or ["warp", "kernels", "divergence", "step"]
    if device.type != "cuda" and "kernels" in tables:
        progress("kernels are not measured: they want a CUDA device")
        tables.remove("kernels")
    results: dict[str, Any] = {"environment": environment(device, arguments.threads)}
    for name in tables:
        if name in ("warp", "kernels"):
            results[name] = warp_tables(PASSES[2:] if name == "kernels" else PASSES[:2], device, arguments)
        elif name == "divergence":
            results[name] = divergence_tables(device, arguments)
        else:
            results[name] = step_tables(device, arguments)
        write(arguments.json, results)  # after each, so that a later failure loses nothing


if __name__ == "__main__":
    main()
