import pytest

from dreamer_cli.table import shorten, table


def test_a_table_is_aligned_and_carries_no_blanks_at_the_end():
    rows = [["a", "1"], ["bcd", "22"]]
    assert table(["name", "n"], rows, right=["n"]) == ["NAME   N", "a      1", "bcd   22"]
    assert table(["n", "name"], [["1", "a"]]) == ["N  NAME", "1  a"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_the_column_that_gives_lets_the_table_fit(width):
    lines = table(["name", "env"], [["x" * 8, "y" * 200]], width=width, give="env")
    assert max(map(len, lines)) == width
    assert "…" in lines[1]


def test_short_columns_are_left_alone():
    assert table(["name", "env"], [["x", "y"]], give="env") == ["NAME  ENV", "x     y"]


@pytest.mark.parametrize(
    ("text", "width", "short"), [("abcdefgh", 5, "ab…gh"), ("abc", 3, "abc"), ("abcdef", 4, "a…ef")]
)
def test_shorten_keeps_both_ends(text, width, short):
    assert shorten(text, width) == short
