"""Methods built as a run builds them, for small images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

from tests.helpers.method_parts import composed, small_method


@pytest.fixture
def build() -> Callable[..., Any]:
    """Return `(method, teacher, student, *overrides, **settings of small_method) -> Method`."""

    def made(method: str, teacher: nn.Module, student: nn.Module, *overrides: str, **settings: Any) -> Any:
        return small_method(composed(f"method={method}", *overrides), teacher, student, **settings)

    return made
