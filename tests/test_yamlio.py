"""YAML means what it looks like, refuses what it must, and survives a round trip."""

import math
import os
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_cli import yamlio
from dreamer_cli.errors import ConfigError

PARSERS = [yaml.SafeLoader, *([yaml.CSafeLoader] if yaml.__with_libyaml__ else [])]


@pytest.fixture(params=PARSERS, ids=lambda parser: parser.__name__)
def parser(request, monkeypatch):
    """Both parsers of PyYAML, because users get whichever their wheel was built with."""
    monkeypatch.setattr(yamlio, "PARSER", request.param)
    return request.param


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-4", 1e-4),
        ("1e6", 1_000_000),
        ("400k", 400_000),
        ("400_000", 400_000),
        ("1.5M", 1_500_000),
        ("010", 10),
        ("0.5", 0.5),
        (".5", 0.5),
        ("1.0", 1.0),
        ("true", True),
        ("false", False),
        ("null", None),
        ("~", None),
        (".inf", math.inf),
        # ... and text stays text.
        ("on", "on"),
        ("no", "no"),
        ("Yes", "Yes"),
        ("True", "True"),
        ("10m", "10m"),
        ("11h30m", "11h30m"),
        ("1:30", "1:30"),
        ("2024-01-01", "2024-01-01"),
        ("0x10", "0x10"),
        ("1e999x", "1e999x"),
        ("'400k'", "400k"),
        ('"true"', "true"),
        ("ALE/Pong-v5", "ALE/Pong-v5"),
        ("dmc:walker-walk", "dmc:walker-walk"),
    ],
)
def test_plain_scalars_mean_what_they_look_like(parser, text, value):
    loaded = yamlio.load(f"key: {text}")["key"]
    assert loaded == value
    assert type(loaded) is type(value)
    assert yamlio.load_value(text) == value


def test_whole_numbers_are_ints_however_written():
    assert all(type(yamlio.load_value(text)) is int for text in ("4e5", "400k", "1.5M", "010", "1.2e1"))
    assert all(type(yamlio.load_value(text)) is float for text in ("1.0", "1e-4", "0.5", "1e30"))


def test_structure(parser):
    text = "a:\n  b: [1, {c: d}, []]\n  e: {}\nf:\n- x\n-\n"
    assert yamlio.load(text) == {"a": {"b": [1, {"c": "d"}, []], "e": {}}, "f": ["x", None]}
    assert yamlio.load("") is None
    assert yamlio.load("# nothing\n") is None
    assert yamlio.load(b"\xef\xbb\xbfa: 1") == {"a": 1}


def test_keys_are_names_even_if_they_look_like_values(parser):
    assert yamlio.load("1: a\non: b\nnull: c\ntrue: d\n<<: e\n010: f") == {
        "1": "a", "on": "b", "null": "c", "true": "d", "<<": "e", "010": "f",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: !!python/object/apply:os.system [ls]", "tag tag:yaml.org,2002:python"),
        ("a: !!str 1", "tag"),
        ("a: ! x", "tag"),
        ("!!map {a: 1}", "tag"),
        ("a: &x 1", "anchor &x"),
        ("a: &x [1]\nb: *x", "anchor &x"),
        ("a: *x", "alias *x"),
        ("a: 1\nb: 2\na: 3", "line 3, sets the key 'a' twice"),
        ("{a: 1, 'a': 2}", "twice"),
        ("a: 1\n---\nb: 2", "second document"),
        ("[a]: 1", "has [a] as a key"),
        ("{a: b}: 1", "a mapping as a key"),
        ("a: [1, 2", "line"),
        ("a: b: c", "line 1"),
        ("a:\n\t- b", "line 2"),
        ('"\\UFFFFFFFF"', "no YAML"),
        ("a: \0", "no YAML"),
        ("[" * 51 + "]" * 51, "deeper than 50"),
        ("[" * 20_000, "deeper than 50"),
        ("{a: " * 20_000, "deeper than 50"),
        ("- " * 20_000, "deeper than 50"),
        ("x" * 1_000_001, "larger than"),
    ],
)
def test_refuses(parser, text, said):
    start = time.monotonic()
    with pytest.raises(ConfigError) as caught:
        yamlio.load(text, "config.yaml")
    assert said in caught.value.what
    assert caught.value.what.startswith("config.yaml")
    assert "\n" not in caught.value.what
    assert time.monotonic() - start < 2


