"""Networks whose gradients are too small for half precision."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


def confident_networks(bias: float) -> tuple[nn.Module, nn.Module, Tensor]:
    """Build networks that give one class nearly all probability, the teacher more than the student, and images."""
    torch.manual_seed(0)
    teacher = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(256, 10)
    ).eval()
    student = copy.deepcopy(teacher)
    with torch.no_grad():
        student[0].weight.add_(0.1 * torch.randn_like(student[0].weight))
        teacher[-1].bias[0] += bias
        student[-1].bias[0] += 0.75 * bias
    return teacher, student, nn.functional.interpolate(torch.rand(16, 1, 6, 6), (48, 48), mode="bilinear")
