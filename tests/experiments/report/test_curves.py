"""Curves as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from experiments.report.curves import HIGHLIGHT, panels, style
from experiments.report.groups import Group, split
from experiments.report.records import gather
from tests.helpers.report_runs import hard, record, write_runs


def labels(drawn: list[str]) -> list[str]:
    return [ElementTree.fromstring(svg).attrib["aria-label"] for svg in drawn]


def group(folder: Path, *records: dict[str, Any]) -> Group:
    return split(gather([write_runs(folder, *records)]))[0]


@pytest.fixture
def drawn(tmp_path: Path) -> dict[str, list[str]]:
    return panels(group(tmp_path, record(), hard(), hard(seed=1)))


def test_panels_have_titles_with_units_and_costs(drawn: dict[str, list[str]]) -> None:
    assert labels(drawn[""]) == [
        "accuracy on shifted, %, student steps",
        "accuracy on shifted, %, network evaluations",
        "accuracy on shifted, %, seconds",
        "training loss, student steps",
        "teacher consistency, %, student steps",
    ]  # the multiplier and the accuracy on clean images are constant
    assert labels(drawn["Parameters and further scalars"]) == ["std of translation x, fraction of width, student steps"]
    assert list(drawn) == ["", "Parameters and further scalars"]


def test_svgs_use_the_pages_colours_and_are_reproducible(drawn: dict[str, list[str]], tmp_path: Path) -> None:
    assert all("currentColor" in svg and "#000000" not in svg for svg in drawn[""])
    assert HIGHLIGHT in drawn[""][0]
    assert "<metadata" not in drawn[""][0]
    assert panels(group(tmp_path / "again", record(), hard(), hard(seed=1))) == drawn


def test_single_points_and_constants_are_not_drawn(tmp_path: Path) -> None:
    one = hard(student={"curve": hard()["student"]["curve"][:1]})
    folder = write_runs(tmp_path, one)
    (folder / "0-hard" / "curves.csv").write_text("step,name,value\n10,loss,1\n10,x,1\n20,x,1\n", encoding="utf-8")
    assert panels(split(gather([folder]))[0]) == {}


def test_killed_runs_repeat_steps_and_cut_lines(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, hard(student={"curve": []}))
    lines = "step,name,value\n10,loss,9\n10,loss,1\n20,loss,1\n30,loss,nan\n40,loss,inf\n50,lo"
    (folder / "0-hard" / "curves.csv").write_text(lines, encoding="utf-8")
    assert panels(split(gather([folder]))[0]) == {}  # with the first value of step 10 it would not be constant


def test_other_columns_raise(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, hard())
    (folder / "0-hard" / "curves.csv").write_text("step,loss\n1,2\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"curves.csv has the columns step, loss; expected step, name, value"):
        panels(split(gather([folder]))[0])


def test_rows_look_different() -> None:
    names = ["kd", "random", "hard (policy=A)", "hard (policy=B)", *map(str, range(14))]
    looks = [style(name, names) for name in names]
    assert len({tuple(look.values()) for look in looks}) == len(names)
    assert [name for name, look in zip(names, looks, strict=True) if look["color"] == HIGHLIGHT] == names[2:4]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b'step,name,value\n1,"loss'])
def test_a_damaged_file_of_curves_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_runs(tmp_path, hard())
    (folder / "0-hard" / "curves.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"0-hard/curves\.csv can't be read .*remove it"):
        panels(split(gather([folder]))[0])
