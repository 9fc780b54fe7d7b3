"""Small data, and a folder for teachers, that the tests of runs share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.engine_parts import use_few_digits


@pytest.fixture(scope="module", autouse=True)
def _few_digits() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        use_few_digits(monkeypatch)
        yield


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose teachers the tests of a module share."""
    return tmp_path_factory.mktemp("cache")
