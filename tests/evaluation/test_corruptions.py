"""The 15 common corruptions: published parameters, exact statistics where there are any, growing damage."""

from __future__ import annotations

import math
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image
from skimage.color import hsv2rgb, rgb2hsv
from torch import Tensor

from hard_aug.evaluation import corruptions as common
from hard_aug.evaluation.corruptions import corrupt, severities
from hard_aug.evaluation.corruptions.blur import clipped_zoom, disk
from hard_aug.evaluation.corruptions.corrupt import chunk
from hard_aug.evaluation.corruptions.elastic import elastic_transform
from hard_aug.evaluation.corruptions.glass import sources
from hard_aug.evaluation.corruptions.motion import along_line, taps
from hard_aug.evaluation.corruptions.plasma import plasma
from tests.helpers.picture_files import crops


def damage(images: Tensor, name: str, severity: int, **settings: object) -> float:
    changed = corrupt(images, name, severity, **settings)  # type: ignore[arg-type]  # handed on
    return float((changed.float() - images.float()).square().mean())


def test_there_are_fifteen_of_five_severities_in_three_tables() -> None:
    assert len(common.NAMES) == 15
    for name, table in severities.TABLES.items():
        assert tuple(table) == common.NAMES, name
        assert all(len(rows) == 5 and len({len(row) for row in rows}) == 1 for rows in table.values())


@pytest.mark.parametrize(
    ("table", "name", "published"),
    [
        ("imagenet", "gaussian_noise", [0.08, 0.12, 0.18, 0.26, 0.38]),
        ("imagenet", "shot_noise", [60, 25, 12, 5, 3]),
        ("imagenet", "impulse_noise", [0.03, 0.06, 0.09, 0.17, 0.27]),
        ("imagenet", "brightness", [0.1, 0.2, 0.3, 0.4, 0.5]),
        ("imagenet", "contrast", [0.4, 0.3, 0.2, 0.1, 0.05]),
        ("imagenet", "pixelate", [0.6, 0.5, 0.4, 0.3, 0.25]),
        ("imagenet", "jpeg_compression", [25, 18, 15, 10, 7]),
        ("imagenet", "motion_blur", [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)]),
        ("imagenet", "defocus_blur", [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)]),
        ("imagenet", "fog", [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)]),
        ("cifar", "gaussian_noise", [0.04, 0.06, 0.08, 0.09, 0.1]),
        ("cifar", "shot_noise", [500, 250, 100, 75, 50]),
        ("cifar", "jpeg_compression", [80, 65, 58, 50, 40]),
        ("cifar", "pixelate", [0.95, 0.9, 0.85, 0.75, 0.65]),
        ("cifar", "frost", [(1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)]),
        ("tiny_imagenet", "glass_blur", [(0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)]),
    ],
)
def test_parameters_are_the_published_ones(table: str, name: str, published: list) -> None:
    found = [severities.parameters(name, severity, table) for severity in common.SEVERITIES]
    assert found == [value if isinstance(value, tuple) else (value,) for value in published]


def test_elastic_parameters_are_in_image_sizes() -> None:
    assert severities.parameters("elastic_transform", 2, "cifar") == (0.05, 0.2, 0.07)
    amplitude, deviation, corner = (224 * value for value in severities.parameters("elastic_transform", 1, "imagenet"))
    assert (amplitude, deviation, corner) == pytest.approx((244 * 2, 244 * 0.7, 244 * 0.1))


def test_small_images_take_small_parameters() -> None:
    found = {size: severities.table_for(size) for size in (16, 28, 32, 40, 64, 96, 128, 224, 299)}
    assert [*found.values()] == ["cifar"] * 4 + ["tiny_imagenet"] * 2 + ["imagenet"] * 3
    grey = torch.full((1, 1, 32, 32), 128, dtype=torch.uint8)
    assert damage(grey, "gaussian_noise", 5) < damage(grey, "gaussian_noise", 5, table="imagenet") / 4


