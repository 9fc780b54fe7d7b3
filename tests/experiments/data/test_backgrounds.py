"""Painted backgrounds of the embedded digits."""

from __future__ import annotations

import pytest
import torch

from experiments.data import backgrounds, load


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.slow
def test_absent_groups_are_absent_and_the_test_set_has_all() -> None:
    splits = backgrounds.load("mnist5k", test_images=100)
    assert all(name.split("/")[0] == name.split()[-1] for name in splits.train.counts())
    assert len(splits.train.counts()) == 10
    assert len(splits.test) == 1000
    assert len(splits.test.counts()) > 90
    assert torch.equal(splits.test.labels[:100], splits.test.labels[100:200])
    assert splits.train.images.shape[1:] == (3, 32, 32)
    assert 0 <= float(splits.train.images.min()) <= float(splits.train.images.max()) <= 1


def test_chosen_classes_are_renumbered() -> None:
    splits = backgrounds.load("mnist5k", classes=[7, 1], families=2, test_images=50)
    assert splits.classes == ("7", "1")
    assert set(splits.train.labels.tolist()) == {0, 1}
    everything = load("mnist5k", canvas=32)
    assert len(splits.train) == int(((everything.train.labels == 7) | (everything.train.labels == 1)).sum())
    for classes in ([3], [3, 3], [3, 10]):
        with pytest.raises(ValueError, match="expected two or more"):
            backgrounds.load("mnist5k", classes=classes, test_images=50)


def test_the_fraction_of_strays() -> None:
    labels = torch.arange(10).repeat(2000)
    strays = backgrounds.backgrounds_of(labels, 10, 0.1, generator()) != labels
    assert float(strays.float().mean()) == pytest.approx(0.1, abs=0.01)
    even = backgrounds.backgrounds_of(labels, 10, 0.9, generator())
    fractions = torch.bincount(even[labels == 3], minlength=10) / 2000
    assert float((fractions - 0.1).abs().max()) < 0.03
    assert backgrounds.backgrounds_of(torch.arange(5), 2, 0.0, generator()).tolist() == [0, 1, 0, 1, 0]


def test_families_differ_and_the_item_stays() -> None:
    item = torch.zeros(1, 1, 32, 32)
    item[..., 10:22, 10:22] = 0.8
    both = torch.tensor([0, 3])
    painted = backgrounds.paint(item.expand(2, -1, -1, -1), both, generator())
    assert torch.allclose(painted[:, :, 10:22, 10:22], torch.tensor(0.8))
    assert float((painted[0] - painted[1]).abs().mean()) > 0.02
    again = backgrounds.paint(item.expand(2, -1, -1, -1), both, generator())
    assert torch.equal(painted, again)


def test_hues_are_of_their_family() -> None:
    from kornia.color import rgb_to_hsv

    for family in range(10):
        painted = backgrounds.paint(torch.zeros(50, 1, 32, 32), torch.full((50,), family), generator(family))
        hue = rgb_to_hsv(painted)[:, 0].mean((1, 2)) / (2 * torch.pi)
        middle = rgb_to_hsv(painted)[:, 0, 16, 16] / (2 * torch.pi)
        off = (middle - family / 10 + 0.5) % 1 - 0.5
        assert float(off.abs().max()) < 0.05, hue


def test_invalid_settings_raise() -> None:
    for settings, message in (
        ({"rare": 1.5}, "rare=1.5"),
        ({"families": 1}, "families=1"),
        ({"test_images": 0}, "test_images=0"),
    ):
        with pytest.raises(ValueError, match=message):
            backgrounds.load("mnist5k", **settings)  # type: ignore[arg-type]  # wrong on purpose
    with pytest.raises(ValueError, match="expected grey ones"):
        backgrounds.paint(torch.zeros(1, 3, 8, 8), torch.zeros(1, dtype=torch.int64), generator())
