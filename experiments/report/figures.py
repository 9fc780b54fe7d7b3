"""Figures of saved students: a gallery with the predictions of several, and a diagnosis before and after HARD."""

from __future__ import annotations

from pathlib import Path

from experiments.report.groups import HARD, Group
from experiments.runs.saved import load_run
from experiments.training.files import save_figure
from hard_aug import diagnose
from hard_aug.utils.files import write_text
from hard_aug.viz import draw_diagnosis, gallery

#: Numbers of test images from which the gallery shows the hardest, and that the diagnosis uses.
GALLERY_IMAGES, DIAGNOSIS_IMAGES = 64, 500
#: Number of values over each range in the diagnosis.
DIAGNOSIS_VALUES = 13


def draw(group: Group, folder: Path, suffix: str = "") -> dict[str, Path]:
    """Draw `gallery.png` and `diagnosis.png`, and write `diagnosis.txt`, of the group's first run of HARD in a folder.

    The other students are those with the same seed. `suffix` is appended to the names of the files.

    Returns:
        the figures by caption; none without such a run.
    """
    runs = group.runs[["folder" in group.records[run] for run in group.runs.run]]
    first = runs[runs.method == HARD].head(1)
    if first.empty:
        return {}
    name, seed = first.name.item(), int(first.seed.item())
    saved = {run.name: load_run(Path(group.records[run.run]["folder"])) for run in runs[runs.seed == seed].itertuples()}
    hard, students = saved[name], {each: run.student() for each, run in saved.items()}
    augmenter, splits = hard.augmenter(), hard.splits
    shown, more = (splits.test[slice(0, count)].materialize() for count in (GALLERY_IMAGES, DIAGNOSIS_IMAGES))
    batch = augmenter.generate(shown.images, shown.labels)
    drawn = gallery(batch, students, classes=splits.classes, labels=shown.labels)
    kd = next((each for each in group.kd if each in students), "untrained")
    students.setdefault("untrained", hard.setup.student(hard.teacher))
    settings = {"labels": more.labels, "values": DIAGNOSIS_VALUES, "max_images": None, "seed": seed}
    before, after = (
        diagnose(hard.teacher, students[each], more.images, augmenter.transform, **settings) for each in (kd, name)
    )
    paths = [folder / f"{kind}{suffix}.png" for kind in ("gallery", "diagnosis")]
    save_figure(drawn, paths[0], 130)
    save_figure(draw_diagnosis(after, before=before), paths[1], 110)
    texts = [f"before ({kd})\n{before}", f"after ({name})\n{after}", after.gap_closed(before)]
    write_text(paths[1].with_suffix(".txt"), "\n\n".join(texts) + "\n")
    return {
        f"Hard images of {name} and the predictions of all students, seed {seed}": paths[0],
        f"Diagnosis before ({kd}) and after ({name}), seed {seed}": paths[1],
    }
