"""Files that are written whole or not at all, in UTF-8, and that everything is written that way."""

from __future__ import annotations

import ast
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hard_aug.utils import files
from hard_aug.utils.files import replacing, write_bytes, write_text

ROOT = Path(__file__).parents[2]
TEXT = "Δ ± é 猫 🦊 <&\"' $x$ \\ \udc80\n"


def test_a_file_is_replaced_when_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_or_none(tmp_path: Path, exists: bool, error: BaseException) -> None:
    path = tmp_path / "a.txt"
    if exists:
        write_text(path, "old")

    def write() -> None:
        with replacing(path) as unfinished:
            unfinished.write_text("half of")
            raise error

    with pytest.raises(type(error)):
        write()
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"] * exists
    assert not exists or path.read_text() == "old"


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_end(tmp_path: Path, step: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "a", b"old")

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, step, fail)
        with pytest.raises(OSError, match="Input/output"):
            write_bytes(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 1


def test_links_devices_and_pipes(tmp_path: Path) -> None:
    write_text(tmp_path / "target", "old")
    (tmp_path / "link").symlink_to(tmp_path / "target")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "new"
    write_text(Path(os.devnull), "nothing")
    assert not Path(os.devnull).is_file()
    pipe, found = tmp_path / "pipe", list[str]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: found.append(pipe.read_text()))
    reader.start()
    write_text(pipe, "through a pipe")
    reader.join()
    assert found == ["through a pipe"]


def test_a_folder_of_windows_is_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Opening one is an error there."""
    monkeypatch.setattr(files, "os", type("Windows", (), {"name": "nt"}))
    files.sync_folder(tmp_path / "no folder")


def test_any_text_is_written_in_utf_8(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", json.dumps({"text": TEXT}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"text": TEXT}


WRITE_ALL = """
import locale, sys
from pathlib import Path
import pandas as pd
from experiments.report import main
from experiments.training.files import read_json, write_json
from hard_aug.utils.files import write_text
from tests.helpers.report_runs import hard, record, write_runs

assert locale.getpreferredencoding(False) in ("ANSI_X3.4-1968", "US-ASCII"), locale.getpreferredencoding(False)
folder, text = Path(sys.argv[1]), sys.argv[2].encode("ascii").decode("unicode_escape")
write_text(folder / "a.txt", text)
write_json(folder / "a.json", {"text": text})
assert read_json(folder / "a.json") == {"text": text}
write_runs(folder, record(note=text), hard(row={"name": text, "augmenter": {}}))
places = {name: str(folder / ("out" + name)) for name in (".html", ".csv", ".json", ".yaml")}
main([str(folder), "--html", places[".html"], "--csv", places[".csv"], "--json", places[".json"], "--select",
      places[".yaml"]])
"""


@pytest.mark.slow
def test_the_locale_does_not_matter(tmp_path: Path) -> None:
    """As on Windows, where it is seldom that of UTF-8: texts, records, and pages of a report, also on stdout."""
    text = "Δ ± é 猫 🦊"
    environment = {**os.environ, "PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONIOENCODING", None)
    line = [sys.executable, "-c", WRITE_ALL, str(tmp_path), text.encode("unicode_escape").decode()]
    done = subprocess.run(line, env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert text in done.stdout.decode("utf-8")
    assert "Δ hard" in done.stdout.decode("utf-8")
    written = [path for path in tmp_path.iterdir() if path.is_file()]
    assert {path.suffix for path in written} == {".txt", ".json", ".html", ".csv", ".yaml"}
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == text
    assert "±" in (tmp_path / "out.html").read_text(encoding="utf-8")
    assert text in (tmp_path / "out.json").read_text(encoding="utf-8")
    for path in written:
        path.read_text(encoding="utf-8")


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let this process write files of at most `size` bytes, as on a disk that is nearly full."""
    former, limits = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, former)


def page(folder: Path) -> None:
    from experiments import report
    from tests.helpers.report_runs import hard, record, write_runs

    if not (folder / "runs").exists():
        write_runs(folder / "runs", record(), hard())
    report.main([str(folder / "runs"), "--html", str(folder / "page.html")])


def figure(folder: Path) -> None:
    from matplotlib.figure import Figure

    from experiments.training.files import save_figure

    save_figure(Figure(), folder / "figure.png", 300)


def models(folder: Path) -> None:
    from hard_aug.generative import HierarchicalVAE

    vae = HierarchicalVAE(channels=1, size=8, blocks=((1, 1), (4, 2)), width=8, latent_channels=2)
    vae.save_pretrained(folder)


def sheets(folder: Path) -> None:
    from hard_aug.data import save_sheets
    from tests.helpers.shard_parts import hard

    save_sheets(hard(0, size=40), folder)


def timings(folder: Path) -> None:
    from benchmarks.timing import write

    write(folder / "timing.json", {"numbers": list(range(9999))})


@pytest.mark.parametrize("writer", [page, figure, sheets, timings, models])
def test_writers_on_a_full_disk(tmp_path: Path, writer: Callable[[Path], Any]) -> None:
    writer(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with small_files(500), pytest.raises(BaseException, match=r"too large|No space|I/O error|error"):
        writer(tmp_path)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


#: Names of calls that write a file, and the modules in which they may stand outside of `replacing`, with their number.
WRITES = {"write_text", "write_bytes", "savefig", "save_image", "save_file", "dump", "savez", "save_pretrained", "save"}
ALLOWED = {
    "hard_aug/data/shard_encoding.py": 2,  # in memory
    "hard_aug/data/shard_files.py": 1,  # into the staging folder of a shard
    "hard_aug/evaluation/corruptions/digital.py": 1,  # in memory
    "hard_aug/export/files.py": 1,  # in memory
    "experiments/data/sources.py": 1,  # a temporary folder
    "experiments/report/curves.py": 1,  # in memory
    "experiments/train_generative.py": 1,  # a temporary folder
    "benchmarks/timing.py": 1,  # Linux' /proc
}


def writes(tree: ast.AST) -> int:
    """Return the number of calls that write a file, without those in a block of `replacing`."""
    safe = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.With) and "replacing" in ast.dump(node.items[0])
        for inner in ast.walk(node)
    }
    found = 0
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or id(node) in safe:
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        owner = getattr(getattr(node.func, "value", None), "id", "")
        modes = [one.value for one in node.args if isinstance(one, ast.Constant) and isinstance(one.value, str)]
        if name == "open":
            found += any(mode.rstrip("b+") in ("w", "x") for mode in modes)
        elif isinstance(node.func, ast.Attribute) or name.startswith("save_"):
            found += name in WRITES and owner not in ("checkpoint", "files")  # they use `replacing`
    return found


def test_everything_is_written_by_these_functions() -> None:
    found = {
        path.relative_to(ROOT).as_posix(): count
        for folder in ("hard_aug", "experiments", "benchmarks")
        for path in (ROOT / folder).rglob("*.py")
        if (count := writes(ast.parse(path.read_text(encoding="utf-8"))))
    }
    assert found == ALLOWED
