"""docs/silence.md quotes messages as they are in the modules that it names."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "silence.md")
    .read_text(encoding="utf-8")
    .partition("## What the policy")[2]
    .splitlines()
    if line.startswith("| ") and not line.startswith("| situation")
]


def module(name: str) -> Path:
    """The file that a row names: of the library, or of the experiments."""
    return ROOT / name if name.startswith("experiments/") else ROOT / "hard_aug" / name


@functools.cache
def texts(path: Path) -> list[str]:
    """All strings of a module, with {} in place of what is filled in."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
        elif isinstance(node, ast.JoinedStr):
            found.append("".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values))
    return found


def test_the_table_is_read() -> None:
    assert len(ROWS) > 60
    assert all(len(row) == 4 and all(row) for row in ROWS), [row for row in ROWS if len(row) != 4]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_modules_exist_and_contain_what_is_quoted(row: list[str]) -> None:
    named = [module(name) for name in re.findall(r"`([\w/]+\.py)`", row[3])]
    assert named
    assert all(path.is_file() for path in named), named
    known = [text for path in named for text in texts(path)]
    for quoted in re.findall(r'"([^"]+)"', re.sub(r"`[^`]*`", "", row[2])):
        pattern = re.compile(".*".join(map(re.escape, quoted.split("…"))), re.DOTALL)
        assert any(pattern.search(text) for text in known), f"no {quoted!r} in {row[3]}"


def test_what_says_nothing_has_a_reason() -> None:
    for row in ROWS:
        said = re.sub(r'"[^"]+"', "", row[2])
        assert "nothing" not in said or re.search(r"nothing(:| for| up to| until| but| at)", said), row
