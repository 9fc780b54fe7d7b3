"""Pairs of teacher and student for the cost of a step: small CIFAR-style ResNets, and the experiment's networks."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import Tensor, nn

from experiments.models import ConvTeacher, MLPStudent

Build = Callable[[], tuple[nn.Module, nn.Module]]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut (He et al., arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm1, self.norm2 = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(out + self.shortcut(x))


class ResNet(nn.Module):
    """Three stages of `blocks` BasicBlocks with `width`, 2 `width` and 4 `width` channels, for images of 32 pixels."""

    def __init__(self, *, width: int, blocks: int = 1, channels: int = 3, classes: int = 10) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
        inputs = width
        for stage in range(3):
            for block in range(blocks):
                outputs = width * 2**stage
                layers.append(BasicBlock(inputs, outputs, 2 if stage and block == 0 else 1))
                inputs = outputs
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(inputs, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `(B, K)`."""
        return self.head(self.features(images).mean((2, 3)))


def resnets() -> tuple[nn.Module, nn.Module]:
    """Build a teacher twice as wide as its student."""
    return ResNet(width=24), ResNet(width=12)


def experiment_on(size: int) -> Build:
    """Return the builder of the experiment's convolutional teacher and student, for grey images of `size` pixels."""

    def build() -> tuple[nn.Module, nn.Module]:
        return ConvTeacher(), MLPStudent(size=size)

    return build


def timm_pair(classes: int) -> Build:
    """Return the builder of a ResNet-50 teacher and a ResNet-18 student, both with random weights."""

    def build() -> tuple[nn.Module, nn.Module]:
        import timm

        teacher, student = (timm.create_model(name, num_classes=classes) for name in ("resnet50", "resnet18"))
        return teacher, student

    return build


#: The default pairs on a CPU.
SMALL = ("experiment-28", "experiment-40", "resnet")
#: The builder and the batch shape of each pair.
PAIRS: dict[str, tuple[Build, tuple[int, ...]]] = {
    "experiment-28": (experiment_on(28), (128, 1, 28, 28)),
    "experiment-40": (experiment_on(40), (128, 1, 40, 40)),
    "resnet": (resnets, (64, 3, 32, 32)),
    "resnet18-32": (timm_pair(10), (256, 3, 32, 32)),
    "resnet18-224": (timm_pair(1000), (128, 3, 224, 224)),
}
