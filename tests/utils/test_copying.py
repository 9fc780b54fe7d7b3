"""Copies of objects that hold networks."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import nn

from hard_aug.utils.copying import HoldsNetworks


class Holder(HoldsNetworks):
    _instead = "save the rest"

    def __init__(self, network: object) -> None:
        self.network = network
        self.itself = self


def test_a_deep_copy_has_the_copy_of_the_network_that_is_made_with_it() -> None:
    network = nn.Linear(2, 2)
    for order in (1, -1):
        copied = copy.deepcopy((network, Holder(network))[::order])[::order]
        assert copied[1].network is copied[0]
        assert copied[1].itself is copied[1]
        assert copied[0] is not network
        assert torch.equal(copied[0].weight, network.weight)
    shallow = copy.copy(Holder(network))
    assert type(shallow) is Holder
    assert shallow.network is network


def test_what_cannot_be_copied_or_pickled_says_what_to_do() -> None:
    with pytest.raises(TypeError, match=r"a Holder can't be pickled: it holds the networks; save the rest$"):
        pickle.dumps([Holder(nn.Linear(2, 2))])
    with pytest.raises(TypeError, match=r"one of them can't be copied \(cannot pickle 'generator' .*; save the rest$"):
        copy.deepcopy([Holder(number for number in range(3))])
