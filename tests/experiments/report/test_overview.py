"""The overview of several tasks, with numbers that are checked by hand."""

from __future__ import annotations

from typing import Any

import pytest

from experiments.report.groups import split
from experiments.report.overview import Overview, overview
from tests.helpers.report_runs import GROUP, hard, record

Record = dict[str, Any]


def of_task(task: str, *records: Record, data: str = "mnist5k") -> list[Record]:
    """Return the records as runs of a task whose main test set has its name."""
    found = []
    for one in records:
        group = {**GROUP, "task": {"name": task}, "data": {"name": data}}
        accuracies = [one["student"], one["teacher"]]
        renamed = [{**part, "accuracy": _renamed(part["accuracy"], task)} for part in accuracies]
        found.append(
            {**one, "group": group, "main": task, "sets": ["clean", task], "student": renamed[0], "teacher": renamed[1]}
        )
    return found


def _renamed(accuracy: dict[str, float], task: str) -> dict[str, float]:
    return {task if name == "shifted" else name: value for name, value in accuracy.items()}


def trial(number: int, main: float, validation: float, seed: int = 0, **more: Any) -> Record:
    return record("random", seed, main, settings=[f"t={number}"], validation=(0.9, validation), **more)


def runs() -> list[Record]:
    """Three tasks: the oracle is 20, 10 and 2 points above kd, the teacher 40, 20 and 10."""
    one = [record("kd", main=0.5), record("oracle", main=0.7), hard(main=0.65), trial(0, 0.55, 0.5), trial(1, 0.6, 0.6)]
    two = [record("kd", main=0.7), record("oracle", main=0.8), hard(main=0.75), trial(0, 0.76, 0.9), trial(1, 0.7, 0.8)]
    three = [record("kd", main=0.8), record("oracle", main=0.82), hard(main=0.81), record("calibrated", main=0.83)]
    return [
        *of_task("turn_blur", *one),
        *of_task("shift", *two),
        *of_task("shift", *three, data="fashion_mnist"),
    ]


@pytest.fixture
def found() -> Overview:
    return overview(split(runs()))


def test_tasks_are_named_by_test_set_and_data_and_those_of_the_usual_data_are_first(found: Overview) -> None:
    assert list(found.groups) == ["shift", "turn blur", "fashion shift"]
    assert found.title == "Overview of 3 tasks"
    assert found.names == ["kd", "random", "calibrated", "oracle", "hard"]
    assert found.controls == ["random", "calibrated"]
    assert overview(split(runs()[:1])).title == "Overview of 1 task"


def test_the_first_table(found: Overview) -> None:
    cells = found.tables[0].cells
    assert cells.index.tolist() == found.names
    assert cells["turn blur"].tolist() == ["50.0", "60.0", "", "70.0", "**65.0**"]
    assert cells["shift"]["random"] == "**76.0**"
    assert cells["gap to oracle closed, %"].to_dict() == {
        "kd": "0.0",
        "random": "55.0",  # 50 and 60
        "calibrated": "",  # only where the gap is too small
        "oracle": "100.0",
        "hard": "**62.5**",  # 75 and 50
    }
    # 15 of 40, 5 of 20 and 1 of 10; the gap of 10 counts here
    assert cells["gap to teacher closed, %"]["hard"] == "24.2"
    assert cells["gap to teacher closed, %"]["calibrated"] == "**30.0**"
    assert cells["Δ oracle"].tolist() == ["-10.7", "-7.0", "+1.0", "+0.0", "-3.7"]
    assert cells["teacher consistency, %"].tolist() == ["", "", "", "", "75"]
    assert cells["evaluations with all trials, millions"].tolist() == ["0.001", "0.002", "0.001", "0.001", "0.002"]
    assert cells["trials"].tolist() == ["1", "2", "1", "1", "1"]
    assert cells["tasks"].tolist() == ["3", "2", "1", "3", "3"]


def test_the_caption_says_what_counts(found: Overview) -> None:
    caption = found.tables[0].caption
    assert (
        "mean over the 2 of 3 tasks with a teacher that knows the invariance and an oracle at least 5 points above kd"
        in caption
    )
    assert "likewise for the teacher (3 of 3)" in caption
    assert "seeds (0)" in caption
    assert "select_on=main" in caption
    assert caption.endswith("Where a row lacks tasks, its means are over those that it has.")


