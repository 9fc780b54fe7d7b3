"""The tables of a group, with numbers that are checked by hand."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from experiments.report.groups import Group, split
from experiments.report.tables import (
    Table,
    accuracy,
    best_baselines,
    bold,
    costs,
    failure_metrics,
    millions,
    pivot,
    policy,
    reached,
    spread,
    tables,
    trials,
    verdict,
)
from tests.helpers.report_runs import hard, record


def runs(**more: Any) -> list[dict[str, Any]]:
    """Two seeds of five methods; HARD is the best on the main set, supervised on clean images."""
    found: list[dict[str, Any]] = []
    for seed in (0, 1):
        found += [record("supervised", seed, 0.4, clean=0.99, **more), record("kd", seed, 0.5, **more)]
        found += [record("random", seed, 0.7 + seed / 10, clean=0.91, **more), record("oracle", seed, 0.88, **more)]
        found.append(hard(seed, 0.8 + 0.06 * seed, **more))
    return found


@pytest.fixture
def group() -> Group:
    return split(runs())[0]


def test_the_first_table(group: Group) -> None:
    cells = accuracy(group).cells
    assert cells.index.tolist() == ["teacher", "supervised", "kd", "random", "oracle", "hard"]
    assert cells["shifted"].tolist() == [
        "90.0 ± 0.0",
        "40.0 ± 0.0",
        "50.0 ± 0.0",
        "75.0 ± 7.1",
        "88.0 ± 0.0",
        "**83.0 ± 4.2**",
    ]
    assert cells["clean"]["random"] == "**91.0 ± 0.0**"  # supervised is better, but no candidate
    assert cells["Δ HARD (shifted)"].to_dict() == {
        "teacher": "",
        "supervised": "+43.0 ± 4.2",
        "kd": "+33.0 ± 4.2",
        "random": "+8.0 ± 2.8",  # 10 and 6: paired by seed
        "oracle": "-5.0 ± 4.2",
        "hard": "",
    }
    assert cells["gap closed, %"].tolist() == ["", "-25.0 ± 0.0", "", "62.5 ± 17.7", "95.0 ± 0.0", "**82.5 ± 10.6**"]
    assert cells["teacher consistency, %"]["hard"] == "75"
    assert "trials" not in cells


def test_a_small_gap_is_not_divided_by() -> None:
    table = accuracy(split(runs(teacher=0.51))[0])
    assert "gap closed, %" not in table.cells
    assert table.caption.endswith("Gap closed is blank: kd is 1.0 points behind the teacher in a seed, less than 2.0.")


def test_a_gap_within_two_standard_errors_is_not_divided_by() -> None:
    table = accuracy(split(runs(teacher=0.55, test_images=100))[0])  # 2 x 5.0
    assert "kd is 5.0 points behind the teacher in a seed, less than 9.9." in table.caption
    assert "gap closed, %" not in table.cells
    assert "gap closed, %" in accuracy(split(runs(teacher=0.55, test_images=10_000))[0]).cells


def test_fractions_of_the_gap_beyond_200_percent_are_blank() -> None:
    table = accuracy(split(runs(teacher=0.63))[0])
    closed = table.cells["gap closed, %"]
    assert closed[["random", "oracle", "hard"]].tolist() == ["192.3 ± 54.4", "", ""]
    assert table.caption.endswith("Gap closed is blank beyond ±200 %.")


def test_a_teacher_that_is_not_known_in_every_seed_gives_no_gap() -> None:
    found = runs()
    for one in found[5:]:
        one["teacher"] = {}
    table = accuracy(split(found)[0])
    assert "not known in every seed" in table.caption
    assert table.cells["shifted"]["teacher"] == "90.0"


def test_distillation_on_second_batches_takes_the_place_of_kd() -> None:
    one = split([record("second_batch"), record("pool", main=0.6), hard()])[0]
    assert accuracy(one).cells["gap closed, %"].tolist() == ["", "", "25.0", "**75.0**"]
    assert costs(one).cells["evaluations relative to second_batch"]["hard"] == "2.00"
    assert one.baselines == ["second_batch"]  # pool has images that are made for the student


def test_trials_are_counted_and_listed() -> None:
    found = [hard(settings=[f"t={t}"], validation=(0.8, v), main=v) for t, v in ((1, 0.6), (2, 0.7))]
    one = split([record(validation=(0.8, 0.5)), *found])[0]
    assert accuracy(one).cells["trials"].tolist() == ["", "1", "2"]
    assert accuracy(one).cells["shifted"]["hard"] == "**70.0**"
    cells = trials(one).cells
    assert cells.index.tolist() == ["hard", "hard"]
    assert cells["settings"].tolist() == ["t=1", "t=2"]
    assert cells["validation, shifted"].tolist() == ["60.0", "70.0"]
    assert cells["selected"].tolist() == ["", "yes"]
    assert cells["test, shifted"].tolist() == ["60.0", "70.0"]
    assert trials(one).folded


def test_the_best_baseline_and_the_verdict(group: Group) -> None:
    cells = best_baselines(group).cells
    assert cells.loc["shifted"].tolist() == ["random", "75.0 ± 7.1", "83.0 ± 4.2", "+8.0 ± 2.8"]
    assert cells["best baseline"]["clean"] == "random"
    assert verdict(group) == "Best on shifted: hard, 83.0 ± 4.2 %. hard minus random: +8.0 ± 2.8 points."
    worse = split([record("random", 0, 0.9), hard()])[0]
    assert verdict(worse) == "Best on shifted: random, 90.0 %. hard minus random: -10.0 points."
    assert verdict(split([record("kd")])[0]) == "Best on shifted: kd, 50.0 %."


def test_several_rows_of_hard_are_each_compared() -> None:
    one = split([record(), hard(), hard(main=0.6, policy="Generator")])[0]
    cells = accuracy(one).cells
    assert cells["Δ hard (policy=Gaussian) (shifted)"].tolist() == ["", "+30.0", "", "+20.0"]
    assert cells["Δ hard (policy=Generator) (shifted)"].tolist() == ["", "+10.0", "-20.0", ""]
    assert "hard (policy=Generator) minus hard (policy=Gaussian): -20.0 points." in verdict(one)


def test_costs_are_relative_to_kd(group: Group) -> None:
    cells = costs(group).cells
    assert cells.loc["hard"].tolist() == ["0.002", "2.00", "2.5 ± 0.7", "1.00"]
    assert cells["evaluations relative to kd"]["random"] == "1.00"


def test_the_cost_to_reach_the_best_baseline_by_hand() -> None:
    def curve(*values: float, each: int) -> dict[str, Any]:
        points = [
            {"step": s, "evaluations": each * s, "seconds": s / 10, "accuracy": {"clean": 0.9, "shifted": v}}
            for s, v in zip((100, 200, 300, 400), values, strict=True)
        ]
        return {"curve": points}

    found = []
    for seed in (0, 1):  # in seed 1 HARD never reaches it
        found.append(record("augmix", seed, 0.5, student=curve(0.2, 0.3, 0.4, 0.5, each=1000)))
        own = (0.4, 0.6, 0.6, 0.7) if seed == 0 else (0.3, 0.3, 0.3, 0.3)
        found.append(hard(seed, own[-1], student=curve(*own, each=3000)))
    clean, shifted = reached(split(found)[0])
    assert shifted.cells.loc["hard"].tolist() == ["200", "0.600", "20.0", "150", "50", "1 of 2"]
    assert shifted.cells.loc["augmix"].tolist() == ["400 ± 0", "0.400", "40.0 ± 0.0", "100 ± 0", "100 ± 0", "2 of 2"]
    assert "50.0 ± 0.0 % on shifted" in shifted.caption
    assert clean.cells["steps"]["hard"] == "100 ± 0"
    assert reached(split([record()])[0]) == []


def test_failure_metrics_and_the_learned_distribution() -> None:
    metrics = [{"judge_consistency": 0.5, "diversity": 1.0}, {"judge_consistency": 0.7}]
    one = split([hard(seed, failure_metrics=found) for seed, found in enumerate(metrics)] + [record()])[0]
    cells = failure_metrics(one).cells
    assert cells.index.tolist() == ["hard"]
    assert cells.loc["hard"].to_dict() == {"judge consistency": "0.6", "diversity": "1"}
    assert policy(one).cells["hard"].to_dict() == {"translation_x, fraction of width": "0.100 ± 0.000 = 2.8 ± 0.0 px"}
    many = {f"p{n}": {"sd": 0.1, "unit": "factor"} for n in range(13)}
    assert policy(split([hard(policy_updates=1) | {"policy": many}])[0]).cells.empty


def test_empty_tables_are_left_out_and_many_sets_are_folded(group: Group) -> None:
    assert len(tables(group)) == 4  # accuracy, best baselines, costs, learned distribution
    assert [table.folded for table in tables(split([record()])[0])] == [False, False]
    names = ["clean", "shifted", *"abcde"]
    wide = split([record(sets=names, student={"accuracy": dict.fromkeys(names, 0.5)})])[0]
    found = tables(wide)
    assert list(found[0].cells) == ["clean", "shifted"]
    assert found[-1].folded
    assert list(found[-1].cells) == names


def test_pivot_by_parts_of_the_augmenter() -> None:
    found = [hard(seed, 0.6 + seed / 10) for seed in (0, 1)] + [hard(policy="Search")]
    other = hard(main=0.9)
    other["row"] = {"augmenter": {**other["row"]["augmenter"], "objective": {"_target_": "x.ReverseKL"}}}
    one = split([*found, other, record()])[0]
    cells = pivot(one, "augmenter.objective", "augmenter.policy,augmenter.transform").cells
    expected = pd.DataFrame(
        {"Gaussian, Affine": ["65.0 ± 7.1", "**90.0**"], "Search, Affine": ["80.0", "-"]}, index=["KL", "ReverseKL"]
    )
    pd.testing.assert_frame_equal(cells, expected, check_names=False, check_column_type=False, check_index_type=False)


def test_pivot_of_missing_or_ambiguous_keys_raises() -> None:
    one = split([hard(), hard(policy="Search")])[0]
    with pytest.raises(ValueError, match=r"no row of hard has augmenter.typo and augmenter.policy; expected such as"):
        pivot(one, "augmenter.typo", "augmenter.policy")
    with pytest.raises(ValueError, match=r"hard \(policy=Gaussian\) and hard \(policy=Search\) have the same"):
        pivot(one, "augmenter.objective", "augmenter.transform")


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


def test_markdown_of_names_with_any_character() -> None:
    cells = pd.DataFrame({"a|b": ["<b>&"], "two\nlines": ["x"]}, index=["$x$ [1]"])
    lines = Table("A caption.", cells).markdown().splitlines()
    assert lines[2] == "|  | a\\|b | two lines |"
    assert lines[4] == "| $x$ [1] | &lt;b&gt;&amp; | x |"
