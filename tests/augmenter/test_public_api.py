"""The public interface: its names, what an import loads, the README's code, and the layout of the tests."""

from __future__ import annotations

import contextlib
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import hard_aug

ROOT = Path(__file__).parents[2]
#: Folders of `hard_aug` whose modules share one test file.
FOLDERS_WITH_ONE_TEST_FILE = {
    "evaluation/corruptions": "evaluation/test_corruptions.py",
    "ops/compose": "ops/test_compose.py",
    "ops/divergence": "ops/test_divergence.py",
    "ops/warp_color": "ops/test_warp_color.py",
}
#: Modules that are tested with another one.
TESTED_ELSEWHERE = {
    "generative/conditioning.py": "generative/test_diffusion_model.py",
    "generative/hierarchical_vae_layers.py": "generative/test_hierarchical_vae.py",
    "generative/known_settings.py": "generative/test_scheduler_settings.py",
    "generative/latent_codec.py": "generative/test_diffusion_model.py",
    "generative/latent_directions.py": "transforms/test_vae_latent.py",
    "generative/nfe.py": "synthesis/test_baselines.py",
    "generative/pretrained.py": "generative/test_diffusion_model_folders.py",
    "generative/sampler.py": "generative/test_noise_schedule.py",
    "ops/memory_formats.py": "transforms/test_base.py",
    "synthesis/base.py": "synthesis/test_baselines.py",
    "synthesis/failure_metrics.py": "synthesis/test_acceptance.py",
    "synthesis/pipeline.py": "synthesis/test_acceptance.py",
    "synthesis/random_crops.py": "synthesis/test_baselines.py",
    "synthesis/score.py": "synthesis/test_baselines.py",
    "transforms/fusion.py": "transforms/test_compose.py",
}


def test_names() -> None:
    expected = {"HardAugmenter", "HardBatch", "LearnedAugmentation", "Normalized", "diagnose", "Exploration", "Uniform"}
    assert expected <= set(hard_aug.__all__)
    assert all(hasattr(hard_aug, name) for name in hard_aug.__all__)
    assert (ROOT / "hard_aug" / "py.typed").is_file()


@pytest.mark.slow
def test_import_is_light() -> None:
    program = "import sys, hard_aug; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"hydra", "timm", "matplotlib", "diffusers", "torchvision", "triton", "tensorboard"}
    assert not heavy & set(loaded)


@pytest.mark.slow
def test_the_readme_runs(tmp_path: Path) -> None:
    """Its first block runs when pasted into an empty file; the others continue from there."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    loop, defaults, diagnosis, backends, generative, own_loss, resume = blocks
    torch.manual_seed(0)
    names: dict[str, Any] = {}
    exec(loop, names)
    assert names["augmenter"].state_dict()["calls"] == len(names["loader"]) == 8
    assert names["optimizer"].state[names["student"][1].weight]["step"] == 8
    assert "step(" not in loop.replace("optimizer.step()", "")
    exec(defaults, names)
    spelled_out = names["augmenter"]
    plain = hard_aug.HardAugmenter(teacher=names["teacher"], student=names["student"], transform=names["transform"])
    images = names["images"][:4]
    assert torch.equal(spelled_out(images).images, plain(images).images)
    assert repr(spelled_out) == repr(plain)
    with contextlib.chdir(tmp_path):
        exec(diagnosis, names | {"images": names["images"][:32]})
    assert (tmp_path / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    exec(backends, names | {"images": images})
    grey = {name: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)) for name in ("teacher", "student")}
    with contextlib.chdir(ROOT):
        exec(generative, found := {"torch": torch, "labels": torch.arange(4), **grey})
    assert found["hard_images"].shape[1:] == (1, 32, 32)
    before = names["student"][1].weight.clone()
    exec(own_loss, names)
    assert not torch.equal(names["student"][1].weight, before)
    exec(resume, names | {"path": tmp_path / "all.pt"})


def test_no_file_is_longer_than_the_limit() -> None:
    for folder in ("hard_aug", "experiments", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path


def test_every_module_has_its_test_file() -> None:
    """`hard_aug/a/b.py` is tested in `tests/a/test_b.py`, but for the exceptions listed above."""
    package, tests = ROOT / "hard_aug", ROOT / "tests"
    missing, needless, used = [], [], set()
    for path in package.rglob("*.py"):
        if path.name == "__init__.py":
            continue
        module, folder = path.relative_to(package).as_posix(), path.parent.relative_to(package).as_posix()
        used |= {folder, module}
        own = f"{'augmenter' if folder == '.' else folder}/test_{path.name}"
        tested = FOLDERS_WITH_ONE_TEST_FILE.get(folder) or TESTED_ELSEWHERE.get(module, own)
        if not (tests / tested).is_file():
            missing.append(module)
        if tested != own and (tests / own).is_file():
            needless.append(module)
    assert (missing, needless) == ([], [])
    assert FOLDERS_WITH_ONE_TEST_FILE.keys() | TESTED_ELSEWHERE.keys() <= used


def exported_classes() -> dict[str, Any]:
    """Return each class that the library or one of its packages exports, by its qualified name."""
    packages = [hard_aug]
    for module in pkgutil.walk_packages(hard_aug.__path__, "hard_aug."):
        if module.ispkg:
            packages.append(importlib.import_module(module.name))
    exported = [getattr(package, name) for package in packages for name in getattr(package, "__all__", ())]
    return {f"{one.__module__}.{one.__qualname__}": one for one in exported if inspect.isclass(one)}


@pytest.mark.parametrize("name", sorted(exported_classes()))
def test_every_class_has_an_example_and_a_repr_of_its_own(name: str) -> None:
    cls = exported_classes()[name]
    assert ">>>" in (vars(cls)["__doc__"] or "")
    if inspect.isabstract(cls) or getattr(cls, "_is_protocol", False):
        return
    assert cls.__repr__ is not object.__repr__
    arguments = inspect.signature(cls).parameters.values()
    if all(one.default is not one.empty for one in arguments):
        assert repr(cls()).startswith(f"{cls.__name__}(")
