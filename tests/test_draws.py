"""Draws: several processes draw what one does for the joined batch."""

from __future__ import annotations

import pytest
import torch

from hard_aug.draws import SharedGenerator, normal, partners, uniform


def generators(processes: int) -> list[SharedGenerator]:
    made = [SharedGenerator(rank=rank, processes=processes) for rank in range(processes)]
    for generator in made:
        generator.manual_seed(5)
    return made


def test_processes_draw_the_rows_of_the_joined_batch() -> None:
    (alone,) = generators(1)
    shared = generators(2)
    for kind in (lambda rows, g: normal((rows, 3), g), uniform):
        assert torch.equal(kind(8, alone), torch.cat([kind(4, generator) for generator in shared]))


def test_partners_leave_later_draws_in_step() -> None:
    (alone,) = generators(1)
    shared = generators(2)
    partners(8, alone)
    for generator in shared:
        assert sorted(partners(4, generator).tolist()) == [0, 1, 2, 3]
    assert torch.equal(uniform(8, alone), torch.cat([uniform(4, generator) for generator in shared]))


@pytest.mark.parametrize("rows", [0, 1, 2, 3, 50])
def test_every_image_has_another_one_as_its_partner(rows: int) -> None:
    found = partners(rows, torch.Generator().manual_seed(0))
    assert sorted(found.tolist()) == list(range(rows))
    assert rows < 2 or not bool((found == torch.arange(rows)).any())


def test_a_rank_that_is_none() -> None:
    with pytest.raises(ValueError, match="rank=2 of 2 processes"):
        SharedGenerator(rank=2, processes=2)
