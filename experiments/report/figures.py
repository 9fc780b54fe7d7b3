"""Figures of saved students: a gallery with the predictions of several, and a diagnosis before and after HARD."""

from __future__ import annotations

from pathlib import Path

from experiments.report.groups import HARD, KD, Group
from experiments.runs.saved import load_run
from hard_aug import diagnose
from hard_aug.viz import draw_diagnosis, gallery

#: Numbers of test images from which the gallery shows the hardest, and that the diagnosis uses.
GALLERY_IMAGES, DIAGNOSIS_IMAGES = 64, 500


def draw(group: Group, folder: Path, suffix: str = "") -> list[Path]:
    """Draw `gallery.png` and `diagnosis.png`, and write `diagnosis.txt`, of the group's first run of HARD.

    Args:
        group: runs in folders; the other students are those with the same seed.
        folder: for the figures.
        suffix: of the file names.

    Returns:
        the figures; none without a run of HARD in a folder.
    """
    runs = group.runs[["folder" in group.records[run] for run in group.runs.run]]
    first = runs[runs.method == HARD].head(1)
    if first.empty:
        return []
    runs = runs[runs.seed == first.seed.item()]
    saved = {run.name: load_run(Path(group.records[run.run]["folder"])) for run in runs.itertuples()}
    hard, students = saved[first.name.item()], {name: run.student() for name, run in saved.items()}
    augmenter, splits, seed = hard.augmenter(), hard.splits, hard.record["seed"]
    shown, more = (splits.test[slice(0, n)].materialize() for n in (GALLERY_IMAGES, DIAGNOSIS_IMAGES))
    paths = [folder / f"gallery{suffix}.png", folder / f"diagnosis{suffix}.png"]
    views = augmenter(shown.images, shown.labels)
    gallery(views, students, classes=splits.classes, labels=shown.labels).savefig(paths[0], dpi=130)
    kd = next((name for name in group.rows(only=KD) if name in students), None)
    found = [
        diagnose(hard.teacher, student, more.images, augmenter.transform, labels=more.labels, seed=seed)
        for student in (students[kd] if kd else hard.setup.student(hard.teacher), students[first.name.item()])
    ]
    before, after = found
    draw_diagnosis(after, before=before).savefig(paths[1], dpi=110)
    texts = [f"before ({kd or 'untrained'})\n{before}", f"after\n{after}", after.gap_closed(before)]
    paths[1].with_suffix(".txt").write_text("\n\n".join(texts) + "\n", encoding="utf-8")
    return paths
