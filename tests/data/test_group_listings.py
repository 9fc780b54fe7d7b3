"""Tables and folders of the benchmarks of spurious features, in their true formats and with mistakes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hard_aug.data import load_groups
from hard_aug.data.group_listings import list_celeba, list_spuco_birds, list_waterbirds
from tests.helpers.group_parts import write_celeba, write_spuco, write_waterbirds


def test_rows_of_each_benchmark(tmp_path: Path) -> None:
    write_waterbirds(tmp_path / "waterbirds")
    birds = list_waterbirds(tmp_path / "waterbirds")
    assert (len(birds.rows), birds.classes, birds.attributes) == (24, ("landbird", "waterbird"), ("land", "water"))
    assert [row[1:] for row in birds.rows[:8:2]] == [(0, 0, 0), (0, 1, 0), (1, 0, 0), (1, 1, 0)]
    write_celeba(tmp_path / "celeba")
    faces = list_celeba(tmp_path, "Blond_Hair", "Male")  # in a folder of one of its usual names
    assert (len(faces.rows), faces.classes, faces.attributes) == (
        12,
        ("not_Blond_Hair", "Blond_Hair"),
        ("not_Male", "Male"),
    )
    assert [row[1:] for row in faces.rows[4:8]] == [(0, 0, 1), (0, 1, 1), (1, 0, 1), (1, 1, 1)]
    assert faces.rows[4].path == tmp_path / "celeba" / "img_align_celeba" / "000005.jpg"
    write_spuco(tmp_path / "spuco")
    others = list_spuco_birds(tmp_path / "spuco")
    assert [row[1:] for row in others.rows[-4:]] == [(0, 0, 2), (0, 1, 2), (1, 0, 2), (1, 1, 2)]


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("place,", "background,", "no column place; it has img_id"),
        ("Bird_001.png,0,0,0", "Bird_001.png,2,0,0", "y='2'"),
        ("Bird_001.png,0,0,0", "Bird_001.png,0,3,0", "split='3'"),
        ("Bird_001.png,0,0,0", "Bird_001.png,0,0,0.5", r"place='0\.5'"),
        ("Bird_001.png,0,0,0", "Bird_001.png,,0,0", "y=''"),
        ("Bird_001.png,0,0,0,/b/bamboo_forest/0.jpg", "Bird_001.png", "y=None"),
    ],
)
def test_metadata_with_mistakes(tmp_path: Path, old: str, new: str, match: str) -> None:
    write_waterbirds(tmp_path)
    path = tmp_path / "metadata.csv"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=match) as caught:
        load_groups("waterbirds", root=tmp_path, size=8)
    assert "metadata.csv" in str(caught.value)


def test_metadata_without_rows(tmp_path: Path) -> None:
    for content, match in (("", "no column img_filename"), ("img_filename,y,split,place\n", "no image for train")):
        (tmp_path / "metadata.csv").write_text(content)
        with pytest.raises(ValueError, match=match):
            load_groups("waterbirds", root=tmp_path, size=8)


def edit(name: str, change: Callable[[str], str]) -> Callable[[Path], None]:
    def apply(folder: Path) -> None:
        (folder / name).write_text(change((folder / name).read_text()))

    return apply


@pytest.mark.parametrize(
    ("form", "spoil", "match"),
    [
        ("txt", edit("list_attr_celeba.txt", lambda t: t.replace("Blond_Hair", "Blond")), "no attribute Blond_Hair"),
        ("csv", edit("list_attr_celeba.csv", lambda t: t.replace("Male", "Man")), "no column Male"),
        ("txt", edit("list_attr_celeba.txt", lambda t: t.replace("-1", "7")), "expected one of"),
        ("txt", edit("list_attr_celeba.txt", lambda t: t + "000099.jpg 1 1\n"), "has 2 values; expected 3"),
        ("txt", edit("list_attr_celeba.txt", lambda t: t + "000099.jpg 1 1 1\n"), r"no row for 000099\.jpg"),
        ("txt", edit("list_attr_celeba.txt", lambda t: ""), "no attribute Blond_Hair, Male"),
        ("csv", edit("list_eval_partition.csv", lambda t: t.replace(",2", ",4")), "partition='4'"),
        ("txt", edit("list_eval_partition.txt", lambda t: t.replace(" 1\n", " 0\n")), "no image for validation"),
    ],
)
def test_celeba_with_mistakes(tmp_path: Path, form: str, spoil: Callable[[Path], None], match: str) -> None:
    write_celeba(tmp_path, form)
    spoil(tmp_path)
    with pytest.raises(ValueError, match=match):
        load_groups("celeba", root=tmp_path, size=8)


def test_missing_data_says_where_it_looked_and_where_to_get_it(tmp_path: Path) -> None:
    for name, source in (("waterbirds", "group_DRO"), ("celeba", "torchvision"), ("spuco_birds", "spuco")):
        with pytest.raises(FileNotFoundError, match=source) as caught:
            load_groups(name, root=tmp_path / "nowhere")
        assert str(tmp_path / "nowhere") in str(caught.value)
        with pytest.raises(FileNotFoundError, match="root=None: expected the folder of"):
            load_groups(name, root=None)
    write_celeba(tmp_path / "a", "txt")
    (tmp_path / "a" / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no list_eval_partition"):
        load_groups("celeba", root=tmp_path / "a")
    write_celeba(tmp_path / "b", "csv")
    (tmp_path / "b" / "img_align_celeba").rename(tmp_path / "b" / "elsewhere")
    with pytest.raises(FileNotFoundError, match="img_align_celeba with CelebA's aligned images"):
        load_groups("celeba", root=tmp_path / "b")
    write_spuco(tmp_path / "c")
    group = tmp_path / "c" / "train" / "waterbirds" / "land"
    (group / "n01.JPEG").unlink()
    assert len(load_groups("spuco_birds", root=tmp_path / "c", size=8).train) == 3
    group.rmdir()
    with pytest.raises(FileNotFoundError, match=r"drop_groups=\[\('waterbirds', 'land'\)\]"):
        load_groups("spuco_birds", root=tmp_path / "c")
