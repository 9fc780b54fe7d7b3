"""The contracts on imports hold, and an import upwards breaks them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    """Run import-linter on the packages in `folder`."""
    program = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"
    command = [sys.executable, "-c", program, "--no-cache"]
    return subprocess.run(command, cwd=folder, env={"PYTHONPATH": str(folder)}, capture_output=True, text=True)


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The project's Python files and its contracts."""
    for package in ("hard_aug", "experiments"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=lambda _, names: [n for n in names if n == "results"]
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_contracts_hold(copy: Path) -> None:
    result = lint(copy)
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(
    ("module", "forbidden", "contract"),
    [
        ("hard_aug/ops/memory_formats.py", "hard_aug.transforms", "Each layer of hard_aug"),
        ("hard_aug/policies/gaussian.py", "hard_aug.objectives", "Policies know"),
        ("hard_aug/transforms/color.py", "hard_aug.synthesis", "Each layer of hard_aug"),
        ("hard_aug/augmenter.py", "experiments.models.networks", "The library does not import the experiments"),
        ("experiments/training/fit.py", "experiments.methods", "Each layer of experiments"),
        ("experiments/configuration/checks.py", "experiments.training.trackers", "Each layer of experiments"),
    ],
)
def test_a_forbidden_import_breaks_them(copy: Path, module: str, forbidden: str, contract: str) -> None:
    with (copy / module).open("a") as file:
        file.write(f"\nimport {forbidden}\n")
    result = lint(copy)
    assert result.returncode != 0
    broken = [line for line in result.stdout.splitlines() if line.endswith("BROKEN")]
    assert any(line.startswith(contract) for line in broken), result.stdout