@pytest.mark.parametrize("severity", common.SEVERITIES)
def test_noise_has_the_published_statistics(severity: int) -> None:
    level = 153 / 255
    images = torch.full((40, 3, 32, 32), 153, dtype=torch.uint8)
    (deviation,) = severities.parameters("gaussian_noise", severity, "cifar")
    noisy = corrupt(images, "gaussian_noise", severity).float() / 255
    assert float(noisy.std()) == pytest.approx(deviation, rel=0.02)
    assert float(noisy.mean()) == pytest.approx(level - 0.5 / 255, abs=0.002)  # cut off, not rounded
    (photons,) = severities.parameters("shot_noise", severity, "cifar")
    shot = corrupt(images, "shot_noise", severity).float() / 255
    assert float(shot.std()) == pytest.approx(math.sqrt(level / photons), rel=0.03)
    (share,) = severities.parameters("impulse_noise", severity, "cifar")
    hit = corrupt(images, "impulse_noise", severity)
    salt, pepper = (hit == 255).float().mean(), (hit == 0).float().mean()
    assert float(salt + pepper) == pytest.approx(share, rel=0.1)
    assert float(salt) == pytest.approx(float(pepper), rel=0.2)
    assert bool(((hit == 153) | (hit == 0) | (hit == 255)).all())


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("grey", [False, True])
def test_files_and_tones_are_those_of_the_libraries(severity: int, grey: bool) -> None:
    images = crops(2, 32, grey=grey)
    pixels = images.permute(0, 2, 3, 1).numpy()
    (quality,) = severities.parameters("jpeg_compression", severity, "cifar")
    (factor,) = severities.parameters("pixelate", severity, "cifar")
    for number, picture in enumerate(Image.fromarray(each[..., 0] if grey else each) for each in pixels):
        file = BytesIO()
        picture.save(file, "JPEG", quality=int(quality))
        expected = np.asarray(Image.open(file)).reshape(pixels[0].shape)
        assert np.array_equal(corrupt(images, "jpeg_compression", severity)[number].permute(1, 2, 0), expected)
        small = picture.resize((int(32 * factor),) * 2, Image.Resampling.BOX).resize((32, 32), Image.Resampling.BOX)
        expected = np.asarray(small).reshape(pixels[0].shape)
        assert np.array_equal(corrupt(images, "pixelate", severity)[number].permute(1, 2, 0), expected)
    (added,) = severities.parameters("brightness", severity, "cifar")
    hsv = rgb2hsv(pixels.repeat(3, -1) / 255 if grey else pixels / 255)
    hsv[..., 2] = np.clip(hsv[..., 2] + added, 0, 1)
    expected = hsv2rgb(hsv)[..., : pixels.shape[-1]] * 255
    found = corrupt(images, "brightness", severity).permute(0, 2, 3, 1).numpy()
    assert np.abs(found - np.floor(expected + 1e-3)).max() <= 1
    assert (found != np.floor(expected + 1e-3)).mean() < 0.001


def test_zoom_and_disk_are_those_of_scipy_and_the_paper() -> None:
    images = torch.rand(1, 1, 32, 32, dtype=torch.float64)
    for factor in (1.0, 1.06, 1.25, 3.0):
        tall = math.ceil(32 / factor)
        top = (32 - tall) // 2
        expected = scipy.ndimage.zoom(images[0, 0, top : top + tall, top : top + tall].numpy(), factor, order=1)
        trim = (expected.shape[0] - 32) // 2
        found = clipped_zoom(images, factor)[0, 0].numpy()
        assert np.allclose(found, expected[trim : trim + 32, trim : trim + 32], atol=1e-6), factor
    assert disk(3, 0.1).shape == (17, 17)
    assert disk(10, 0.5).shape == (21, 21)
    assert float(disk(3, 0.1).sum()) == pytest.approx(1)
    assert int((disk(3, 1e-3) > 0).sum()) == 29  # whole points within a radius of 3
    assert float(disk(0.3, 0.4)[8, 8]) == pytest.approx((1 / (1 + 2 * math.exp(-1 / 0.32))) ** 2, rel=1e-5)


def test_motion_follows_its_line() -> None:
    point = torch.zeros(4, 1, 41, 41)
    point[:, 0, 20, 20] = 1
    blurred = along_line(point, radius=6, deviation=2.0, angles=torch.tensor([0.0, 90.0, 180.0, -45.0]))
    weights = taps(6, 2.0)
    assert float(weights.sum()) == pytest.approx(1)
    assert len(weights) == 13
    assert torch.allclose(blurred[0, 0, 20, 8:21].flip(0), weights)  # what is to the right comes in
    assert torch.allclose(blurred[1, 0, 8:21, 20].flip(0), weights)
    assert torch.allclose(blurred[2, 0, 20, 20:33], weights)
    assert bool((blurred[3, 0].flip(0).diagonal(-0).sum() > 0.99).all())
    flat = torch.full((1, 1, 20, 20), 0.7)
    assert torch.allclose(along_line(flat, radius=9, deviation=5.0, angles=torch.tensor([33.0])), flat)


