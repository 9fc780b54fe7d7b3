"""Groups of (class, spurious attribute): their accuracies, and the folders they are read from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from PIL import Image
from torch import Tensor, nn

from experiments.evaluation import accuracy
from experiments.group_folders import load_groups, read_pictures
from experiments.groups import Grouped, GroupedSplits, group_accuracies

CONFIGURATIONS = Path(__file__).parents[1] / "experiments" / "conf" / "data"
CLASSES, ATTRIBUTES = ("landbird", "waterbird"), ("land", "water")


class Reader(nn.Module):
    """Logits that the images carry in their first pixels: the test decides what is predicted."""

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            raise AssertionError("wanted evaluation mode")
        return images[:, 0, 0, :2]


def grouped(labels: list[int], spurious: list[int], predicted: list[int]) -> Grouped:
    images = torch.zeros(len(labels), 1, 2, 2)
    images[range(len(labels)), 0, 0, predicted] = 1
    return Grouped(images, torch.tensor(labels), torch.tensor(spurious), CLASSES, ATTRIBUTES)


# landbirds on land 3 of 4, landbirds on water 1 of 2, waterbirds on water 1 of 3, none on land
BIRDS = ([0, 0, 0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 1, 1, 1, 1, 1], [0, 0, 1, 0, 1, 0, 0, 1, 0])


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_accuracies_of_groups_by_hand(batch_size: int) -> None:
    model = Reader().train()
    birds = grouped(*BIRDS)
    found = group_accuracies(model, birds, batch_size=batch_size)
    assert found["groups"] == {"landbird/land": 3 / 4, "landbird/water": 1 / 2, "waterbird/water": 1 / 3}
    assert found["counts"] == {"landbird/land": 4, "landbird/water": 2, "waterbird/water": 3} == birds.counts()
    assert found["accuracy"] == pytest.approx(5 / 9)
    assert found["worst_group"] == pytest.approx(1 / 3)
    assert found["worst_group_name"] == "waterbird/water"
    assert found["mean_group"] == pytest.approx((3 / 4 + 1 / 2 + 1 / 3) / 3)
    assert "adjusted" not in found
    assert model.training
    assert accuracy(model, birds, batch_size=batch_size) == found["accuracy"]


def test_the_adjusted_average_has_the_weights_of_the_training_data() -> None:
    birds = grouped(*BIRDS)
    counts = {"landbird/land": 90, "landbird/water": 0, "waterbird/water": 10}
    found = group_accuracies(Reader(), birds, train_counts=counts)
    assert found["adjusted"] == pytest.approx(0.9 * 3 / 4 + 0.1 / 3)
    own = group_accuracies(Reader(), birds, train_counts=birds.counts())
    assert own["adjusted"] == pytest.approx(own["accuracy"])
    for counts, match in (
        ({"waterbird/land": 5, "landbird/land": 5}, "no image of waterbird/land"),
        ({"landbird/sky": 5}, "landbird/sky"),
        ({"landbird/land": 5, "landbird/water": -1}, "wanted numbers"),
        ({"landbird/land": 0}, "not all 0"),
        ({}, "not all 0"),
    ):
        with pytest.raises(ValueError, match=match):
            group_accuracies(Reader(), birds, train_counts=counts)


def test_nan_is_never_right_and_bad_calls_are_refused() -> None:
    birds = grouped(*BIRDS)
    broken = Grouped(birds.images * torch.nan, birds.labels, birds.spurious, CLASSES, ATTRIBUTES)
    assert group_accuracies(Reader(), broken)["accuracy"] == 0
    with pytest.raises(ValueError, match="at least one image"):
        group_accuracies(Reader(), birds[slice(0, 0)])
    with pytest.raises(ValueError, match="batch_size=0"):
        group_accuracies(Reader(), birds, batch_size=0)
    with pytest.raises(ValueError, match=r"logits \(9, 4\)"):
        group_accuracies(nn.Flatten(), birds)
    model = nn.Sequential(nn.Dropout(), nn.Unflatten(1, (7, 7))).train()
    with pytest.raises(RuntimeError):
        group_accuracies(model, birds)
    assert all(module.training for module in model.modules())


def test_parts_of_grouped_images_stay_grouped() -> None:
    birds = grouped(*BIRDS)
    assert birds.group.tolist() == [0, 0, 0, 0, 1, 1, 3, 3, 3]
    assert birds.group_names == ("landbird/land", "landbird/water", "waterbird/land", "waterbird/water")
    for index in (slice(5, None), torch.tensor([5, 6, 7, 8]), torch.arange(9) > 4):
        part = birds[index].to(torch.device("cpu"))
        assert isinstance(part, Grouped)
        assert part.group.tolist() == [1, 3, 3, 3]
        assert part.classes == CLASSES
    splits = GroupedSplits(birds, birds, birds, CLASSES, ATTRIBUTES).to(torch.device("cpu"))
    assert splits.test.counts() == birds.counts()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"labels": torch.tensor([0, 2])}, "from 0 to 2"),
        ({"spurious": torch.tensor([-1, 0])}, "from -1 to 0"),
        ({"labels": torch.tensor([0, 1, 1])}, r"labels .* \(3,\)"),
        ({"spurious": torch.tensor([0.0, 1.0])}, "float32"),
        ({"images": torch.zeros(2, 3)}, "wanted floats"),
        ({"images": torch.zeros(2, 1, 2, 2, dtype=torch.uint8)}, "uint8"),
        ({"classes": ("bird", "bird")}, "each once"),
        ({"attributes": ()}, "at least one"),
    ],
)
def test_groups_that_make_no_sense_are_refused(change: dict[str, Any], match: str) -> None:
    good = grouped([0, 1], [0, 1], [0, 1])
    with pytest.raises(ValueError, match=match):
        replace(good, **change)


def picture(path: Path, red: int, *, size: tuple[int, int] = (14, 20)) -> None:
    """A picture of one colour, by whose red a test knows it again."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), (red, 10, 200), np.uint8)).save(path, quality=95)


