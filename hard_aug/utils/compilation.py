"""What `torch.compile` leaves out."""

from __future__ import annotations

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
T = TypeVar("T")


def outside_graphs(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function that is not for a graph: generators, hooks, conditions on values.

    Where `torch.compile` traces the caller, its graph is broken here; else this is a plain call. (A decorator,
    `torch.compiler.disable`, would import the compiler with the library.)

    Args:
        function: what is called.
        *args: its arguments.
        **kwargs: likewise.

    Example:
        >>> def drawn(generator):
        ...     return torch.rand(2, generator=generator)
        >>> generator = torch.Generator()
        >>> outside_graphs(drawn, generator).shape
        torch.Size([2])
    """
    if torch.compiler.is_dynamo_compiling():
        function = torch.compiler.disable(function)  # type: ignore[no-untyped-call]  # untyped in torch
    return function(*args, **kwargs)
