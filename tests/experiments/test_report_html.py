"""The HTML page: self-contained, complete, and with errors for missing or invalid files."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from experiments import report
from experiments.report import panels
from experiments.report.curves import FIXED, mean_of, styles, svg
from experiments.report.runs import curves
from experiments.report.summary import summarise
from experiments.report.tables import cells
from experiments.runs.status import write_json
from tests.helpers.report_runs import PNG, corrupted, results, write_run


class Page(HTMLParser):
    """All elements with their attributes; asserts that every element is closed."""

    EMPTY = ("meta", "br", "img")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def made(tmp_path: Path, *more: str) -> tuple[str, Page]:
    report.main([str(tmp_path / "runs"), "--html", str(tmp_path / "out" / "report.html"), *more])
    text = (tmp_path / "out" / "report.html").read_text()
    return text, Page(text)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page, dict[str, Any]]:
    """The page and the JSON of two seeds."""
    folder = tmp_path_factory.mktemp("whole")
    for seed in (0, 1):
        write_run(folder / "runs" / f"seed{seed}", results(seed, shifted=0.8 + seed / 10))
    command = "python -m experiments.train sweep=seeds"
    text, page = made(folder, "--command", command, "--json", str(folder / "out.json"))
    return text, page, json.loads((folder / "out.json").read_text())


def plain(seed: int, *, steps: int = 100) -> dict[str, Any]:
    """Results without curves and trials."""
    metrics = results(seed, steps=steps)
    for row in metrics["students"].values():
        del row["curve"]
    del metrics["trials"], metrics["students"]["hard"]["trials"]
    return metrics


@pytest.fixture
def two_seeds(tmp_path: Path) -> Path:
    """A folder of two runs without curves and figures."""
    for seed in (0, 1):
        (tmp_path / "runs" / f"seed{seed}").mkdir(parents=True)
        write_json(tmp_path / "runs" / f"seed{seed}" / "metrics.json", plain(seed))
    return tmp_path


def test_the_page_is_self_contained(whole: tuple[str, Page, dict[str, Any]]) -> None:
    text, page, _ = whole
    assert "http" not in text.replace("http://www.w3.org/", "")
    assert not page.of("link")
    assert not page.of("script")
    sources = [str(image["src"]) for image in page.of("img")]
    assert len(sources) == 6  # three figures of each seed
    for source in sources:
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")) == PNG
    assert "85.0 ± 7.1" in text
    assert "python -m experiments.train sweep=seeds" in text
    assert "prefers-color-scheme: dark" in text
    assert "width=device-width" in text


def test_curves_are_drawn_once_for_each_scalar_set_and_cost(whole: tuple[str, Page, dict[str, Any]]) -> None:
    _, page, _ = whole
    labels = [str(element["aria-label"]) for element in page.of("svg")]
    assert labels.count("loss") == labels.count("policy/shear_sd") == 2  # of the rows, and of hard's trials
    assert labels.count("clean, accuracy in %") == labels.count("shifted, accuracy in %") == 3
    assert len(labels) == 10


@pytest.mark.slow
def test_selected_trials_are_shown_and_all_trials_are_collapsed(tmp_path: Path) -> None:
    for seed in (0, 1):
        write_run(tmp_path / "runs" / str(seed), corrupted(seed))
        for number, loss in ((0, 5.0), (1, 7.0)):  # seed 0 selects the first one, seed 1 the second
            path = tmp_path / "runs" / str(seed) / "curves" / "hard" / f"{number}.csv"
            path.write_text(f"step,name,value\n10,loss,{loss}\n20,loss,{loss}\n")
    members = report.group(report.find([tmp_path / "runs"]))[0]
    own, others = panels._scalars(members)
    assert list(own["loss"]) == ["augmix", "cutmix", "hard", "kd", "oracle", "supervised"]
    assert own["loss"]["hard"] == [[(10, 10, 5.0), (20, 20, 5.0)], [(10, 10, 7.0), (20, 20, 7.0)]]
    assert sorted(others) == ["hard", "kd"]
    assert sorted(others["hard"]["loss"]) == ["0", "1"]
    text, page = made(tmp_path)
    opened, _, folded = text.partition("<summary>Accuracy on each test set")
    assert opened.count('aria-label="clean, accuracy in %"') == 3
    assert 'aria-label="corrupted/fog' not in opened
    assert folded.count('aria-label="corrupted/fog, accuracy in %"') == 3
    assert "Curves of all trials of hard: 1" in folded
    assert ">transform=filter</span>" in folded
    assert "hard/0" not in text
    assert "Learned augmentation distribution by seed" in text
    assert len(page.of("svg")) == 6 + 6 + 1 + 1 + 1 + 2  # open and folded sets; loss, shear; hard's, and both of kd's


def test_thirteen_rows_look_different() -> None:
    names = ["supervised", "kd", "oracle", "random", "hard", *map(str, range(19))]
    found = styles(names)
    assert len(set(found.values())) == len(names)
    assert found["hard"] == FIXED["hard"]
    assert [name for name in names if found[name].highlighted] == ["hard"]


def test_figures_of_other_seeds_are_collapsed(whole: tuple[str, Page, dict[str, Any]]) -> None:
    text, _, _ = whole
    assert "<h3>Figures, seed 0</h3>" in text
    assert "<summary>Figures, seed 1</summary>" in text


def test_trials_are_listed_with_every_setting(whole: tuple[str, Page, dict[str, Any]]) -> None:
    text, _, figures = whole
    assert "augmenter.learning_rate=0.02" in text
    summary = figures["groups"][0]
    assert summary["trials"]["hard"][1]["validation"] == {"mean": 55.0, "sd": 7.07, "values": [50.0, 60.0]}
    head, rows = cells(summary)
    assert [row[head.index("trials")] for row in rows] == ["", "1", "2"]


def test_groups_list_their_differences(two_seeds: Path) -> None:
    (two_seeds / "runs" / "longer").mkdir()
    write_json(two_seeds / "runs" / "longer" / "metrics.json", plain(0, steps=900))
    text, page = made(two_seeds)
    assert len(page.of("section")) == 2
    assert "steps=900" in text
    assert "steps=100<" in text


def test_failed_and_unfinished_runs_are_listed_and_escaped(two_seeds: Path, capsys: pytest.CaptureFixture[str]) -> None:
    error = {"type": "ValueError", "message": "batch_size=<script>alert(1)</script>: expected 1 to 3500"}
    for state in ("failed", "running", "stopped"):
        (two_seeds / "runs" / state).mkdir()
        one = {
            "state": state,
            "started": "2026-01-01",
            "overrides": ["seed=7"],
            "error": error if state[0] == "f" else None,
        }
        write_json(two_seeds / "runs" / state / "status.json", one)
    text, page = made(two_seeds, "--json", str(two_seeds / "out.json"))
    printed = capsys.readouterr().out
    assert "3 runs without results" in printed
    assert f"failed | {two_seeds}/runs/failed | seed=7 | ValueError: batch_size=" in printed
    assert "3 runs without results" in text
    assert "running or killed" in text
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert [one["state"] for one in json.loads((two_seeds / "out.json").read_text())["unfinished"]] == [
        "failed",
        "running",
        "stopped",
    ]
    assert len(page.of("section")) == 2


def test_a_sweep_without_finished_runs_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    write_json(tmp_path / "runs" / "a" / "status.json", {"state": "running", "started": "2026-01-01", "overrides": []})
    text, _ = made(tmp_path)
    assert "0 configurations, 1 run without results" in text


def test_an_empty_folder_and_invalid_results_raise(two_seeds: Path) -> None:
    with pytest.raises(SystemExit, match=r"no metrics\.json below"):
        report.main([str(two_seeds / "nothing")])
    for content, message in (
        ("{", "is not valid JSON"),
        ("[]", "has no teacher"),
        ('{"seed": 1}', "has no teacher, stu"),
    ):
        (two_seeds / "runs" / "seed1" / "metrics.json").write_text(content)
        with pytest.raises(SystemExit, match=rf"seed1/metrics\.json {message}"):
            report.main([str(two_seeds / "runs")])


def test_a_run_without_curves_and_figures_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    write_json(tmp_path / "runs" / "a" / "metrics.json", plain(0))
    text, page = made(tmp_path)
    assert not page.of("svg")
    assert not page.of("img")
    assert "<h3>" not in text
    assert "trials" not in cells(summarise([plain(0)]))[0]


def test_curves_of_a_killed_and_resumed_run(tmp_path: Path) -> None:
    """A repeated step, a last line that was cut off, and a non-finite loss."""
    (tmp_path / "curves" / "hard").mkdir(parents=True)
    text = "step,name,value,wall\n10,loss,5\n20,loss,4\n20,loss,3\n30,loss,nan\n40,loss,2\n50,lo"
    (tmp_path / "curves" / "hard" / "1.csv").write_text(text)
    assert curves(tmp_path) == {"hard/1": {"loss": [(10.0, 5.0), (20.0, 3.0), (40.0, 2.0)]}}
    (tmp_path / "curves" / "hard" / "1.csv").write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"1\.csv has the columns \['a', 'b'\]: expected step, name and value"):
        curves(tmp_path)


def test_seeds_are_averaged_step_by_step() -> None:
    """Averaged by step, not by x: seconds differ between seeds."""
    x, mean, deviation = mean_of([[(1, 1, 2.0), (2, 2, 4.0), (3, 3, 9.0)], [(1, 1, 4.0), (2, 2, 4.0)]])
    assert x.tolist() == [1, 2]
    assert mean.tolist() == [3.0, 4.0]
    assert deviation.tolist() == pytest.approx([2**0.5, 0.0])
    x, mean, _ = mean_of([[(1, 1.0, 2.0), (2, 2.0, 4.0)], [(1, 2.0, 4.0), (2, 4.0, 8.0)]])
    assert x.tolist() == pytest.approx([1.5, 3.0])
    assert mean.tolist() == [3.0, 6.0]
    x, mean, _ = mean_of([[(1, 1.0, 2.0), (3, 2.0, 4.0)], [(2, 1.2, 4.0)]])  # no common step
    assert x.tolist() == pytest.approx([1.1])
    with pytest.raises(ValueError, match="has no points"):
        mean_of([[(1, 1, 1.0)], []])


def test_a_panel_is_deterministic_and_uses_the_page_s_text_colour() -> None:
    both = styles(["kd", "hard"])
    lines = [(both["kd"], [[(1, 1, 2.0), (2, 2, 3.0)]]), (both["hard"], [[(1, 1, 1.0), (2, 2, 1.0)]])]
    drawn = svg(lines, title='a "b" <c> & d', x_label="steps")
    assert svg(lines, title='a "b" <c> & d', x_label="steps") == drawn
    root = ElementTree.fromstring(drawn)
    assert root.get("aria-label") == 'a "b" <c> & d'
    assert root.get("width") is None
    assert root.get("viewBox")
    assert "currentColor" in drawn
    assert "#010203" not in drawn
    assert "#000000" not in drawn
