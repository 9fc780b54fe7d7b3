"""`LearnedAugmentation`: it draws as the augmenter does, in pipelines, with images of any kind."""

from __future__ import annotations

import gc
import io
import pickle
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision import tv_tensors
from torchvision.transforms import v2

from hard_aug import Exploration, HardAugmenter, LearnedAugmentation
from hard_aug.policies import Conditional, Gaussian, Generator, Search, Uniform
from hard_aug.schedules import Alternating
from hard_aug.transforms import Affine, Color, Compose, Filter, PatchMix
from tests.helpers.defaults import defaults


def grey() -> Compose:
    return Compose(Affine(), Color(saturation=None, hue=None))


def trained(
    teacher: nn.Module, student: nn.Module, images: Tensor, *, steps: int = 15, **settings: Any
) -> HardAugmenter:
    settings.setdefault("transform", grey())
    settings.setdefault("schedule", Alternating())
    augmenter = HardAugmenter(teacher=teacher, student=student, **settings)
    for _ in range(steps):
        augmenter(images)
    return augmenter


@pytest.mark.parametrize("kind", [Gaussian, Generator, Conditional, Uniform])
@pytest.mark.parametrize("min_uniform_fraction", [0.0, 0.3])
def test_it_draws_what_the_augmenter_draws(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor, kind: Any, min_uniform_fraction: float
) -> None:
    transform = grey()
    policy = Conditional(transform.spec, channels=1) if kind is Conditional else kind(transform.spec)
    exploration = Exploration(min_uniform_fraction=min_uniform_fraction)
    augmenter = trained(teacher, plain_student, images, transform=transform, policy=policy, exploration=exploration)
    augmentation = augmenter.export()
    found, expected = (
        source.sample(images, generator=torch.Generator().manual_seed(5)) for source in (augmentation, augmenter)
    )
    assert torch.equal(found, expected)
    assert not found.requires_grad
    many = images.repeat(500, 1, 1, 1)
    hard = augmenter(many)
    drawn = transform.decode(augmentation.sample(many))
    for name, values in hard.params.items():
        error = values.std() / len(values) ** 0.5
        assert abs(values.mean() - drawn[name].mean()) < 6 * error, name
        assert drawn[name].std() == pytest.approx(float(values.std()), rel=0.08), name


