"""Plain text tables for stdout: aligned, no frames, no wider than asked."""

from collections.abc import Sequence

GAP = "  "
WIDTH = 80


def table(
    header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = (), width: int = WIDTH, give: str = ""
) -> list[str]:
    """Lines of a table.

    Args:
        header: column names; shown in capitals.
        rows: one text a column.
        right: the columns that are aligned right (numbers).
        width: no line becomes longer, as long as the column `give` can be shortened for it.
        give: which column is shortened, with `…` in its middle.
    """
    cells = [[name.upper() for name in header], *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    if give:
        i = list(header).index(give)
        widths[i] = max(8, min(widths[i], width - sum(widths) + widths[i] - len(GAP) * (len(header) - 1)))
        for row in cells:
            row[i] = shorten(row[i], widths[i])
    aligned = (
        [cell.rjust(n) if name in right else cell.ljust(n) for cell, n, name in zip(row, widths, header, strict=True)]
        for row in cells
    )
    return [GAP.join(row).rstrip() for row in aligned]


def shorten(text: str, width: int) -> str:
    """At most `width` characters; what is cut out of the middle becomes `…`."""
    if len(text) <= width:
        return text
    front = (width - 1) // 2
    return text[:front] + "…" + text[len(text) - (width - 1 - front) :]
