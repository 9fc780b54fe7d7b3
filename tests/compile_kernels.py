"""Compiles the kernels for a GPU on a machine without one: `python tests/compile_kernels.py [architecture]`.

What the interpreter does not see shows here: types that do not fit, what Triton can't compile, registers that spill.
Prints what each kernel needs. The arguments are those of real launches, which are recorded instead of made.
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
from triton.compiler import ASTSource

POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.uint8: "*u8"}
POINTERS |= {torch.bool: "*i1", torch.int32: "*i32"}


class Recorder:
    """Stands for a kernel, and compiles it for the arguments of each launch."""

    def __init__(self, kernel: Any, architecture: int, found: list[dict[str, Any]]) -> None:
        self.kernel, self.architecture, self.found = kernel, architecture, found

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, *, num_warps: int = 4, **arguments: Any) -> None:
        constants = {name: value for name, value in arguments.items() if name.isupper()}
        signature = {
            parameter.name: "constexpr" if parameter.name.isupper() else kind_of(arguments[parameter.name])
            for parameter in self.kernel.params
        }
        source = ASTSource(fn=self.kernel, signature=signature, constexprs=constants)
        target = GPUTarget("cuda", self.architecture, 32)
        compiled = triton.compile(source, target=target, options={"num_warps": num_warps})
        self.found.append({"kernel": self.kernel.__name__, "constants": constants, **resources(compiled.asm["cubin"])})


def kind_of(value: Any) -> Any:
    """Triton's name of an argument's type."""
    if isinstance(value, Tensor):
        return POINTERS[value.dtype]
    if isinstance(value, tuple):
        return tuple(kind_of(part) for part in value)
    return "fp32" if isinstance(value, float) else "i32"


def resources(binary: bytes) -> dict[str, int]:
    """Registers of a thread, and bytes that did not fit there."""
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        text = subprocess.run([tool, "--dump-resource-usage", file.name], capture_output=True, text=True).stdout
    found = {name: re.search(rf"{name}:(\d+)", text) for name in ("REG", "STACK", "LOCAL")}
    return {name.lower(): -1 if match is None else int(match.group(1)) for name, match in found.items()}


@contextmanager
def recorded(module: Any, architecture: int, found: list[dict[str, Any]]) -> Iterator[None]:
    """Within it the kernels of `module` are compiled instead of launched."""
    kernels = {name: value for name, value in vars(module).items() if isinstance(value, triton.JITFunction)}
    launched = {name: kernel for name, kernel in kernels.items() if name in module.LAUNCHED}
    try:
        for name, kernel in launched.items():
            setattr(module, name, Recorder(kernel, architecture, found))
        yield
    finally:
        for name, kernel in launched.items():
            setattr(module, name, kernel)


def warp_color(architecture: int, found: list[dict[str, Any]]) -> None:
    """What a training step launches, and the widest variants."""
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
        wanted = [image, map, displaced, True, image and mixed, mixed]
        custom.warp_color_backward(*used, *inputs, padding, projective, wanted)

    plain = {"map": True, "projective": False, "displaced": False, "mixed": False, "norms": 0, "image": False}
    everything = {"map": True, "projective": True, "displaced": True, "mixed": True, "norms": 2, "image": True}
    with recorded(kernels, architecture, found):
        for channels in (1, 3):
            launch(torch.rand(2, channels, 32, 32), padding=0, **plain)
        launch(torch.rand(2, 3, 224, 224).to(torch.bfloat16), padding=1, **plain)
        launch((255 * torch.rand(2, 4, 32, 32)).to(torch.uint8), padding=2, **everything | {"image": False})
        launch(torch.rand(2, 3, 32, 32).half(), padding=2, **everything)
        launch(torch.rand(2, 3, 32, 32), padding=0, **plain | {"map": False, "image": True})


def compose(architecture: int, found: list[dict[str, Any]]) -> None:
    """Both orders of the maps, and grey images."""
    from hard_aug.ops.compose import custom
    from hard_aug.ops.compose import triton as kernels

    with recorded(kernels, architecture, found):
        for first, second, channels in ((1, 0, 3), (1, 2, 3), (2, 1, 1)):
            u = torch.rand(4, 12)
            ranges = ((*range(11), -1), (0.5,) * 12, (0.5,) * 12)
            outputs = custom.compose(u, *ranges, first, second, True, 32, 32, channels, 64.0)
            custom.compose_backward(*outputs, u, *ranges, first, second, 32, 32, channels, 64.0)


def divergence(architecture: int, found: list[dict[str, Any]]) -> None:
    """Few and many classes, alone and with weights and masks."""
    from hard_aug.ops.divergence import custom
    from hard_aug.ops.divergence import triton as kernels

    with recorded(kernels, architecture, found):
        for classes, dtype in ((10, torch.float32), (1000, torch.bfloat16), (21841, torch.float16)):
            logits = torch.rand(4, classes).to(dtype)
            row = torch.rand(4)
            for extra in ((None, None), (row, row > 0.5)):
                custom.kl_divergence(logits, logits, *extra, 2.0, True, True)
                custom.kl_divergence_backward(row, logits, logits, *extra, torch.rand(5, 4), 2.0, True, True)


def main() -> None:
    architecture = int(sys.argv[1]) if len(sys.argv) > 1 else 90
    found: list[dict[str, Any]] = []
    warp_color(architecture, found)
    compose(architecture, found)
    divergence(architecture, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
