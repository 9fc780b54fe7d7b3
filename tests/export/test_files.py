"""The file of a `LearnedAugmentation`: it is read as it was written, or an error names it."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from hard_aug import Exploration, HardAugmenter, LearnedAugmentation, calibrate
from hard_aug.export import files
from hard_aug.policies import Conditional, Gaussian, Generator, GroupBandit, Policy, Uniform
from hard_aug.schedules import Alternating
from hard_aug.transforms import (
    Affine,
    Color,
    Compose,
    Elastic,
    Filter,
    Narrowed,
    PatchMix,
    Perspective,
    Transform,
    menu,
)
from hard_aug.utils.settings_repr import settings_of


class Turn(Affine):
    """A transform that is no class of hard_aug."""

    def __init__(self, degrees: float = 10.0) -> None:
        super().__init__(translation=None, rotation=degrees, scale=None, shear=None)


class Wide(Gaussian):
    """A policy that is no class of hard_aug."""


TRANSFORMS: dict[str, Transform] = {
    "Affine": Affine(rotation=None, scale=1.3, padding_mode="border"),
    "Color": Color(brightness=0.05, hue=None, saturation=None),
    "Elastic": Elastic(magnitude=0.07, control=(4, 5), padding_mode="reflection"),
    "Filter": Filter(blur=None, motion_blur=0.4, motion_length=5, solarize=0.3),
    "PatchMix": PatchMix(image_size=12, patch_size=(4, 6), mode="relaxed", temperature=0.4),
    "Perspective": Perspective(tilt=10.0, focal_length=3.0, padding_mode="border"),
    "Compose": Compose(Affine(), Perspective(), Compose(Affine(translation=0.1), Color(saturation=None, hue=None))),
    "Narrowed": Affine().narrowed({"rotation": (-0.1 / 3, 20.0), "scale": (0.9, 1.0)}),
    "Narrowed inside": Compose(Affine().narrowed({"shear": (0.0, 0.1)}), Color()),
    "Menu": menu(elastic=None, padding_mode="border"),
    "a narrowed menu": menu().narrowed({"elastic": (-0.05, 0.02), "hue": (0.0, 0.0), "contrast": (0.5, 1.3)}),
}
SPEC = Affine().spec
POLICIES: dict[str, Policy] = {
    "Gaussian": Gaussian(SPEC, std=0.4),
    "Generator": Generator(SPEC, width=8, seed=3),
    "GroupBandit": GroupBandit(SPEC, groups=(1, 2), power=1.5, floor=0.2, memory=5.0),
    "Conditional": Conditional(SPEC, channels=1, std=0.5, width=4, seed=2),
    "Uniform": Uniform(SPEC, scale=0.6),
}


def moved(policy: Policy) -> Policy:
    """Move each parameter, as learning would."""
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if isinstance(policy, GroupBandit):
        policy.set_reach(0.1 + 0.9 * torch.rand(policy.size, 2))
        policy.learn(policy.statistics(policy.sample(torch.zeros(50, 1, 1, 1), torch.Generator()), torch.rand(50)))
    return policy


def assert_equal(loaded: LearnedAugmentation, augmentation: LearnedAugmentation, images: Tensor) -> None:
    for one in (loaded, augmentation):
        one.eval()
    assert repr(loaded) == repr(augmentation)
    assert loaded.transform.spec == augmentation.transform.spec
    torch.manual_seed(3)
    expected = augmentation(images)
    torch.manual_seed(3)
    assert torch.equal(loaded(images), expected)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_come_back(images: Tensor, tmp_path: Path, name: str) -> None:
    transform = TRANSFORMS[name]
    augmentation = LearnedAugmentation(transform, moved(Gaussian(transform.spec)), uniform_fraction=0.3, p=0.7)
    augmentation.save(tmp_path / "augmentation.safetensors")
    loaded = LearnedAugmentation.load(tmp_path / "augmentation.safetensors")
    assert repr(loaded.transform) == repr(transform)
    assert type(loaded.transform) is type(transform)
    assert_equal(loaded, augmentation, images)


def test_what_a_calibrated_augmenter_has_learned_comes_back(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    found = calibrate(teacher, images, Affine(scale=None, shear=None))
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=found.transform,
        policy=GroupBandit(found.transform.spec),
        calibration=found,
        schedule=Alternating(),
    )
    augmenter(images)
    augmentation = augmenter.export()
    augmentation.save(tmp_path / "a")
    loaded = LearnedAugmentation.load(tmp_path / "a")
    assert_equal(loaded, augmentation, images)
    assert isinstance(loaded.policy, GroupBandit)
    assert torch.equal(loaded.policy.reach, found.reach)
    assert float(found.reach.min()) < 1


def test_a_narrowed_transform_of_ones_own_is_given_at_load(images: Tensor, tmp_path: Path) -> None:
    transform = Turn().narrowed({"rotation": (-2.0, 5.0)})
    augmentation = LearnedAugmentation(transform, Uniform(transform.spec))
    augmentation.save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"saved with the transform .*Turn, whose code .*load\(path, transform="):
        LearnedAugmentation.load(tmp_path / "a")
    given = Turn().narrowed({"rotation": (-2.0, 5.0)})
    assert_equal(LearnedAugmentation.load(tmp_path / "a", transform=given), augmentation, images)
    with pytest.raises(ValueError, match="those of the transform"):
        LearnedAugmentation.load(tmp_path / "a", transform=Turn())


@pytest.mark.parametrize("name", POLICIES)
def test_policies_come_back(images: Tensor, tmp_path: Path, name: str) -> None:
    augmentation = LearnedAugmentation(Affine(), moved(POLICIES[name]))
    augmentation.save(str(tmp_path / "augmentation"))
    loaded = LearnedAugmentation.load(str(tmp_path / "augmentation"))
    assert repr(loaded.policy) == repr(augmentation.policy)
    assert_equal(loaded, augmentation, images)
    assert torch.equal(loaded.policy.relative_variance(images), augmentation.policy.relative_variance(images))
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("part", [*TRANSFORMS.values(), *POLICIES.values()], ids=lambda part: type(part).__name__)
def test_every_setting_of_a_class_is_in_its_description(part: Transform | Policy) -> None:
    if isinstance(part, Compose | Narrowed):
        return
    assert settings_of(part).keys() == inspect.signature(type(part)).parameters.keys()


def test_every_class_without_networks_is_known() -> None:
    from hard_aug import policies, transforms

    made_of_settings = {
        name
        for module in (transforms, policies)
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, Transform | Policy)
        and not inspect.isabstract(kind)
        and name not in (*files.COMPOSED, "Narrowed", "Search", "VAELatent", "HierarchicalLatent", "Diffusion")
    }
    assert made_of_settings == files.TRANSFORMS.keys() | files.POLICIES.keys()


def test_settings_of_numpy(images: Tensor, tmp_path: Path) -> None:
    transform = Affine(rotation=np.float32(20), translation=np.int64(1))
    policy = Generator(transform.spec, width=np.int64(8), seed=np.int32(1))  # type: ignore[arg-type]  # NumPy's
    augmentation = LearnedAugmentation(transform, policy, p=np.float64(0.5))
    augmentation.save(tmp_path / "a")
    assert_equal(LearnedAugmentation.load(tmp_path / "a"), augmentation, images)


@pytest.mark.slow
def test_a_new_process_loads_what_was_learned(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, tmp_path: Path
) -> None:
    augmenter = HardAugmenter(
        teacher=teacher,
        student=plain_student,
        transform=TRANSFORMS["Compose"],
        schedule=Alternating(),
        exploration=Exploration(min_uniform_fraction=0.2),
    )
    for _ in range(5):
        augmenter(images)
    augmentation = augmenter.export(p=0.7)
    augmentation.save(tmp_path / "augmentation.safetensors")
    torch.save(images, tmp_path / "images.pt")
    program = (
        "import sys, pickle\n"
        "import torch\n"
        "from hard_aug import LearnedAugmentation\n"
        "images = torch.load('images.pt')\n"
        "pickle.Unpickler = pickle.load = pickle.loads = None\n"
        "augmentation = LearnedAugmentation.load('augmentation.safetensors')\n"
        "torch.manual_seed(3)\n"
        "torch.save(augmentation(images), 'found.pt')\n"
        "print(augmentation)\n"
    )
    root = Path(__file__).parents[2]
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "uniform_fraction=0.2, p=0.7" in run.stdout
    torch.manual_seed(3)
    assert torch.equal(torch.load(tmp_path / "found.pt"), augmentation(images))


def test_a_transform_of_ones_own_is_given_at_load(images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "augmentation.safetensors"
    transform = Compose(Turn(), Color(saturation=None, hue=None))
    augmentation = LearnedAugmentation(transform, moved(Gaussian(transform.spec)))
    augmentation.save(path)
    words = (
        r"augmentation\.safetensors was saved with the transform .*Turn, whose code .*load\(path, transform=\.\.\.\)"
    )
    with pytest.raises(ValueError, match=words):
        LearnedAugmentation.load(path)
    given = Compose(Turn(), Color(saturation=None, hue=None))
    assert_equal(LearnedAugmentation.load(path, transform=given), augmentation, images)
    for other in (Turn(), Compose(Turn(20.0), Color(saturation=None, hue=None))):
        with pytest.raises(ValueError, match=r"augmentation\.safetensors was saved for other .*those of the transform"):
            LearnedAugmentation.load(path, transform=other)
    with pytest.raises(TypeError, match="transform: expected a Transform, got the class Turn; pass an instance"):
        LearnedAugmentation.load(path, transform=Turn)  # type: ignore[arg-type]


def test_a_policy_of_ones_own_is_given_at_load(images: Tensor, tmp_path: Path) -> None:
    path = tmp_path / "augmentation.safetensors"
    augmentation = LearnedAugmentation(Affine(), moved(Wide(SPEC)))
    augmentation.save(path)
    with pytest.raises(ValueError, match=r"with the policy .*Wide, whose code .*load\(path, policy=\.\.\.\)"):
        LearnedAugmentation.load(path)
    given = Wide(SPEC)
    assert_equal(LearnedAugmentation.load(path, policy=given), augmentation, images)
    assert not bool(given.mean.any())  # a copy of it was loaded
    with pytest.raises(ValueError, match="those of the policy"):
        LearnedAugmentation.load(path, policy=Wide(Color().spec))
    with pytest.raises(ValueError, match=r"augmentation\.safetensors was saved with a policy of another shape"):
        LearnedAugmentation.load(path, policy=Generator(SPEC))


def test_a_generative_transform_is_given_at_load(tmp_path: Path) -> None:
    from hard_aug.generative import HierarchicalVAE
    from hard_aug.transforms import HierarchicalLatent

    torch.manual_seed(0)
    vae = HierarchicalVAE(channels=1, size=8, blocks=((1, 1), (4, 2)), width=8, latent_channels=2)
    transform, images = HierarchicalLatent(vae), torch.rand(3, 1, 8, 8)
    augmentation = LearnedAugmentation(transform, Gaussian(transform.spec, std=1.0))
    augmentation.save(tmp_path / "a")
    assert (tmp_path / "a").stat().st_size < 10_000  # no networks
    with pytest.raises(
        ValueError, match=r"transform hard_aug\.transforms.*\.HierarchicalLatent, whose code and networks"
    ):
        LearnedAugmentation.load(tmp_path / "a")
    loaded = LearnedAugmentation.load(tmp_path / "a", transform=HierarchicalLatent(vae))
    assert_equal(loaded, augmentation, images)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "learned é.safetensors"
    LearnedAugmentation(Affine(), moved(Gaussian(SPEC))).save(path)
    return path


def test_a_file_that_is_cut_off(path: Path) -> None:
    data = path.read_bytes()
    for length in [*range(12), *range(12, len(data), 97), len(data) - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"learned é\.safetensors can't be read .* damaged, or no file of Learned"):
            LearnedAugmentation.load(path)


def test_a_byte_that_is_changed_anywhere(path: Path) -> None:
    data = path.read_bytes()
    for place in range(0, len(data), 7):
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        path.write_bytes(changed)
        with pytest.raises(ValueError, match=r"learned é\.safetensors"):
            LearnedAugmentation.load(path)
    path.write_bytes(data)
    LearnedAugmentation.load(path)


@pytest.mark.parametrize("kind", ["text", "pickle", "tensors", "state dict", "folder", "nothing"])
def test_a_file_of_another_kind(path: Path, kind: str) -> None:
    state = LearnedAugmentation.load(path).state_dict()
    path.unlink()
    if kind == "text":
        path.write_text("a text", encoding="utf-8")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"a": 1}))
    elif kind == "tensors":
        safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    elif kind == "state dict":
        torch.save(state, path)
    elif kind == "folder":
        path.mkdir()
    expected = FileNotFoundError if kind in ("folder", "nothing") else ValueError
    with pytest.raises(expected, match=r"learned é\.safetensors.*LearnedAugmentation"):
        LearnedAugmentation.load(path)


@pytest.mark.parametrize("number", [files.FORMAT - 1, files.FORMAT + 1])
def test_another_format_is_named(path: Path, number: int) -> None:
    data = path.read_bytes()
    settings = json.loads(json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"][files.SETTINGS])
    text = json.dumps({"format": number, "all": settings})
    safetensors.torch.save_file({}, path, {files.SETTINGS: text})
    words = rf"learned é\.safetensors is of format {number}, and .* reads format {files.FORMAT}; install"
    with pytest.raises(ValueError, match=words):
        LearnedAugmentation.load(path)


def test_a_class_of_a_later_version_is_named(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(files.TRANSFORMS, "Affine")
    with pytest.raises(ValueError, match="saved with the transform Affine, whose code"):
        LearnedAugmentation.load(path)


def test_a_file_is_written_whole_or_not_at_all(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def fails(*paths: Any) -> None:
        raise OSError(28, "No space left on device")

    other = LearnedAugmentation(Color(), Gaussian(Color().spec))
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="No space left"):
            other.save(path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    other.save(path)
    assert isinstance(LearnedAugmentation.load(path).transform, Color)
    with pytest.raises(FileNotFoundError, match=r"nowhere; create it first"):
        other.save(path.parent / "nowhere" / "a.safetensors")


def test_unusual_ranges_are_not_questioned_again(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="rotation=0.5 is in degrees"):
        transform = Affine(rotation=0.5)
    LearnedAugmentation(transform, Uniform(transform.spec)).save(tmp_path / "learned.safetensors")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = LearnedAugmentation.load(tmp_path / "learned.safetensors")
    assert loaded.transform.spec == transform.spec
