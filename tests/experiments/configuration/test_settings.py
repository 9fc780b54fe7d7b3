"""Settings of trials: from the configuration, from a file, and composed with the command line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hydra import compose, initialize_config_module
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from experiments.configuration.identity import run_hash
from experiments.configuration.settings import compose_with, trial_settings

TRIALS = "trials={hard:[['augmenter.entropy_weight=0.0'],['policy@augmenter.policy=generator','temperature=4.0']]}"


@contextmanager
def job(*overrides: str, name: str = "train") -> Iterator[DictConfig]:
    """The configuration of a Hydra job, while it runs."""
    with initialize_config_module("experiments.conf", version_base="1.3"):
        HydraConfig.instance().set_config(compose(name, list(overrides), return_hydra_config=True))
        try:
            yield compose(name, list(overrides))
        finally:
            HydraConfig.instance().cfg = None


def settings_of(*overrides: str) -> tuple[list[str], int]:
    with job(*overrides) as config:
        return trial_settings(config)


def test_a_trial_is_selected_by_its_number() -> None:
    assert settings_of(TRIALS) == ([], 1)
    assert settings_of(TRIALS, "trial=0") == (["augmenter.entropy_weight=0.0"], 1)
    assert settings_of(TRIALS, "trial=1") == (["policy@augmenter.policy=generator", "temperature=4.0"], 1)


def test_settings_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("hard: {settings: [temperature=4.0], trials: 2}\nkd: {settings: []}\n")
    assert settings_of(f"settings_from={path}") == (["temperature=4.0"], 2)
    assert settings_of(f"settings_from={path}", "method=kd") == ([], 1)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["trial=2", TRIALS], "trial=2 of method=hard: expected 0 to 1"),
        (["trial=-1", TRIALS], "trial=-1 of method=hard: expected 0 to 1"),
        (["trial=x", TRIALS], "trial=x of method=hard: expected 0 to 1"),
        (["trial=0", "method=kd", TRIALS], r"trial=0 of method=kd: expected null, since trials\.kd declares none"),
        (["trial=0", "trials={hard:[{temperature:2}]}"], r"trials\.hard\.0=.*expected a list of overrides, such as"),
        (["trial=0", "trials={hard:[['temperature']]}"], r"trials\.hard\.0=\['temperature'\]: expected a list"),
        (["trial=0", "trials={hard:{temperature:2}}"], r"trials\.hard={'temperature': 2}: expected a list of trials"),
        (["trial=0", "settings_from=any"], "trial and settings_from both choose settings; expected one of them"),
    ],
)
def test_an_unknown_trial_raises(overrides: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(*overrides)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kd: {settings: []}", "no settings for method=hard; it has kd"),
        ("", "no settings for method=hard; it has "),
        ("[hard]", "expected a file written by experiments.report --select"),
        ("hard: [temperature=4.0]", "expected a file written by experiments.report --select"),
        ("hard: {settings: {temperature: 4.0}}", "hard={'temperature': 4.0}: expected a list of overrides"),
    ],
)
def test_a_file_without_settings_raises(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        settings_of(f"settings_from={path}")


def test_a_missing_file_raises(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    with pytest.raises(FileNotFoundError, match=f"settings_from={path}: no such file; .*experiments.report .*--select"):
        settings_of(f"settings_from={path}")


def test_settings_are_further_overrides() -> None:
    given = ["augmenter=search", "seed=3"]
    settings = ["transform@augmenter.transform=perspective", "temperature=4.0", "augmenter.transform._args_.1.tilt=9"]
    with job(*given, name="demo") as config:
        found = compose_with(settings)
    assert (config.temperature, config.steps) == (2.0, 2500)
    assert found.augmenter.transform._args_[1] == {
        "_target_": "hard_aug.transforms.Perspective",
        "tilt": 9,
        "focal_length": 1,
    }
    assert (found.temperature, found.augmenter.objective.temperature, found.seed, found.steps) == (4.0, 4.0, 3, 2500)
    assert found.augmenter.policy._target_ == config.augmenter.policy._target_
    with job(*given) as config:
        assert compose_with([]) == config
        assert compose_with(["seed=3"]) == config
        with pytest.raises(ValueError, match="seed=3 on the command line and seed=4 of the trial"):
            compose_with(["seed=4"])


def test_equal_settings_have_the_same_folder(tmp_path: Path) -> None:
    """Whether they are a trial of the configuration or were selected from several."""
    path = tmp_path / "settings.yaml"
    path.write_text("hard: {settings: [augmenter.entropy_weight=0.0], trials: 2}")
    hashes = []
    for overrides in ([TRIALS, "trial=0"], [f"settings_from={path}"], [TRIALS, "trial=1"], []):
        with job(*overrides) as config:
            hashes.append(run_hash(config))
    assert hashes[0] == hashes[1]
    assert len(set(hashes)) == 3


@pytest.mark.parametrize("content", [b"\xff", b"hard: {settings: [", b"a: b: c"])
def test_a_damaged_file_is_named(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"settings_from={path} is damaged, no YAML .*write it again with --select"):
        settings_of(f"settings_from={path}")
