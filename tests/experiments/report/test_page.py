"""The HTML page: self-contained, complete, and with valid structure."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from experiments import report
from experiments.training.files import write_json
from tests.experiments.report.test_overview import runs as several_tasks
from tests.helpers.report_runs import GROUP, PNG, hard, record, write_runs

STATUS = {"started": "2026-01-01T00:00:00+00:00", "overrides": ["seed=7"]}


class Page(HTMLParser):
    """All elements with their attributes and texts; asserts that every element is closed."""

    EMPTY = ("meta", "br", "img")

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path, self.open = path, [""]
        self.elements: list[tuple[str, dict[str, str | None], str]] = []
        self.text = path.read_text(encoding="utf-8")
        self.feed(self.text)
        self.close()
        assert self.open == [""]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))
        if tag not in self.EMPTY:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs), ""))

    def handle_data(self, data: str) -> None:
        tag, attrs, text = self.elements[-1] if self.elements else ("", {}, "")
        self.elements[-1:] = [(tag, attrs, text + data)]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return [text.strip() for name, _, text in self.elements if name == tag]


def made(folder: Path) -> Page:
    report.main([str(folder), "--html", str(folder / "out" / "page.html")])
    return Page(folder / "out" / "page.html")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    """A page of two groups, one with two seeds of kd and HARD."""
    folder = tmp_path_factory.mktemp("page")
    both = [record(seed=seed) for seed in (0, 1)] + [hard(0), hard(1, 0.9)]
    return made(write_runs(folder, *both, record(group={**GROUP, "steps": 200, "note": "ü <b>"})))


def test_the_page_is_self_contained(page: Page) -> None:
    assert "http" not in page.text.replace("http://www.w3.org/", "")
    assert not page.all("link")
    assert not page.all("script")
    assert {"charset": "utf-8"} in page.all("meta")
    assert "prefers-color-scheme: dark" in page.text
    sources = [str(image["src"]) for image in page.all("img")]
    assert [base64.b64decode(source.removeprefix("data:image/png;base64,")) for source in sources] == [PNG, PNG]


def test_sections_are_listed_and_linked(page: Page) -> None:
    targets = [section["id"] for section in page.all("section")]
    links = [str(link["href"]) for link in page.all("a")]
    assert targets == ["group-1", "group-2"]
    assert links == ["page.csv", "page.json", "#group-1", "#group-2"]
    assert all((page.path.parent / name).is_file() for name in links[:2])
    assert page.texts("h2") == ["mnist5k, shift, MLPStudent, 100 steps", "mnist5k, shift, MLPStudent, 200 steps"]
    assert page.texts("strong")[0].startswith("Best on shifted: hard, 85.0 ± 7.1 %.")


def test_the_best_values_are_bold_and_text_is_escaped(page: Page) -> None:
    assert "85.0 ± 7.1" in page.texts("b")
    assert "**" not in page.text
    assert "\\u003cb\\u003e" in page.text or "&lt;b&gt;" in page.text
    assert "<b> " not in page.text


def test_tables_scroll_with_a_sticky_first_column(page: Page) -> None:
    scrolling = [attributes for attributes in page.all("div") if attributes.get("class") == "wide"]
    assert len(scrolling) == len(page.all("table")) > 4
    assert "th:first-child { position: sticky; left: 0" in page.text
    assert ".wide { overflow-x: auto" in page.text


def test_curves_are_drawn_with_a_legend(page: Page) -> None:
    named = [str(svg["aria-label"]) for svg in page.all("svg")]
    assert named.count("training loss, student steps") == 1
    assert "multiplier" not in page.text.replace("multiplier of the invariance", "")
    assert "Parameters and further scalars: 1 panels" in page.texts("summary")


def test_unfinished_runs_are_folded_at_the_end_without_mistyped_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_runs(tmp_path, record())
    error = {"type": "ValueError", "message": "batch_size=<script>: expected 1 to 3500", "discard": False}
    typo = {"type": "ValueError", "message": "no such key", "discard": True}
    for name, state, what in (
        ("a", "failed", error),
        ("b", "running", None),
        ("c", "stopped", None),
        ("t", "failed", typo),
    ):
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "status.json", {**STATUS, "state": state, "error": what})
    page = made(tmp_path)
    end = page.text.partition('<section id="unfinished">')[2]
    assert "3 without results" in end
    assert "<section" not in end
    for state, folder in (("failed", "a"), ("killed", "b"), ("stopped", "c")):
        assert f"<th>{state}</th>" in end
        assert str(tmp_path / folder) in end
    assert "&lt;script&gt;" in end
    assert str(tmp_path / "t") not in end
    assert "#unfinished" in page.text
    assert f"killed: {tmp_path / 'b'}" in capsys.readouterr().err


def test_a_page_of_unfinished_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_json(tmp_path / "a" / "status.json", {**STATUS, "state": "stopped", "error": None})
    page = made(tmp_path)
    assert page.texts("h2") == ["Unfinished runs"]


def test_an_overview_is_the_first_section_with_its_figure(tmp_path: Path) -> None:
    write_runs(tmp_path / "runs", *several_tasks())
    report.main([str(tmp_path / "runs"), "--json", str(tmp_path / "runs.json")])  # without folders, no students
    words = ["--overview", "--figures", "--html", str(tmp_path / "out" / "page.html")]
    report.main([str(tmp_path / "runs.json"), *words])
    page = Page(tmp_path / "out" / "page.html")
    assert [section["id"] for section in page.all("section")] == ["overview", "group-1", "group-2", "group-3"]
    assert page.texts("h2")[0] == "Overview of 3 tasks"
    assert "#overview" in [link["href"] for link in page.all("a")]
    assert page.texts("strong")[0].startswith("hard minus the best control of each task")
    assert str(page.all("svg")[0]["aria-label"]).startswith("gap to oracle closed, %")
    assert (tmp_path / "out" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert "Selected settings by task" in page.texts("summary")


ODD = "<script><b>&\"' $x$ [1] é 猫 \udc80 #?%\n|"


def test_names_with_any_character(tmp_path: Path) -> None:
    """In folders, files, rows, test sets, settings and titles, none of which may be HTML."""
    sets = {"clean": 0.9, ODD: 0.5}
    curve = [
        {"step": s, "evaluations": s, "seconds": s / 9, "accuracy": {"clean": 0.5 + s / 99, ODD: 0.4 + s / 99}}
        for s in (1, 9)
    ]
    odd = {"sets": list(sets), "main": ODD, "group": {**GROUP, "data": {"name": ODD}}}
    student = {"accuracy": sets, "curve": curve}
    made = [
        record(settings=[f"task.name={ODD}"], note=ODD, command=ODD, student=student),
        hard(row={"name": "hard", "note": ODD}, student=student),
        hard(1, row={"name": "hard", "note": "another"}, student=student),
    ]
    folder = write_runs(tmp_path / "a=[1] $x$ <b>&é", *({**one, **odd} for one in made))
    path = tmp_path / "out #é?<b>%" / "page 1 \udc80.html"
    report.main([str(folder), "--html", str(path), "--markdown"])
    page = Page(path)
    assert "<b>&" not in page.text
    assert not page.all("script")
    shown = ODD.replace("\udc80", "\\udc80").split("\n")[0]
    assert any(shown in head for head in page.texts("h2"))
    assert any(shown in str(svg["aria-label"]) for svg in page.all("svg"))
    assert all(
        (path.parent / unquote(str(link["href"]), errors="surrogateescape")).is_file() for link in page.all("a")[:2]
    )
    assert Page(path).text == page.text
