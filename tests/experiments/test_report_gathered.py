"""Tables from JSON files, without their runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments import report
from tests.helpers.report_runs import corrupted, results, write_run

RESULTS = Path(report.__file__).parents[1] / "results"
COMMAND = "python -m experiments.train sweep=seeds"


@pytest.fixture
def gathered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[Path, str]:
    """The JSON file of two groups with two seeds each, and the output of the command that wrote it."""
    for seed in (0, 1):
        write_run(tmp_path / "runs" / f"toy{seed}", results(seed))
        write_run(tmp_path / "runs" / f"corrupted{seed}", corrupted(seed))
    report.main([str(tmp_path / "runs"), "--markdown", "--json", str(tmp_path / "all.json"), "--command", COMMAND])
    return tmp_path / "all.json", capsys.readouterr().out


@pytest.mark.slow
def test_the_file_gives_the_same_tables(
    gathered: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, before = gathered
    report.main(
        [str(file), "--markdown", "--html", str(tmp_path / "page.html"), "--json", str(tmp_path / "again.json")]
    )
    after = capsys.readouterr().out

    def rows(printed: str) -> list[str]:
        return [line for line in printed.splitlines() if line.startswith("|")]

    assert rows(after) == rows(before)
    assert len(rows(after)) > 20
    assert after.count(f"`{COMMAND}`") == 2
    page = (tmp_path / "page.html").read_text()
    assert page.count(f"<code>{COMMAND}</code>") == 2
    assert "<td>hard</td>" in page
    assert "<img" not in page
    assert page.count('aria-label="corrupted, accuracy in %"') == 3  # against steps, evaluations and seconds
    once, twice = (json.loads(path.read_text())["groups"] for path in (file, tmp_path / "again.json"))
    assert [{**group, "command": COMMAND} for group in once] == twice


@pytest.mark.slow
def test_runs_and_files_in_one_page(gathered: tuple[Path, str], tmp_path: Path) -> None:
    file, _ = gathered
    write_run(tmp_path / "longer", results(0, steps=200))
    report.main([str(tmp_path / "longer"), str(file), "--html", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert page.count("<section>") == 3
    assert page.count("<img") == 3  # figures of the run
    assert page.count('aria-label="loss"') == 2  # its row's, and those of its trials


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "was not written by python -m experiments.report --json"),
        ('{"digits": {}}', "was not written by python -m experiments.report --json"),
        ("[]", "was not written by python -m experiments.report --json"),
        ('{"groups": [{"data": "mnist5k"}]}', "is of an older version without accuracy, best_baseline, config"),
    ],
)
def test_invalid_files_raise(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "some.json").write_text(text)
    with pytest.raises(SystemExit, match=f"some.json {complaint}"):
        report.main([str(tmp_path / "some.json")])


def test_the_report_of_the_measured_results_matches_their_files(capsys: pytest.CaptureFixture[str]) -> None:
    command = next(
        line for line in (RESULTS.parent / "README.md").read_text().splitlines() if line.endswith("> report.md")
    )
    names = [word for word in command.split() if word.endswith(".json")]
    report.main([*(str(RESULTS / name) for name in names), "--markdown"])
    assert capsys.readouterr().out == (RESULTS / "report.md").read_text()
    assert {"toy_shift.json", "toy_rotation.json", "fashion_robust.json", "convergence.json"} <= set(names)
