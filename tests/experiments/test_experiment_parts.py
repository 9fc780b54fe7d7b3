"""Every option of tasks, transforms, policies, objectives and schedules; and their ablation."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_module
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig

from experiments import ablation, report
from experiments.data.sources import load
from experiments.methods.shuffled_policy import Shuffled
from experiments.runs.experiment import Experiment
from experiments.tasks.random_views import random_views
from experiments.tasks.tasks import InvarianceTask
from experiments.train import run
from experiments.training.interrupts import Stop
from experiments.training.loop import progress_bar
from hard_aug.data import ImageSet
from hard_aug.generative import HierarchicalVAE
from hard_aug.transforms import Affine, Filter, PatchMix
from hard_aug.utils.rng import derangement
from tests.helpers.engine_parts import use_few_digits

CONF = Path(__file__).parents[2] / "experiments" / "conf"
TASKS = sorted(path.stem for path in (CONF / "task").glob("*.yaml"))


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


def config_of(folder: Path, *overrides: str, name: str = "train") -> DictConfig:
    small = ["steps=3", "batch_size=16", "teacher.steps=2", "teacher.batch_size=16", "threads=1"]
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose(name, [*small, f"teacher_cache={folder}/teachers", *overrides])


def parts() -> list[list[str]]:
    """Return each option once, with compatible others."""
    found = []
    for group in ("transform", "policy", "objective", "schedule", "invariance"):
        for path in sorted((CONF / group).glob("*.yaml")):
            chosen = {"schedule": "alternating", "invariance": "penalty"} | {group: path.stem}
            if path.stem == "diffusion":
                chosen["policy"] = "search"
            if chosen.get("policy") == "search":
                chosen["invariance"] = "hinge"
            if path.stem in ("color", "affine_color_rgb"):
                continue  # requires colour images, as in task=hue
            names = [*(name for name in chosen if name != group), group]
            found.append([f"{name}@augmenter.{name}={chosen[name]}" for name in names])
    return found


@pytest.mark.parametrize("overrides", parts(), ids=lambda chosen: chosen[-1].split(".")[-1])
def test_every_part_makes_hard_images(tmp_path: Path, overrides: list[str]) -> None:
    if overrides[-1].endswith("=diffusion"):  # the image size of the shipped model
        overrides = [*overrides, "data.canvas=32", "device=cpu"]
    if overrides[-1].endswith("=hierarchical"):  # none is shipped
        vae = HierarchicalVAE(size=28, blocks=((1, 1), (7, 1)), width=8, latent_channels=2)
        vae.save_pretrained(tmp_path / "vae")
        overrides = [*overrides, f"augmenter.transform.vae.folder={tmp_path}/vae", "device=cpu"]
    config = config_of(tmp_path, "students=[hard]", *overrides)
    splits = instantiate(config.data)
    with progress_bar(quiet=True) as progress:
        experiment = Experiment(config, splits, tmp_path, progress, Stop())
    student = experiment.student()
    shown = splits.test[slice(0, 6)]
    hard = experiment.augmenter(student)(shown.images, shown.labels)
    assert hard.images.shape == shown.images.shape == (6, *splits.train.shape)
    assert 0 <= float(hard.images.min()) <= float(hard.images.max()) <= 1
    assert bool((hard.images != shown.images).flatten(1).any(1).all())
    assert 0 < float(hard.loss(temperature=2.0).detach()) < 10


def test_a_hierarchical_vae_requires_a_folder(tmp_path: Path) -> None:
    config = config_of(tmp_path, "transform@augmenter.transform=hierarchical", "device=cpu")
    with pytest.raises(
        InstantiationException, match=r"no hierarchical VAE is shipped: .*augmenter\.transform\.vae\.folder="
    ):
        instantiate(config.augmenter.transform)
    config.augmenter.transform.vae.folder = str(tmp_path)
    with pytest.raises(InstantiationException, match=r"has no config\.json and no model\.safetensors"):
        instantiate(config.augmenter.transform)


@pytest.mark.slow
def test_training_with_noise_edits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A whole run with the shipped models: training, figures and diagnosis."""
    monkeypatch.setattr("experiments.train.DIAGNOSIS_IMAGES", 8)
    monkeypatch.setattr("hard_aug.viz.policy.MOST_DRAWN", 6)
    parts = ["augmenter=search", "transform@augmenter.transform=diffusion", "augmenter.transform.sampler.steps=2"]
    config = config_of(tmp_path, "data.canvas=32", "device=cpu", "students=[random,hard]", *parts)
    metrics = run(config, tmp_path / "run", quiet=True)
    assert set(metrics["students"]) == {"random", "hard"}
    assert len(metrics["policy"]) == 4 * 8 * 8
    blocks = {f"noise_{channel} (64 parameters)" for channel in range(4)}
    assert metrics["diagnosis"]["transfer_gap_after"].keys() == blocks
    assert (tmp_path / "run" / "policy.png").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_every_task_runs(tmp_path: Path, task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.train.DIAGNOSIS_IMAGES", 8)
    students = ["kd", "random", "oracle", "hard"]
    overrides = ["task.images=3", f"+task.cache={tmp_path}/corruptions"] if task == "common_corruption" else []
    if task == "plain":  # a task without a known invariance
        students.remove("oracle")
    config = config_of(tmp_path, f"task={task}", f"students=[{','.join(students)}]", "tune_random=[0.5]", *overrides)
    metrics = run(config, tmp_path / "run", quiet=True)
    assert metrics["main"] in metrics["sets"]
    assert list(metrics["students"]) == [*students, "random_x0.5", "random_tuned"]
    assert all(0 <= row[metrics["main"]] <= 1 for row in metrics["students"].values())


def test_an_invariance_task_uses_views_of_its_transform() -> None:
    images = torch.rand(30, 1, 20, 20)
    test = ImageSet(images, torch.arange(30) % 3)
    turn = Affine(translation=None, rotation=40.0, scale=None, shear=None)
    task = InvarianceTask(name="turned", transform=turn, copies=2, distance=3)
    sets = task.sets(test)
    assert list(sets) == ["clean", "turned", "shifted"]
    assert sets["clean"] is test
    assert len(sets["turned"]) == 60
    assert torch.equal(sets["turned"].labels, test.labels.repeat(2))
    assert torch.equal(sets["turned"].images, task.sets(test)["turned"].images)
    expected = random_views(turn, images, torch.Generator().manual_seed(0))
    assert torch.equal(sets["turned"].images[:30], expected)
    assert task.oracle(20) == (turn, 1.0)


def test_random_views_of_transforms_that_require_noise_or_partners() -> None:
    images = torch.rand(6, 1, 8, 8)
    mixed = random_views(PatchMix(image_size=8, patch_size=4), images, torch.Generator().manual_seed(0))
    corners = {tuple(image[0, 0, :4].tolist()) for image in images}
    assert all(tuple(image[0, 0, :4].tolist()) in corners for image in mixed)
    noisy = random_views(Filter(blur=None, gamma=None, sharpness=None), images, torch.Generator().manual_seed(0))
    assert not torch.equal(noisy, images)
    assert 0 <= float(noisy.min()) <= float(noisy.max()) <= 1


def test_tinted_images() -> None:
    splits = load("mnist5k", tint=[1.0, 0.5, 0.0])
    assert splits.train.images.shape == (3500, 3, 28, 28)
    assert torch.equal(splits.test.images[:, 1], 0.5 * splits.test.images[:, 0])
    assert float(splits.test.images[:, 2].max()) == 0
    with pytest.raises(ValueError, match=r"data\.tint=\[2\.0, 0, 0\]"):
        load("mnist5k", tint=[2.0, 0, 0])


def test_the_shuffled_control_predicts_from_other_images() -> None:
    images = torch.linspace(0, 1, 16)[:, None, None, None].expand(16, 1, 8, 8)
    policy = Shuffled(Affine().spec, channels=1)
    torch.nn.init.normal_(policy.network[-1].weight)  # type: ignore[arg-type]  # the last layer is linear
    found = policy.sample(images, torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(0)
    order = derangement(16, generator)
    mean, std = policy.distribution(images[order])
    assert torch.allclose(found, mean + std * torch.randn(16, 6, generator=generator))


@pytest.mark.slow
def test_the_ablation_stores_its_runs_and_names_unsupported_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    alternating = (*ablation.parts("gaussian", "alternating", "kl"), *ablation.SCHEDULE_OVERRIDES)
    chosen = [
        ablation.Cell("combinations", "gaussian/alternating/kl", alternating),
        ablation.Cell("combinations", "search/threshold/kl", ablation.parts("search", "threshold", "kl")),
        ablation.Cell("controls", "kd", ("students=[kd]",)),
    ]
    monkeypatch.setattr(ablation, "cells", lambda: iter(chosen))
    small = ["steps=3", "batch_size=16", "teacher.steps=2", f"teacher_cache={tmp_path}/teachers"]
    command = ["--data", "digits", "--seeds", "0", "--folder", f"{tmp_path}/runs"]
    command += ["--json", f"{tmp_path}/out.json", *small]
    ablation.main([*command, "--processes", "2"])
    printed = capsys.readouterr().out
    assert "| kl |" in printed
    assert "search, threshold" not in printed  # no cell of this column is supported
    found = json.loads((tmp_path / "out.json").read_text())["digits"]
    assert "Alternating" in found["cells"]["combinations"]["search/threshold/kl"]["unsupported"]
    assert found["cells"]["controls"]["kd"]["shifted"]["sd"] is None
    assert found["config"]["device"].startswith("CPU")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("metrics.json")}
    ablation.main([*command, "--processes", "1"])
    assert json.loads((tmp_path / "out.json").read_text())["digits"] == found
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("metrics.json")}
    ablation.main([*command, "--seeds", "0", "1", "--gather"])
    assert f"{found['cells']['controls']['kd']['shifted']['mean']:.1f} (1 of 2)" in capsys.readouterr().out
    assert "(1 of 2)" in (tmp_path / "out.md").read_text()
    with pytest.raises(ValueError, match="holds a run with other settings"):
        ablation.main([*command, "batch_size=17", "--processes", "1"])
    capsys.readouterr()
    report.main([str(tmp_path / "runs"), "--markdown"])
    assert "| hard | " in capsys.readouterr().out


@pytest.mark.slow
def test_every_cell_of_the_ablation_composes() -> None:
    names = [(cell.group, cell.name) for cell in ablation.cells()]
    assert len(set(names)) == len(names)
    for cell in ablation.cells():
        if cell.group != "combinations" or cell.name.endswith("/kl"):
            ablation.configuration("digits", cell, 0, ())
    with pytest.raises(SystemExit):
        ablation.main(["--only", "nothing"])
