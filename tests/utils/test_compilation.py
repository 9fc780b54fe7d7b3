"""`outside_graphs`: a plain call, and a graph break where `torch.compile` traces."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from hard_aug.utils.compilation import outside_graphs


def drawn(generator: torch.Generator, *, scale: float) -> Tensor:
    assert not torch.compiler.is_compiling()
    return scale * torch.rand(3, generator=generator)


@pytest.mark.parametrize("compiles", [False, True])
def test_a_generator_works_inside_a_compiled_function(compiles: bool) -> None:
    torch._dynamo.reset()
    generator = torch.Generator().manual_seed(0)
    expected = 4 * torch.rand(3, generator=torch.Generator().manual_seed(0)) + 1

    def doubled(values: Tensor) -> Tensor:
        return 2 * outside_graphs(drawn, generator, scale=2.0) + values

    function = torch.compile(doubled, backend="eager") if compiles else doubled
    assert torch.allclose(function(torch.ones(3)), expected)
