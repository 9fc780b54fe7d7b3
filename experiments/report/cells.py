"""Cells of tables: formatting of numbers, the best of a column, Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: complete in itself.
        cells: formatted; the index has the names of the rows. `**` encloses the best values of a column.
        folded: collapsed at first on the page.
    """

    caption: str
    cells: pd.DataFrame
    folded: bool = False

    def markdown(self) -> str:
        """Return the table as Markdown, inside HTML `details` if folded."""
        head = ["", *self.cells.columns]
        lines = [head, ["---"] * len(head), *self.cells.reset_index().to_numpy().tolist()]
        table = "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
        if self.folded:
            return f"<details><summary>{self.caption}</summary>\n\n{table}\n\n</details>"
        return f"{self.caption}\n\n{table}"

    def plain(self) -> str:
        """Return the table with aligned columns, for a terminal."""
        return f"{self.caption}\n\n{self.cells.rename_axis(None).to_string()}"


def spread(values: Iterable[float], digits: int = 1, *, sign: bool = False) -> str:
    """Format mean and sample standard deviation: `1.0 ± 0.2`, `1.0` for one value, empty without values."""
    found = pd.Series(values, dtype=float).dropna()
    if found.empty:
        return ""
    mean = round(found.mean(), digits) + 0.0  # no negative zero
    text = f"{mean:+.{digits}f}" if sign else f"{mean:.{digits}f}"
    return text if len(found) == 1 else f"{text} ± {found.std():.{digits}f}"


def millions(values: Iterable[float]) -> str:
    """Format a mean in millions with three digits."""
    mean = pd.Series(values, dtype=float).mean() / 1e6
    return "" if pd.isna(mean) else f"{mean:.{max(0, 3 - len(f'{mean:.0f}')) if mean >= 1 else 3}f}"


def bold(text: pd.DataFrame, mean: pd.DataFrame, rows: Sequence[str], *, lowest: bool = False) -> pd.DataFrame:
    """Return cells with the best of each column of values in bold: of some rows, and unless all of them look equal."""
    text = text.copy()
    for column in mean:
        values = mean.loc[mean.index.intersection(rows), column].dropna().round(1)
        best = values.index[values == (values.min() if lowest else values.max())]
        if values.nunique() > 1:
            text.loc[best, column] = "**" + text.loc[best, column] + "**"
    return text
