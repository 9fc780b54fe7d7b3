"""Hashes of configurations, and their flat form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hard_aug.utils.hashing import as_json, cache_key, flatten


def test_a_key_does_not_depend_on_the_order() -> None:
    config = {"steps": 3, "data": {"name": "mnist", "size": 28}}
    key = cache_key(config)
    assert key == "b300db351fab4132"  # teachers and shards on disk are found by it
    assert key == cache_key({"data": {"size": 28, "name": "mnist"}, "steps": 3})
    assert key != cache_key({**config, "steps": 4})


def test_flat_keys_are_dotted() -> None:
    nested = {"a": 1, "b": {"c": [1, 2], "d": {"e": None}, 3: {}}}
    assert flatten(nested) == {"a": 1, "b.c": [1, 2], "b.d.e": None}
    assert flatten(5) == {"": 5}


def test_numbers_of_numpy_are_those_of_python() -> None:
    config = {"seed": np.int64(3), "rate": np.float32(0.5), "on": np.bool_(True), "sizes": (np.int32(1), 2)}
    plain = {"seed": 3, "rate": 0.5, "on": True, "sizes": [1, 2]}
    assert as_json(config) == plain
    assert cache_key(config) == cache_key(plain)
    with pytest.raises(TypeError, match=r"of type \w*Path: expected what JSON can represent"):
        as_json({"folder": Path()})
