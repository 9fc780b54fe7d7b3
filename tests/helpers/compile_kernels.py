"""Compile the kernels for a GPU on a machine without one: `python tests/helpers/compile_kernels.py [architecture]`.

Shows errors that the interpreter does not: wrong types, code that Triton can't compile, register spills. Prints the
resources of each kernel. The arguments are recorded from real calls of the operators, which do not launch here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import driver


class NoDevice:
    """Triton driver of a GPU of a given architecture that is not present."""

    def __init__(self, architecture: int) -> None:
        self.target = GPUTarget("cuda", architecture, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int | None = None) -> int:
        return 0

    def get_current_target(self) -> GPUTarget:
        return self.target


class Recorder:
    """Replaces a kernel and compiles it for the arguments of each launch, as Triton does before it launches."""

    def __init__(self, kernel: Any, found: list[dict[str, Any]]) -> None:
        self.kernel, self.found = kernel, found

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, **arguments: Any) -> None:
        compiled = self.kernel.warmup(grid=(1,), **arguments)
        constants = {name: value for name, value in arguments.items() if name.isupper()}
        self.found.append({"kernel": self.kernel.__name__, "constants": constants, **resources(compiled.asm["cubin"])})


def resources(binary: bytes) -> dict[str, int]:
    """Registers per thread, and bytes of stack and local memory."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = {name: re.search(rf"{name}:(\d+)", text) for name in ("REG", "STACK", "LOCAL")}
    return {name.lower(): -1 if match is None else int(match.group(1)) for name, match in found.items()}


@contextmanager
def recorded(module: Any, found: list[dict[str, Any]]) -> Iterator[None]:
    """Compile the kernels of `module` instead of launching them."""
    launched = {name: getattr(module, name) for name in module.LAUNCHED}
    try:
        for name, kernel in launched.items():
            setattr(module, name, Recorder(kernel, found))
        yield
    finally:
        for name, kernel in launched.items():
            setattr(module, name, kernel)


def warp_color(found: list[dict[str, Any]]) -> None:
    """The launches of a training step, and the variants with most arguments."""
    from hard_aug.ops.warp_color import custom
    from hard_aug.ops.warp_color import triton as kernels

    def launch(
        images: Tensor,
        *,
        padding: int,
        map: bool,
        projective: bool,
        displaced: bool,
        mixed: bool,
        norms: int,
        image: bool,
    ) -> None:
        batch, channels = images.shape[:2]
        inputs = (
            images,
            torch.rand(batch, 3, 3) if map else None,
            torch.rand(batch, 2, 4, 4) if displaced else None,
            torch.rand(batch, channels, channels + 1),
            images if mixed else None,
            torch.rand(batch) if mixed else None,
            torch.rand(norms, 2, channels) if norms else None,
        )
        outputs = custom.warp_color(*inputs, padding, projective, True, torch.float32)
        used = [output if output.numel() else None for output in outputs]
        output_mask = [image, map, displaced, True, image and mixed, mixed]
        custom.warp_color_backward(*used, *inputs, padding, projective, output_mask)

    plain = {"map": True, "projective": False, "displaced": False, "mixed": False, "norms": 0, "image": False}
    everything = {"map": True, "projective": True, "displaced": True, "mixed": True, "norms": 2, "image": True}
    with recorded(kernels, found):
        for channels in (1, 3):
            launch(torch.rand(2, channels, 32, 32), padding=0, **plain)
        launch(torch.rand(2, 3, 224, 224).to(torch.bfloat16), padding=1, **plain)
        launch((255 * torch.rand(2, 4, 32, 32)).to(torch.uint8), padding=2, **everything | {"image": False})
        launch(torch.rand(2, 3, 32, 32).half(), padding=2, **everything)
        launch(torch.rand(2, 3, 32, 32), padding=0, **plain | {"map": False, "image": True})
        launch(torch.rand(2, 3, 32, 32).contiguous(memory_format=torch.channels_last), padding=1, **plain)
        launch(torch.rand(2, 3, 32, 32)[:, :1].expand(-1, 3, -1, -1), padding=0, **plain)
        launch(torch.rand(1, 1, 1, 1), padding=2, **plain)  # Triton specialises arguments that are 1


def compose(found: list[dict[str, Any]]) -> None:
    """Both orders of the maps, and grey images."""
    from hard_aug.ops.compose import custom
    from hard_aug.ops.compose import triton as kernels

    with recorded(kernels, found):
        for first, second, channels in ((1, 0, 3), (1, 2, 3), (2, 1, 1)):
            u = torch.rand(4, 12)
            ranges = ((*range(11), -1), (0.5,) * 12, (0.5,) * 12)
            outputs = custom.compose(u, *ranges, first, second, True, 32, 32, channels, 64.0)
            custom.compose_backward(*outputs, u, *ranges, first, second, 32, 32, channels, 64.0)


def divergence(found: list[dict[str, Any]]) -> None:
    """Few and many classes, with and without weights and masks."""
    from hard_aug.ops.divergence import custom
    from hard_aug.ops.divergence import triton as kernels

    with recorded(kernels, found):
        for rows, classes, dtype in ((1, 2, torch.float32), (4, 10, torch.float32), (4, 21841, torch.bfloat16)):
            logits = torch.rand(rows, classes).to(dtype)
            row = torch.rand(rows)
            for extra in ((None, None), (row, row > 0.5)):
                custom.kl_divergence(logits, logits, *extra, 2.0, True, True)
                custom.kl_divergence_backward(row, logits, logits, *extra, torch.rand(5, rows), 2.0, True, True)


def main() -> None:
    architecture = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    found: list[dict[str, Any]] = []
    driver.set_active(NoDevice(architecture))
    warp_color(found)
    compose(found)
    divergence(found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