def test_the_references_and_the_folded_tables_by_task(found: Overview) -> None:
    references, closed, selected = found.tables[1:]
    assert references.cells.loc["fashion shift"].to_dict() == {
        "teacher": "90.0",
        "kd": "80.0",
        "oracle": "82.0",
        "kd to oracle": "2.0",
        "kd to teacher": "10.0",
    }
    assert closed.cells.columns.tolist() == ["shift", "turn blur"]
    assert closed.cells.loc["hard"].tolist() == ["50", "75"]
    assert selected.cells["random"].to_dict() == {"shift": "t=0", "turn blur": "t=1", "fashion shift": ""}
    assert closed.folded
    assert selected.folded


def test_the_verdict_compares_with_the_best_control_of_each_task(found: Overview) -> None:
    best, calibrated, *randoms, kd = found.verdict.split(" hard minus ")
    assert all(one.startswith("random") for one in randoms)
    assert best == (
        "hard minus the best control of each task (by its test accuracy, which favours it): +0.7 points in the mean of "
        "3 tasks, smallest -2.0 (fashion shift, calibrated)."  # +5, -1, -2
    )
    assert calibrated == "calibrated: -2.0 points in the mean of 1 tasks, smallest -2.0 (fashion shift)."
    assert kd == "kd: +7.0 points in the mean of 3 tasks, smallest +1.0 (fashion shift)."
    assert overview(split([record()])).verdict == ""


def test_differences_are_paired_by_seed_and_a_trial_on_one_seed_is_not_put_at_a_disadvantage() -> None:
    """In seed 1 all accuracies are lower by 10 points."""
    both = [make(seed=seed, main=main - seed / 10) for make, main in ((record, 0.5), (hard, 0.65)) for seed in (0, 1)]
    both += [record("oracle", seed, 0.7 - seed / 10) for seed in (0, 1)]
    both += [trial(0, 0.62, 0.8), trial(0, 0.52, 0.1, seed=1), trial(1, 0.6, 0.7)]
    found = overview(split(of_task("turn", *both)))
    trials = found.trials.set_index(["name", "settings"])
    assert trials.to_oracle["random"].tolist() == pytest.approx([60, 50])
    assert trials["rank"]["random"].tolist() == [0, 1]  # compared on seed 0, which both have
    assert found.tables[0].cells["turn"].tolist() == ["45.0 ± 7.1", "57.0 ± 7.1", "65.0 ± 7.1", "**60.0 ± 7.1**"]
    assert "+3.0 points in the mean of 1 tasks" in found.verdict
    one = overview(
        split(of_task("turn", *both[:5], both[-1]))
    )  # seed 1 of the oracle, and the first trial, are missing
    assert one.trials.set_index("name").to_oracle.to_dict() == pytest.approx(
        {"kd": 0, "hard": 75, "oracle": 100, "random": 50}
    )


def test_the_cost_of_all_trials_where_only_their_number_is_known() -> None:
    elsewhere = record("random", main=0.6, settings=["t=1"], trials=4)
    chosen = overview(split(of_task("turn", record(), elsewhere))).chosen.set_index("name")
    assert chosen.total.to_dict() == {"kd": 1000, "random": 4000}


def test_unknown_references_leave_blanks() -> None:
    found = overview(split(of_task("turn", hard())))
    assert "gap to oracle closed, %" not in found.tables[0].cells
    assert "Δ oracle" not in found.tables[0].cells
    assert found.counted("to_oracle") == []
    assert found.tables[1].cells.loc["turn"].tolist() == ["90.0", "", "", "", ""]
    with pytest.raises(ValueError, match="--overview: no finished runs"):
        overview([])


def test_a_row_has_one_name_in_all_tasks() -> None:
    """Also in a task in which it is the only one of its method, as long as a sweep is under way."""
    several = of_task("turn", hard(), hard(policy="Search"))
    found = overview(split([*several, *of_task("shift", hard(policy="Search"))]))
    assert found.names == ["hard (policy=Gaussian)", "hard (policy=Search)"]
    assert found.tables[0].cells["shift"].tolist() == ["", "80.0"]


def test_csv_has_a_line_for_each_task_and_row(found: Overview) -> None:
    table = found.csv().set_index(["task", "name"])
    assert len(table) == 12
    line = table.loc["shift", "random"]
    expected = {"accuracy": 76, "kd": 70, "oracle": 80, "teacher": 90, "to_oracle": 60, "total": 2000, "tried": 2}
    assert dict(line[list(expected)]) == pytest.approx(expected)
    assert line.settings == "t=0"
    assert line.seeds == "0"
