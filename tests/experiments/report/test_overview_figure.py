"""The figure of an overview: the expected best of several trials, and what is drawn."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from statistics import fmean

import matplotlib.image
import pytest

from experiments.report.groups import split
from experiments.report.overview import overview
from experiments.report.overview_figure import best_of, draw, draw_file, progress, svg
from tests.experiments.report.test_overview import of_task, runs, trial
from tests.helpers.report_runs import hard, record


def test_the_expected_best_is_the_mean_over_all_orders() -> None:
    values = [3.0, 9.0, 1.0, 4.0]  # of the trials from the best on validation images to the worst
    expected = [
        fmean(values[min(order[:count])] for order in permutations(range(len(values))))
        for count in range(1, len(values) + 1)
    ]
    assert best_of(values) == pytest.approx(expected)
    assert best_of(values)[0] == fmean(values)
    assert best_of(values)[-1] == values[0]
    assert best_of([]) == []


def test_the_points_by_hand() -> None:
    """Of the tasks whose gap is large enough, random closes 50 and 60 % at last, and 25 and 0 % by its other trials."""
    found = progress(overview(split(runs()))).set_index(["name", "trials"])
    assert found.closed["random"].to_dict() == pytest.approx({1: (37.5 + 30) / 2, 2: 55})
    assert found.evaluations["random"].to_dict() == {1: 1000, 2: 2000}
    assert found.closed["hard"].to_dict() == {1: 62.5}
    assert found.closed["kd"].to_dict() == {1: 0}
    assert "calibrated" not in found.index  # it has no task that counts
    assert set(found.tasks) == {2}


def test_of_settings_selected_elsewhere_the_end_is_known() -> None:
    some = [record(main=0.5), record("oracle", main=0.9), record("random", main=0.7, settings=["t=1"], trials=4)]
    found = progress(overview(split(of_task("turn", *some)))).set_index("name").loc["random"]
    assert (found.trials, found.evaluations) == (4, 4000)
    assert found.closed == pytest.approx(50)


def test_a_task_with_fewer_trials_keeps_its_last_value() -> None:
    ends = [record(main=0.5), record("oracle", main=0.9)]
    more = of_task("turn", *ends, trial(0, 0.7, 0.5), trial(1, 0.9, 0.6))
    found = progress(overview(split([*more, *of_task("shift", *ends, trial(0, 0.6, 0.5))])))
    random = found[found.name == "random"]
    assert random.closed.tolist() == pytest.approx([(75 + 25) / 2, (100 + 25) / 2])
    assert random.evaluations.tolist() == [1000, 1500]


def test_tuned_rows_are_curves_and_the_others_points_on_a_logarithmic_axis() -> None:
    short = [one for one in runs() if not (one["method"] == "random" and one["main"] == "shift")]
    (axes,) = draw(overview(split(short))).axes
    assert axes.get_xscale() == "log"
    lines = {str(line.get_label()): line for line in axes.lines if not str(line.get_label()).startswith("_")}
    assert list(lines) == ["oracle", "hard", "random (1 of 2 tasks)", "kd"]  # as high as they end
    assert list(lines["random (1 of 2 tasks)"].get_xdata()) == [0.001, 0.002]
    assert [len(lines[name].get_xdata()) for name in ("oracle", "hard", "kd")] == [1, 1, 1]
    low, high = axes.get_xlim()
    assert low < 0.001
    assert high > 0.002


def test_rows_with_any_name(tmp_path: Path) -> None:
    odd = [hard(row={"name": "hard", "note": note}) for note in ("$x_", "<b>&\udc80")]
    found = overview(split(of_task("turn", record(), record("oracle", main=0.9), *odd)))
    assert "hard (note=$x_)" in svg(found)
    draw_file(found, tmp_path / "overview.png")


def test_it_is_written_and_inlined(tmp_path: Path) -> None:
    found = overview(split(runs()))
    draw_file(found, tmp_path / "overview.png")
    assert matplotlib.image.imread(tmp_path / "overview.png").std() > 0.05
    text = svg(found)
    assert text.startswith("<svg ")
    assert 'aria-label="gap to oracle closed, %, network evaluations with all trials, millions"' in text


def test_without_a_task_that_counts_there_is_none(tmp_path: Path) -> None:
    found = overview(split([record(), hard()]))
    assert svg(found) == ""
    draw_file(found, tmp_path / "overview.png")
    assert not list(tmp_path.iterdir())
