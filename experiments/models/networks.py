"""The networks of the experiments. All take images in [0, 1]; only timm's normalise their input.

| network | description | multiply-adds at 28 x 28 |
|---|---|---|
| `ConvTeacher` | four 3x3 convolutions with BatchNorm, global average pooling | 1.7 million (3.4 at 40 x 40) |
| `OrbitTeacher` | the teacher of Orbit's recipes (three unpadded convolutions, dropout) | 46.9 million |
| `MLPStudent` | Orbit's student, `H W`-512-128-32-K | 0.5 million |
| `small_vit` | timm's vision transformer, patch size 7, depth 4, width 64 | 2.3 million |
| `timm_network` | any timm model, by name | |

`size` is the height and width of the images in pixels, `channels` their number, and `classes` that of the logits.

Orbit: Nix et al., PMLR 151, 2022; its recipes are public in `sinzlab/orbit_transfer_recipes`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.models import timm_model


class ConvTeacher(nn.Module):
    """A small CNN with global average pooling, which discards positions, or with a head on flattened features.

    Args:
        channels: of the images.
        classes: of the logits.
        width: channels of the first convolution; the others have 1.5, 3 and 4 times as many.
        pooling: average over positions before the head. False: flatten, which requires `size`.
        size: of the images, pixels.
    """

    def __init__(
        self, *, channels: int = 1, classes: int = 10, width: int = 16, pooling: bool = True, size: int = 28
    ) -> None:
        super().__init__()

        layers: list[nn.Module] = []
        inputs = channels
        for outputs, stride in ((width, 1), (width * 3 // 2, 2), (width * 3, 2), (width * 4, 2)):
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(True)]
            inputs = outputs
        self.features = nn.Sequential(*layers)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if pooling else nn.Flatten()
        side = 1 if pooling else -(-size // 8)
        self.head = nn.Linear(4 * width * side**2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, K)` of images `(B, C, H, W)`."""
        return self.head(self.pool(self.features(images)))


class OrbitTeacher(nn.Module):
    """The CNN conv 128 - pool 1 - conv 64 - pool 2 - conv 64 - pool 3, dropout 0.1, average pooling, linear head."""

    def __init__(self, *, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, pool in ((channels, 128, 1), (128, 64, 2), (64, 64, 3)):
            layers += [nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.MaxPool2d(pool), nn.Dropout(0.1)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, K)` of images `(B, C, H, W)`."""
        return self.head(self.features(images))


class MLPStudent(nn.Module):
    """The MLP `C H W`-512-128-32-K with ReLU, dropout 0.1, no BatchNorm, no bias in the last layer."""

    def __init__(self, *, size: int = 28, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = channels * size**2
        for outputs in (512, 128, 32):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.1)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, classes, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """Return logits `(B, K)` of images `(B, C, H, W)`."""
        return self.layers(images)


def small_vit(
    *,
    size: int = 28,
    channels: int = 1,
    classes: int = 10,
    patch: int = 7,
    width: int = 64,
    depth: int = 4,
    heads: int = 4,
) -> nn.Module:
    """Return a vision transformer (arXiv:2010.11929) for small images, by timm.

    `patch` is the size of a patch in pixels, `width` the embedding dimension, and `depth` the number of blocks.

    Raises:
        ValueError: the size is no multiple of `patch`, or the width none of `heads`.
    """
    if size % patch or width % heads:
        raise ValueError(
            f"patch={patch}, width={width}, heads={heads}: expected a patch that divides the image size, {size}, and "
            "heads that divide the width; for 32 pixels use student.patch=8 or 4"
        )
    from timm.models.vision_transformer import VisionTransformer

    model: nn.Module = VisionTransformer(
        img_size=size,
        patch_size=patch,
        in_chans=channels,
        num_classes=classes,
        embed_dim=width,
        depth=depth,
        num_heads=heads,
        mlp_ratio=2.0,
    )
    return model


def timm_network(
    name: str | None, *, pretrained: bool = False, classes: int | None = None, channels: int = 3
) -> nn.Module:
    """Return a timm model for images in [0, 1], which are resized only for models with a fixed input size.

    `name` is one of `timm.list_models()`; timm's weights (`pretrained`) are downloaded if they are not in its cache;
    `classes=None` keeps the model's own head.

    Raises:
        ValueError: no name, or one that timm does not know.
        FileNotFoundError: the weights are not available.
    """
    if name is None:
        raise ValueError("a timm model requires a name: student.name=resnet18, or teacher.name=resnet50")
    try:
        return timm_model(name, pretrained=pretrained, classes=classes, channels=channels)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"timm's weights of {name} are not available: {error}\nConnect this machine to the hub once, put them into "
            "its cache, load a file with teacher.weights=<path> teacher.pretrained=false, or train without them: "
            "teacher.pretrained=false teacher.steps=2000"
        ) from error


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Return the multiply-adds of a network's forward pass for one image of the shape `(C, H, W)`."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    training = model.training
    parameter = next(model.parameters())
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape, device=parameter.device))
    model.train(training)
    return int(counter.get_total_flops()) // 2
