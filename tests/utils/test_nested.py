"""Values inside containers of any kind."""

from __future__ import annotations

from collections import UserDict, namedtuple
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from hard_aug.utils.nested import is_container, leaves

Pair = namedtuple("Pair", ["first", "second"])


@dataclass(frozen=True, slots=True)
class Inside:
    value: Any
    unset: int = field(init=False)


def test_places_and_values() -> None:
    tensor = torch.zeros(2)
    value = {"a": [1, (Pair(2, Inside(tensor)),)], 3: UserDict(b=(None, "text"))}
    found = dict(leaves(value, "x"))
    assert list(found) == [
        "x['a'][0]",
        "x['a'][1][0].first",
        "x['a'][1][0].second.value",
        "x['a'][1][0].second.unset",
        "x[3]['b'][0]",
        "x[3]['b'][1]",
    ]
    assert found["x['a'][1][0].second.value"] is tensor
    assert found["x[3]['b'][1]"] == "text"


@pytest.mark.parametrize("value", [3, "text", torch.zeros(3), None, Inside, object()])
def test_a_value_by_itself(value: object) -> None:
    assert list(leaves(value)) == [("", value)]
    assert not is_container(value)


@pytest.mark.parametrize("value", [{}, [], (), {"a": 1}, [[1]], Inside(1), UserDict(), [1, 2]])
def test_containers(value: object) -> None:
    assert is_container(value)
