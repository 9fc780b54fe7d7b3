"""Networks of a configuration, and their weights from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from omegaconf import DictConfig, OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn

from experiments.models import ConvTeacher, MLPStudent, build_network, build_teacher, load_weights
from hard_aug.models import Normalized
from tests.helpers.method_parts import composed

SHAPE = {"size": 12, "channels": 3, "classes": 4}


class Named(nn.Module):
    """Keeps what it is constructed with."""

    def __init__(self, *, classes: int, channels: int = 1, depth: int = 2, norms: list[int] | None = None) -> None:
        super().__init__()
        self.settings = (classes, channels, depth, norms)


class OwnHead(nn.Module):
    """Has its own number of classes by default."""

    def __init__(self, size: int, classes: int | None = None) -> None:
        super().__init__()
        self.settings = (size, classes)


def node(target: type, **settings: Any) -> DictConfig:
    return OmegaConf.create({"_target_": f"{__name__}.{target.__name__}", **settings})


def test_a_network_is_passed_what_its_signature_names() -> None:
    made = build_network(node(Named, depth=5, norms=[1, 2]), **SHAPE)
    assert isinstance(made, Named)
    assert made.settings == (4, 3, 5, [1, 2])
    assert build_network(node(Named, classes=9, channels=None), **SHAPE).settings == (9, 3, 2, None)


def test_a_network_with_its_own_head() -> None:
    assert build_network(node(OwnHead), **SHAPE).settings == (12, 4)
    assert build_network(node(OwnHead), **SHAPE, own_head=True).settings == (12, None)
    assert build_network(node(Named), **SHAPE, own_head=True).settings[0] == 4  # it has no other


def test_a_teacher_has_its_weights_and_its_normalisation(tmp_path: Path) -> None:
    saved = ConvTeacher(width=4)
    torch.save(saved.state_dict(), tmp_path / "teacher.pt")
    chosen = ["+teacher.model.width=4", f"teacher.weights={tmp_path}/teacher.pt"]
    chosen += ["teacher.normalization={mean:[0.25],std:[0.5]}"]
    made = build_teacher(composed(*chosen).teacher, size=28, channels=1, classes=10)
    assert isinstance(made, Normalized)
    images = torch.rand(3, 1, 28, 28)
    assert torch.equal(made.eval()(images), saved.eval()((images - 0.25) / 0.5))
    own = f"teacher.model._target_={__name__}.OwnHead"
    assert build_teacher(composed(own, "teacher.steps=0").teacher, **SHAPE).settings == (12, None)
    assert build_teacher(composed(own).teacher, **SHAPE).settings == (12, 4)


def test_a_student_starts_from_weights(tmp_path: Path) -> None:
    saved = MLPStudent()
    torch.save({"model": saved.state_dict(), "method": {}, "history": None}, tmp_path / "student.pt")
    made = build_network(composed(f"student.weights={tmp_path}/student.pt").student, size=28, channels=1, classes=10)
    assert equal(made, saved)


def equal(first: nn.Module, second: nn.Module) -> bool:
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    return all(key == other and torch.equal(value, wanted) for (key, value), (other, wanted) in pairs)


def prefixed(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "form", ["plain", "safetensors", "model", "state_dict", "module.", "_orig_mod.module.", "model.", "lightning"]
)
def test_the_forms_of_a_file(tmp_path: Path, form: str) -> None:
    torch.manual_seed(1)
    saved, path = ConvTeacher(width=4), tmp_path / "weights.pt"
    state = saved.state_dict()
    if form == "safetensors":
        path = tmp_path / "weights.safetensors"
        save_file(state, path)
    elif form in ("model", "state_dict"):
        torch.save({form: state, "epoch": 3, "optimizer": {"lr": 0.1}}, path)
    elif form == "lightning":
        torch.save({"state_dict": prefixed("network.", state), "hyper_parameters": {"lr": 0.1}}, path)
    else:
        torch.save(state if form == "plain" else prefixed(form, state), path)
    torch.manual_seed(2)
    model = ConvTeacher(width=4)
    assert not equal(model, saved)
    load_weights(model, path)
    assert equal(model, saved)


def test_weights_of_another_network(tmp_path: Path) -> None:
    path, model = tmp_path / "weights.pt", ConvTeacher(width=4)
    state = model.state_dict()
    del state["head.bias"]
    torch.save(state | {"extra.weight": torch.zeros(1), "head.weight": torch.zeros(7, 16)}, path)
    expected = (
        f'weights={path} are not those of this ConvTeacher: Missing key(s) in state_dict: "head.bias". Unexpected '
        'key(s) in state_dict: "extra.weight". size mismatch for head.weight: copying a param with shape '
        "torch.Size([7, 16]) from checkpoint, the shape in current model is torch.Size([10, 16])."
    )
    with pytest.raises(ValueError, match=r"^.*$") as raised:
        load_weights(model, path)
    assert str(raised.value) == expected
    torch.save(MLPStudent().state_dict(), path)
    with pytest.raises(
        ValueError, match=r'Missing .*"features\.1\.bias", .*\[\.\.\.\] Unexpected .*"layers\.1\.weight"'
    ):
        load_weights(model, path)


def test_files_without_weights(tmp_path: Path) -> None:
    model, path = MLPStudent(), tmp_path / "weights.pt"
    with pytest.raises(FileNotFoundError, match=r"weights=.*weights\.pt: no such file; expected a safetensors file"):
        load_weights(model, path)
    for content in (b"", b"no weights", b"PK\x03\x04"):
        path.write_bytes(content)
        path.with_suffix(".safetensors").write_bytes(content)
        for broken in (path, path.with_suffix(".safetensors")):
            with pytest.raises(ValueError, match=r"can't be read \(.*\); expected a safetensors file") as raised:
                load_weights(model, broken)
            assert "\n" not in str(raised.value)
    torch.save(model, path)  # a pickled module, which is code
    with pytest.raises(
        ValueError, match=r"can't be read \(UnpicklingError: Weights only load failed\); .*state_dict\(\)"
    ):
        load_weights(model, path)
    for other in ([1, 2], {"epoch": 3}, {"model": "resnet"}):
        torch.save(other, path)
        with pytest.raises(ValueError, match="holds no state dict: expected tensors by name"):
            load_weights(model, path)
