"""The published parameters of the 15 corruptions: of ImageNet-C, Tiny-ImageNet-C and CIFAR-10-C, at five severities.

From the scripts `make_imagenet_c.py`, `make_tinyimagenet_c.py` and `make_cifar_c.py` of the paper's repository
(Hendrycks and Dietterich, arXiv:1903.12261; `hendrycks/robustness`).

| corruption | parameters |
|---|---|
| gaussian_noise | standard deviation, of images in [0, 1] |
| shot_noise | photons at white |
| impulse_noise | fraction of the values that are black or white |
| defocus_blur | radius of the disk, standard deviation of its anti-aliasing, pixels |
| glass_blur | standard deviation, largest displacement (pixels), rounds |
| motion_blur | radius, standard deviation, pixels |
| zoom_blur | first, end and step of the factors |
| snow | mean, standard deviation, zoom, threshold, radius and standard deviation of the fall, weight of the image |
| frost | weights of the image and of the frost |
| fog | amount, decay of the roughness |
| brightness | added to the value (of hue, saturation, value) |
| contrast | factor |
| elastic_transform | amplitude, standard deviation, largest displacement of the corners, image sizes |
| pixelate | factor of the size |
| jpeg_compression | quality |
"""

from __future__ import annotations

#: Parameters of a corruption: one or more numbers.
Parameters = tuple[float, ...]

SEVERITIES = (1, 2, 3, 4, 5)
#: Size of the images that each table was published for, pixels.
SIZES = {"cifar": 32, "tiny_imagenet": 64, "imagenet": 224}
#: Unit of elastic_transform in image sizes: the script of ImageNet-C has 244 in place of 224.
ELASTIC_UNIT = {"cifar": 1.0, "tiny_imagenet": 1.0, "imagenet": 244 / 224}

TABLES: dict[str, dict[str, tuple[Parameters, ...]]] = {
    "imagenet": {
        "gaussian_noise": ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,)),
        "shot_noise": ((60,), (25,), (12,), (5,), (3,)),
        "impulse_noise": ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,)),
        "defocus_blur": ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        "glass_blur": ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        "motion_blur": ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        "zoom_blur": ((1, 1.11, 0.01), (1, 1.16, 0.01), (1, 1.21, 0.02), (1, 1.26, 0.02), (1, 1.31, 0.03)),
        "snow": (
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        "frost": ((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
        "fog": ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        "elastic_transform": (
            (2, 0.7, 0.1),
            (2, 0.08, 0.2),
            (0.05, 0.01, 0.02),
            (0.07, 0.01, 0.02),
            (0.12, 0.01, 0.02),
        ),
        "pixelate": ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,)),
        "jpeg_compression": ((25,), (18,), (15,), (10,), (7,)),
    },
    "tiny_imagenet": {
        "gaussian_noise": ((0.04,), (0.08,), (0.12,), (0.15,), (0.18,)),
        "shot_noise": ((250,), (100,), (50,), (30,), (15,)),
        "impulse_noise": ((0.01,), (0.02,), (0.05,), (0.08,), (0.14,)),
        "defocus_blur": ((0.5, 0.6), (1, 0.1), (1.5, 0.1), (2.5, 0.01), (3, 0.1)),
        "glass_blur": ((0.1, 1, 1), (0.5, 1, 1), (0.6, 1, 2), (0.7, 2, 1), (0.9, 2, 2)),
        "motion_blur": ((10, 1), (10, 1.5), (10, 2), (10, 2.5), (12, 3)),
        "zoom_blur": ((1, 1.06, 0.01), (1, 1.11, 0.01), (1, 1.16, 0.01), (1, 1.21, 0.01), (1, 1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.8),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.8),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.7),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.65),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.6),
        ),
        "frost": ((1, 0.3), (0.9, 0.4), (0.8, 0.45), (0.75, 0.5), (0.7, 0.55)),
        "fog": ((0.4, 3), (0.7, 3), (1, 2.5), (1.5, 2), (2, 1.75)),
        "brightness": ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,)),
        "contrast": ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,)),
        "elastic_transform": (
            (0, 0, 0.08),
            (0.05, 0.3, 0.06),
            (0.1, 0.08, 0.06),
            (0.1, 0.03, 0.03),
            (0.16, 0.03, 0.02),
        ),
        "pixelate": ((0.9,), (0.8,), (0.7,), (0.6,), (0.5,)),
        "jpeg_compression": ((65,), (58,), (50,), (40,), (25,)),
    },
    "cifar": {
        "gaussian_noise": ((0.04,), (0.06,), (0.08,), (0.09,), (0.10,)),
        "shot_noise": ((500,), (250,), (100,), (75,), (50,)),
        "impulse_noise": ((0.01,), (0.02,), (0.03,), (0.05,), (0.07,)),
        "defocus_blur": ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        "glass_blur": ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        "motion_blur": ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        "zoom_blur": ((1, 1.06, 0.01), (1, 1.11, 0.01), (1, 1.16, 0.01), (1, 1.21, 0.01), (1, 1.26, 0.01)),
        "snow": (
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        "frost": ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
        "fog": ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        "brightness": ((0.05,), (0.1,), (0.15,), (0.2,), (0.3,)),
        "contrast": ((0.75,), (0.5,), (0.4,), (0.3,), (0.15,)),
        "elastic_transform": (
            (0, 0, 0.08),
            (0.05, 0.2, 0.07),
            (0.08, 0.06, 0.06),
            (0.1, 0.04, 0.05),
            (0.1, 0.03, 0.03),
        ),
        "pixelate": ((0.95,), (0.9,), (0.85,), (0.75,), (0.65,)),
        "jpeg_compression": ((80,), (65,), (58,), (50,), (40,)),
    },
}
#: Names of all corruptions, in the order of the paper.
NAMES = tuple(TABLES["imagenet"])


def table_for(size: int) -> str:
    """Return the table of the nearest image size, by ratio: up to 45 pixels, up to 119, and above."""
    return min(SIZES, key=lambda name: max(size / SIZES[name], SIZES[name] / size))


def parameters(corruption: str, severity: int, table: str) -> Parameters:
    """Return the parameters of one corruption at one severity.

    Args:
        corruption: one of `NAMES`.
        severity: 1 to 5.
        table: `cifar`, `tiny_imagenet` or `imagenet`.

    Raises:
        ValueError: an unknown corruption or table, or a severity outside 1 to 5.
    """
    if table not in TABLES or corruption not in TABLES[table]:
        raise ValueError(f"{corruption!r} of {table!r}: expected one of {', '.join(NAMES)}, of {', '.join(TABLES)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity={severity}: expected 1 to 5")
    found = TABLES[table][corruption][severity - 1]
    return tuple(ELASTIC_UNIT[table] * value for value in found) if corruption == "elastic_transform" else found
