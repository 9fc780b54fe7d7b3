"""Loggers: the files they write, and resuming after a kill."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from experiments.training.loggers import CSV, Loggers, TensorBoard


def config_of(*overrides: str) -> DictConfig:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        return compose("train", list(overrides))


def written(folder: Path) -> dict[str, list[tuple[int, float]]]:
    events = EventAccumulator(str(folder))
    events.Reload()
    return {name: [(one.step, one.value) for one in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_csv_numbers_are_exact(tmp_path: Path) -> None:
    table = CSV(tmp_path, "kd", 0)
    table.scalars(5, {"loss": 0.1 + 0.2, "policy/rotation_sd": 1e-30})
    assert len((tmp_path / "curves" / "kd.csv").read_text().splitlines()) == 3  # flushed immediately
    table.scalars(10, {"loss": float("nan")})
    table.close()
    rows = (tmp_path / "curves" / "kd.csv").read_text().splitlines()
    assert rows == [
        "step,name,value",
        "5,loss,0.30000000000000004",
        "5,policy/rotation_sd,1e-30",
        "10,loss,nan",
    ]


@pytest.mark.parametrize("cut", ["15,loss,0.", "15,lo", "15", "1", ""])
def test_a_resumed_csv_drops_the_rows_after_its_checkpoint(tmp_path: Path, cut: str) -> None:
    """`cut` is the rest of a row that was cut off by a kill."""
    table = CSV(tmp_path, "kd", 0)
    for step in (5, 10, 15):
        table.scalars(step, {"loss": float(step)})
    table.close()
    path = tmp_path / "curves" / "kd.csv"
    path.write_text(path.read_text() + cut)
    again = CSV(tmp_path, "kd", 10)
    again.scalars(15, {"loss": 15.0})
    again.close()
    assert path.read_text() == "step,name,value\n5,loss,5.0\n10,loss,10.0\n15,loss,15.0\n"
    CSV(tmp_path, "kd", 0).close()  # a new run
    assert path.read_text() == "step,name,value\n"
    assert [file.name for file in path.parent.iterdir()] == ["kd.csv"]


def test_a_student_s_name_may_contain_a_folder(tmp_path: Path) -> None:
    loggers = Loggers(config_of().logger, tmp_path, "hard/0", 0)
    loggers.scalars(1, {"loss": 1.0})
    loggers.close()
    assert (tmp_path / "curves" / "hard" / "0.csv").is_file()
    assert written(tmp_path / "tensorboard" / "hard" / "0") == {"loss": [(1, 1.0)]}


def test_a_resumed_tensorboard_hides_the_entries_after_its_checkpoint(tmp_path: Path) -> None:
    board = TensorBoard(tmp_path, "kd", 0)
    for step in (5, 10, 15):
        board.scalars(step, {"loss": float(step)})
    assert written(tmp_path / "tensorboard" / "kd")["loss"][-1] == (15, 15.0)  # flushed immediately
    board.close()
    again = TensorBoard(tmp_path, "kd", 10)
    again.scalars(15, {"loss": 16.0})
    again.close()
    assert written(tmp_path / "tensorboard" / "kd") == {"loss": [(5, 5.0), (10, 10.0), (15, 16.0)]}


def test_loggers_are_selected_by_name(tmp_path: Path) -> None:
    assert list(config_of().logger) == ["tensorboard", "csv"]
    for chosen, files in (("[csv]", {"curves"}), ("[]", set()), ("[tensorboard,csv]", {"curves", "tensorboard"})):
        folder = tmp_path / chosen
        folder.mkdir()
        loggers = Loggers(config_of(f"logger={chosen}").get("logger"), folder, "kd", 0)
        loggers.scalars(1, {"loss": 1.0})
        loggers.close()
        assert {path.name for path in folder.iterdir()} == files
    with pytest.raises(Exception, match="nothing"):
        config_of("logger=[nothing]")


def test_missing_wandb_raises_with_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(Exception, match="pip install wandb"):
        Loggers(config_of("logger=[csv,wandb]").logger, tmp_path, "kd", 0)


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


def test_wandb_resumes_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[FakeRun] = []

    def init(**settings: Any) -> FakeRun:
        made.append(FakeRun(settings))
        return made[-1]

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    for name, step in (("kd", 0), ("kd", 10), ("hard", 0)):
        loggers = Loggers(config_of("logger=[wandb]").logger, tmp_path, name, step)
        loggers.scalars(step + 5, {"loss": 1.0})
        loggers.close()
    first, again, other = made
    assert first.settings == again.settings
    assert first.settings["resume"] == "allow"
    assert first.settings["name"] == "kd"
    assert first.settings["id"] != other.settings["id"]
    assert again.logged == [(15, {"loss": 1.0})]
    assert all(one.finished for one in made)
