"""Which keys mean which action."""

import pytest

from dreamer_cli.controls import controls, idle_action, selectors, sliders
from dreamer_cli.spaces import ActionPart, EnvSpec
from dreamer_cli.steering import encode

ATARI = ("NOOP", "FIRE", "UP", "RIGHT", "LEFT", "DOWN", "UPRIGHT", "UPLEFT", "RIGHTFIRE", "UPRIGHTFIRE")
MINIGRID = ("left", "right", "forward", "pickup", "drop", "toggle", "done")
CRAFTER = ("noop", "move_left", "move_right", "move_up", "move_down", "do", "sleep", "place_stone")


def choices(count, names=(), start=0):
    return EnvSpec({}, (ActionPart("action", "discrete", (count,), names=names, start=(start,)),))


def keys(spec):
    return {control.label: control.keys for control in controls(spec)}


def test_names_say_which_arrows():
    found = keys(choices(len(ATARI), ATARI))
    assert found["NOOP"] == ()
    assert found["FIRE"] == ("Space",)
    assert found["UPRIGHTFIRE"] == ("ArrowUp", "ArrowRight", "Space")
    assert keys(choices(7, MINIGRID)) == {
        "left": ("ArrowLeft",), "right": ("ArrowRight",), "forward": ("ArrowUp",), "pickup": ("0",), "drop": ("1",),
        "toggle": ("Space",), "done": ("2",),
    }  # fmt: skip
    found = keys(choices(8, CRAFTER))
    assert (found["move_up"], found["do"], found["sleep"], found["noop"]) == (("ArrowUp",), ("Space",), ("0",), ())


def test_nameless_choices():
    assert keys(choices(2)) == {"0": ("ArrowLeft",), "1": ("ArrowRight",)}
    assert keys(choices(3, start=-1)) == {"-1": ("ArrowLeft",), "0": (), "1": ("ArrowRight",)}
    found = keys(choices(40))
    assert found["0"] == ("0",)
    assert found["10"] == ("W",)
    held = [pressed for pressed in found.values() if pressed]
    assert len(held) == len(set(held))
    assert not {key for pressed in held for key in pressed} & set("GPNRBJLMKVQO")


def test_several_choices_have_lists():
    parts = (
        ActionPart("gear", "discrete", classes=(3, 2), start=(0, 5), shape=(2,)),
        ActionPart("horn", "discrete", classes=(2,), names=("honk", "noop")),
    )
    spec = EnvSpec({}, parts)
    assert controls(spec) == []
    assert [one[:4] for one in selectors(spec)] == [
        ("gear", 0, (0, 1, 2), ("0", "1", "2")), ("gear", 1, (5, 6), ("5", "6")), ("horn", 0, (0, 1), ("honk", "noop")),
    ]  # fmt: skip
    assert [one.at for one in selectors(spec)] == [0, 0, 1]
    chosen = {"gear": [2, 5], "horn": 0}
    assert encode(spec, chosen).tolist() == [0, 0, 1, 1, 0, 1, 0]
    assert selectors(choices(4)) == []


def test_numbers_have_sliders():
    spec = EnvSpec({}, (ActionPart("action", "continuous", size=3, low=(-1.0, 0.0, 0.0), high=(1.0, 1.0, 2.0)),))
    assert controls(spec) == []
    assert [(slider.place, slider.low, slider.high, slider.more) for slider in sliders(spec)] == [
        (0, -1.0, 1.0, "ArrowRight"), (1, 0.0, 1.0, "ArrowUp"), (2, 0.0, 2.0, "D"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "idle"),
    [
        (choices(10, ATARI), "NOOP"),
        (choices(3, start=1), 2),
        (choices(2), None),
        (choices(7, MINIGRID), None),
        (EnvSpec({}, (ActionPart("action", "continuous", size=1, low=(-2.0,), high=(2.0,)),)), 0.0),
    ],
)
def test_what_is_done_while_nothing_is_held(spec, idle):
    assert idle_action(spec) == idle
