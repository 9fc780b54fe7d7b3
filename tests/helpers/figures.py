"""Figures in tests."""

from __future__ import annotations

import io

from matplotlib.figure import Figure


def assert_saves(figure: Figure) -> None:
    """Save as PNG in memory: draws everything, without a display."""
    file = io.BytesIO()
    figure.savefig(file)
    assert file.getvalue().startswith(b"\x89PNG")
