"""Actions as people write them: names, numbers, files; and back."""

import json
import zipfile

import numpy as np
import pytest

from dreamer_cli.errors import StateError, UsageError
from dreamer_cli.npz import read_npz
from dreamer_cli.spaces import ActionPart, EnvSpec
from dreamer_cli.steering import decode, encode, noop, parse_branches, read_actions

NAMED = EnvSpec({}, (ActionPart("action", "discrete", (3,), names=("NOOP", "LEFT", "RIGHT"), start=(0,)),))
SHIFTED = EnvSpec({}, (ActionPart("action", "discrete", (3,), start=(-1,)),))
SEVERAL = EnvSpec({}, (ActionPart("action", "discrete", (2, 3), start=(0, 0), shape=(2,)),))
NUMBERS = EnvSpec({}, (ActionPart("action", "continuous", size=2, low=(-2.0, 0.0), high=(2.0, 1.0), shape=(2,)),))
PARTS = EnvSpec({}, (*NAMED.action[:0], ActionPart("arm", "continuous", size=1, low=(-1.0,), high=(3.0,)),
                     ActionPart("jump", "discrete", (2,), names=("no", "yes"), start=(0,))))  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "value", "flat", "back"),
    [
        (NAMED, 2, [0, 0, 1], "RIGHT"),
        (NAMED, "left", [0, 1, 0], "LEFT"),
        (NAMED, {"action": "NOOP"}, [1, 0, 0], "NOOP"),
        (SHIFTED, -1, [1, 0, 0], -1),
        (SHIFTED, 1.0, [0, 0, 1], 1),
        (SEVERAL, [1, 2], [0, 1, 0, 0, 1], [1, 2]),
        (NUMBERS, [-2, 0.5], [-1, 0], [-2.0, 0.5]),
        (PARTS, {"arm": 3, "jump": "yes"}, [1, 0, 1], {"arm": 3.0, "jump": "yes"}),
    ],
)
def test_an_action_becomes_numbers_and_returns(spec, value, flat, back):
    np.testing.assert_array_equal(encode(spec, value), np.float32(flat))
    assert encode(spec, value).dtype == np.float32
    assert decode(spec, np.float32(flat)) == back


@pytest.mark.parametrize(
    ("spec", "value", "said"),
    [
        (NAMED, "lefd", "no action 'lefd'"),
        (NAMED, 3, "no action 3"),
        (NAMED, -1, "no action -1"),
        (NAMED, 0.5, "no action 0.5"),
        (NAMED, [0, 1], "no action"),
        (NAMED, None, "no action"),
        (NAMED, {"other": 1}, "no action here"),
        (SHIFTED, 2, "no action 2"),
        (SEVERAL, [1, 3], "no action"),
        (SEVERAL, [[1], [2, 3]], "no action"),
        (NUMBERS, [3, 0], "out of bounds"),
        (NUMBERS, [float("nan"), 0], "no action"),
        (PARTS, 1, "no action here"),
        (PARTS, {"arm": 1, "jump": "perhaps"}, "perhaps"),
    ],
)
def test_what_is_no_action_is_refused(spec, value, said):
    with pytest.raises(UsageError, match=said) as caught:
        encode(spec, value)
    assert caught.value.hint


def test_doing_nothing():
    np.testing.assert_array_equal(noop(NAMED), [1, 0, 0])
    np.testing.assert_array_equal(noop(NUMBERS), [0, -1])  # as close to 0 as can be
    for spec in (SHIFTED, PARTS):
        with pytest.raises(UsageError, match="does nothing"):
            noop(spec)


def test_branches():
    def draw(rows):
        return np.eye(3, dtype=np.float32)[np.arange(rows) % 3]

    words = ["policy", "noop", "right", "1+policy", "random", "random+policy"]
    steering, names = parse_branches(words, NAMED, 4, draw)
    assert names == words
    assert steering.own.tolist() == [[True] * 4, [False] * 4, [False] * 4, [False, True, True, True], [False] * 4,
                                     [False, True, True, True]]  # fmt: skip
    assert steering.given.argmax(-1)[1:].tolist() == [[0] * 4, [2] * 4, [1] * 4, [0, 1, 2, 0], [0, 1, 2, 0]]
    steering, _ = parse_branches(["-2/0.5", "2/1"], NUMBERS, 2, draw)
    np.testing.assert_array_equal(steering.given[:, 0], [[-1, 0], [1, 1]])
    for word in ("", "polizy", "7", "policy+noop", "+policy"):
        with pytest.raises(UsageError):
            parse_branches([word], NAMED, 4, draw)