def reds(part: Grouped) -> list[int]:
    return (part.images[:, 0].mean((1, 2)) * 255).round().int().tolist()


def write_waterbirds(folder: Path) -> None:
    """Two pictures of each of the four groups in each split; red is 100 y + 50 place + 10 split + number."""
    lines = ["img_id,img_filename,y,split,place,place_filename"]
    for split in (0, 1, 2):
        for label in (0, 1):
            for place in (0, 1):
                for number in (0, 1):
                    name = f"{label:03d}.Some_Bird/Bird_{split}{place}{number}.png"
                    picture(folder / name, 100 * label + 50 * place + 10 * split + number)
                    lines.append(f"{len(lines)},{name},{label},{split},{place},/b/bamboo_forest/0.jpg")
    (folder / "metadata.csv").write_text("\n".join(lines) + "\n")


def write_celeba(folder: Path, form: str = "txt") -> None:
    """Eight JPEGs; red is 100 blond + 50 male + 10 split; the partition is written in another order."""
    rows = [(blond, male, split) for split in (0, 1, 2) for blond in (-1, 1) for male in (-1, 1)]
    names = [f"{number:06d}.jpg" for number in range(1, len(rows) + 1)]
    for name, (blond, male, split) in zip(names, rows, strict=True):
        picture(folder / "img_align_celeba" / name, 50 * (blond + 1) + 25 * (male + 1) + 10 * split, size=(218, 178))
    attributes = [[str(-male), str(blond), str(male)] for blond, male, _ in rows]
    header = ["Bald", "Blond_Hair", "Male"]
    pairs = list(zip(names, rows, attributes, strict=True))
    if form == "txt":
        text = [str(len(rows)), " ".join(header) + " ", *(f"{name}  {'  '.join(a)}" for name, _, a in pairs)]
        partition = [f"{name} {row[2]}" for name, row, _ in reversed(pairs)]
    else:
        text = [",".join(["image_id", *header]), *(",".join([name, *a]) for name, _, a in pairs)]
        partition = ["image_id,partition", *(f"{name},{row[2]}" for name, row, _ in reversed(pairs))]
    (folder / f"list_attr_celeba.{form}").write_text("\n".join(text) + "\n")
    (folder / f"list_eval_partition.{form}").write_text("\n".join(partition) + "\n")


def write_spuco(folder: Path) -> None:
    """One JPEG of each group in each split; red is 100 label + 50 attribute + 10 split."""
    for split, title in enumerate(("train", "val", "test")):
        for label, name in enumerate(("landbirds", "waterbirds")):
            for spurious, attribute in enumerate(("land", "water")):
                picture(folder / title / name / attribute / "n01.JPEG", 100 * label + 50 * spurious + 10 * split)


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
        wanted = 100 * part.labels + 50 * part.spurious + 10 * split
        assert (torch.tensor(reds(part)) - wanted).abs().max() <= 3  # JPEG
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
        wanted = 100 * part.labels + 50 * part.spurious + 10 * split
        assert (torch.tensor(reds(part)) - wanted).abs().max() <= 3


def test_dropped_groups_are_absent_from_training_alone(tmp_path: Path) -> None:
    write_waterbirds(tmp_path)
    pairs = [("waterbird", "land"), ["landbird", "water"]]
    splits = load_groups("waterbirds", root=tmp_path, size=8, drop_groups=pairs)
    assert splits.train.counts() == {"landbird/land": 2, "waterbird/water": 2}
    assert len(splits.validation) == len(splits.test) == 8
    everything = [(name, place) for name in CLASSES for place in ATTRIBUTES]
    with pytest.raises(ValueError, match="no picture for train without the groups"):
        load_groups("waterbirds", root=tmp_path, size=8, drop_groups=everything)
    for wrong in ([("waterbird", "sky")], [("land", "waterbird")], ["waterbird/land"], ("waterbird", "land"), [()]):
        with pytest.raises(ValueError, match=r"wanted pairs \[class, attribute\]"):
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


