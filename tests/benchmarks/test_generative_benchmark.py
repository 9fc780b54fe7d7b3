"""The benchmark of generative methods, on networks of a few thousand weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

pytest.importorskip("diffusers")

from benchmarks import generative  # requires diffusers
from benchmarks.generative_methods import METHODS, Method
from benchmarks.generative_models import CLASSES, SIZES, Parts, Size, counted, stable_diffusion_networks
from experiments.train_generative import build_autoencoder, build_scheduler, build_unet
from hard_aug.generative import NFE
from hard_aug.synthesis.base import SearchResult

BATCH, ITERATIONS = 4, 2


def tiny(pixels: int, batch: int, iterations: int, device: torch.device) -> Parts:
    """Build networks with one downsampling stage in the autoencoder, and none in the denoiser."""
    torch.manual_seed(0)
    widths = OmegaConf.create({"widths": [8, 8], "latent_channels": 4})
    unet = build_unet(OmegaConf.create({"widths": [16]}), 4, pixels // 2, CLASSES)
    teacher, student = (nn.Sequential(nn.Flatten(), nn.Linear(pixels**2, CLASSES)) for _ in range(2))
    images = torch.rand(batch, 1, pixels, pixels, device=device)
    return Parts(unet, build_autoencoder(widths, 1), build_scheduler(), teacher, student, images, iterations=iterations)


@pytest.fixture
def parts() -> Parts:
    return tiny(8, BATCH, ITERATIONS, torch.device("cpu"))


@pytest.fixture
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(SIZES, "small", Size(tiny, 8, (8,), 2, 1, 2))
    return tmp_path / "folder" / "generative.json"


def run(output: Path, *methods: str, more: tuple[str, ...] = ()) -> None:
    generative.main(["--device", "cpu", "--output", str(output), "--methods", *methods, *more])


def rows_of(output: Path) -> dict[str, Any]:
    (table,) = json.loads(output.read_text()).values()
    rows: dict[str, Any] = table["rows"]
    return rows


def formula(name: str) -> NFE:
    """Return the evaluations per image according to the methods' docstrings."""
    n, i = 10, ITERATIONS
    if name.startswith("noise-"):
        n = 4 if name.startswith("noise-4") else 10
        through = 1 if name.endswith("last-1") else n
        again = i if name.endswith("checkpointing") else 0  # sampling and decoding that are run again
        # Scored twice in each iteration, for the gradient and for the best, and once at both ends.
        return NFE((i + 1 + again) * n, i * through, i + 2 + again, i, 4 * i + 4, 2 * i)
    return {
        "unguided": NFE(n, 0, 1, 0, 4, 0),
        "best-of-8": NFE(8 * n, 0, 8, 0, 2 * 8 + 2, 0),
        "pgd-10": NFE(n, 0, 1, 0, 2 + 4 * 10 + 2, 2 * 10),
        "mpgd": NFE(n, 0, n + 1, n, 2 * n + 2, 2 * n),
        "x0-classifier": NFE(n, n, n + 1, n, 2 * n + 2, 2 * n),
        "tfg-recurrence-2": NFE(2 * n, 2 * n, 4 * n + 1, 4 * n, 8 * n + 2, 8 * n),
        # The clean images are encoded and decoded once; edits in the policy update and for the batch.
        "vae-latent": NFE(0, 0, 2 + 2, 1, 1 + 2 + 1, 2),
        "vae-latent-checkpointing": NFE(0, 0, 2 + 2 + 1, 1, 1 + 2 + 1, 2),
        "vae-latent-checkpointing-in-4": NFE(0, 0, 2 + 2 + 1, 1, 1 + 2 + 1, 2),
        # Three edits: the search also scores its result. Half of the steps in inversion, sampling and each edit.
        "diffusion": NFE((2 + 3) * n // 2, n // 2, 2 + 3, 1, 1 + 2 + 2 + 1, 2),
        "diffusion-checkpointing": NFE((2 + 4) * n // 2, n // 2, 2 + 3 + 1, 1, 1 + 2 + 2 + 1, 2),
    }[name]


@pytest.mark.parametrize("name", list(METHODS))
def test_counted_evaluations_match_the_formulas_and_the_results(name: str, parts: Parts) -> None:
    call = METHODS[name].make(parts)
    call()  # the first one inspects the networks
    with counted(parts) as passes:
        found = call()
    assert {key: count / BATCH for key, count in passes.as_dict().items()} == formula(name).as_dict()
    if isinstance(found, SearchResult):
        own = found.nfe
        if name == "unguided":  # its score is for the report alone, and so not counted by the search
            own = own + NFE(classifier_forward=2 * BATCH)
        assert own == passes


def test_the_counters_go_when_something_raises(parts: Parts) -> None:
    counters = counted(parts)
    passes = counters.__enter__()
    METHODS["vae-latent"].make(parts)()
    assert not counters.__exit__(KeyError, KeyError("student"), None)
    before = passes.as_dict()
    METHODS["vae-latent"].make(parts)()
    assert before["codec_forward"] > 0
    assert passes.as_dict() == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in parts.denoiser.modules())


def test_the_peak_is_that_of_simultaneous_allocations() -> None:
    held = torch.ones(2**20)

    def two_of_three() -> None:
        first = held + 1  # 4 MiB each
        second = first.exp()
        del first
        second.neg_()
        (second * 2).add_(1)

    def with_graph() -> None:
        start = held[: 2**18].clone().requires_grad_()  # 1 MiB each: start, eight outputs that are kept, ...
        out = start
        for _ in range(8):
            out = out.sigmoid()
        torch.autograd.grad(out.sum(), start)

    device = torch.device("cpu")
    assert generative.peak_of(lambda: None, device)["mib"] == 0
    assert generative.peak_of(two_of_three, device)["mib"] == pytest.approx(8, abs=0.01)
    assert 9 <= generative.peak_of(with_graph, device)["mib"] < 11.1  # ... and two gradients


@pytest.mark.slow
def test_memory_falls_with_checkpointing_and_with_shorter_gradients(parts: Parts) -> None:
    parts.iterations = 1

    def peak(name: str) -> float:
        call = METHODS[name].make(parts)
        call()
        return float(generative.peak_of(call, torch.device("cpu"))["mib"])

    plain = peak("noise-4")
    assert peak("noise-4-checkpointing") < 0.6 * plain
    assert peak("noise-4-last-1") < 0.6 * plain
    assert peak("vae-latent-checkpointing-in-4") < 0.8 * peak("vae-latent")


def test_parts_of_a_run_add_up_in_the_file(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(output, "vae-latent-checkpointing", "unguided")
    run(output, "vae-latent", "vae-latent-checkpointing")
    rows = rows_of(output)
    assert set(rows) == {"vae-latent", "unguided", "vae-latent-checkpointing"}
    assert rows["vae-latent-checkpointing"]["ratio"]["to"] == "vae-latent"
    assert rows["unguided"]["ratio"] == {"to": "unguided", "median": 1.0, "q1": 1.0, "q3": 1.0}
    assert all(0 < row["seconds"]["q1"] <= row["seconds"]["median"] <= row["seconds"]["q3"] for row in rows.values())
    (table,) = json.loads(output.read_text()).values()
    assert {"torch", "diffusers", "device_name", "threads"} <= set(table["environment"])
    printed = capsys.readouterr().out.rsplit("###", 1)[1].splitlines()
    lines = [line for line in printed if line.startswith("|")]
    assert len(lines) == 2 + 3
    assert len({line.count("|") for line in lines}) == 1

    run(output, "vae-latent", more=("--batch-size", "1"))
    assert len(json.loads(output.read_text())) == 2


def test_rows_of_other_versions_are_not_mixed_in(output: Path) -> None:
    run(output, "unguided")
    tables = json.loads(output.read_text())
    next(iter(tables.values()))["environment"]["torch"] = "1.0"
    other = {"environment": {}, "rows": {"unguided": {}}}
    output.write_text(json.dumps(tables | {"another": other}))
    run(output, "vae-latent")
    tables = json.loads(output.read_text())
    assert tables.pop("another") == other
    assert [list(table["rows"]) for table in tables.values()] == [["vae-latent"]]


def test_a_run_that_is_killed_leaves_its_rows(output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(parts: Parts) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setitem(METHODS, "vae-latent-checkpointing", Method("vae-latent", killed))
        with pytest.raises(KeyboardInterrupt):
            run(output, "vae-latent", "vae-latent-checkpointing")
        assert rows_of(output)["vae-latent"]["passes"]["codec_backward"] == 1
        assert "seconds" not in rows_of(output)["vae-latent"]
        run(output, "vae-latent")
        seconds = rows_of(output)["vae-latent"]["seconds"]
        with pytest.raises(KeyboardInterrupt):
            run(output, "vae-latent", "vae-latent-checkpointing")
    assert rows_of(output)["vae-latent"]["seconds"] == seconds


def test_a_row_without_enough_memory_is_named(
    output: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def too_large(parts: Parts) -> Any:
        def call() -> None:
            raise torch.OutOfMemoryError("70 GiB")

        return call

    with monkeypatch.context() as patched:
        patched.setitem(METHODS, "vae-latent", Method("vae-latent", too_large))
        run(output, "vae-latent", "vae-latent-checkpointing")
        assert rows_of(output)["vae-latent"] == {"group": "vae-latent", "skipped": "out of memory"}
        assert rows_of(output)["vae-latent-checkpointing"]["ratio"]["to"] == "vae-latent-checkpointing"
        assert "| vae-latent | out of memory |" in capsys.readouterr().out
        run(output, "vae-latent")  # alone in its group
    run(output, "vae-latent")
    assert "skipped" not in rows_of(output)["vae-latent"]


def test_large_networks_are_those_of_stable_diffusion_and_require_cuda(
    output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.device("meta"):
        denoiser, autoencoder = stable_diffusion_networks(512)
    assert sum(weight.numel() for weight in denoiser.parameters()) == 859_520_964
    assert sum(weight.numel() for weight in autoencoder.parameters()) == 83_653_863
    assert (denoiser.config.sample_size, autoencoder.config.scaling_factor) == (64, 0.18215)
    with pytest.raises(SystemExit):
        run(output, "unguided", more=("--size", "stable-diffusion"))
    assert "--force" in capsys.readouterr().err
    assert not output.exists()


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--repeats", "0"), "--repeats 0: expected at least 2"),
        (("--batch-size", "0"), "--batch-size 0: expected at least 1"),
        (("--iterations", "-1"), "--iterations -1: expected at least 1"),
        (("--pixels", "8", "30"), "expected multiples of 8"),
        (("--pixels", "0"), "expected multiples of 8"),
    ],
)
def test_bad_options_are_named(
    more: tuple[str, ...], named: str, output: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        run(output, "unguided", more=more)
    assert named in capsys.readouterr().err
    assert not output.exists()


def test_a_file_that_holds_something_else_is_left_alone(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output.parent.mkdir()
    output.write_text('{"half')
    with pytest.raises(SystemExit):
        run(output, "unguided")
    assert "is not a JSON file" in capsys.readouterr().err
    assert output.read_text() == '{"half'
