"""Formatting of numbers, the best of a column, and Markdown."""

from __future__ import annotations

import pandas as pd
import pytest

from experiments.report.cells import Table, bold, millions, spread


def test_mean_and_sample_standard_deviation() -> None:
    assert spread([1.0, 2.0, 3.0]) == "2.0 ± 1.0"
    assert spread([2.0, float("nan")]) == "2.0"
    assert spread([]) == ""
    assert spread([1.26], 1, sign=True) == "+1.3"
    assert spread([-0.01, -0.02], sign=True) == "+0.0 ± 0.0"


@pytest.mark.parametrize(
    ("value", "text"),
    [(960_000, "0.960"), (1_280_000, "1.28"), (25_600_000, "25.6"), (512e6, "512"), (float("nan"), "")],
)
def test_millions_have_three_digits(value: float, text: str) -> None:
    assert millions([value]) == text


def test_the_best_of_the_compared_rows_is_bold_and_ties_are() -> None:
    mean = pd.DataFrame({"a": [99.0, 80.04, 80.0, 70.0], "b": [9.0, 5.0, 5.0, 5.0]}, index=["oracle", "kd", "x", "y"])
    text = mean.map("{:.1f}".format)
    found = bold(text, mean, ["kd", "x", "y"])
    assert found.a.tolist() == ["99.0", "**80.0**", "**80.0**", "70.0"]
    assert found.b.tolist() == text.b.tolist()  # all are equal
    assert bold(text, mean, ["kd", "x", "y"], lowest=True).a.tolist() == ["99.0", "80.0", "80.0", "**70.0**"]


def test_markdown_escapes_bars_and_folds() -> None:
    cells = pd.DataFrame({"x|y": ["1"]}, index=["a|b"])
    assert Table("A caption.", cells).markdown() == "A caption.\n\n|  | x\\|y |\n| --- | --- |\n| a\\|b | 1 |"
    folded = Table("A caption.", cells, folded=True).markdown()
    assert folded.startswith("<details><summary>A caption.</summary>\n\n|")
    assert Table("A caption.", cells).plain() == "A caption.\n\n    x|y\na|b   1"