def test_files_of_actions(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"schema": "dreamer.actions/1", "actions": ["LEFT", 2, 0]}))
    (tmp_path / "b.json").write_text(json.dumps([1, 2, "noop"]))
    onehots = np.eye(3, dtype=np.float32)[[1, 2, 0]]
    np.savez(tmp_path / "c.npz", action=onehots)
    for name in ("a.json", "b.json", "c.npz"):
        found = read_actions(tmp_path / name, NAMED)
        np.testing.assert_array_equal(found.given, onehots[None])
        assert found.until.tolist() == [3]
        assert not found.own.any()
    # What a dream was led by: from the last record of its context on, to the one before its last moment.
    dreamt = np.stack([np.concatenate([onehots[:2], onehots, onehots[:1]])] * 3)
    np.savez(tmp_path / "d.npz", action=dreamt, context=np.array(3), length=np.array([6, 5, 3]))
    found = read_actions(tmp_path / "d.npz", NAMED)
    np.testing.assert_array_equal(found.given, np.stack([onehots] * 2))  # the third one was over at once
    assert found.until.tolist() == [3, 2]
    assert found.repeated(5).until.tolist() == [3, 2, 3, 2, 3]


def test_a_number_without_end_is_no_action(tmp_path):
    (tmp_path / "x.json").write_text(f"[{'9' * 400}]")
    with pytest.raises(StateError, match=r"x\.json, action 0"):
        read_actions(tmp_path / "x.json", NAMED)


def test_saved_numbers_are_in_bounds():
    for low, high in ((0.7, 2.9), (-0.1, 0.3), (0.1, 1.1)):
        spec = EnvSpec({}, (ActionPart("action", "continuous", size=1, low=(low,), high=(high,)),))
        for flat in (-1.0, 1.0):
            encode(spec, decode(spec, np.array([flat], np.float32)))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("absent.json", None),
        ("x.json", b"{"),
        ("x.json", b"3"),
        ("x.json", b"[]"),
        ("x.json", b'{"actions": 3}'),
        ("x.npz", b"PK"),
        ("x.npz", {"other": np.zeros(3)}),
        ("x.npz", {"action": np.zeros((3, 2))}),
        ("x.npz", {"action": np.full((3, 3), np.nan)}),
        ("x.npz", {"action": np.zeros((0, 3))}),
        ("x.npz", {"action": np.zeros((1, 3, 3)), "context": np.array(np.nan), "length": np.array([3])}),
        ("x.npz", {"action": np.zeros((1, 3, 3)), "context": np.array(1), "length": np.array([1.5])}),
        ("x.npz", {"action": np.zeros((1, 3, 3)), "context": np.array(5), "length": np.array([3])}),
        ("x.npz", {"action": np.array([None, {}], object)}),
        ("x.npz", {"action": np.array(["LEFT"])}),
    ],
)
def test_files_of_something_else(tmp_path, name, content):
    if isinstance(content, bytes):
        (tmp_path / name).write_bytes(content)
    elif content is not None:
        np.savez(tmp_path / name, **content)
    with pytest.raises(StateError, match=name):
        read_actions(tmp_path / name, NAMED)


def test_arrays_that_claim_too_much_are_not_read(tmp_path, monkeypatch):
    np.savez_compressed(tmp_path / "large.npz", action=np.zeros((1000, 3)))
    monkeypatch.setattr("dreamer_cli.npz.LARGEST", 10_000)
    with pytest.raises(StateError, match="more than"):
        read_npz(tmp_path / "large.npz")
    header = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (10000000000, 100), }"
    with zipfile.ZipFile(tmp_path / "forged.npz", "w") as archive:
        archive.writestr("action.npy", header.ljust(127) + b"\n")
    with pytest.raises(StateError, match="forged"):
        read_npz(tmp_path / "forged.npz")
