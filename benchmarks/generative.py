"""Cost of generative methods: function evaluations (NFE), seconds and peak memory per image.

| group (ratios are to its first row) | rows |
|---|---|
| baselines | one sample; the best of 8; projected gradient ascent on the pixels of one, 10 steps |
| guidance | MPGD; x0-classifier; TFG (mu and rho) with recurrence 2 |
| noise-4, noise-10 | noise optimisation through 4 and 10 steps; with checkpointing; gradient of the last step only |
| vae-latent | a call of `HardAugmenter` with one update of a `Gaussian`; with checkpointing; in four micro-batches |
| diffusion | a call with one step of `Search`, strength 0.5 of 10 steps; with checkpointing |

By default, sampling has 10 steps and starts from noise, without classifier-free guidance (which doubles the denoiser's
evaluations). The score is the default one. Scores of unguided images, which only a report needs, are not measured.

- Function evaluations are counted by hooks on the networks, including those for a call's report; in the total a
  backward counts twice.
- Seconds are those of a whole call divided by its images; the rows of a group are measured in turn in every round.
- Memory is the peak of the memory allocated since the start of a call, divided by its images: on CUDA according to its
  allocator, on the CPU the sum of torch's allocations and frees in a profiler trace (without workspaces of oneDNN).

Weights are random: costs do not depend on them. Each row is saved when it has been measured, together with existing
rows of the same device and versions, so that the benchmark can be run in parts with `--methods` and `--pixels`.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.generative_methods import METHODS, Call
from benchmarks.generative_models import SIZES, Parts, counted
from benchmarks.timing import environment, interleaved, peak_memory, progress, reset_peak, write
from experiments.training.allocator import keep_freed_memory

TOO_LITTLE = (torch.OutOfMemoryError, torch.AcceleratorError)
PASSES = ("denoiser", "codec", "classifier")


def peak_of(call: Call, device: torch.device) -> dict[str, Any]:
    """Return the peak memory of a call in MiB, see the module's docstring."""
    if device.type == "cuda":
        reset_peak(device)
        before = torch.cuda.memory_allocated(device) / 2**20
        call()
        return {"mib": peak_memory(device)["mib"] - before, "of": "allocated on the device beyond the start of a call"}
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = sorted((event["ts"], event["args"]["Bytes"]) for event in events if event.get("name") == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return {"mib": peak / 2**20, "of": "allocated by torch beyond the start of a call"}


def measured_once(call: Call, parts: Parts) -> dict[str, Any]:
    """Measure evaluations and memory per image, after a warm-up call (an augmenter's first inspects the student)."""
    call()
    batch = len(parts.images)
    with counted(parts) as passes:
        memory = peak_of(call, parts.images.device)
    return {
        "passes": {name: count / batch for name, count in passes.as_dict().items()},
        "memory": {**memory, "mib": memory["mib"] / batch},
    }


def timed(calls: Mapping[str, Call], parts: Parts, *, repeats: int, label: str) -> dict[str, dict[str, Any]]:
    """Measure the seconds per image of each row, and ratios to the first."""
    first = next(iter(calls))
    times = interleaved(
        calls, baseline=first, device=parts.images.device, rounds=repeats, calls=1, warmup=0, label=label
    )
    scale = 1000 * len(parts.images)
    return {
        name: {
            "seconds": {key: time[f"{key}_ms"] / scale for key in ("median", "q1", "q3")} | {"rounds": time["samples"]},
            "ratio": {"to": first, "median": time["ratio"], "q1": time["ratio_q1"], "q3": time["ratio_q3"]},
        }
        for name, time in times.items()
    }


def measure(
    parts: Parts, methods: list[str], *, repeats: int, keep: Callable[[str, dict[str, Any]], None], label: str = ""
) -> None:
    """Measure rows group by group; call `keep` with each after its evaluations and memory, and again after its times.

    Args:
        parts: the networks and images.
        methods: names of `METHODS`.
        repeats: rounds of timing, at least 2.
        keep: takes a row's name and its measurements.
        label: of the table, for progress messages.
    """
    for group in dict.fromkeys(METHODS[name].group for name in methods):
        calls: dict[str, Call] = {}
        rows: dict[str, dict[str, Any]] = {}
        for name in (name for name in methods if METHODS[name].group == group):
            progress(f"{label}: evaluations and memory of {name}")
            try:
                call = METHODS[name].make(parts)
                rows[name] = {"group": group, **measured_once(call, parts)}
                calls[name] = call
            except TOO_LITTLE as error:
                progress(f"{label}, {name}: {error}")
                rows[name] = {"group": group, "skipped": "out of memory"}
            _free(parts.images.device)  # not in the except block: the error refers to the memory of the call
            keep(name, rows[name])
        times = timed(calls, parts, repeats=repeats, label=f"{label}, {group}") if calls else {}
        for name, time in times.items():
            keep(name, rows[name] | time)


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        gc.collect()
        torch.cuda.empty_cache()


def known(tables: Mapping[str, Any], label: str, about: dict[str, Any]) -> dict[str, Any]:
    """Return the table of a label, with its rows only if they were measured with the same versions."""
    before = tables.get(label, {"environment": about, "rows": {}})
    same = {**before["environment"], "date": about["date"]} == about
    if not same:
        progress(f"{label}: existing rows are dropped, they were measured with other versions")
    return {"environment": about, "rows": before["rows"] if same else {}}


def markdown(title: str, rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Format a table per image: forward and backward evaluations, seconds and memory, the latter two also as ratios."""
    head = ("", *(f"{kind} fwd / bwd" for kind in PASSES), "total", "s / image", "quartiles", "ratio", "MiB / image")
    lines = [f"### {title}", "", f"| {' | '.join((*head, 'ratio'))} |", "|---" * (len(head) + 1) + "|"]
    for name in (name for name in METHODS if name in rows):
        row = rows[name]
        if "skipped" in row:
            lines.append(f"| {name} | {row['skipped']} |" + " |" * (len(head) - 1))
            continue
        passes = [f"{row['passes'][f'{kind}_forward']:g} / {row['passes'][f'{kind}_backward']:g}" for kind in PASSES]
        cells = [name, *passes, f"{row['passes']['total']:g}"]
        ratio_of_memory = ""
        if "seconds" in row:
            seconds, ratio = row["seconds"], row["ratio"]
            cells += [f"{seconds['median']:.3g}", f"{seconds['q1']:.3g} to {seconds['q3']:.3g}"]
            cells += [f"{ratio['median']:.2f}"]
            first = rows[ratio["to"]]
            if "memory" in first:
                ratio_of_memory = f"{row['memory']['mib'] / first['memory']['mib']:.2f}"
        else:
            cells += ["", "", ""]
        lines.append(f"| {' | '.join((*cells, format(row['memory']['mib'], '.3g'), ratio_of_memory))} |")
    return "\n".join(lines) + "\n"


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    headline, _, table = (__doc__ or "").partition("\n\n")
    found = argparse.ArgumentParser(
        description=headline, epilog=table, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = "cuda" if torch.cuda.is_available() else "cpu"
    found.add_argument("--size", choices=list(SIZES), default="small", help="of the networks (small)")
    found.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(METHODS), help="rows (all)")
    found.add_argument("--pixels", nargs="+", type=int, help="of the images (32; 256 and 512)")
    found.add_argument("--batch-size", type=int, help="images at once (16; 1)")
    found.add_argument("--iterations", type=int, help="of noise optimisation (10; 1)")
    found.add_argument("--repeats", type=int, help="rounds of timing, at least 2 (7; 3)")
    found.add_argument("--device", default=cuda, help=f"cpu or cuda ({cuda})")
    found.add_argument("--threads", type=int, default=1, help="CPU threads of torch (1)")
    found.add_argument("--force", action="store_true", help="large networks on a CPU")
    found.add_argument(
        "--output",
        type=Path,
        default=Path("benchmarks/results/generative.json"),
        help="JSON file, to which rows are added",
    )
    return found


def main(arguments: list[str] | None = None) -> None:
    """Run the benchmark; `arguments` None: those of the process."""
    parser = options()
    given = parser.parse_args(arguments)
    size, device = SIZES[given.size], torch.device(given.device)
    if given.size == "stable-diffusion" and device.type != "cuda" and not given.force:
        parser.error(
            "--size stable-diffusion: expected a CUDA device, as on a CPU a row takes minutes to hours and tens of "
            "gigabytes; use --size small, or --force"
        )
    defaults = {"pixels": list(size.pixels), "batch_size": size.batch, "iterations": size.iterations}
    defaults |= {"repeats": size.repeats}
    for name, value in defaults.items():
        if getattr(given, name) is None:
            setattr(given, name, value)
    for name, least in (("repeats", 2), ("batch_size", 1), ("iterations", 1), ("threads", 1)):
        if getattr(given, name) < least:
            parser.error(f"--{name.replace('_', '-')} {getattr(given, name)}: expected at least {least}")
    if any(pixels < size.multiple or pixels % size.multiple for pixels in given.pixels):
        parser.error(f"--pixels {given.pixels}: expected multiples of {size.multiple}, as the networks downsample")
    try:
        tables: dict[str, Any] = json.loads(given.output.read_text()) if given.output.exists() else {}
    except ValueError as error:
        parser.error(f"--output {given.output} is not a JSON file ({error}); remove it, or name another")
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    about = environment(device, given.threads) | {"diffusers": version("diffusers")}
    for pixels in given.pixels:
        torch.manual_seed(0)
        parts = size.build(pixels, given.batch_size, given.iterations, device)
        label = f"{given.size}, {pixels} pixels, batch {given.batch_size}, {given.iterations} iterations, "
        label += f"{about['device_name']}, threads {given.threads}"
        table = tables[label] = known(tables, label, about)

        def keep(name: str, row: dict[str, Any], rows: dict[str, Any] = table["rows"]) -> None:
            before = rows.get(name, {})  # old times are kept until there are new ones
            rows[name] = row if "skipped" in before | row else before | row
            write(given.output, tables)

        measure(parts, given.methods, repeats=given.repeats, keep=keep, label=label)
        print(markdown(label, table["rows"]))
        del parts
        _free(device)


if __name__ == "__main__":
    main()
