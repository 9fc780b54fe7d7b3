"""Out-of-domain test sets of a configuration."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from experiments.data import ood
from hard_aug.data import ImageSet, Splits

CONF = Path(__file__).parents[4] / "experiments" / "conf"


def splits_of(shape: tuple[int, int, int], classes: int) -> Splits:
    part = ImageSet(torch.zeros(2, *shape), torch.zeros(2, dtype=torch.int64))
    return Splits(part, part, part, tuple(map(str, range(classes))))


@pytest.mark.parametrize("name", [path.stem for path in (CONF / "ood").glob("*.yaml")])
def test_every_option_names_its_source(name: str) -> None:
    data = OmegaConf.load(CONF / "data" / "imagenet.yaml")
    config = OmegaConf.create({"data": data, "ood": {name: OmegaConf.load(CONF / "ood" / f"{name}.yaml")}})
    assert config.ood[name].name == name
    with pytest.raises(FileNotFoundError, match=rf"{name} requires ood\.{name}\.root=<folder>; get it from \S+\.\S+"):
        ood.load_sets(config.ood, splits_of((3, 224, 224), 4))
    config.ood[name].root = "/no/such/folder"
    with pytest.raises(FileNotFoundError, match=rf"no folder /no/such/folder; {name} requires"):
        ood.load_sets(config.ood, splits_of((3, 224, 224), 4))


def test_sets_of_one_name_and_unknown_settings_raise(tmp_path: Path) -> None:
    np.save(tmp_path / "fog.npy", np.zeros((5, 32, 32, 3), np.uint8))
    np.save(tmp_path / "labels.npy", np.arange(5))
    node = {"_target_": "experiments.data.ood.CifarC", "root": str(tmp_path), "corruptions": ["fog"]}
    splits = splits_of((3, 32, 32), 10)
    assert ood.load_sets(None, splits) == {}
    found = ood.load_sets([node, {**node, "name": "again"}], splits)
    assert list(found) == ["cifar10_c", "cifar10_c/fog", "again", "again/fog"]
    with pytest.raises(ValueError, match="two sets with the name 'cifar10_c'"):
        ood.load_sets([node, node], splits)
    with pytest.raises(InstantiationException, match="severity"):
        ood.load_sets([{**node, "severity": 3}], splits)
