"""Entry points: errors in one line, exit statuses, the folders of configuration errors, multiruns and the help."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from experiments import train
from experiments.configuration.command import describe, is_usage_error, unknown_key
from experiments.runs.status import find
from tests.experiments.configuration.app.app import call, kept_logging

APP = Path(__file__).parent / "app" / "app.py"
ROOT = Path(__file__).parents[3]
Captured = pytest.CaptureFixture[str]


def started(folder: Path, *words: str, torchrun: bool = False) -> subprocess.Popen[str]:
    """Start the application in processes of its own."""
    run = ["-m", "torch.distributed.run", "--nproc-per-node", "2"] if torchrun else []
    line = [sys.executable, *run, str(APP), *words, f"hydra.sweep.dir={folder}"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(line, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["stpes=50"], "unknown key stpes; did you mean steps?"),
        (["method.rotatoin=3"], "unknown key method.rotatoin; did you mean method.rotation?"),
        (["steps.x=3"], "unknown key steps.x; steps has no keys"),
        (["method=hrad"], "method=hrad: did you mean hard? expected one of hard, kd"),
        (["experiment=x"], "experiment=x: expected one of short"),
        (
            ["steps=a=b"],
            "steps=a=b: mismatched input '=' expecting <EOF>; quote a value with such characters twice: "
            "'steps=\"a=b\"'",
        ),
        (["steps"], "steps: Error parsing override 'steps'; missing EQUAL at '<EOF>'"),
        (["steps=${nothing}"], "steps: Interpolation key 'nothing' not found"),
        (["steps=0"], "steps=0: expected an integer >= 1"),
        (["what=build", "method.rotation=-1"], None),
        (["what=build", "method._target_=hard_aug.transforms.Color"], None),
        (["settings_from=no.yaml"], None),
        (["+stpes=50"], "unknown key stpes; did you mean steps?"),
        (["++stpes=50"], "unknown key stpes; did you mean steps?"),
        (["+method.rotatoin=3"], "unknown key method.rotatoin; did you mean method.rotation?"),
        (["method=kd", "+method.scale=3"], "unknown key method.scale; expected one of name"),
        (["+a.b=3"], None),
        (["--resolve"], "The --resolve flag can only be used in conjunction with --cfg or --help"),
        (["--help", "stpes=50"], "unknown key stpes; did you mean steps?"),
        (["-m", "method=hard,hrad"], "method=hrad: did you mean hard? expected one of hard, kd"),
    ],
)
def test_a_usage_error_is_one_line_and_leaves_no_run(
    tmp_path: Path, capfd: Captured, words: list[str], line: str | None
) -> None:
    status, lines = call(tmp_path, capfd, *words)
    assert status == 2, lines
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "+" not in lines[0]
    if line is not None:
        assert lines == [f"error: {line}"]
    assert not [path for path in tmp_path.iterdir() if path.name != "multirun.yaml"]


def test_the_errors_of_settings_name_them(tmp_path: Path, capfd: Captured) -> None:
    _, lines = call(tmp_path, capfd, "what=build", "method.rotation=-1")
    assert "rotation=-1" in lines[0]
    _, lines = call(tmp_path, capfd, "what=build", "method._target_=hard_aug.transforms.Color")
    assert "unexpected keyword argument 'rotation'" in lines[0]
    _, lines = call(tmp_path, capfd, "settings_from=no.yaml")
    assert "settings_from=no.yaml: no such file" in lines[0]


@pytest.mark.parametrize(
    "words",
    [
        ["++steps=4"],
        ["+method.translation=0.1"],  # an argument of its target
        ["+ood=[images]"],
        ["+trials.hard=[]"],
        ["+teacher.data.classes=3"],
    ],
)
def test_added_keys_that_something_reads_are_accepted(tmp_path: Path, capfd: Captured, words: list[str]) -> None:
    assert call(tmp_path, capfd, *words) == (0, [])
    assert [one["state"] for one in find([tmp_path]).values()] == ["finished"]


@pytest.mark.parametrize(
    ("what", "line"),
    [
        ("nan_loss", "error: the loss is nan at step 50"),
        ("memory", "error: out of memory; lower batch_size"),
        ("disk", "error: [Errno 28] a disk is full"),
    ],
)
def test_a_run_that_fails_has_its_traceback_in_the_log(tmp_path: Path, capfd: Captured, what: str, line: str) -> None:
    status, lines = call(tmp_path, capfd, f"what={what}")
    assert status == 1
    assert len(lines) == 1
    assert lines[0].startswith(line)
    (log,) = tmp_path.glob("*/app.log")
    assert "Traceback" in log.read_text()
    (found,) = find([tmp_path]).values()
    assert (found["state"], found["error"]["message"]) == ("failed", lines[0].removeprefix("error: "))


@pytest.mark.parametrize("what", ["bug", "parse"])
def test_a_bug_keeps_its_traceback(tmp_path: Path, capfd: Captured, what: str) -> None:
    status, lines = call(tmp_path, capfd, f"what={what}")
    assert status == 1
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-1].startswith(("KeyError", "ValueError: invalid literal"))
    assert sum(line.startswith("Traceback") for line in lines) == 1


def test_all_tracebacks_can_be_shown(tmp_path: Path, capfd: Captured, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    status, lines = call(tmp_path, capfd, "steps=0")
    assert status == 2
    assert lines[-1] == "ValueError: steps=0: expected an integer >= 1"
    assert "Traceback (most recent call last):" in lines


def test_a_missing_package_keeps_what_the_run_has_written(tmp_path: Path, capfd: Captured) -> None:
    status, lines = call(tmp_path, capfd, "what=package")
    assert (status, lines) == (2, ["error: No module named 'there_is_no_such_package'"])
    assert len(list(tmp_path.glob("*/work"))) == 1


def test_a_stop_is_one_line(tmp_path: Path, capfd: Captured) -> None:
    former = signal.getsignal(signal.SIGTERM)
    status, (line,) = call(tmp_path, capfd, "what=interrupt")
    assert status == 130
    (folder,) = find([tmp_path])
    assert line == f"stopped; the same command resumes the run in {folder}"
    assert find([tmp_path])[folder]["state"] == "stopped"
    assert signal.getsignal(signal.SIGTERM) is former


def test_a_multirun_continues_after_failures_and_lists_them(tmp_path: Path, capfd: Captured) -> None:
    sweep = ["steps=0,1", "what=bug,''", "hydra.sweeper.max_batch_size=1"]
    status, lines = call(tmp_path, capfd, "-m", *sweep)
    assert status == 1
    assert sorted(one["state"] for one in find([tmp_path]).values()) == ["failed", "finished"]
    assert [line for line in lines if line.startswith("error: ")] == 2 * ["error: steps=0: expected an integer >= 1"]
    listed = sorted(line for line in lines if line.startswith("failed: "))
    (kept,) = [folder for folder, one in find([tmp_path]).items() if one["state"] == "failed"]
    assert listed == sorted(
        [
            "failed: steps=0 what=bug: steps=0: expected an integer >= 1",
            "failed: steps=0 what='': steps=0: expected an integer >= 1",
            f"failed: {kept}: KeyError: 'missing'",
        ]
    )
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 2


def test_a_job_without_a_name_does_not_stop_the_others(tmp_path: Path, capfd: Captured) -> None:
    status, lines = call(tmp_path, capfd, "-m", "trial=0,null")
    assert status == 1
    assert lines[-1].startswith("failed: trial=0: trial=0 of method=hard: expected null")
    assert [one["state"] for one in find([tmp_path]).values()] == ["finished"]


def test_a_stop_ends_a_multirun(tmp_path: Path, capfd: Captured) -> None:
    status, lines = call(tmp_path, capfd, "-m", "what=interrupt", "steps=1,2")
    assert (status, len(lines)) == (130, 1)
    assert [one["state"] for one in find([tmp_path]).values()] == ["stopped"]


@pytest.mark.slow
def test_failures_in_other_processes(tmp_path: Path) -> None:
    parallel = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "+method.translation=0.1"]
    process = started(tmp_path, "-m", "steps=0,1", "what=bug,''", *parallel)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1, errors
    assert errors.count("error: steps=0: expected an integer >= 1") == 2
    assert errors.count("Traceback") == 1
    assert errors.count("failed: ") == 3
    assert sorted(one["state"] for one in find([tmp_path]).values()) == ["failed", "finished"]


@pytest.mark.slow
def test_several_processes_of_one_run(tmp_path: Path) -> None:
    process = started(tmp_path, "stpes=1", torchrun=True)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 1
    assert errors.count("unknown key stpes") == 1
    process = started(tmp_path, "steps=0", torchrun=True)
    _, errors = process.communicate(timeout=300)
    assert "steps=0: expected an integer" in errors
    assert find([tmp_path]) == {}


def test_the_help_has_the_comments_the_options_and_the_experiments(
    capsys: Captured, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["train", "--help", "hydra/help=comments"])
    with kept_logging(), pytest.raises(SystemExit) as ended:
        train.main()
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert "steps: 3000              # optimiser steps of the student\n" in text
    assert "\nstudent: conv, conv_flat," in text
    assert "\nexperiment=cifar10 " in text
    assert "\n--config-name demo " in text


def test_the_configuration_can_be_shown(tmp_path: Path, capfd: Captured) -> None:
    assert call(tmp_path, capfd, "--cfg", "job", "steps=7") == (0, [])
    assert not list(tmp_path.iterdir())


def test_an_error_raised_by_a_library_is_a_bug() -> None:
    def caught(function: object) -> BaseException:
        try:
            function()  # type: ignore[operator]
        except Exception as error:
            return error
        raise AssertionError

    assert not is_usage_error(caught(lambda: int("three")))
    assert not is_usage_error(caught(lambda: [].remove(1)))
    assert describe(caught(lambda: {}["a"])) == "KeyError: 'a'"


def test_keys_without_a_near_name_are_listed() -> None:
    assert unknown_key("a.zzz", ["two", "one"]) == "unknown key a.zzz; expected one of one, two"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["bug", "nan_loss"])
def test_a_folder_and_a_locale_of_any_characters(tmp_path: Path, what: str) -> None:
    """In a locale without UTF-8, Python reads the name as escapes, which no encoding writes without being told to."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUTF8": "0", "LC_ALL": "C"}
    line = [sys.executable, str(APP), f"what={what}", f"hydra.sweep.dir='{tmp_path}/é 猫 [1] <b>&'"]
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    text = done.stderr.decode("utf-8")
    assert done.returncode == 1
    assert "Logging error" not in text
    assert ("KeyError: 'missing'" if what == "bug" else "error: the loss is nan at step 50") in text
    (found,) = find([tmp_path]).items()
    assert "é 猫 [1] <b>&" in str(found[0])
    assert found[1]["error"]["type"] == ("KeyError" if what == "bug" else "FloatingPointError")
    log = (found[0] / "app.log").read_text(encoding="utf-8")
    assert "working" in log
    assert "Traceback" in log