def test_glass_takes_values_from_near_by() -> None:
    found = sources(3, 20, 18, reach=2, rounds=1, generator=np.random.default_rng(0)).reshape(20, 18, 3)
    rows, columns = found // 18, found % 18
    down = rows - np.arange(20)[:, None, None]
    right = columns - np.arange(18)[None, :, None]
    assert not down[:3].any()  # the margin stays
    assert not right[:, :3].any()
    # pixels above and to the left are still in their places; those below may have come from further below
    assert down[:, 3:].min() == -2
    assert set(np.unique(down[18, 3:17])) == {-2, -1, 0, 1}
    assert not np.array_equal(found[..., 0], found[..., 1])


def test_plasma_fills_the_range_and_decay_makes_it_smooth() -> None:
    for size in (28, 32, 50):
        heights = plasma(4, size, 2.0, np.random.default_rng(0))
        assert heights.shape == (4, size, size)
    assert heights.amin() >= 0
    whole = plasma(4, 32, 2.0, np.random.default_rng(0))
    assert torch.allclose(whole.amax((1, 2)), torch.ones(4))
    assert torch.allclose(whole.amin((1, 2)), torch.zeros(4))
    rough = [float(plasma(8, 64, decay, np.random.default_rng(0)).diff().abs().mean()) for decay in (1.2, 2.0, 3.0)]
    assert rough[0] > 2 * rough[1] > 4 * rough[2] / 2


def test_an_elastic_transform_of_size_zero_is_the_identity() -> None:
    images = crops(3, 32).float() / 255
    same = elastic_transform(images, (0.0, 0.0, 0.0), np.random.default_rng(0))
    assert torch.allclose(same, images, atol=1e-4)
    moved = elastic_transform(images, (0.0, 0.0, 0.08), np.random.default_rng(0))
    assert float((moved - images).abs().mean()) > 0.02


#: Where the published parameters do not make the pixels differ more with each severity: they turn from wide distortions
#: to narrow ones, or from smoothing to rounds.
UNEVEN = ("elastic_transform", "glass_blur")


@pytest.mark.parametrize("name", common.NAMES)
@pytest.mark.parametrize(("size", "count"), [(32, 120), (64, 48)])
def test_damage_grows_with_severity(name: str, size: int, count: int) -> None:
    images = crops(count, size)
    found = [damage(images, name, severity) for severity in common.SEVERITIES]
    assert min(found) > 0
    if name not in UNEVEN:
        # some neighbours differ little in what was published (motion blur of 6 and 8 pixels, both with sigma 2)
        assert all(later > 0.85 * earlier for earlier, later in pairwise(found)), found
        assert found[4] > 1.3 * found[0], found
    assert max(found) < 128**2


@pytest.mark.parametrize("name", common.NAMES)
def test_every_corruption_takes_all_shapes_and_is_the_same_again(name: str) -> None:
    for shape in ((2, 1, 28, 28), (2, 3, 32, 32), (1, 3, 40, 48), (1, 1, 16, 16)):
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
        changed = corrupt(images, name, 3, seed=5)
        assert changed.dtype == torch.uint8
        assert changed.shape == shape
        assert torch.equal(changed, corrupt(images, name, 3, seed=5))
    black = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    assert bool(corrupt(black, name, 5).float().isfinite().all())
    assert corrupt(black[:0], name, 5).shape == (0, 3, 32, 32)


def test_draws_depend_on_the_seed_and_not_on_the_parts() -> None:
    size = chunk(16, 16)
    images = torch.randint(0, 256, (size + 3, 1, 16, 16), dtype=torch.uint8)
    whole = corrupt(images, "gaussian_noise", 2, seed=1)
    parts = [corrupt(images[:size], "gaussian_noise", 2, seed=1)]
    parts.append(corrupt(images[size:], "gaussian_noise", 2, seed=1, first=size))
    assert torch.equal(whole, torch.cat(parts))
    assert not torch.equal(whole, corrupt(images, "gaussian_noise", 2, seed=2))
    assert not torch.equal(whole[:3], parts[1])
    with pytest.raises(ValueError, match="first=1"):
        corrupt(images, "gaussian_noise", 2, first=1)


def test_invalid_input_raises() -> None:
    images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"'rain'.*gaussian_noise"):
        corrupt(images, "rain", 1)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"severity={severity}"):
            corrupt(images, "fog", severity)
    with pytest.raises(ValueError, match="uint8"):
        corrupt(images.float(), "fog", 1)
    with pytest.raises(ValueError, match="1 or 3"):
        corrupt(images[:, :2], "fog", 1)
    with pytest.raises(ValueError, match=r"12 x 12.*pad or resize"):
        corrupt(images[..., :12, :12], "fog", 1)
    with pytest.raises(ValueError, match="of 'svhn'"):
        corrupt(images, "fog", 1, table="svhn")
