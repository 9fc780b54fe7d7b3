"""Checks of a configuration before any training."""

from __future__ import annotations

import pytest
from hydra import compose, initialize_config_module

from experiments.configuration.checks import check_config


def check(*overrides: str) -> None:
    with initialize_config_module("experiments.conf", version_base="1.3"):
        check_config(compose("train", list(overrides)))


def test_valid_settings_pass() -> None:
    check()
    check("teacher.steps=0", "eval_every=5", "budget=nfe", "select_on=sum", "teacher.data={fraction:0.5}")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("steps=0", "steps=0: expected an integer >= 1"),
        ("steps=null", "steps=None: expected an integer >= 1"),
        ("steps=1.5", r"steps=1\.5: expected an integer"),
        ("batch_size=0", "batch_size=0: expected an integer"),
        ("log_every=0", "log_every=0: expected an integer"),
        ("checkpoint_every=true", "checkpoint_every=True: expected an integer"),
        ("threads=0", "threads=0: expected an integer"),
        ("eval_every=0", "eval_every=0: expected an integer"),
        ("seed=-1", "seed=-1: expected an integer >= 0"),
        ("teacher.steps=-1", r"teacher\.steps=-1: expected an integer >= 0"),
        ("teacher.batch_size=0", r"teacher\.batch_size=0: expected an integer"),
        ("learning_rate=0", "learning_rate=0: expected a positive number"),
        ("learning_rate=nan", "learning_rate=nan: expected a positive number"),
        ("temperature=-1", "temperature=-1: expected a positive number"),
        ("teacher.learning_rate=x", r"teacher\.learning_rate=x: expected a positive number"),
        ("select_on=test", "select_on=test: expected one of clean, main, sum"),
        ("budget=seconds", "budget=seconds: expected one of steps, nfe"),
        ("teacher.data={fractoin:1}", r"teacher\.data\.fractoin: these data have no data\.fractoin"),
        ("initial={steps:0,batch_size:8,learning_rate:0.1}", r"initial\.steps=0: expected an integer"),
        ("initial={steps:1,batch_size:8,learning_rate:0}", r"initial\.learning_rate=0: expected a positive number"),
        ("initial={steps:1}", r"initial\.batch_size=None: expected an integer"),
    ],
)
def test_invalid_settings_raise(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check(override)