def test_pictures_keep_their_aspect_and_lose_their_margin(tmp_path: Path) -> None:
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    Image.fromarray(pixels).convert("P").save(tmp_path / "palette.png")
    Image.fromarray(pixels).convert("RGBA").save(tmp_path / "alpha.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.png")
    paths = [tmp_path / f"{name}.png" for name in ("wide", "palette", "alpha", "grey")]
    found = read_pictures(paths, size=10)
    assert torch.equal(found, torch.ones(4, 3, 10, 10))
    assert read_pictures(paths, size=10, channels=1, workers=1).shape == (4, 1, 10, 10)
    assert read_pictures([], size=10).shape == (0, 3, 10, 10)
    margin = read_pictures([tmp_path / "wide.png"], size=6, resize=30)  # the middle 30 columns are white
    assert torch.equal(margin, torch.ones(1, 3, 6, 6))


def test_unreadable_and_missing_pictures_are_named(tmp_path: Path) -> None:
    write_waterbirds(tmp_path)
    bad = tmp_path / "001.Some_Bird" / "Bird_110.png"
    whole = bad.read_bytes()
    for content in (b"", b"not a picture", whole[: len(whole) // 2]):
        bad.write_bytes(content)
        with pytest.raises(ValueError, match=r"Bird_110\.png is no picture"):
            load_groups("waterbirds", root=tmp_path, size=8)
    bad.unlink()
    with pytest.raises(FileNotFoundError, match=r"Bird_110\.png, though it is listed"):
        load_groups("waterbirds", root=tmp_path, size=8)
    picture(tmp_path / "good.jpg", 5, size=(200, 200))
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((tmp_path / "good.jpg").read_bytes()[:400])
    with pytest.raises(ValueError, match=r"cut\.jpg is no picture"):
        read_pictures([tmp_path / "good.jpg", cut], size=8)


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
    for content, match in (("", "no column img_filename"), ("img_filename,y,split,place\n", "no picture for train")):
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
        ("txt", edit("list_attr_celeba.txt", lambda t: t.replace("-1", "7")), "wanted one of"),
        ("txt", edit("list_attr_celeba.txt", lambda t: t + "000099.jpg 1 1\n"), "has 2 values; wanted 3"),
        ("txt", edit("list_attr_celeba.txt", lambda t: t + "000099.jpg 1 1 1\n"), r"no row for 000099\.jpg"),
        ("txt", edit("list_attr_celeba.txt", lambda t: ""), "no attribute Blond_Hair, Male"),
        ("csv", edit("list_eval_partition.csv", lambda t: t.replace(",2", ",4")), "partition='4'"),
        ("txt", edit("list_eval_partition.txt", lambda t: t.replace(" 1\n", " 0\n")), "no picture for validation"),
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
        with pytest.raises(FileNotFoundError, match=r"data\.root"):
            load_groups(name, root=None)
    write_celeba(tmp_path / "a", "txt")
    (tmp_path / "a" / "list_eval_partition.txt").unlink()
    with pytest.raises(FileNotFoundError, match="no list_eval_partition"):
        load_groups("celeba", root=tmp_path / "a")
    write_celeba(tmp_path / "b", "csv")
    (tmp_path / "b" / "img_align_celeba").rename(tmp_path / "b" / "elsewhere")
    with pytest.raises(FileNotFoundError, match="img_align_celeba with CelebA's aligned pictures"):
        load_groups("celeba", root=tmp_path / "b")
    write_spuco(tmp_path / "c")
    group = tmp_path / "c" / "train" / "waterbirds" / "land"
    (group / "n01.JPEG").unlink()
    assert len(load_groups("spuco_birds", root=tmp_path / "c", size=8).train) == 3
    group.rmdir()
    with pytest.raises(FileNotFoundError, match=r"data\.drop_groups=\[\[waterbirds,land\]\]"):
        load_groups("spuco_birds", root=tmp_path / "c")


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"name": "waterbird"}, "wanted one of waterbirds, celeba, spuco_birds"),
        ({"size": 0}, r"data\.size=0"),
        ({"limit": 0}, r"data\.limit=0"),
        ({"workers": -1}, r"data\.workers=-1"),
        ({"channels": 2}, r"data\.channels=2"),
        ({"target": "Male"}, "only celeba"),
        ({"name": "celeba", "target": "Male"}, "both 'Male'"),
    ],
)
def test_settings_that_make_no_sense(tmp_path: Path, settings: dict[str, Any], match: str) -> None:
    write_waterbirds(tmp_path)
    with pytest.raises(ValueError, match=match):
        load_groups(**{"name": "waterbirds", "root": tmp_path, "size": 8, **settings})


@pytest.mark.parametrize("name", ["waterbirds", "celeba", "spuco_birds"])
def test_configurations_load(tmp_path: Path, name: str) -> None:
    write = {"waterbirds": write_waterbirds, "celeba": write_celeba, "spuco_birds": write_spuco}[name]
    write(tmp_path)
    config = OmegaConf.load(CONFIGURATIONS / f"{name}.yaml")
    config.root, config.size = str(tmp_path), 8
    splits = instantiate(config)
    config.drop_groups = [[splits.classes[1], splits.attributes[0]]]
    dropped = instantiate(config)
    assert len(splits.train.counts()) == 4
    assert len(dropped.train.counts()) == 3
