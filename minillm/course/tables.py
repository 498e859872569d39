r"""A table in plain text, the same in a notebook, a terminal and a test."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    r"""Rows under headings; printed and shown as aligned text.

    Args:
        columns: the headings.
        rows: as many cells a row as there are headings.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str | int, ...], ...]

    def __repr__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(len(str(line[i])) for line in lines) for i in range(len(self.columns))]
        ruled = [self._line(self.columns, widths), "  ".join("-" * width for width in widths)]
        return "\n".join(ruled + [self._line(row, widths) for row in self.rows])

    def _line(self, row: Sequence[str | int], widths: Sequence[int]) -> str:
        cells = [
            str(cell).rjust(width) if isinstance(cell, int) else str(cell).ljust(width)
            for cell, width in zip(row, widths, strict=True)
        ]
        return "  ".join(cells).rstrip()
