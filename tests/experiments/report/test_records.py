"""Records: reading and writing them, names of rows, and the frame."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from experiments.report.records import HELD_OUT, accuracies, distinguish, frame, gather, place, write_records
from tests.helpers.report_runs import AFFINE, COLOR, hard, record, write_runs


def test_folders_are_searched_and_each_run_keeps_its_folder(tmp_path: Path) -> None:
    write_runs(tmp_path / "a" / "b", record(), hard())
    found = gather([tmp_path])
    assert [(one["method"], Path(one["folder"]).name) for one in found] == [("kd", "0-kd"), ("hard", "1-hard")]


def test_a_written_file_gives_the_same_frame_and_shares_what_is_equal(tmp_path: Path) -> None:
    records = [record(seed=seed) for seed in range(3)] + [hard()]
    write_records(tmp_path / "runs.json", records, command="train ü", note="a note")
    text = (tmp_path / "runs.json").read_text(encoding="utf-8")
    again = gather([tmp_path / "runs.json"])
    pd.testing.assert_frame_equal(frame(again), frame(records))
    assert {one["command"] for one in again} == {"train ü"}
    assert text.count("MLPStudent") == 1
    assert len(text.splitlines()) == len(records)
    write_records(tmp_path / "more.json", [*again, record(seed=4)])
    assert {(one["command"], one["note"]) for one in gather([tmp_path / "more.json"])} == {("train ü", "a note")}


def test_a_policy_of_many_parameters_is_not_written(tmp_path: Path) -> None:
    few, many = ({f"p{n}": {"mean": 0.0, "sd": 0.1, "unit": "factor"} for n in range(count)} for count in (12, 66))
    write_records(tmp_path / "runs.json", [{**hard(), "policy": few}, {**hard(seed=1), "policy": many}])
    first, second = gather([tmp_path / "runs.json"])
    assert first["policy"] == few
    assert "policy" not in second


def test_of_a_policy_s_summary_the_frequencies_and_ranges_are_written(tmp_path: Path) -> None:
    row = {"name": "blur", "group": "blur", "unit": "pixels", "frequency": 0.1469728, "drawn": [0.0, 0.609375]}
    one = hard(summary={"rows": [row], "kept": 0.78})
    write_records(tmp_path / "once.json", [one])
    write_records(tmp_path / "again.json", gather([tmp_path / "once.json"]))
    (found,) = gather([tmp_path / "again.json"])
    assert found["summary"] == {"rows": [{"name": "blur", "frequency": 0.147, "drawn": [0.0, 0.6094]}], "kept": 0.78}


def test_the_place_of_a_method() -> None:
    methods = ["hard", "augmix", "oracle", "calibrated", "kd", "random"]
    assert sorted(methods, key=place) == ["kd", "random", "augmix", "calibrated", "oracle", "hard"]


def test_the_frame_is_in_percent_and_in_the_order_of_tables() -> None:
    found = frame([hard(), record("oracle"), record("augmix"), record("random"), record(validation=(0.7, 0.6))])
    assert list(found.method.unique()) == ["kd", "random", "augmix", "oracle", "hard"]
    first = found.iloc[1]
    numbers = {"accuracy": 50, "teacher": 90, "validation_clean": 70, "validation_main": 60, "seconds": 2}
    assert first.set == "shifted"
    assert dict(first[list(numbers)]) == pytest.approx(numbers)
    assert found.teacher_consistency.max() == 75


def test_equal_runs_are_taken_once_and_different_ones_raise() -> None:
    assert len(frame([record(), record(), record(seed=1)])) == 4
    both = [{**record(main=main), "folder": f"folder{main}"} for main in (0.5, 0.6)]
    with pytest.raises(ValueError, match=r"different runs of kd  with seed 0: folder0.5 and folder0.6; give one"):
        frame(both)


def test_rows_of_a_method_are_named_by_what_differs() -> None:
    parts = [AFFINE, {"_target_": "hard_aug.transforms.Compose", "_args_": [AFFINE, COLOR]}]
    rows = [hard(policy="Gaussian"), hard(policy="Generator"), *(record("random", row={"transform": t}) for t in parts)]
    assert list(frame(rows).name.unique()) == [
        "random (transform=Affine)",
        "random (transform=Affine+Color)",
        "hard (policy=Gaussian)",
        "hard (policy=Generator)",
    ]
    assert list(frame([record("random", row={"scale": 0.5}), hard()]).name.unique()) == ["random", "hard"]


def test_settings_within_equal_classes_distinguish() -> None:
    nodes = {
        "a": {"p": {"_target_": "x.A", "s": 1.0}},
        "b": {"p": {"_target_": "x.A"}},
        "c": {"p": {"_target_": "x.B"}},
    }
    assert distinguish(nodes) == {"a": ["p=A", "s=1"], "b": ["p=A", "s=none"], "c": ["p=B"]}
    compose = [{"_args_": [{"_target_": "x.A", "s": s}]} for s in (1, 2)]
    assert distinguish({"a": compose[0], "b": compose[1]}) == {"a": ["s=1"], "b": ["s=2"]}


def test_the_mean_of_held_out_corruptions_follows_the_main_set() -> None:
    values = {"clean": 0.9, "corrupted": 0.6, "fog": 0.5, "snow": 0.7}
    one = record(sets=list(values), held_out_corruptions=["fog", "snow"], student={"accuracy": values})
    one["main"] = "corrupted"
    assert accuracies(one, values) == pytest.approx(
        {"clean": 0.9, "corrupted": 0.6, HELD_OUT: 0.6, "fog": 0.5, "snow": 0.7}
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "is not valid JSON"),
        ("\xff", "is not valid JSON"),
        ("[]", "has a list, expected a dictionary; remove it"),
        ("{}", "has no runs and configs; expected a file written by experiments.report --json"),
        ('{"runs": [{"method": "kd"}], "configs": {}}', "a record lacks row, settings, seed, group, student"),
    ],
)
def test_invalid_files_raise(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "some.json").write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=rf"some.json:? {complaint}"):
        gather([tmp_path / "some.json"])


def test_a_file_without_a_shared_part_raises(tmp_path: Path) -> None:
    write_records(tmp_path / "runs.json", [record()])
    text = (tmp_path / "runs.json").read_text(encoding="utf-8")
    (tmp_path / "runs.json").write_text(text.partition('"configs"')[0] + '"configs": {}}', encoding="utf-8")
    with pytest.raises(ValueError, match=r"configs has no '[0-9a-f]{8}'; write the file again with --json"):
        gather([tmp_path / "runs.json"])


def test_missing_paths_and_empty_folders_raise(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="typo: no such file or folder"):
        gather([tmp_path / "typo"])
    with pytest.raises(FileNotFoundError, match=f"no metrics.json below {tmp_path}; make runs with"):
        gather([tmp_path])
    assert gather([tmp_path], required=False) == []
