"""Compose(Affine(), Color()), forward and backward with respect to its parameters, against kornia.

The rows, all with parameters per sample and the same ranges:

- hard_aug: one gather and one matrix per pixel, with the normalisation folded into the matrix; gradient with respect
  to `u`, including the decoding.
- kornia functionals: affine matrix, `warp_affine`, brightness, contrast, saturation, hue, `normalize`, on explicit
  leaf parameters; gradient with respect to these. Grey images: no saturation and hue.
- the same two forward only, and kornia's `RandomAffine`, `ColorJiggle`, `Normalize` (p=1), which draw their own
  parameters and give them no gradient.

kornia's hue is that of HSV and its contrast multiplies about 0; here hue is a rotation about the grey axis and contrast
multiplies about 1/2. So both do comparable work, but the outputs differ.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import kornia.augmentation
import torch
from kornia.enhance import adjust_brightness, adjust_contrast, adjust_hue, adjust_saturation, normalize
from kornia.geometry.transform import get_affine_matrix2d, warp_affine
from torch import Tensor

from benchmarks.timing import environment, interleaved, parser, progress, table, write
from experiments.training.allocator import keep_freed_memory
from hard_aug.ops import warp_color
from hard_aug.transforms import Affine, Color, Compose

SHAPES = [(256, 3, 32, 32), (256, 1, 28, 28)]
LARGE = (64, 3, 224, 224)
TRANSLATION, ROTATION, SCALE, SHEAR = 0.25, 30.0, 1.4, 0.3
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.2, 1.5, 1.5, 20.0
MEAN, STD = 0.5, 0.25


def rows_for(shape: tuple[int, ...], device: torch.device) -> dict[str, Callable[[], object]]:
    """Return the rows of one table, as closures over their tensors."""
    batch, channels = shape[:2]
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(shape, generator=generator).to(device)
    weight = torch.randn(shape, generator=generator).to(device)  # stands for the gradient from a network
    mean, std = torch.full((channels,), MEAN, device=device), torch.full((channels,), STD, device=device)
    transform = own_transform(channels)
    u = torch.randn(batch, transform.size, generator=generator).to(device).requires_grad_()
    leaves = kornia_parameters(batch, channels, shape[-1], generator, device)
    random_classes = kornia_modules(channels).to(device)

    stage = transform.fused_stages[0]

    def ours() -> Tensor:
        inverse_map, color = stage.matrices(u, *shape[2:], channels)
        if color is None:
            raise RuntimeError("expected a transform with colours")
        # The normalisation, folded into the colour matrix: (M s + o - mean) / std.
        color = torch.cat((color[:, :, :-1], color[:, :, -1:] - mean[:, None]), dim=2) / std[:, None]
        return warp_color(images, inverse_map=inverse_map, color_matrix=color)

    def theirs() -> Tensor:
        return kornia_functionals(images, leaves, mean, std)

    def with_gradient(forward: Callable[[], Tensor], parameters: list[Tensor]) -> Callable[[], object]:
        return lambda: torch.autograd.grad(forward(), parameters, weight)

    return {
        "hard_aug, forward + backward": with_gradient(ours, [u]),
        "kornia functionals, forward + backward": with_gradient(theirs, list(leaves.values())),
        "hard_aug, forward": torch.no_grad()(ours),
        "kornia functionals, forward": torch.no_grad()(theirs),
        "kornia Random* modules, forward": torch.no_grad()(lambda: random_classes(images)),
    }


def own_transform(channels: int) -> Compose:
    """Return the transform with the ranges that both libraries use."""
    chromatic = channels == 3
    return Compose(
        Affine(translation=TRANSLATION, rotation=ROTATION, scale=SCALE, shear=SHEAR),
        Color(
            brightness=BRIGHTNESS,
            contrast=CONTRAST,
            saturation=SATURATION if chromatic else None,
            hue=HUE if chromatic else None,
        ),
    )


def kornia_parameters(
    batch: int, channels: int, width: int, generator: torch.Generator, device: torch.device
) -> dict[str, Tensor]:
    """Draw leaf parameters in kornia's units, uniformly from the ranges."""

    def draw(low: float, high: float, *columns: int) -> Tensor:
        values = torch.rand(batch, *columns, generator=generator) * (high - low) + low
        return values.to(device).requires_grad_()

    leaves = {
        "translation": draw(-TRANSLATION * width, TRANSLATION * width, 2),
        "angle": draw(-ROTATION, ROTATION),
        "scale": draw(1 / SCALE, SCALE, 2),
        "shear": draw(-SHEAR, SHEAR),
        "brightness": draw(-BRIGHTNESS, BRIGHTNESS),
        "contrast": draw(1 / CONTRAST, CONTRAST),
    }
    if channels == 3:
        leaves["saturation"] = draw(1 / SATURATION, SATURATION)
        leaves["hue"] = draw(-math.radians(HUE), math.radians(HUE))
    return leaves


