"""The networks of the experiments. All take images in [0, 1]; none has a normalisation of its own but timm's.

| network | what it is | multiply-adds at 28 x 28 |
|---|---|---|
| `ConvTeacher` | four 3x3 convolutions with BatchNorm, averaged over positions | 1.7 million (3.4 at 40 x 40) |
| `OrbitTeacher` | the teacher of the predecessor's recipes (three unpadded convolutions, dropout) | 46.9 million |
| `MLPStudent` | the predecessor's student, `H W`-512-128-32-K | 0.5 million |
| `small_vit` | timm's vision transformer, patches of 7 pixels, 4 blocks of 64 features | 2.3 million |
| `timm_network` | any of timm's, by name | |

The predecessor is Orbit (Nix et al., PMLR 151, 2022); its recipes are public in `sinzlab/orbit_transfer_recipes`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hard_aug.models import timm_model


class ConvTeacher(nn.Module):
    """A small CNN; what it sees of a position is lost in the average (or, with `pooling=False`, kept in a flat head).

    Args:
        channels, classes: of images and answer.
        width: of the first convolution; the others have 1.5, 3 and 4 times as many channels.
        pooling: average over positions before the head. False: flatten, which wants `size`.
        size: height and width of the images.
    """

    def __init__(
        self, *, channels: int = 1, classes: int = 10, width: int = 16, pooling: bool = True, size: int = 28
    ) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
            return [
                nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
                nn.BatchNorm2d(outputs),
                nn.ReLU(inplace=True),
            ]

        self.features = nn.Sequential(
            *block(channels, width, 1),
            *block(width, width * 3 // 2, 2),
            *block(width * 3 // 2, width * 3, 2),
            *block(width * 3, width * 4, 2),
        )
        side = -(-size // 8)
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()) if pooling else nn.Flatten()
        self.head = nn.Linear(4 * width if pooling else 4 * width * side**2, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        return self.head(self.pool(self.features(images)))


class OrbitTeacher(nn.Module):
    """conv 128 - pool 1 - conv 64 - pool 2 - conv 64 - pool 3, dropout 0.1 after each, averaged, linear."""

    def __init__(self, *, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for inputs, outputs, pool in ((channels, 128, 1), (128, 64, 2), (64, 64, 3)):
            layers += [nn.Conv2d(inputs, outputs, 3), nn.ReLU(), nn.MaxPool2d(pool), nn.Dropout(0.1)]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(64, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        return self.head(self.features(images))


class MLPStudent(nn.Module):
    """`C H W`-512-128-32-K with ReLU, dropout 0.1, no BatchNorm, no bias in the last layer."""

    def __init__(self, *, size: int = 28, channels: int = 1, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Flatten()]
        inputs = channels * size**2
        for outputs in (512, 128, 32):
            layers += [nn.Linear(inputs, outputs), nn.ReLU(), nn.Dropout(0.1)]
            inputs = outputs
        self.layers = nn.Sequential(*layers, nn.Linear(inputs, classes, bias=False))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
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
    """A vision transformer (arXiv:2010.11929) for small images, by timm.

    Args:
        size: height and width of the images, a multiple of `patch`.
        channels, classes: of images and answer.
        patch: side of a patch, pixels.
        width, depth, heads: features of a token, a multiple of `heads`; blocks; heads of the attention.

    Raises:
        ValueError: a size or width that is no such multiple.
    """
    if size % patch or width % heads:
        raise ValueError(
            f"patch={patch}, width={width}, heads={heads}: wanted a patch that divides the images' size, {size}, and "
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
    """One of timm's networks for images in [0, 1], which it is shown at their own size unless it takes but one.

    Args:
        name: as `timm.list_models()` has it.
        pretrained: with timm's weights, downloaded where they are not in its cache.
        classes: of the head; None: the network's own.
        channels: of the images.

    Raises:
        ValueError: no name, or one that timm does not know.
        FileNotFoundError: weights that can't be had.
    """
    if name is None:
        raise ValueError("a timm network wants a name: student.name=resnet18, or teacher.name=resnet50")
    try:
        return timm_model(name, pretrained=pretrained, classes=classes, channels=channels)
    except (OSError, RuntimeError) as error:
        raise FileNotFoundError(
            f"timm's weights of {name} can't be had: {error}\nLet this machine reach the hub once, put them into its "
            "cache, or train without them: pretrained=false (teacher.pretrained=false teacher.steps=2000)"
        ) from error


def multiply_adds(model: nn.Module, shape: tuple[int, ...]) -> int:
    """Multiply-adds of one forward on an image `(C, H, W)`."""
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    training = model.training
    parameter = next(model.parameters())
    with counter, torch.no_grad():
        model.eval()(torch.zeros(1, *shape, device=parameter.device))
    model.train(training)
    return int(counter.get_total_flops()) // 2
