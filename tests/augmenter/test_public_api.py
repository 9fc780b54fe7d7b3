"""The public face: what is exported, what an import drags in, and the README's own code."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from pathlib import Path

import torch
from torch import nn

import hard_aug

ROOT = Path(__file__).parents[2]


def test_names() -> None:
    assert set(hard_aug.__all__) >= {"HardAugmenter", "HardBatch", "LearnedAugmentation", "Normalized", "diagnose"}
    assert all(hasattr(hard_aug, name) for name in hard_aug.__all__)
    assert (ROOT / "hard_aug" / "py.typed").is_file()


def test_import_is_light() -> None:
    program = "import sys, hard_aug; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"hydra", "timm", "matplotlib", "diffusers", "torchvision", "triton", "tensorboard"}
    assert not heavy & set(loaded)


def test_the_readme_runs(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    loop, defaults, diagnosis, backends, generative, own_loss, resume = blocks
    torch.manual_seed(0)
    teacher = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)).eval()
    student = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 3))
    names = {
        "teacher": teacher,
        "student": student,
        "optimizer": torch.optim.SGD(student.parameters(), lr=0.1),
        "loader": [(torch.rand(4, 3, 8, 8), None) for _ in range(3)],
    }
    before = student[1].weight.clone()
    exec(loop, names)
    assert not torch.equal(student[1].weight, before)
    exec(defaults, names)
    spelled_out, plain = (
        names["augmenter"],
        hard_aug.HardAugmenter(teacher=teacher, student=student, transform=names["transform"]),
    )
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(spelled_out(images).images, plain(images).images)
    with contextlib.chdir(tmp_path):
        exec(diagnosis, names | {"images": images})
    assert (tmp_path / "diagnosis.png").read_bytes().startswith(b"\x89PNG")
    exec(backends, names | {"images": images})
    grey = {name: nn.Sequential(nn.Flatten(), nn.Linear(1024, 10)) for name in ("teacher", "student")}
    with contextlib.chdir(ROOT):
        exec(generative, found := {"torch": torch, "labels": torch.arange(4), **grey})
    assert found["hard_images"].shape[1:] == (1, 32, 32)
    before = student[1].weight.clone()
    exec(own_loss, names | {"torch": torch, "images": images})
    assert not torch.equal(student[1].weight, before)
    exec(resume, names | {"torch": torch, "path": tmp_path / "all.pt"})


def test_no_file_is_longer_than_the_limit() -> None:
    for folder in ("hard_aug", "experiments", "benchmarks", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 400, path
