"""The report's tables: costs, the best baseline and when it is reached, what was chosen and by which rule."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from experiments import report
from experiments.report.captions import caption, distinguish, knowledge, task
from experiments.report.figures import millions
from experiments.report.runs import NOVEL, find
from experiments.report.summary import summarise
from experiments.report.tables import cells, tables
from tests.report_runs import corrupted, results, write_json_in


@pytest.fixture
def summary() -> dict[str, Any]:
    """Of two seeds that chose different trials of hard."""
    return summarise([corrupted(0), corrupted(1)])


def table(summary: dict[str, Any], start: str) -> dict[str, dict[str, str]]:
    """The table with that beginning of a title, by row and column."""
    (found,) = [one for one in tables(summary) if one.title.startswith(start)]
    return {row[0]: dict(zip(found.head[1:], row[1:], strict=True)) for row in found.rows}


def test_costs_have_a_table_of_their_own(summary: dict[str, Any]) -> None:
    assert summary["evaluations"]["hard"] == {"mean": 12 * 400 * 64, "sd": 0, "values": [307200, 307200]}
    costs = table(summary, "What one student costs")
    assert costs["kd"] == {
        "evaluations, millions": "0.102",
        "evaluations of kd's": "x1.00",
        "seconds": "24.0 ± 11.3",
        "seconds of kd's": "x1.00",
    }
    assert costs["hard"]["evaluations, millions"] == "0.307"
    assert costs["hard"]["evaluations of kd's"] == "x3.00"
    assert "teacher" not in costs


@pytest.mark.parametrize(
    ("mean", "sd", "shown"),
    [(384_000, 0, "0.384"), (1_152_000, 2_000, "1.15"), (1_152_000, 20_000, "1.15 ± 0.02"), (307_200_000, None, "307")],
)
def test_evaluations_are_readable(mean: float, sd: float | None, shown: str) -> None:
    assert millions({"mean": mean, "sd": sd}) == shown


def test_the_best_baseline_is_named_for_each_set(summary: dict[str, Any]) -> None:
    """Neither labels, the best on clean images, nor the oracle, the best on corrupted ones."""
    best = summary["best_baseline"]
    assert {key: one["row"] for key, one in best.items()} == {"clean": "cutmix", "corrupted": "augmix"}
    assert best["clean"]["hard_minus"]["values"] == [5.0, -5.0]
    assert best["corrupted"]["hard_minus"]["values"] == [20.0, 20.0]
    shown = table(summary, "The best baseline on each set")
    assert shown["corrupted"] == {
        "best baseline": "augmix",
        "accuracy": "50.0 ± 0.0",
        "hard": "70.0 ± 0.0",
        "HARD minus it": "+20.0 ± 0.0",
    }
    head, rows = cells(summary)
    minus = {row[0]: row[head.index("HARD minus it, clean")] for row in rows}
    assert minus["augmix"] == "+20.0 ± 7.1"
    assert "HARD minus it, corrupted" in head
    assert not summarise([{**results(0), "students": {"kd": results(0)["students"]["kd"]}}])["best_baseline"]


def test_what_it_takes_to_be_as_good(summary: dict[str, Any]) -> None:
    """cutmix is at its 80 % after 300 of 400 steps; hard after 200 in seed 0, never in seed 1."""
    clean = summary["reached"]["clean"]
    assert clean["baseline"] == "cutmix"
    assert clean["took"]["evaluations"]["values"] == [8 * 400 * 64] * 2
    hard = clean["rows"]["hard"]
    assert hard["seeds"] == 1
    assert hard["step"]["values"] == [200, None]
    assert hard["evaluations"]["values"] == [12 * 200 * 64, None]
    assert hard["seconds"]["values"] == [24.0, None]
    assert hard["share"]["evaluations"]["values"] == [0.75, None]  # 12 x 200 of 8 x 400
    assert hard["share_of_first"]["evaluations"]["values"] == [1.0, None]  # 12 x 200 of 8 x 300
    assert clean["rows"]["cutmix"]["share"]["seconds"]["values"] == [0.75, 0.75]
    assert clean["rows"]["kd"]["step"] is None
    corrupted_set = summary["reached"]["corrupted"]
    assert corrupted_set["baseline"] == "augmix"
    assert corrupted_set["rows"]["hard"]["step"]["values"] == [100, 100]
    assert corrupted_set["rows"]["hard"]["share"]["evaluations"]["mean"] == 0.375
    shown = table(summary, "Until 80.0 ± 0.0 % on clean")
    assert shown["hard"]["seeds that come there"] == "1 of 2"
    assert shown["hard"]["share of evaluations"] == "75 %"
    assert shown["kd"]["steps"] == "never"
    by_seed = table(summary, "The same by seed, clean")
    assert by_seed["hard"] == {"seed 0": "200 steps, 0.154 M, 24.0 s", "seed 1": "never"}


def test_runs_without_curves_or_costs_have_tables() -> None:
    run = corrupted(0)
    for row in run["students"].values():
        del row["curve"], row["evaluations"], row["seconds"]
    summary = summarise([run])
    assert summary["reached"] == summary["evaluations"] == summary["seconds"] == {}
    assert not [one for one in tables(summary) if one.title.startswith(("Until", "What one"))]


def test_seeds_may_choose_different_trials(summary: dict[str, Any]) -> None:
    assert summary["policy"] == {}
    assert [one["seed"] for one in summary["policy_by_seed"]] == [0, 1]
    assert list(summary["policy_by_seed"][1]["values"]) == ["blur"]
    assert [one["settings"]["transform"] for one in summary["chosen"]["hard"]] == ["affine_color", "filter"]
    assert [one["chosen_by"] for one in summary["trials"]["hard"]] == [[0], [1]]
    alike = [corrupted(0), {**corrupted(1), "policy": corrupted(0)["policy"]}]
    assert summarise(alike)["policy"]["rotation"]["sd"]["values"] == [9.0, 9.0]
    assert "policy_by_seed" not in summarise(alike)
    alike[1]["policy"] = {"rotation": {**alike[1]["policy"]["rotation"], "range": [-9.0, 9.0]}}
    assert summarise(alike)["policy"] == {}  # the same name, and not the same thing
    del alike[1]["policy"]  # drawn by none
    assert summarise(alike)["policy"] == {}


def test_the_rule_is_said_and_clean_images_alone_would_choose_otherwise(summary: dict[str, Any]) -> None:
    assert "held out of the training images" in summary["rule"]
    assert "mean of the accuracies on them as they are and changed as the test set `corrupted` is" in summary["rule"]
    assert "(choose_on=sum)" in caption(summary)
    assert [one["chosen_by_clean"] for one in summary["trials"]["hard"]] == [[1], [0]]
    by_clean = summary["chosen_by_clean"]["hard"]
    assert by_clean["same"] == []
    assert by_clean["accuracy"]["clean"]["values"] == [90.0, 90.0]
    shown = table(summary, "Test accuracy had the trials been chosen by clean")
    assert shown["hard"] == {
        "clean, as chosen": "80.0 ± 7.1",
        "clean, by clean": "90.0 ± 0.0",
        "corrupted, as chosen": "70.0 ± 0.0",
        "corrupted, by clean": "40.0 ± 0.0",
        "same trial": "0 of 2",
    }
    assert shown["kd"]["same trial"] == "2 of 2"
    (trials,) = [one for one in tables(summary) if one.title.startswith("Trials on validation data")]
    assert trials.folded
    assert trials.rows[-1] == ["hard", "transform=filter", "60.0 ± 14.1", "70.0 ± 14.1", "50.0 ± 42.4", "1", "0"]


@pytest.mark.parametrize(("on", "words"), [("clean", "by the accuracy on them as they are"), ("main", "`corrupted`")])
def test_each_rule_is_said(on: str, words: str) -> None:
    run = corrupted(0)
    run["config"]["choose_on"] = on
    assert words in summarise([run])["rule"]


def test_what_other_runs_chose_is_said() -> None:
    run = corrupted(0)
    for name, those in run["trials"].items():
        run["trials"][name], run["students"][name]["trials"] = those[:1], 3
    summary = summarise([run])
    assert "in other runs (trials_from)" in summary["rule"]
    assert not summary["chosen_by_clean"]


def test_new_corruptions_have_a_column(tmp_path: Path) -> None:
    write_json_in(tmp_path / "a", {**corrupted(0), "novel_sets": ["corrupted/fog", "corrupted/snow"]})
    summary = summarise(find([tmp_path]))
    assert summary["sets"][:3] == ["clean", "corrupted", NOVEL]
    assert NOVEL in cells(summary)[0]
    assert summary["accuracy"]["augmix"][NOVEL]["mean"] == 50.0
    assert summary["best_baseline"][NOVEL]["row"] == "augmix"
    assert summary["reached"][NOVEL]["rows"]["hard"]["step"]["values"] == [100]
    assert summary["novel_sets"] == ["corrupted/fog", "corrupted/snow"]
    write_json_in(tmp_path / "b", {**corrupted(1), "novel_sets": ["corrupted/rain"]})
    with pytest.raises(SystemExit, match=r"novel_sets names 'corrupted/rain'"):
        report.main([str(tmp_path)])
    write_json_in(tmp_path / "c" / "d", {**corrupted(1), "novel_sets": []})
    assert NOVEL not in find([tmp_path / "c"])[0]["sets"]


def test_many_sets_have_a_second_table() -> None:
    run = corrupted(0)
    more = [f"set{number}" for number in range(6)]
    for row in (run["teacher"], *run["students"].values()):
        row |= dict.fromkeys(more, 0.5)
    run["sets"] += more
    summary = summarise([run])
    assert cells(summary)[0][:4] == ["", "clean", "corrupted", "HARD minus it, clean"]
    (every,) = [one for one in tables(summary) if one.title == "Accuracy on all sets"]
    assert every.folded
    assert every.head == ["", "clean", "corrupted", *more]


@pytest.mark.parametrize(
    ("config", "name", "knows"),
    [
        ({"task": {"name": "rotated", "transform": {}}}, "rotated", "trained on rotated"),
        ({"task": {"_target_": "experiments.tasks.Plain"}}, "plain", "trained on images as the data gives them"),
        ({"task": {"_target_": "experiments.tasks.Plain"}, "teacher": {"steps": 0}}, "plain", "with the weights it"),
        ({**corrupted(0)["config"]}, "corruption", "trained on views by Affine, Color and Filter"),
        (
            {"task": {"_target_": "a.Corruption", "kind": "common", "transform": {"_target_": "b.Affine"}}},
            "common corruption",
            "trained on views by Affine",
        ),
        ({"task": {"distance": 3}, "teacher": {"train_shift": 2}}, "shift", "trained on shifts of up to 2 px"),
        ({"task": {"_target_": "a.Shift", "distance": 3}, "teacher": {"train_shift": 0}}, "shift", "never shown"),
    ],
)
def test_every_task_has_words(config: dict[str, Any], name: str, knows: str) -> None:
    assert task(config) == name
    assert knowledge(config).startswith(knows)


def test_groups_of_one_task_say_what_differs_beside_others() -> None:
    longer = corrupted(0)
    longer["config"]["steps"] = 900
    summaries = [summarise([run]) for run in (results(0), corrupted(0), longer)]
    distinguish(summaries)
    assert [one["differs"] for one in summaries] == [
        {"task": "shift"},
        {"task": "corruption", "steps": 400},
        {"task": "corruption", "steps": 900},
    ]


def test_all_of_it_is_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in (0, 1):
        write_json_in(tmp_path / "runs" / str(seed), corrupted(seed))
    report.main([str(tmp_path / "runs"), "--markdown", "--json", str(tmp_path / "out.json")])
    printed = capsys.readouterr().out
    assert "| clean | cutmix | 80.0 ± 0.0 | 80.0 ± 7.1 | +0.0 ± 7.1 |" in printed
    assert "<details><summary>Trials on validation data" in printed
    assert "hard, seed 1: transform=filter" in printed
    group = json.loads((tmp_path / "out.json").read_text())["groups"][0]
    assert group["reached"]["corrupted"]["rows"]["hard"]["share"]["evaluations"]["mean"] == 0.375
    report.main([str(tmp_path / "runs")])
    assert "What one student costs" in capsys.readouterr().out
