"""The command, and the committed results."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pandas as pd
import pytest

from experiments import report
from experiments.report.groups import split
from experiments.report.records import gather
from tests.experiments.report.test_overview import runs as several_tasks
from tests.helpers.report_runs import hard, record, write_runs

RESULTS = Path(report.__file__).parents[1] / "results"
#: They have no trained students.
OTHER = ("kill_test.json", "kill_test_sweep.json", "generative_spurious.json")
FILES = sorted(path.name for path in RESULTS.glob("*.json") if path.name not in OTHER)


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("|")]


def test_json_gives_the_same_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path / "runs", record(), record(seed=1), hard(), hard(seed=1, policy="Search"))
    report.main(
        [str(tmp_path / "runs"), "--markdown", "--json", str(tmp_path / "out" / "a.json"), "--command", "train x"]
    )
    before = capsys.readouterr().out
    report.main([str(tmp_path / "out" / "a.json"), "--markdown", "--json", str(tmp_path / "b.json")])
    after = capsys.readouterr().out
    assert lines(after) == lines(before)
    assert len(lines(before)) == 18
    assert "`train x`" in after
    assert (tmp_path / "b.json").read_bytes() == (tmp_path / "out" / "a.json").read_bytes()


def test_folders_and_files_are_one_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(write_runs(tmp_path / "a", record(main=0.4))), "--json", str(tmp_path / "a.json")])
    report.main([str(tmp_path / "a.json"), str(write_runs(tmp_path / "b", record(seed=1, main=0.6))), "--markdown"])
    assert "| kd | 90.0 ± 0.0 | 50.0 ± 14.1 |" in capsys.readouterr().out


def test_csv(tmp_path: Path) -> None:
    report.main([str(write_runs(tmp_path, record(), hard())), "--csv", str(tmp_path / "runs.csv")])
    table = pd.read_csv(tmp_path / "runs.csv", encoding="utf-8")
    assert table.name.tolist() == ["kd", "kd", "hard", "hard"]
    assert table.set.tolist() == ["clean", "shifted"] * 2
    assert table.accuracy.tolist() == pytest.approx([90, 50, 90, 80])


def test_select_writes_by_the_given_rule(tmp_path: Path) -> None:
    values = [("t=1", (0.9, 0.1)), ("t=2", (0.1, 0.8))]
    write_runs(tmp_path / "runs", *(record(settings=[s], validation=v) for s, v in values))
    for rule, best in (("clean", "t=1"), ("main", "t=2")):
        report.main([str(tmp_path / "runs"), "--select", str(tmp_path / "chosen.yaml"), "--select-on", rule])
        text = (tmp_path / "chosen.yaml").read_text(encoding="utf-8")
        assert text.endswith(f"kd:\n  settings:\n  - {best}\n  trials: 2\n")
        assert f"select_on={rule}" in text
        assert str(tmp_path / "runs") in text


def test_pivot_lists_the_other_methods(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path, record(), hard(), hard(policy="Search"))
    report.main([str(tmp_path), "--markdown", "--pivot", "augmenter.objective", "augmenter.policy"])
    printed = capsys.readouterr().out
    assert "|  | Gaussian | Search |" in printed
    assert "| KL | 80.0 | 80.0 |" in printed
    assert "| kd | 90.0 | 50.0" in printed
    assert "| hard" not in printed


def test_an_overview_is_one_table_of_all_tasks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_runs(tmp_path / "runs", *several_tasks())
    files = [f"--{kind}={tmp_path / f'out.{kind}'}" for kind in ("json", "csv")]
    report.main([str(tmp_path / "runs"), "--overview", "--markdown", *files, "--command", "train x"])
    before = capsys.readouterr().out
    assert before.startswith("## Overview of 3 tasks\n\n**hard minus the best control of each task")
    assert before.count("## ") == 1
    assert "|  | shift | turn blur | fashion shift | gap to oracle closed, % |" in before
    assert pd.read_csv(tmp_path / "out.csv", encoding="utf-8").task.value_counts().to_dict() == {
        "shift": 4,
        "turn blur": 4,
        "fashion shift": 4,
    }
    report.main([str(tmp_path / "out.json"), "--overview", "--markdown"])
    after = capsys.readouterr().out
    assert lines(after) == lines(before)
    assert "`train x`" in after


def test_the_terminal_shows_no_folded_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report.main([str(write_runs(tmp_path, *(record(settings=[s], validation=(0.5, 0.5)) for s in ("t=1", "t=2"))))])
    printed = capsys.readouterr().out
    assert "50.0" in printed
    assert "t=1" not in printed


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["typo"], "typo: no such file or folder"),
        ([str(RESULTS / "kill_test.json")], "has no runs and configs"),
        ([str(RESULTS / "digits.json"), "--figures"], "--figures are shown on a page; add --html report.html"),
        ([str(RESULTS / "digits.json"), str(RESULTS / "fashion.json"), "--select", "x.yaml"], "3 configurations"),
        (
            [str(RESULTS / "digits.json"), "--overview", "--pivot", "a", "b"],
            "--overview and --pivot are different tables",
        ),
        ([str(RESULTS / "digits.json"), "--pivot", "typo", "policy"], "no row of hard has typo and policy"),
    ],
)
def test_errors_are_one_line(words: list[str], complaint: str) -> None:
    with pytest.raises(SystemExit, match=re.escape(complaint)) as caught:
        report.main(words)
    assert str(caught.value).startswith("error: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", FILES)
def test_committed_results_are_read(name: str) -> None:
    groups = split(gather([RESULTS / name]))
    assert groups
    for group in groups:
        assert group.main in group.sets
        assert group.chosen.accuracy[group.chosen.set == group.main].between(0, 100).all()
        assert group.rows(without=())


def commands() -> dict[str, list[list[str]]]:
    """Return the documented commands by the file that they write."""
    found: dict[str, list[list[str]]] = {}
    for command, target in re.findall(r"python -m experiments.report (.*) >+ (.*)", report.__doc__ or ""):
        found.setdefault(target, []).append(shlex.split(command))
    return found


@pytest.mark.parametrize("target", ["report.md", "ablation.md"])
def test_committed_tables_are_those_of_the_documented_commands(
    target: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(RESULTS)
    for words in commands()[target]:
        report.main(words)
    assert capsys.readouterr().out == (RESULTS / target).read_text(encoding="utf-8")
