"""Every command in the documents and in the heads of configuration files can be composed, and trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from experiments.configuration.checks import check_config
from experiments.configuration.identity import run_identity
from experiments.configuration.settings import compose_with, trial_settings
from experiments.methods import UnsupportedPartsError
from experiments.report.command import parser
from experiments.runs.student import run
from tests.helpers.documented_commands import Command, choices, documented_commands
from tests.helpers.engine_parts import SMALL, use_few_digits

COMMANDS = documented_commands()
HYDRA = [command for command in COMMANDS if command.config_name is not None]
OTHER = [command for command in COMMANDS if command.config_name is None]
#: Data sets in colour, which the digits replace in colour.
COLOUR = ("cifar10", "cifar100", "imagenet")
#: Commands whose data or cost the digits can't replace; the tests of their methods and transforms train them.
OWN = re.compile("spurious|diffusion|generated|generative")


def swept(command: Command) -> list[list[str]]:
    """Return the choices of each override, and of each parameter that the configuration itself sweeps over."""
    given = command.overrides
    with initialize_config_module("experiments.conf", version_base="1.3"):
        first = [choices(one)[0] for one in given]
        params = compose(str(command.config_name), first, return_hydra_config=True).hydra.sweeper.get("params") or {}
    keys = {one.get_key_element() for one in given}
    added = [f"{key}={value}" for key, value in params.items() if key not in keys]
    return [choices(one) for one in [*given, *OverridesParser.create().parse_overrides(added)]]


def composed(command: Command, overrides: list[str]) -> DictConfig:
    """Compose a job of a command, with the settings of its trial."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        whole = compose(str(command.config_name), overrides, return_hydra_config=True)
        config = OmegaConf.masked_copy(whole, [str(key) for key in whole if key != "hydra"])
        HydraConfig.instance().set_config(whole)
        try:
            settings, _ = trial_settings(config) if "trials" in config else ([], 1)
            return compose_with(settings) if settings else config
        except FileNotFoundError:  # a report writes the file
            return config
        finally:
            HydraConfig.instance().cfg = None


def test_there_are_commands() -> None:
    assert {"experiments/README.md", "experiments/conf/demo.yaml"} <= {command.place for command in COMMANDS}
    assert len(HYDRA) > 20 < len(COMMANDS) - len(OTHER)


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_the_module_exists(command: Command) -> None:
    assert command.source is not None, f"{command.place}: {command}"


@pytest.mark.parametrize("command", HYDRA, ids=str)
def test_the_last_job_of_each_sweep_is_composed(command: Command) -> None:
    config = composed(command, [one[-1] for one in swept(command)])
    OmegaConf.to_container(config, resolve=True)
    if "method" in config:
        check_config(config)
        assert callable(get_object(config.method._target_))
        assert run_identity(config)["method"]["name"] == config.method.name


@pytest.mark.parametrize("command", OTHER, ids=str)
def test_the_arguments_of_other_commands_are_known(command: Command) -> None:
    if command.module == "experiments.report":
        parser().parse_args(command.words or ["--help"])
    else:
        text = command.source.read_text() if command.source else ""
        assert all(f'"{word}"' in text for word in command.words if word.startswith("--"))


def representative() -> list[Command]:
    """Return a command of `experiments.train` for each named configuration of data that the digits can replace."""
    found: dict[tuple[Any, ...], Command] = {}
    for command in HYDRA:
        named = [word for word in command.words if word.startswith("experiment=")]
        if (
            command.module == "experiments.train"
            and "--help" not in command.words
            and not OWN.search(" ".join(command.words))
        ):
            found.setdefault((command.config_name, *named), command)
    return list(found.values())


@pytest.fixture
def few_digits(monkeypatch: pytest.MonkeyPatch) -> None:
    use_few_digits(monkeypatch)


def tiny(command: Command, given: list[str], folder: Path) -> DictConfig:
    """Compose a job with few steps, small data of the same shape, and an untrained network for a pretrained one."""
    original = composed(command, given)
    more = [*SMALL, f"teacher_cache={folder}/teachers", "logger=[csv]"]
    if original.data.name in COLOUR:
        more += ["data=mnist5k", "data.canvas=32", "data.tint=[1.0,0.8,0.6]"]
    elif original.data.name == "fashion_mnist":
        more += ["data=mnist5k", f"data.canvas={original.data.canvas or 'null'}"]
    if original.data.name == "imagenet":
        more += [f"{network}.name=test_resnet.r160_in1k" for network in ("teacher", "student")]
        more += ["teacher.pretrained=false"]
    if original.task.get("kind") == "common":
        more += ["task.images=4", "task.severities=[3]", f"+task.cache={folder}/corruptions"]
    replaced = {one.split("=")[0] for one in more}
    return composed(command, [*(one for one in given if one.split("=")[0] not in replaced), *more])


@pytest.mark.slow
@pytest.mark.parametrize("command", representative(), ids=str)
@pytest.mark.usefixtures("few_digits")
def test_a_job_trains(command: Command, tmp_path: Path) -> None:
    """The last one of the sweep, or the first if the library does not support the last one's combination."""
    options = [one for one in swept(command) if not one[0].startswith(("data.root", "settings_from"))]
    for which in (-1, 0):
        try:
            config = tiny(command, [one[which] for one in options], tmp_path)
            record = run(config, tmp_path / "run", quiet=True)
            break
        except UnsupportedPartsError:
            assert which == -1
    assert record["student"]["steps"] >= 1
    assert 0 <= record["student"]["accuracy"]["clean"] <= 1
