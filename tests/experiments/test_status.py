"""`status.json` of runs that finish, fail, are stopped, or cannot write."""

from __future__ import annotations

import json
import logging
from datetime import datetime
from pathlib import Path

import pytest

from experiments.runs import status
from experiments.runs.status import find, mark_finished, read, record_status, write_json


def test_a_run_is_running_inside_and_finished_after(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "run"
    with record_status(folder, ["seed=3", "students=[kd]"]):
        inside = read(folder)
        assert inside is not None
        assert (inside["state"], inside["ended"]) == ("running", None)
    after = read(folder)
    assert after is not None
    assert after["state"] == "finished"
    assert after["overrides"] == ["seed=3", "students=[kd]"]
    assert after["error"] is None
    assert datetime.fromisoformat(after["started"]) <= datetime.fromisoformat(after["ended"])
    assert [path.name for path in folder.iterdir()] == ["status.json"]


def test_a_failure_is_recorded_logged_and_re_raised(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (
        caplog.at_level(logging.ERROR),
        pytest.raises(FloatingPointError, match="step 50"),
        record_status(tmp_path, []),
    ):
        raise FloatingPointError("the loss is nan at step 50")
    found = read(tmp_path)
    assert found is not None
    assert found["state"] == "failed"
    assert found["error"] == {"type": "FloatingPointError", "message": "the loss is nan at step 50"}
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(130)])
def test_a_stop_is_not_a_failure(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), record_status(tmp_path, []):
        raise error
    found = read(tmp_path)
    assert found is not None
    assert (found["state"], found["error"]) == ("stopped", None)


def test_a_new_attempt_clears_the_old_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="bad"), record_status(tmp_path, []):
        raise ValueError("bad")
    with record_status(tmp_path, []):
        inside = read(tmp_path)
        assert inside is not None
        assert inside["error"] is None


def test_a_full_disk_does_not_hide_the_original_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, text: str) -> int:
        raise OSError(28, "No space left on device")

    def fails() -> None:
        with record_status(tmp_path, []):
            monkeypatch.setattr(Path, "write_text", full)
            raise ValueError("the cause")

    with pytest.raises(ValueError, match="the cause"):
        fails()
    monkeypatch.undo()
    found = read(tmp_path)
    assert found is not None
    assert found["state"] == "running"


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    write_json(path, {"state": "running"})
    with pytest.raises(TypeError):
        write_json(path, {"state": object()})
    assert json.loads(path.read_text()) == {"state": "running"}


def test_only_rank_0_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    with record_status(tmp_path / "run", []):
        pass
    mark_finished(tmp_path / "run", [])
    assert not (tmp_path / "run").exists()


def test_results_without_a_finished_status_are_marked_finished(tmp_path: Path) -> None:
    write_json(tmp_path / status.NAME, {**status.new_status(["seed=1"]), "started": "2026-01-01T00:00:00+00:00"})
    mark_finished(tmp_path, ["seed=1", "resume=true"])
    found = read(tmp_path)
    assert found is not None
    assert (found["state"], found["started"]) == ("finished", "2026-01-01T00:00:00+00:00")
    mark_finished(tmp_path, [])
    assert read(tmp_path) == found


@pytest.mark.parametrize("text", ["", "{", "[]", '{"state": "asleep"}', "{}"])
def test_invalid_status_files_raise(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "status.json").write_text(text)
    with pytest.raises(ValueError, match=r"a/status\.json is not a valid run status"):
        find([tmp_path])


def test_a_folder_without_status(tmp_path: Path) -> None:
    assert read(tmp_path) is None
    assert find([tmp_path, tmp_path / "nothing"]) == {}