def kornia_functionals(images: Tensor, leaves: dict[str, Tensor], mean: Tensor, std: Tensor) -> Tensor:
    """Apply what RandomAffine, ColorJiggle and Normalize do with p=1, with explicit parameters."""
    batch, _, height, width = images.shape
    centre = images.new_tensor([(width - 1) / 2, (height - 1) / 2]).expand(batch, 2)
    matrix = get_affine_matrix2d(leaves["translation"], centre, leaves["scale"], leaves["angle"], sx=leaves["shear"])
    out = warp_affine(images, matrix[:, :2], (height, width), align_corners=False)
    out = adjust_contrast(adjust_brightness(out, leaves["brightness"]), leaves["contrast"])
    if "hue" in leaves:
        out = adjust_hue(adjust_saturation(out, leaves["saturation"]), leaves["hue"])
    return normalize(out, mean, std)


def kornia_modules(channels: int) -> torch.nn.Module:
    """Return kornia's pipeline, which draws its parameters at every call."""
    chromatic = channels == 3
    return torch.nn.Sequential(
        kornia.augmentation.RandomAffine(
            degrees=ROTATION,
            translate=(TRANSLATION, TRANSLATION),
            scale=(1 / SCALE, SCALE, 1 / SCALE, SCALE),
            shear=math.degrees(math.atan(SHEAR)),
            p=1.0,
        ),
        kornia.augmentation.ColorJiggle(
            brightness=BRIGHTNESS,
            contrast=(1 / CONTRAST, CONTRAST),
            saturation=(1 / SATURATION, SATURATION) if chromatic else 0.0,
            hue=HUE / 360 if chromatic else 0.0,
            p=1.0,
        )
        if chromatic
        else torch.nn.Sequential(
            kornia.augmentation.RandomBrightness(brightness=(1 - BRIGHTNESS, 1 + BRIGHTNESS), p=1.0),
            kornia.augmentation.RandomContrast(contrast=(1 / CONTRAST, CONTRAST), p=1.0),
        ),
        kornia.augmentation.Normalize(mean=[MEAN] * channels, std=[STD] * channels, p=1.0),
    )


def main() -> None:
    options = parser(__doc__, json_path="benchmarks/results/augment.json", rounds=15, calls=5)
    options.add_argument("--large", action="store_true", help="also 64x3x224x224")
    arguments = options.parse_args()
    torch.set_num_threads(arguments.threads)
    keep_freed_memory()
    device = torch.device(arguments.device)
    results = {}
    for shape in SHAPES + ([LARGE] if arguments.large else []):
        label = "x".join(map(str, shape))
        progress(f"{label}: warming up")
        results[label] = interleaved(
            rows_for(shape, device),
            baseline="hard_aug, forward + backward",
            device=device,
            rounds=arguments.rounds,
            calls=arguments.calls,
            warmup=arguments.warmup,
            label=label,
        )
        print(table(f"{label}, ratio to hard_aug's forward + backward", results[label]))
    write(arguments.json, {"environment": environment(device, arguments.threads), "tables": results})


if __name__ == "__main__":
    main()
