"""Damaged copies of the content of a file."""

from __future__ import annotations

import random
from collections.abc import Iterator


def damaged(content: bytes, count: int, seed: int = 0) -> Iterator[bytes]:
    """Yield an empty copy, and `count` copies that are cut off, have flipped bits, or two blocks swapped."""
    draws = random.Random(seed)
    yield b""
    for number in range(count):
        place = draws.randrange(len(content))
        if number % 4 == 0:
            yield content[:place]
        elif number % 4 == 3:
            size = min(16, len(content) // 4)
            a, b = sorted(draws.sample(range(0, len(content) - size, size), 2))
            middle = content[a + size : b]
            yield content[:a] + content[b : b + size] + middle + content[a : a + size] + content[b + size :]
        else:
            yield content[:place] + bytes([content[place] ^ 1 << draws.randrange(8)]) + content[place + 1 :]
