"""`HostCopy` on the CPU; `tests/setups/test_gpu.py` has the one that nobody waits for."""

from __future__ import annotations

import copy

import torch

from hard_aug.utils.host_copy import HostCopy


def test_the_value_is_the_present_one() -> None:
    flag = torch.zeros((), dtype=torch.bool)
    seen = HostCopy(flag)
    assert not seen()
    flag |= torch.tensor(True)
    assert seen()


def test_a_deep_copy_follows_the_copied_tensor() -> None:
    count = torch.zeros((), dtype=torch.int64)
    other_count, other = copy.deepcopy((count, HostCopy(count)))
    other_count += 2
    assert other() == 2
    assert int(count) == 0
