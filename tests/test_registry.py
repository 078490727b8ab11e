"""Parts by name: every member of every registry can be chosen, checked, written down and read back."""

import dataclasses
import json

import pytest
from pydantic import TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from dreamer_cli.behaviour.actor_gradients import ACTOR_GRADIENTS
from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.heads import OUTPUTS
from dreamer_cli.nets.normalizers import RETURN_SCALES
from dreamer_cli.optim.build import OPTIMISERS
from dreamer_cli.registry import STRICT, choose, slot, to_tree
from dreamer_cli.world.cores import CORES
from dreamer_cli.world.latents import LATENTS
from dreamer_cli.world.model import WorldConfig
from dreamer_cli.world.objectives import OBJECTIVES
from dreamer_cli.world.rssm import DYNAMICS, RSSMConfig

REGISTRIES = {
    "actor_gradient": ACTOR_GRADIENTS,
    "core": CORES,
    "dynamics": DYNAMICS,
    "latent": LATENTS,
    "objective": OBJECTIVES,
    "optim": OPTIMISERS,
    "output": OUTPUTS,
    "return_scale": RETURN_SCALES,
}
MEMBERS = [(name, kind) for name, registry in REGISTRIES.items() for kind in registry]


@pytest.mark.parametrize(("name", "kind"), MEMBERS)
def test_member_contract(name, kind):
    registry = REGISTRIES[name]
    settings = choose(name, registry, {"kind": kind})
    assert type(settings) is registry[kind]
    assert settings == registry[kind](), "every setting has a default"
    assert registry[kind].__doc__, "shown to users"
    assert callable(settings.build)
    # Written down and read back.
    tree = json.loads(json.dumps(to_tree(settings)))
    assert choose(name, registry, {"kind": kind, **tree}) == settings
    with pytest.raises(ValidationError, match="nonsense"):
        choose(name, registry, {"kind": kind, "nonsense": 1})
    for field in dataclasses.fields(settings):
        with pytest.raises((dataclasses.FrozenInstanceError, ValidationError)):
            setattr(settings, field.name, None)


@pytest.mark.parametrize(("name", "kind"), MEMBERS)
def test_wrong_types_are_refused(name, kind):
    registry = REGISTRIES[name]
    for field in dataclasses.fields(registry[kind]):
        with pytest.raises((ValidationError, ConfigError)):
            choose(name, registry, {"kind": kind, field.name: "seven"})


def test_an_unknown_kind_names_the_nearest():
    with pytest.raises(ConfigError, match=r"world.core.kind is 'block_gruu', but must be a known one") as caught:
        choose("world.core", CORES, {"kind": "block_gruu"})
    assert caught.value.hint.startswith("Did you mean 'block_gru'? Known: block_gru")
    with pytest.raises(ConfigError, match="kind is missing"):
        choose("world.core", CORES, {"units": 8})


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Whole:
    """A tree with a slot, and slots below it."""

    dynamics: slot("dynamics", DYNAMICS) = RSSMConfig()
    sizes: tuple[int, ...] = (1, 2)


def read(tree: dict) -> Whole:
    return TypeAdapter(Whole).validate_json(json.dumps(tree))


def test_a_slot_is_filled_by_kind_and_nests():
    tree = {"dynamics": {"kind": "rssm", "hidden": 7, "core": {"kind": "block_gru", "units": 24}}}
    whole = read(tree)
    assert whole.dynamics.hidden == 7
    assert whole.dynamics.core.units == 24
    assert whole.dynamics.latent == LATENTS["categorical"]()
    written = to_tree(whole)
    assert written["dynamics"]["kind"] == "rssm"
    assert written["dynamics"]["core"] == {"kind": "block_gru", **to_tree(whole.dynamics.core)}
    assert written["sizes"] == [1, 2]
    assert read(written) == whole


def test_a_slot_wants_a_mapping_with_a_kind():
    with pytest.raises(ValidationError) as caught:
        read({"dynamics": 3})
    (error,) = caught.value.errors()
    assert error["loc"] == ("dynamics",), "the path of the key survives"
    assert error["ctx"]["error"].hint == "For example dynamics: {kind: rssm}"


def test_the_whole_world_survives_a_round_trip():
    world = WorldConfig()
    assert TypeAdapter(WorldConfig).validate_json(json.dumps(to_tree(world))) == world
