"""The small generative models that ship: Fashion-MNIST, grey, 32 x 32, made by `experiments.generative`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from experiments.train import choose_device

#: Their folder; `report.json` in it says how they were made and how good they are.
SHIPPED = Path(__file__).parent / "pretrained" / "fashion_mnist"


def autoencoder(folder: str | None = None, *, device: str = "auto") -> nn.Module:
    """An `AutoencoderKL`, frozen.

    Args:
        folder: that holds `vae/`, or a name on the hub; None: the one that ships.
        device: as the experiments name it.
    """
    from diffusers import AutoencoderKL

    where: Any = SHIPPED if folder is None else folder
    model: nn.Module = AutoencoderKL.from_pretrained(str(where), subfolder="vae")
    return model.to(choose_device(device)).eval().requires_grad_(False)
