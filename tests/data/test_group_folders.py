"""Benchmarks of spurious features, loaded from folders in their true formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

from hard_aug.data import load_groups
from tests.helpers.group_parts import ATTRIBUTES, CLASSES, reds, write_celeba, write_spuco, write_waterbirds

CONFIGURATIONS = Path(__file__).parents[2] / "experiments" / "conf" / "data"


@pytest.mark.parametrize("above", ["", "waterbird_complete95_forest2water2", "waterbirds_v1.0"])
def test_waterbirds(tmp_path: Path, above: str) -> None:
    write_waterbirds(tmp_path / above)
    splits = load_groups("waterbirds", root=tmp_path, size=8)
    assert splits.classes == ("landbird", "waterbird")
    assert splits.attributes == ("land", "water")
    for split, part in enumerate((splits.train, splits.validation, splits.test)):
        assert part.images.shape == (8, 3, 8, 8)
        assert part.images.dtype == torch.float32
        assert reds(part) == (100 * part.labels + 50 * part.spurious + 10 * split + torch.arange(8) % 2).tolist()
        assert set(part.counts().values()) == {2}


@pytest.mark.parametrize("form", ["txt", "csv"])
@pytest.mark.parametrize("nested", [False, True])
def test_celeba(tmp_path: Path, form: str, nested: bool) -> None:
    folder = tmp_path / "celeba" if form == "txt" else tmp_path
    write_celeba(folder, form)
    if nested:
        (folder / "img_align_celeba").rename(folder / "unpacked")
        (folder / "img_align_celeba").mkdir()
        (folder / "unpacked").rename(folder / "img_align_celeba" / "img_align_celeba")
    splits = load_groups("celeba", root=str(tmp_path), size=16, channels=1)
    assert splits.classes == ("not_Blond_Hair", "Blond_Hair")
    assert splits.attributes == ("not_Male", "Male")
    assert splits.train.images.shape == (4, 1, 16, 16)
    assert splits.train.labels.tolist() == [0, 0, 1, 1]
    assert splits.train.spurious.tolist() == [0, 1, 0, 1]
    colour = load_groups("celeba", root=tmp_path, size=16)
    for split, part in enumerate((colour.train, colour.validation, colour.test)):
        expected = 100 * part.labels + 50 * part.spurious + 10 * split
        assert (torch.tensor(reds(part)) - expected).abs().max() <= 3  # JPEG
    other = load_groups("celeba", root=tmp_path, size=16, target="Male", spurious="Bald")
    assert other.classes == ("not_Male", "Male")
    assert other.train.labels.tolist() == [0, 1, 0, 1]
    assert other.train.spurious.tolist() == [1, 0, 1, 0]


@pytest.mark.parametrize("above", ["", "spuco_birds"])
def test_spuco_birds(tmp_path: Path, above: str) -> None:
    write_spuco(tmp_path / above)
    group = tmp_path / above / "train" / "landbirds" / "land"
    (group / ".DS_Store").write_bytes(b"x")
    (group / "._n01.JPEG").write_bytes(b"x")
    splits = load_groups("spuco_birds", root=tmp_path, size=8)
    for split, part in enumerate((splits.train, splits.validation, splits.test)):
        assert part.group.tolist() == [0, 1, 2, 3]
        expected = 100 * part.labels + 50 * part.spurious + 10 * split
        assert (torch.tensor(reds(part)) - expected).abs().max() <= 3


def test_dropped_groups_are_absent_from_training_only(tmp_path: Path) -> None:
    write_waterbirds(tmp_path)
    pairs = [("waterbird", "land"), ["landbird", "water"]]
    splits = load_groups("waterbirds", root=tmp_path, size=8, drop_groups=pairs)
    assert splits.train.counts() == {"landbird/land": 2, "waterbird/water": 2}
    assert len(splits.validation) == len(splits.test) == 8
    everything = [(name, place) for name in CLASSES for place in ATTRIBUTES]
    with pytest.raises(ValueError, match="no image for train without the groups"):
        load_groups("waterbirds", root=tmp_path, size=8, drop_groups=everything)
    for wrong in ([("waterbird", "sky")], [("land", "waterbird")], ["waterbird/land"], ("waterbird", "land"), [()]):
        with pytest.raises(ValueError, match=r"expected pairs \[class, attribute\]"):
            load_groups("waterbirds", root=tmp_path, size=8, drop_groups=wrong)


def test_limit_is_a_fixed_choice_of_what_is_left(tmp_path: Path) -> None:
    write_waterbirds(tmp_path)
    whole = load_groups("waterbirds", root=tmp_path, size=8)
    some = load_groups("waterbirds", root=tmp_path, size=8, limit=5)
    assert len(some.train) == len(some.validation) == len(some.test) == 5
    assert set(reds(some.train)) < set(reds(whole.train))
    assert reds(some.train) == reds(load_groups("waterbirds", root=tmp_path, size=8, limit=5).train)
    assert len(set(some.train.labels.tolist())) == 2  # the file is sorted by class: its head would be one class
    assert reds(load_groups("waterbirds", root=tmp_path, size=8, limit=99).train) == reds(whole.train)
    left = load_groups("waterbirds", root=tmp_path, size=8, limit=5, drop_groups=[("landbird", "land")])
    assert len(left.train) == 5
    assert "landbird/land" not in left.train.counts()


def test_unreadable_and_missing_images_are_named(tmp_path: Path) -> None:
    write_waterbirds(tmp_path)
    bad = tmp_path / "001.Some_Bird" / "Bird_110.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(ValueError, match=r"Bird_110\.png cannot be decoded"):
        load_groups("waterbirds", root=tmp_path, size=8)
    bad.unlink()
    with pytest.raises(FileNotFoundError, match=r"Bird_110\.png, though it is listed"):
        load_groups("waterbirds", root=tmp_path, size=8)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"name": "waterbird"}, "expected one of waterbirds, celeba, spuco_birds"),
        ({"size": 0}, "size=0"),
        ({"limit": 0}, "limit=0"),
        ({"workers": -1}, "workers=-1"),
        ({"channels": 2}, "channels=2"),
        ({"target": "Male"}, "only celeba"),
        ({"name": "celeba", "target": "Male"}, "both 'Male'"),
    ],
)
def test_invalid_settings_raise(tmp_path: Path, settings: dict[str, Any], match: str) -> None:
    write_waterbirds(tmp_path)
    with pytest.raises(ValueError, match=match):
        load_groups(**{"name": "waterbirds", "root": tmp_path, "size": 8, **settings})


@pytest.mark.parametrize(
    ("name", "step"), [("waterbirds", [0, 1, 50, 51]), ("celeba", [0, 50]), ("spuco_birds", [0, 50])]
)
def test_configurations_load(tmp_path: Path, name: str, step: list[int]) -> None:
    {"waterbirds": write_waterbirds, "celeba": write_celeba, "spuco_birds": write_spuco}[name](tmp_path)
    config = OmegaConf.load(CONFIGURATIONS / f"{name}.yaml")
    config.root, config.size = str(tmp_path), 8
    splits = instantiate(config)
    config.drop_groups = [[splits.classes[1], splits.attributes[0]]]
    dropped = instantiate(config)
    names = [f"{c}/{a}" for c in splits.classes for a in splits.attributes]
    each = len(splits.train) // 4
    assert splits.train.counts() == dict.fromkeys(names, each)
    assert dropped.train.counts() == {group: each for group in names if group != names[2]}
    # red is 100 label + 50 attribute + 10 split (and the number of the bird), up to JPEG
    expected = [red + 100 * label for label in (0, 1) for red in step]
    for split, part in enumerate((splits.train, splits.validation, splits.test)):
        assert part.labels.tolist() == [label for label in (0, 1) for _ in step]
        assert reds(part) == pytest.approx([red + 10 * split for red in expected], abs=3)
    assert reds(dropped.train) == pytest.approx([red for red in expected if not 100 <= red < 150], abs=3)
    assert reds(dropped.test) == reds(splits.test)