def test_it_is_a_copy(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    augmenter = trained(teacher, plain_student, images)
    augmentation = augmenter.export()
    torch.manual_seed(1)
    before = augmentation(images)
    for _ in range(3):
        augmenter(images)
    torch.manual_seed(1)
    assert torch.equal(augmentation(images), before)
    assert not any(parameter.requires_grad for parameter in augmentation.parameters())
    assert all(parameter.requires_grad for parameter in augmenter.policy.parameters())
    generator = torch.Generator().manual_seed(2)
    state = torch.get_rng_state()
    first = augmentation(images, generator=generator)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(augmentation(images, generator=generator.manual_seed(2)), first)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("single", [False, True])
def test_type_dtype_and_shape_are_the_inputs(images: Tensor, dtype: torch.dtype, wrapped: bool, single: bool) -> None:
    augmentation = LearnedAugmentation(Affine(), Gaussian(Affine().spec))
    plain = images[0] if single else images
    given = (255 * plain).round().to(dtype) if dtype == torch.uint8 else plain.to(dtype)
    given = tv_tensors.Image(given) if wrapped else given
    found = augmentation(given)
    assert type(found) is type(given)
    assert found.dtype == dtype
    assert found.shape == given.shape
    found = found.as_subclass(Tensor).double() / (255 if dtype == torch.uint8 else 1)
    torch.manual_seed(0)
    expected = augmentation(plain)
    torch.manual_seed(0)
    again = augmentation(given).as_subclass(Tensor).double() / (255 if dtype == torch.uint8 else 1)
    assert float((again - expected).abs().max()) < 0.01
    assert float(found.min()) >= 0
    assert float(found.max()) <= 1


def test_probability_and_uniform_fraction(images: Tensor) -> None:
    many = images.repeat(100, 1, 1, 1)
    augmentation = LearnedAugmentation(Affine(), Gaussian(Affine().spec), p=0.3)
    changed = (augmentation(many) != many).flatten(1).any(1)
    assert 0.2 < float(changed.float().mean()) < 0.4
    mixed = LearnedAugmentation(Affine(), Gaussian(Affine().spec, std=1e-3), uniform_fraction=0.5)
    rotated = mixed.transform.decode(mixed.sample(many))["rotation"].abs() > 0.5
    assert 0.4 < float(rotated.float().mean()) < 0.6
    for wrong in ({"p": 0.0}, {"p": 1.5}, {"uniform_fraction": 1.0}, {"uniform_fraction": -0.1}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}="):
            LearnedAugmentation(Affine(), Gaussian(Affine().spec), **wrong)


class Blobs(Dataset[Any]):
    def __init__(self, images: Tensor, pipeline: v2.Transform) -> None:
        self.images, self.pipeline = images, pipeline

    def __len__(self) -> int:
        return 32

    def __getitem__(self, index: int) -> Any:
        return self.pipeline(tv_tensors.Image(self.images[0]), index)


def test_in_a_pipeline_with_workers(images: Tensor) -> None:
    augmentation = LearnedAugmentation(grey(), Gaussian(grey().spec))
    pipeline = v2.Compose([augmentation, v2.ToDtype(torch.float32, scale=True), v2.Normalize((0.5,), (0.5,))])
    data = Blobs((255 * images).to(torch.uint8), pipeline)
    pickle.loads(pickle.dumps(data))
    runs = []
    for _ in range(2):
        torch.manual_seed(7)
        batches = list(DataLoader(data, batch_size=8, num_workers=2))
        runs.append(torch.cat([pixels for pixels, _ in batches]))
    assert torch.equal(runs[0], runs[1])  # a seed repeats them
    assert torch.cat([index for _, index in batches]).tolist() == list(range(32))
    distinct = {bytes(image.numpy().tobytes()) for image in runs[0]}
    assert len(distinct) == 32  # of one image, and no two draws are equal
    assert runs[0].shape == (32, 1, 12, 12)
    assert float(runs[0].min()) < -0.9


def test_the_networks_are_not_part_of_it(teacher: nn.Module, images: Tensor) -> None:
    class Network(nn.Module):
        def __init__(self, inside: nn.Module) -> None:
            super().__init__()
            self.inside = inside
            self.marker = "a string that is looked for"

        def forward(self, images: Tensor) -> Tensor:
            return self.inside(images)  # type: ignore[no-any-return]

    student = Network(nn.Sequential(nn.Flatten(), nn.Linear(144, 5)))
    network = Network(teacher)
    augmenter = trained(network, student, images)
    augmentation = augmenter.export(p=0.5)
    file = io.BytesIO()
    torch.save(augmentation, file)
    assert b"marker" not in file.getvalue()
    assert b"inside" not in file.getvalue()
    watched = [weakref.ref(network) for network in (network, student)]
    del augmenter, network, student
    gc.collect()
    assert [reference() for reference in watched] == [None, None]


def test_its_state_dict(teacher: nn.Module, plain_student: nn.Module, images: Tensor) -> None:
    exploration = Exploration(min_uniform_fraction=0.2)
    augmentation = trained(teacher, plain_student, images, exploration=exploration).export()
    other = LearnedAugmentation(grey(), Gaussian(grey().spec))
    torch.manual_seed(1)
    expected = augmentation(images)
    torch.manual_seed(1)
    assert not torch.equal(other(images), expected)
    other.load_state_dict(augmentation.state_dict())
    torch.manual_seed(1)
    assert torch.equal(other(images), expected)


def test_mixes_take_partners_from_the_batch(images: Tensor) -> None:
    transform = PatchMix(image_size=12, patch_size=4)
    augmentation = LearnedAugmentation(transform, Gaussian(transform.spec, std=1.0))
    levels = torch.arange(8.0)[:, None, None, None].expand(8, 1, 12, 12) / 8
    found = augmentation(levels)
    assert all(len(image.unique()) <= 2 for image in found)  # an image and its one partner
    assert sum(len(image.unique()) == 2 for image in found) >= 4
    assert torch.equal(augmentation(levels[:1]), levels[:1])  # alone in its batch
    with pytest.raises(ValueError, match="collate_fn"):
        augmentation(levels[0])
    with pytest.raises(ValueError, match="different classes"):
        augmentation(levels, torch.arange(8))


def test_noise_is_drawn(images: Tensor) -> None:
    transform = Filter(gamma=None, sharpness=None, blur=None)
    augmentation = LearnedAugmentation(transform, Gaussian(transform.spec, std=1.0))
    torch.manual_seed(0)
    assert float((augmentation(images) - images).abs().max()) > 0.01


def test_a_search_and_a_transform_that_requires_labels_raise(
    teacher: nn.Module, plain_student: nn.Module, images: Tensor
) -> None:
    spec = Affine().spec

    def augmenter(policy: Search) -> HardAugmenter:
        return HardAugmenter(teacher=teacher, student=plain_student, transform=Affine(), policy=policy)

    for policy in (Search(spec), Search(spec, proposal=Gaussian(spec), candidates=2)):
        made = augmenter(policy)
        words = r"a Search can't be exported.*alone: LearnedAugmentation\(transform, policy\.proposal\)"
        with pytest.raises(ValueError, match=words):
            made.export()
        alone = LearnedAugmentation(made.transform, policy.proposal)  # the error's suggestion works
        assert alone(images).shape == images.shape

    class Best(Gaussian):
        is_per_sample = True

    with pytest.raises(ValueError, match=r"a Best can't be exported.* which stay behind$"):  # it has no proposal
        augmenter(Best(spec)).export()  # type: ignore[arg-type]  # a policy of another class

    class OfClasses(Affine):
        @property
        def requires_labels(self) -> bool:
            return True

    policy = Gaussian(Compose(OfClasses(), Affine()).spec)
    with pytest.raises(ValueError, match="Compose requires the class of each image"):
        LearnedAugmentation(Compose(OfClasses(), Affine()), policy)
    with pytest.raises(ValueError, match="12 parameters and the transform 6"):
        LearnedAugmentation(Affine(), policy)
    with pytest.raises(TypeError, match="transform: expected a Transform"):
        LearnedAugmentation(nn.Identity(), policy)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, 1, 2, 3])
