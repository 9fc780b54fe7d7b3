"""The report's tables: costs, the best baseline and the cost to reach it, selected trials and the selection rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import report
from experiments.report.captions import caption, distinguish, task, teacher_training
from experiments.report.figures import millions
from experiments.report.runs import HELD_OUT, find
from experiments.report.summary import summarise
from experiments.report.tables import cells, tables
from tests.helpers.report_runs import corrupted, results, write_json_in


@pytest.fixture
def summary() -> dict[str, Any]:
    """A summary of two seeds that select different trials of hard."""
    return summarise([corrupted(0), corrupted(1)])


def table(summary: dict[str, Any], start: str) -> dict[str, dict[str, str]]:
    """Return the table whose title starts with `start`, by row and column."""
    (found,) = [one for one in tables(summary) if one.title.startswith(start)]
    return {row[0]: dict(zip(found.head[1:], row[1:], strict=True)) for row in found.rows}


def test_the_table_of_costs(summary: dict[str, Any]) -> None:
    assert summary["evaluations"]["hard"] == {"mean": 12 * 400 * 64, "sd": 0, "values": [307200, 307200]}
    costs = table(summary, "Training cost of one student")
    assert costs["kd"] == {
        "evaluations, millions": "0.102",
        "evaluations relative to KD": "1.00",
        "seconds": "24.0 ± 11.3",
        "time relative to KD": "1.00",
    }
    assert costs["hard"]["evaluations, millions"] == "0.307"
    assert costs["hard"]["evaluations relative to KD"] == "3.00"
    assert "teacher" not in costs


@pytest.mark.parametrize(
    ("mean", "sd", "shown"),
    [(384_000, 0, "0.384"), (1_152_000, 2_000, "1.15"), (1_152_000, 20_000, "1.15 ± 0.02"), (307_200_000, None, "307")],
)
def test_millions_are_formatted_with_three_digits(mean: float, sd: float | None, shown: str) -> None:
    assert millions({"mean": mean, "sd": sd}) == shown


def test_the_best_baseline_of_each_test_set(summary: dict[str, Any]) -> None:
    """Neither supervised, the best on clean images, nor the oracle, the best on corrupted ones."""
    best = summary["best_baseline"]
    assert {key: one["row"] for key, one in best.items()} == {"clean": "cutmix", "corrupted": "augmix"}
    assert best["clean"]["hard_minus"]["values"] == [5.0, -5.0]
    assert best["corrupted"]["hard_minus"]["values"] == [20.0, 20.0]
    shown = table(summary, "The best baseline on each test set")
    assert shown["corrupted"] == {
        "best baseline": "augmix",
        "accuracy": "50.0 ± 0.0",
        "hard": "70.0 ± 0.0",
        "Δ HARD": "+20.0 ± 0.0",
    }
    head, rows = cells(summary)
    minus = {row[0]: row[head.index("Δ HARD (clean)")] for row in rows}
    assert minus["augmix"] == "+20.0 ± 7.1"
    assert "Δ HARD (corrupted)" in head
    assert not summarise([{**results(0), "students": {"kd": results(0)["students"]["kd"]}}])["best_baseline"]


def test_the_cost_to_reach_the_best_baseline(summary: dict[str, Any]) -> None:
    """cutmix reaches its 80 % after 300 of 400 steps; hard after 200 in seed 0, never in seed 1."""
    clean = summary["reached"]["clean"]
    assert clean["baseline"] == "cutmix"
    assert clean["total_cost"]["evaluations"]["values"] == [8 * 400 * 64] * 2
    hard = clean["rows"]["hard"]
    assert hard["seeds"] == 1
    assert hard["step"]["values"] == [200, None]
    assert hard["evaluations"]["values"] == [12 * 200 * 64, None]
    assert hard["seconds"]["values"] == [24.0, None]
    assert hard["fraction_of_total"]["evaluations"]["values"] == [0.75, None]  # 12 x 200 of 8 x 400
    assert hard["fraction_of_first"]["evaluations"]["values"] == [1.0, None]  # 12 x 200 of 8 x 300
    assert clean["rows"]["cutmix"]["fraction_of_total"]["seconds"]["values"] == [0.75, 0.75]
    assert clean["rows"]["kd"]["step"] is None
    corrupted_set = summary["reached"]["corrupted"]
    assert corrupted_set["baseline"] == "augmix"
    assert corrupted_set["rows"]["hard"]["step"]["values"] == [100, 100]
    assert corrupted_set["rows"]["hard"]["fraction_of_total"]["evaluations"]["mean"] == 0.375
    shown = table(summary, "Cost to reach 80.0 ± 0.0 % on clean")
    assert shown["hard"]["seeds that reach it"] == "1 of 2"
    assert shown["hard"]["evaluations, % of total"] == "75"
    assert shown["kd"]["steps"] == "never"
    by_seed = table(summary, "Cost to reach the best baseline by seed, clean")
    assert by_seed["hard"] == {"seed 0": "200 steps, 0.154 M evaluations, 24.0 s", "seed 1": "never"}


def test_runs_without_curves_or_costs_have_tables() -> None:
    run = corrupted(0)
    for row in run["students"].values():
        del row["curve"], row["evaluations"], row["seconds"]
    summary = summarise([run])
    assert summary["reached"] == summary["evaluations"] == summary["seconds"] == {}
    assert not [one for one in tables(summary) if one.title.startswith(("Cost to reach", "Training cost"))]


def test_the_table_of_failure_metrics() -> None:
    """Of augmented views, if the run computed them, and of pools of generated images."""
    assert not [one for one in tables(summarise([corrupted(0)])) if one.title.startswith("Failure metrics")]
    runs = [corrupted(0), corrupted(1)]
    for number, run in enumerate(runs):
        run["failure_metrics"] = {"hard": {"judge_consistency": 0.9 + 0.02 * number, "saturated": 0.01}}
        run["students"]["kd"]["pool"] = {"count": 15, "judge_consistency": 0.8} | ({"transfer": 0.5} if number else {})
    summary = summarise(runs)
    assert summary["views"]["hard"]["judge_consistency"]["values"] == [0.9, 0.92]
    found = table(summary, "Failure metrics")
    assert found["hard"] == {"judge consistency": "0.91", "saturated": "0.01", "count": ""}
    assert found["kd"] == {"judge consistency": "0.8", "saturated": "", "count": "15"}
    del runs[1]["failure_metrics"]  # computed in one run only
    assert "hard" not in summarise(runs)["views"]


def test_seeds_may_select_different_trials(summary: dict[str, Any]) -> None:
    assert summary["policy"] == {}
    assert [one["seed"] for one in summary["policy_by_seed"]] == [0, 1]
    assert list(summary["policy_by_seed"][1]["values"]) == ["blur"]
    assert [one["settings"]["transform"] for one in summary["selected_trials"]["hard"]] == ["affine_color", "filter"]
    assert [one["selected_by"] for one in summary["trials"]["hard"]] == [[0], [1]]
    alike = [corrupted(0), {**corrupted(1), "policy": corrupted(0)["policy"]}]
    assert summarise(alike)["policy"]["rotation"]["sd"]["values"] == [9.0, 9.0]
    assert "policy_by_seed" not in summarise(alike)
    alike[1]["policy"] = {"rotation": {**alike[1]["policy"]["rotation"], "range": [-9.0, 9.0]}}
    assert summarise(alike)["policy"] == {}  # the same name with another range
    del alike[1]["policy"]  # no figures were drawn
    assert summarise(alike)["policy"] == {}


def test_the_selection_rule_and_the_clean_selection(summary: dict[str, Any]) -> None:
    assert "held out of the training images" in summary["selection_rule"]
    assert (
        "mean of the accuracies on clean images and on images changed like the test set `corrupted`"
        in summary["selection_rule"]
    )
    assert "(select_on=sum)" in caption(summary)
    assert [one["selected_by_clean"] for one in summary["trials"]["hard"]] == [[1], [0]]
    by_clean = summary["clean_selection"]["hard"]
    assert by_clean["same"] == []
    assert by_clean["accuracy"]["clean"]["values"] == [90.0, 90.0]
    shown = table(summary, "Test accuracy in % if the trials were selected on clean")
    assert shown["hard"] == {
        "clean, as selected": "80.0 ± 7.1",
        "clean, clean selection": "90.0 ± 0.0",
        "corrupted, as selected": "70.0 ± 0.0",
        "corrupted, clean selection": "40.0 ± 0.0",
        "same trial, seeds": "0 of 2",
    }
    assert shown["kd"]["same trial, seeds"] == "2 of 2"
    (trials,) = [one for one in tables(summary) if one.title.startswith("Trials, validation accuracy")]
    assert trials.folded
    assert trials.rows[-1] == ["hard", "transform=filter", "60.0 ± 14.1", "70.0 ± 14.1", "50.0 ± 42.4", "1", "0"]


@pytest.mark.parametrize(("on", "words"), [("clean", "by the accuracy on clean images"), ("main", "`corrupted`")])
def test_each_selection_rule_is_described(on: str, words: str) -> None:
    run = corrupted(0)
    run["config"]["select_on"] = on
    assert words in summarise([run])["selection_rule"]


def test_selection_in_other_runs_is_described() -> None:
    run = corrupted(0)
    for name, those in run["trials"].items():
        run["trials"][name], run["students"][name]["trials"] = those[:1], 3
    summary = summarise([run])
    assert "in other runs (trials_from)" in summary["selection_rule"]
    assert not summary["clean_selection"]


def test_held_out_corruptions_have_a_column(tmp_path: Path) -> None:
    write_json_in(tmp_path / "a", {**corrupted(0), "held_out_corruptions": ["corrupted/fog", "corrupted/snow"]})
    summary = summarise(find([tmp_path]))
    assert summary["sets"][:3] == ["clean", "corrupted", HELD_OUT]
    assert HELD_OUT in cells(summary)[0]
    assert summary["accuracy"]["augmix"][HELD_OUT]["mean"] == 50.0
    assert summary["best_baseline"][HELD_OUT]["row"] == "augmix"
    assert summary["reached"][HELD_OUT]["rows"]["hard"]["step"]["values"] == [100]
    assert summary["held_out_corruptions"] == ["corrupted/fog", "corrupted/snow"]
    write_json_in(tmp_path / "b", {**corrupted(1), "held_out_corruptions": ["corrupted/rain"]})
    with pytest.raises(SystemExit, match=r"held_out_corruptions contains 'corrupted/rain'"):
        report.main([str(tmp_path)])
    write_json_in(tmp_path / "c" / "d", {**corrupted(1), "held_out_corruptions": []})
    assert HELD_OUT not in find([tmp_path / "c"])[0]["sets"]


def test_many_sets_have_a_second_table() -> None:
    run = corrupted(0)
    more = [f"set{number}" for number in range(6)]
    for row in (run["teacher"], *run["students"].values()):
        row |= dict.fromkeys(more, 0.5)
    run["sets"] += more
    summary = summarise([run])
    assert cells(summary)[0][:4] == ["", "clean", "corrupted", "Δ HARD (clean)"]
    (every,) = [one for one in tables(summary) if one.title == "Accuracy on all test sets, %"]
    assert every.folded
    assert every.head == ["", "clean", "corrupted", *more]


@pytest.mark.parametrize(
    ("config", "name", "training"),
    [
        ({"task": {"name": "rotated", "transform": {}}}, "rotated", "trained on augmented images (rotated)"),
        ({"task": {"_target_": "experiments.tasks.tasks.Plain"}}, "plain", "trained on images without augmentation"),
        ({"task": {"_target_": "experiments.tasks.tasks.Plain"}, "teacher": {"steps": 0}}, "plain", "pretrained"),
        ({**corrupted(0)["config"]}, "corruption", "trained on augmented images (Affine, Color and Filter)"),
        (
            {"task": {"_target_": "a.Corruption", "kind": "common", "transform": {"_target_": "b.Affine"}}},
            "common corruption",
            "trained on augmented images (Affine)",
        ),
        ({"task": {"distance": 3}, "teacher": {"train_shift": 2}}, "shift", "trained on shifts of up to 2 px"),
        (
            {"task": {"_target_": "a.Shift", "distance": 3}, "teacher": {"train_shift": 0}},
            "shift",
            "trained without shifts",
        ),
    ],
)
def test_every_task_is_described(config: dict[str, Any], name: str, training: str) -> None:
    assert task(config) == name
    assert teacher_training(config) == training


def test_groups_of_one_task_list_their_differences() -> None:
    longer = corrupted(0)
    longer["config"]["steps"] = 900
    summaries = [summarise([run]) for run in (results(0), corrupted(0), longer)]
    distinguish(summaries)
    assert [one["differs"] for one in summaries] == [
        {"task": "shift"},
        {"task": "corruption", "steps": 400},
        {"task": "corruption", "steps": 900},
    ]


def test_tables_are_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        write_json_in(tmp_path / "runs" / str(seed), corrupted(seed))
    report.main([str(tmp_path / "runs"), "--markdown", "--json", str(tmp_path / "out.json")])
    printed = capsys.readouterr().out
    assert "| clean | cutmix | 80.0 ± 0.0 | 80.0 ± 7.1 | +0.0 ± 7.1 |" in printed
    assert "<details><summary>Trials, validation accuracy" in printed
    assert "hard, seed 1: transform=filter" in printed
    group = json.loads((tmp_path / "out.json").read_text())["groups"][0]
    assert group["reached"]["corrupted"]["rows"]["hard"]["fraction_of_total"]["evaluations"]["mean"] == 0.375
    report.main([str(tmp_path / "runs")])
    assert "Training cost of one student" in capsys.readouterr().out
