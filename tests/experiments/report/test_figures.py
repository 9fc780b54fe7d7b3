"""The figures of saved students."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image
import pytest

from experiments import report
from experiments.report import figures
from experiments.runs.student import run
from tests.helpers.engine_parts import small_config, use_few_digits


@pytest.mark.slow
@pytest.mark.parametrize("methods", [("kd", "hard"), ("hard",), ("kd",)])
def test_gallery_and_diagnosis_of_saved_students(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: tuple[str, ...]
) -> None:
    use_few_digits(monkeypatch)
    monkeypatch.setattr(figures, "DIAGNOSIS_IMAGES", 6)
    for method in methods:
        run(small_config(tmp_path, f"method={method}", "student=conv"), tmp_path / "runs" / method, quiet=True)
    report.main([str(tmp_path / "runs"), "--figures", "--html", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    if "hard" not in methods:
        assert not (tmp_path / "gallery.png").exists()
        assert "<img" not in page
        return
    before = "kd" if "kd" in methods else "untrained"
    assert f"Diagnosis before ({before}) and after (hard), seed 0" in page
    assert "Hard images of hard and the predictions of all students, seed 0" in page
    assert page.count("<img") == 4  # and the run's policy.png and summary.png
    for name in ("gallery.png", "diagnosis.png"):
        assert matplotlib.image.imread(tmp_path / name).std() > 0.05
    text = (tmp_path / "diagnosis.txt").read_text(encoding="utf-8")
    assert text.startswith(f"before ({before})\nparameter")
    assert "\n\nafter (hard)\nparameter" in text
    assert text.count("translation_x") == 3
