"""`aligned`: columns of plain text."""

from __future__ import annotations

from hard_aug.utils.text_table import aligned


def test_the_first_column_is_on_the_left_and_the_others_on_the_right() -> None:
    lines = [("parameter", "unit", "range"), ("hue", "degrees", "-5 to 20"), ("é", "", "1")]
    assert aligned(lines).splitlines() == [
        "parameter     unit     range",
        "hue        degrees  -5 to 20",
        "é                          1",
    ]


def test_a_single_row_or_column() -> None:
    assert aligned([("name", "value")]) == "name  value"
    assert aligned([["a"], ["bcd"]]) == "a  \nbcd"
