"""The public interface: its names, what an import loads, the README's code, and the layout of the tests."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

import hard_aug

ROOT = Path(__file__).parents[2]
#: Packages whose modules are each tested in a file of their own; the modules on the root are tested in `augmenter`.
MIRRORED = ("inner_loop", "integrations", "losses", "policies", "schedules", "utils")


def test_names() -> None:
    expected = {"HardAugmenter", "HardBatch", "LearnedAugmentation", "Normalized", "diagnose", "Exploration", "Uniform"}
    assert expected <= set(hard_aug.__all__)
    assert all(hasattr(hard_aug, name) for name in hard_aug.__all__)
    assert (ROOT / "hard_aug" / "py.typed").is_file()


def test_import_is_light() -> None:
    program = "import sys, hard_aug; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"hydra", "timm", "matplotlib", "diffusers", "torchvision", "triton", "tensorboard"}
    assert not heavy & set(loaded)


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
    """`hard_aug/a/b.py` is tested in `tests/a/test_b.py`."""
    expected = [Path("augmenter", f"test_{path.stem}.py") for path in (ROOT / "hard_aug").glob("*.py")]
    for package in MIRRORED:
        expected += [Path(package, f"test_{path.stem}.py") for path in (ROOT / "hard_aug" / package).glob("*.py")]
    missing = {str(path) for path in expected if not (ROOT / "tests" / path).is_file()}
    assert {path for path in missing if not path.endswith("test___init__.py")} == set()
