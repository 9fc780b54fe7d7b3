"""Groups, the selection of trials, and the file of selected settings."""

from __future__ import annotations

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.configuration.settings import trial_settings
from experiments.report.groups import Group, split, write_selection
from tests.helpers.report_runs import GROUP, hard, record


def trials(*values: tuple[str, int, tuple[float, float] | None], **more: object) -> Group:
    """A group with trials of kd: setting, seed, validation accuracies on clean and main images."""
    return split([record(seed=seed, settings=[s], validation=v) for s, seed, v in values], **more)[0]  # type: ignore[arg-type]


def chosen(group: Group) -> str:
    return str(group.trials.settings[group.trials.chosen].item())


@pytest.mark.parametrize(("select_on", "best"), [("clean", "t=1"), ("main", "t=2"), ("sum", "t=3")])
def test_the_trial_with_the_highest_validation_accuracy_is_chosen(select_on: str, best: str) -> None:
    values = ("t=1", 0, (0.9, 0.1)), ("t=2", 0, (0.1, 0.8)), ("t=3", 0, (0.6, 0.6))
    group = trials(*values, select_on=select_on)
    assert chosen(group) == best
    assert list(group.chosen.settings.unique()) == [best]
    assert list(group.chosen.tried.unique()) == [3]


def test_trials_are_compared_on_the_seeds_that_all_of_them_share() -> None:
    group = trials(("t=1", 0, (0, 0.5)), ("t=1", 1, (0, 0.9)), ("t=1", 2, (0, 0.9)), ("t=2", 0, (0, 0.6)))
    assert chosen(group) == "t=2"
    assert group.trials.value.tolist() == pytest.approx([50, 60])
    assert group.trials.seeds.tolist() == ["0, 1, 2", "0"]
    apart = trials(("t=1", 0, (0, 0.5)), ("t=2", 1, (0, 0.4)))
    assert chosen(apart) == "t=1"
    assert not apart.trials.shared.any()


def test_trials_without_validation_accuracies_come_last() -> None:
    assert chosen(trials(("t=1", 0, None), ("t=2", 0, (0.1, 0.1)))) == "t=2"
    assert chosen(trials(("t=1", 0, None), ("t=2", 0, None))) == "t=1"


def test_the_rule_is_that_of_the_configuration() -> None:
    values = [("t=1", (0.9, 0.1)), ("t=2", (0.1, 0.8))]
    runs = [record(settings=[s], validation=v, group={**GROUP, "select_on": "clean"}) for s, v in values]
    assert chosen(split(runs)[0]) == "t=1"
    assert chosen(split(runs, "main")[0]) == "t=2"


def test_runs_are_grouped_by_configuration_and_rows_have_their_own_trials() -> None:
    longer = {**GROUP, "steps": 200}
    groups = split([hard(), record(group=longer), hard(policy="Generator"), hard(seed=1)])
    assert [group.config["steps"] for group in groups] == [100, 200]
    first = groups[0]
    assert first.rows() == first.hard == ["hard (policy=Gaussian)", "hard (policy=Generator)"]
    assert first.trials.tried.tolist() == [1, 1]
    assert first.by_seed("shifted").index.tolist() == [0, 1]


def test_many_test_sets_are_reduced_to_those_that_are_compared() -> None:
    names = ["clean", "shifted", "shifted/left", *"abcde"]
    group = split([record(sets=names, student={"accuracy": dict.fromkeys(names, 0.5)})])[0]
    assert group.sets == ["clean", "shifted", *"abcde"]
    assert group.shown == ["clean", "shifted"]
    assert split([record()])[0].shown == ["clean", "shifted"]


def test_selected_settings_are_read_by_settings_from(tmp_path: Path) -> None:
    path, settings = tmp_path / "chosen.yaml", ["method.scale=0.5", "temperature=4.0"]
    runs = [record(validation=(0.5, 0.5)), record("random", settings=settings, validation=(0.9, 0.7))]
    runs += [record("random", settings=["temperature=1.0"], validation=(0.9, 0.6))]
    write_selection(path, split(runs), [Path("outputs/trials")])
    for method, found in (("random", (settings, 2)), ("kd", ([], 1))):
        config = OmegaConf.create({"method": {"name": method}, "settings_from": str(path), "trial": None})
        assert trial_settings(config) == found
    comment = path.read_text(encoding="utf-8").splitlines()[0]
    assert comment.startswith("# ")
    assert "select_on=main" in comment
    assert comment.endswith("outputs/trials")


def test_the_number_of_trials_of_selected_settings_is_kept() -> None:
    group = split([record(seed=seed, settings=["t=1"], trials=4) for seed in (0, 1)])[0]
    assert group.trials.tried.tolist() == [4]


def test_ambiguous_selections_raise(tmp_path: Path) -> None:
    apart = [record(seed=seed, settings=[f"t={seed}"], validation=(0.5, 0.5)) for seed in (0, 1)]
    for runs, complaint in (
        ([record(), record(group={**GROUP, "steps": 1})], "got runs of 2 configurations; give the folders of one"),
        ([hard(), hard(policy="Generator")], "several rows of hard; give the folders of one augmenter"),
        (apart, "the trials of kd share no seed; run all of them with one seed"),
    ):
        with pytest.raises(ValueError, match=f"--select: {complaint}"):
            write_selection(tmp_path / "chosen.yaml", split(runs), [])


def test_csv_has_a_line_for_each_run_and_set() -> None:
    runs = [record(settings=["t=1"], validation=(0.5, 0.5)), record(settings=["t=2"], validation=(0.5, 0.6))]
    table = split(runs)[0].csv("the title")
    assert list(table.columns[:2]) == ["group", "name"]
    expected = {
        "method",
        "settings",
        "trials",
        "seed",
        "set",
        "accuracy",
        "teacher",
        "validation_main",
        "seconds",
        "chosen",
    }
    assert expected <= set(table)
    assert not {"run", "row"} & set(table)
    assert len(table) == 4
    assert table.accuracy[table.set == "shifted"].tolist() == [50, 50]
    assert table.chosen.tolist() == [False, False, True, True]
    assert set(table.group) == {"the title"}
