"""Trackers: the files they write, and resuming after a kill."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.training import distributed
from experiments.training.trackers import trackers


def log(name: str, folder: Path, resumed: int, *steps: int) -> None:
    """Write the loss of each step, which is its number, in a run that resumes from a step."""
    written = trackers([name], folder, resumed)
    for step in steps:
        written.log(step, {"loss": float(step)})
    written.close()


def events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    found = EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    return {name: [(one.step, one.value) for one in found.Scalars(name)] for name in found.Tags()["scalars"]}


def test_csv_numbers_are_exact(tmp_path: Path) -> None:
    table = trackers(["csv"], tmp_path, 0)
    table.log(5, {"loss": 0.1 + 0.2, "policy/rotation_sd": 1e-30})
    assert len((tmp_path / "curves.csv").read_text().splitlines()) == 3  # flushed immediately
    table.log(10, {"loss": float("nan")})
    table.close()
    assert (tmp_path / "curves.csv").read_text().splitlines() == [
        "step,name,value",
        "5,loss,0.30000000000000004",
        "5,policy/rotation_sd,1e-30",
        "10,loss,nan",
    ]


@pytest.mark.parametrize("cut", ["15,loss,0.", "15,lo", "15", "1", ""])
def test_a_resumed_csv_drops_the_rows_after_its_checkpoint(tmp_path: Path, cut: str) -> None:
    """`cut` is the rest of a row that was cut off by a kill."""
    log("csv", tmp_path, 0, 5, 10, 15)
    path = tmp_path / "curves.csv"
    path.write_text(path.read_text() + cut)
    log("csv", tmp_path, 10, 15)
    assert path.read_text() == "step,name,value\n5,loss,5.0\n10,loss,10.0\n15,loss,15.0\n"
    log("csv", tmp_path, 0)  # a new run
    assert path.read_text() == "step,name,value\n"
    assert [file.name for file in tmp_path.iterdir()] == ["curves.csv"]


@pytest.mark.parametrize("text", ["", "step,na", "step,name,value", "step,name,value\n15,lo"])
def test_a_csv_that_was_cut_off_early_resumes(tmp_path: Path, text: str) -> None:
    (tmp_path / "curves.csv").write_text(text)
    log("csv", tmp_path, 10, 15)
    assert (tmp_path / "curves.csv").read_text() == "step,name,value\n15,loss,15.0\n"


def test_a_resumed_tensorboard_hides_the_entries_after_its_checkpoint(tmp_path: Path) -> None:
    board = trackers(["tensorboard"], tmp_path, 0)
    for step in (5, 10, 15):
        board.log(step, {"loss": float(step)})
    assert events(tmp_path)["loss"][-1] == (15, 15.0)  # flushed immediately
    board.close()
    again = trackers(["tensorboard"], tmp_path, 10)
    again.log(15, {"loss": 16.0})
    again.close()
    assert events(tmp_path) == {"loss": [(5, 5.0), (10, 10.0), (15, 16.0)]}


def test_trackers_are_selected_by_name(tmp_path: Path) -> None:
    for names, files in (
        (["csv"], {"curves.csv"}),
        ([], set()),
        (["tensorboard", "csv"], {"curves.csv", "tensorboard"}),
    ):
        folder = tmp_path / "-".join(["run", *names])
        folder.mkdir()
        written = trackers(OmegaConf.create(names), folder, 0, OmegaConf.create({"csv": {}}))
        written.log(1, {"loss": 1.0})
        written.close()
        assert {path.name for path in folder.iterdir()} == files
    with pytest.raises(ValueError, match=r"logger=\['csv', 'nothing'\]: expected a list of aim, .*csv.*got nothing"):
        trackers(["csv", "nothing"], tmp_path, 0)


def test_other_processes_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    log("csv", tmp_path, 0, 5)
    assert not list(tmp_path.iterdir())


def test_a_missing_package_raises_with_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(ModuleNotFoundError, match="logger=wandb requires its package: pip install wandb"):
        trackers(["csv", "wandb"], tmp_path, 0)


class FakeRun:
    """A fake of the object that `wandb.init` returns."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = False

    def log(self, values: dict[str, float], *, step: int) -> None:
        self.logged.append((step, values))

    def finish(self) -> None:
        self.finished = True


def test_wandb_continues_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        made.append(FakeRun(settings))
        return made[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for name, step in (("kd", 0), ("kd", 10), ("hard", 0)):
        written = trackers(["wandb"], tmp_path / name, step, {"wandb": {"project": "mine", "mode": "offline"}})
        written.log(step + 5, {"loss": 1.0})
        written.close()
    first, again, other = made
    assert first.settings == again.settings
    assert {"project": "mine", "mode": "offline", "resume": "allow", "name": "kd"}.items() <= first.settings.items()
    assert first.settings["id"] != other.settings["id"]
    assert again.logged == [(15, {"loss": 1.0})]
    assert all(one.finished for one in made)


def test_damaged_rows_of_a_csv_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log("csv", tmp_path, 0, 5, 10, 15)
    path = tmp_path / "curves.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[1] + b"\xff\x00,loss\n" + b"1o,loss,10.0\n" + lines[3])
    log("csv", tmp_path, 15)
    assert path.read_text() == "step,name,value\n5,loss,5.0\n15,loss,15.0\n"
    assert f"{path}: 2 damaged rows are left out" in caplog.text


def test_names_of_any_characters_in_a_csv(tmp_path: Path) -> None:
    names = ["a,b", 'say "x"', "two\nlines", "é 猫\u2028", "=1+1"]
    table = trackers(["csv"], tmp_path, 0)
    table.log(5, dict.fromkeys(names, 0.5))
    table.close()
    before = (tmp_path / "curves.csv").read_bytes()
    trackers(["csv"], tmp_path, 5).close()  # a resumed run reads and writes them
    assert (tmp_path / "curves.csv").read_bytes() == before
    assert pd.read_csv(tmp_path / "curves.csv").name.tolist() == names


def test_a_folder_that_is_not_utf_8(tmp_path: Path) -> None:
    folder = tmp_path / "\udcff"
    folder.mkdir()
    trackers(["csv"], folder, 0).close()
    with pytest.raises(ValueError, match=r"logger=tensorboard can't write to .*use logger=\[csv\], or .*PYTHONUTF8=1"):
        trackers(["csv", "tensorboard"], folder, 0)
