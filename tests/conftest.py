"""Small networks and images that the tests share, and settings of every test."""

from __future__ import annotations

import os

import pytest
import torch
from torch import Tensor, nn

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic matrix products
if not torch.cuda.is_available():  # before anything imports triton: kernels run under its interpreter then
    os.environ.setdefault("TRITON_INTERPRET", "1")

torch.set_num_threads(1)  # fixtures of module scope run before `_one_thread`

CLASSES = 5


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Make sums equal in every run, and leave the other cores to other processes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def teacher() -> nn.Module:
    """A convolutional network with BatchNorm whose statistics are not the initial ones, in evaluation mode."""
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, 2, 1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(8 * 36, CLASSES),
    )
    with torch.no_grad():
        model(torch.rand(64, 1, 12, 12))
        model[-1].weight.mul_(8)
    return model.eval()


@pytest.fixture
def student() -> nn.Module:
    """A network with BatchNorm and dropout, in training mode."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(144, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.2), nn.Linear(32, CLASSES)
    )


@pytest.fixture
def plain_student() -> nn.Module:
    """A network without dropout and BatchNorm, equal in training and evaluation mode."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(144, 32), nn.Tanh(), nn.Linear(32, CLASSES))


@pytest.fixture
def images() -> Tensor:
    """`(8, 1, 12, 12)`: smooth blobs in [0, 1]."""
    axis = torch.linspace(-1, 1, 12)
    centres = torch.linspace(-0.4, 0.4, 8)[:, None, None]
    return torch.exp(-3 * ((axis[None, :, None] - centres) ** 2 + (axis[None, None, :] + centres) ** 2))[:, None]