@pytest.mark.parametrize("p", [0.5, 1.0])
def test_small_batches(images: Tensor, size: int, p: float) -> None:
    transform = Compose(PatchMix(image_size=12, patch_size=4), Filter(blur=None))
    augmentation = LearnedAugmentation(transform, Gaussian(transform.spec), uniform_fraction=0.5, p=p)
    found = augmentation(images[:size])
    assert found.shape == (size, 1, 12, 12)
    assert bool(found.isfinite().all())
    single = LearnedAugmentation(Affine(), Gaussian(Affine().spec), p=p)
    assert single(images[:size]).shape == (size, 1, 12, 12)


@pytest.mark.parametrize("default", [torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_the_default_dtype_and_casts_change_nothing(images: Tensor, default: torch.dtype, dtype: torch.dtype) -> None:
    transform = grey()
    given = (255 * images).to(dtype) if dtype == torch.uint8 else images.to(dtype)
    augmentation = LearnedAugmentation(transform, Generator(transform.spec), uniform_fraction=0.3)
    torch.manual_seed(1)
    expected = augmentation(given)
    with defaults(default):
        made = LearnedAugmentation(grey(), Generator(transform.spec), uniform_fraction=0.3)
        cast = nn.Sequential(LearnedAugmentation(grey(), Generator(transform.spec), uniform_fraction=0.3)).to(default)
        for other in (made, cast):
            torch.manual_seed(1)
            found = other(given)
            assert found.dtype == dtype
            assert torch.equal(found, expected)


def test_numbers_of_numpy(images: Tensor) -> None:
    policy = Generator(Affine().spec, seed=np.int64(3), width=np.int32(8))  # type: ignore[arg-type]  # NumPy's
    augmentation = LearnedAugmentation(Affine(), policy, p=np.float32(0.5), uniform_fraction=np.float64(0.25))
    assert "uniform_fraction=0.25, p=0.5" in repr(augmentation)
    assert augmentation(images).shape == images.shape


def test_gradients_reach_the_images_and_nothing_else(images: Tensor) -> None:
    augmentation = LearnedAugmentation(Affine(), Gaussian(Affine().spec))
    leaf = images.clone().requires_grad_()
    augmentation(leaf).sum().backward()
    assert float(leaf.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in augmentation.parameters())
    with torch.inference_mode():
        assert augmentation(images).shape == images.shape