def test_an_alias_bomb_is_refused_at_its_first_anchor():
    bomb = "a: &a [x, x]\n" + "".join(
        f"{b}: &{b} [*{a}, *{a}, *{a}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(ConfigError, match="line 1, sets the anchor"):
        yamlio.load(bomb)


def test_fifty_levels_are_allowed(parser):
    value = yamlio.load("[" * 50 + "]" * 50)
    for _ in range(49):
        (value,) = value
    assert value == []


def test_bytes_that_are_no_text():
    with pytest.raises(ConfigError, match="no YAML"):
        yamlio.load(b"a: \xff\xfe")


@settings(max_examples=80, deadline=None)
@given(
    st.one_of(
        st.binary(max_size=60), st.text(max_size=60), st.text("{}[]&*!|>'\"%@`#,:?-\n\t \\ab01.e~<=", max_size=40)
    )
)
def test_loading_anything_ends_in_plain_values_or_a_config_error(text):
    for choice in PARSERS:
        yamlio.PARSER, before = choice, yamlio.PARSER
        try:
            yamlio.load(text)
        except ConfigError:
            pass
        finally:
            yamlio.PARSER = before


SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=20),
    st.sampled_from(["400k", "010", "on", "no", "1e5", "1:30", "~", "null", "", " x", "a: b", "#", "-", "2024-01-01"]),
)  # fmt: skip
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
)


def typed(value):
    """A tree with types, because 1 == 1.0 == True."""
    if isinstance(value, dict):
        return [(key, typed(item)) for key, item in value.items()]
    return [typed(item) for item in value] if isinstance(value, list) else (type(value), value)


@settings(max_examples=80, deadline=None)
@given(TREES)
def test_dump_then_load_gives_the_same_tree(tree):
    for choice in PARSERS:
        yamlio.PARSER, before = choice, yamlio.PARSER
        try:
            assert typed(yamlio.load(yamlio.dump(tree))) == typed(tree)
        finally:
            yamlio.PARSER = before


@settings(max_examples=50, deadline=None)
@given(TREES)
def test_a_value_on_one_line_reads_back(value):
    line = yamlio.dump_value(value)
    assert typed(yamlio.load_value(line)) == typed(value)


def test_dump_looks_like_something_a_person_would_write():
    tree = {"run": {"steps": 400_000, "lr": 4e-5, "save_every": "10m", "threads": None}, "mults": (2, 3), "kwargs": {}}
    assert yamlio.dump(tree) == (
        "run:\n  steps: 400000\n  lr: 4.0e-05\n  save_every: 10m\n  threads: null\nmults: [2, 3]\nkwargs: {}\n"
    )


def test_what_other_readers_would_misread_is_quoted():
    text = yamlio.dump({"a": "on", "b": "400k", "c": "1e5", "d": "2024-01-01", "e": "010"})
    assert yaml.safe_load(text) == {"a": "on", "b": "400k", "c": "1e5", "d": "2024-01-01", "e": "010"}


def test_dump_refuses_objects():
    with pytest.raises(ConfigError):
        yamlio.dump({"a": object()})


def test_files(tmp_path):
    path = tmp_path / "config.yaml"
    with pytest.raises(ConfigError, match="cannot be read"):
        yamlio.load_file(path)
    path.write_text("")
    assert yamlio.load_file(path) == {}
    path.write_text("- a")
    with pytest.raises(ConfigError, match="wants `key: value`"):
        yamlio.load_file(path)
    path.write_text("a: 1e-4")
    assert yamlio.load_file(path) == {"a": 1e-4}
    with pytest.raises(ConfigError, match="cannot be read"):
        yamlio.load_file(tmp_path)


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="a POSIX device")
def test_an_endless_file_is_not_read_to_its_end():
    with pytest.raises(ConfigError, match="a pipe or a device"):
        yamlio.load_file(Path("/dev/zero"))


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match="a pipe or a device"):
        yamlio.load_file(tmp_path / "config.yaml")


@pytest.mark.parametrize("text", ["a: b", "- a", "*x", "!!str x", "a: b: c"])
def test_values_on_the_command_line_are_scalars_or_in_brackets(text):
    with pytest.raises(ConfigError):
        yamlio.load_value(text, "--set env.id")


def test_values_in_brackets():
    assert yamlio.load_value("[64, 64]") == [64, 64]
    assert yamlio.load_value(" {kind: gru, units: 2k} ") == {"kind": "gru", "units": 2000}
    assert yamlio.load_value("") is None
