"""The command that computes Spurious ImageNet's mAUC of a timm model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments import spurious_imagenet
from experiments.spurious_imagenet import load_model
from hard_aug.evaluation import spurious_mauc
from hard_aug.models import timm_model
from tests.helpers.spurious_parts import write_spurious_imagenet

NETWORK = "mobilenetv3_small_050"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    return write_spurious_imagenet(tmp_path)


def test_the_command_line(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(5)
    model = timm_model(NETWORK)
    torch.save(model.model.state_dict(), tmp_path / "bare.pt")
    torch.save({"model": model.state_dict(), "config": {}}, tmp_path / "normalized.pt")
    output = tmp_path / "new" / "score.json"
    places = ["--spurious", str(folders[0]), "--validation", str(folders[1]), "--device", "cpu", "--size", "32"]
    results = []
    for weights in ("bare.pt", "normalized.pt"):
        spurious_imagenet.main(
            ["--model", NETWORK, "--weights", str(tmp_path / weights), *places, "--output", str(output)]
        )
        results.append(json.loads(output.read_text()))
        assert f"auroc {results[-1]['auroc']:.4f}" in capsys.readouterr().out
    assert results[0] == results[1]
    expected = spurious_mauc(model, *folders, size=32)
    assert results[0]["auroc"] == pytest.approx(expected["auroc"])
    assert results[0]["per_class"]["1"]["average_precision"] == expected["per_class"][1]["average_precision"]
    assert (results[0]["model"], results[0]["size"]) == (NETWORK, 32)
    with pytest.raises(SystemExit):
        spurious_imagenet.main(["--model", NETWORK, "--weights", str(tmp_path / "none.pt"), *places])
    assert "none.pt" in capsys.readouterr().err


def test_states_of_other_networks_raise(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "linear.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="are not those of this"):
        load_model(NETWORK, tmp_path / "linear.pt")
    with pytest.raises(ValueError, match="holds no state dict"):
        load_model(NETWORK, tmp_path / "list.pt")
    with pytest.raises(ValueError, match="timm knows no model"):
        load_model("resnet1x8", tmp_path / "list.pt")
