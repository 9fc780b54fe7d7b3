"""Random numbers: several processes draw what one does for the joined batch, and states are restored."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch

from hard_aug.utils.rng import ShardedGenerator, derangement, rand, randn, restore_generator
from tests.helpers.defaults import defaults


def generators(processes: int) -> list[ShardedGenerator]:
    made = [ShardedGenerator(rank=rank, processes=processes) for rank in range(processes)]
    for generator in made:
        generator.manual_seed(5)
    return made


def test_processes_draw_the_rows_of_the_joined_batch() -> None:
    (alone,) = generators(1)
    shared = generators(2)
    for kind in (lambda rows, g: randn((rows, 3), g), rand):
        assert torch.equal(kind(8, alone), torch.cat([kind(4, generator) for generator in shared]))


def test_generators_stay_in_step_after_partners_are_drawn() -> None:
    (alone,) = generators(1)
    shared = generators(2)
    derangement(8, alone)
    for generator in shared:
        assert sorted(derangement(4, generator).tolist()) == [0, 1, 2, 3]
    assert torch.equal(rand(8, alone), torch.cat([rand(4, generator) for generator in shared]))


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 50])
def test_every_image_gets_another_one_as_its_partner(rows: int) -> None:
    found = derangement(rows, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == list(range(rows))
    assert rows < 2 or not bool((found == torch.arange(rows)).any())


def test_a_rank_out_of_range() -> None:
    with pytest.raises(ValueError, match="rank=2 of 2 processes"):
        ShardedGenerator(rank=2, processes=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_draws_are_the_same_whatever_the_defaults(dtype: torch.dtype, device: str) -> None:
    (generator,) = generators(1)
    expected = randn((4, 3), generator), rand(4, generator), derangement(4, generator)
    with defaults(dtype, device):
        (generator,) = generators(1)
        found = randn((4, 3), generator), rand(4, generator), derangement(4, generator)
    assert found[0].dtype == found[1].dtype == torch.float32
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_draws_are_float32_from_plain_generators_too() -> None:
    generator = torch.Generator().manual_seed(0)
    normal, uniform = randn((5, 2), generator), rand(5, generator)
    generator.manual_seed(0)
    assert torch.equal(normal, torch.randn(5, 2, generator=generator))
    assert torch.equal(uniform, torch.rand(5, generator=generator))
    assert normal.dtype == uniform.dtype == torch.float32


def test_a_state_is_restored() -> None:
    generator = torch.Generator().manual_seed(1)
    state = generator.get_state()
    expected = rand(3, generator)
    restore_generator(generator.manual_seed(9), state, fallback_seed=2)
    assert torch.equal(rand(3, generator), expected)


@pytest.mark.parametrize("size", [16, 44])  # of a state on CUDA, and on MPS
def test_a_state_of_another_device_seeds_anew_with_a_warning(size: int, caplog: pytest.LogCaptureFixture) -> None:
    generator = torch.Generator().manual_seed(1)
    restore_generator(generator, torch.zeros(size, dtype=torch.uint8), fallback_seed=2)
    assert torch.equal(rand(3, generator), rand(3, torch.Generator().manual_seed(2)))
    assert "another kind of device" in caplog.text


@pytest.mark.parametrize("state", [torch.zeros(3, dtype=torch.uint8), torch.zeros(16)])
def test_a_state_of_no_generator_raises(state: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the generator's state has"):
        restore_generator(torch.Generator(), state, fallback_seed=2)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda generator: pickle.loads(pickle.dumps(generator))])
def test_a_copy_draws_what_the_original_draws(copied: Callable[[ShardedGenerator], ShardedGenerator]) -> None:
    for rank in range(2):
        generator = ShardedGenerator(rank=rank, processes=2)
        generator.manual_seed(3)
        randn((4, 2), generator)
        twin = copied(generator)
        assert (twin.rank, twin.processes) == (rank, 2)
        assert torch.equal(randn((4, 2), twin), randn((4, 2), generator))
