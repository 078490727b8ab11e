"""Planners: known answers of their parts, and worlds in which the best action is known."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from dreamer_cli.behaviour.explorers import ActionNoiseConfig
from dreamer_cli.behaviour.planners import PLANNERS, CEMConfig, RandomShootingConfig
from dreamer_cli.behaviour.plans import FINE, Categoricals, Normals, parts_of
from dreamer_cli.errors import ConfigError
from dreamer_cli.spaces import ActionPart
from dreamer_cli.structs import State
from dreamer_cli.world.gaussian import GaussianConfig
from dreamer_cli.world.latents import CategoricalConfig
from tests.small import CONTINUOUS, EVERYTHING, UNEQUAL, make_agent, make_batch, near, refused, unpacked

NUMBER = (ActionPart("push", "continuous", size=1),)
SMALL = {"horizon": 4, "candidates": 60, "elites": 8, "iterations": 4}


class Track:
    """A place x to be pushed along. Its dynamics: x ← x + ½ a; reward: how little x then is from the target.

    deter: B 2, place and target; the guess holds nothing but noise. `ends`: how likely an episode goes on, given x.
    """

    def __init__(self, ends=None) -> None:
        self.latent = GaussianConfig(size=2).build()
        self.dynamics = self
        self.ends = ends or (lambda x: torch.ones_like(x))

    def imagine_step(self, state: State, action: Tensor, noise: Tensor) -> State:
        place, target = state.deter.unbind(-1)
        return State(torch.stack([place + 0.5 * action[:, 0], target], -1), noise)

    def feat(self, state: State) -> Tensor:
        return state.deter

    def reward(self, feat: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=-(feat[:, 0] - feat[:, 1]).square())

    def cont(self, feat: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=self.ends(feat[:, 0]))

    def at(self, *places: tuple[float, float]) -> State:
        return State(torch.tensor(places), torch.zeros(len(places), 2))


def decide(planner, world, state: State, seed: int = 0, mode="sample") -> Tensor:
    noise = planner.action_noise(len(state.deter), world, state.deter, torch.Generator().manual_seed(seed))
    return planner.decide(world, state, noise, mode)


# ── parts ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_cem_refit(reference, precision):
    known = reference["cem_refit"]
    elites = torch.tensor(known["elites_KHA"], dtype=precision.dtype).permute(1, 0, 2)[None]  # B H E A
    mean, std = Normals(1).refit(elites)
    near(mean[0], known["mean"], precision.tolerance)
    near(std[0], known["std_repo_biased_plus_1e-6_inside_sqrt"], precision.tolerance)


def test_numbers_are_drawn_around_their_mean_and_clipped():
    stats = (torch.tensor([[[0.5, 0.0]]]), torch.tensor([[[0.1, 2.0]]]))
    drawn = Normals(2).draw(stats, torch.tensor([[[[1.0, 0.1], [-2.0, -3.0]]]]))
    near(drawn, [[[[0.6, 0.2], [0.3, -1.0]]]], 1e-6)


def test_classes_become_what_the_elites_have_and_none_dies_out():
    part = Categoricals(2, 3, unimix=0.3)
    elites = torch.eye(3)[torch.tensor([[0, 2], [0, 2], [0, 1], [1, 2]])].flatten(-2)[None, None]  # B H E 6
    (logits,) = part.refit(elites)
    # ¾, ¼, 0 of the first entry and 0, ¼, ¾ of the second, 0.7 of it, and 0.1 for every class.
    near(logits[0, 0].exp(), [[0.625, 0.275, 0.1], [0.1, 0.275, 0.625]], 2e-3)  # to 1/256
    assert part.first((logits,)).tolist() == [[1, 0, 0, 0, 0, 1]]
    noise = torch.zeros(1, 1, 2, 6)
    noise[0, 0, 1, 2] = 1.9  # ln 0.625 - ln 0.1 is 1.83: this one is chosen after all
    assert part.draw((logits,), noise).tolist() == [[[[1, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 1]]]]


def test_classes_are_drawn_as_often_as_they_are_likely():
    part = Categoricals(1, 3, unimix=0.0)
    (logits,) = part.refit(torch.eye(3)[torch.tensor([0, 0, 0, 1, 1])][None, None])
    noise = -torch.log(-torch.log(torch.rand(1, 1, 20_000, 3, generator=torch.Generator().manual_seed(0))))
    near(part.draw((logits,), noise).mean((0, 1, 2)), [0.6, 0.4, 0.0], 0.01)


@pytest.mark.parametrize("elites", [10, 64, 100])
def test_log_probabilities_are_rounded_alike_by_every_logarithm(elites):
    """None lies so near the middle between two steps that a last digit of log() decides."""
    for classes in range(2, 19):
        probs = torch.arange(elites + 1) / elites * 0.99 + 0.01 / classes
        log, least = probs.log(), torch.tensor(1e-6)
        steps = [((log + more) * FINE).round() for more in (-least, 0 * least, least)]
        assert torch.equal(steps[0], steps[1])
        assert torch.equal(steps[1], steps[2])


def test_parts_stand_in_the_order_of_the_flat_action():
    parts = parts_of((UNEQUAL, CONTINUOUS, ActionPart("gear", "discrete", (2,))), 0.01)
    assert [part.width for part in parts] == [3, 4, 2, 2]  # classes 3; 2 and 2; two numbers; 2 more classes
    assert parts[1].shape == (2, 2)


# ── contract ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", PLANNERS)
@pytest.mark.parametrize("latent", [CategoricalConfig(groups=2, classes=3), GaussianConfig(size=5)])
def test_contract(kind, latent):
    agent = make_agent(dynamics={**SMALL_RSSM, "latent": latent_tree(latent)}, awake=True)
    batch = unpacked(agent, make_batch(agent))
    settings = {"horizon": 3, "candidates": 10} | ({"elites": 3, "iterations": 2} if kind == "cem" else {})
    planner = PLANNERS[kind](**settings, explorer=ActionNoiseConfig(epsilon=0.1)).build(agent.world, EVERYTHING.action)
    state = agent.initial(4).state
    noise = planner.action_noise(4, agent.world, state.deter, torch.Generator().manual_seed(0))
    size = latent.build().size
    rounds = 2 if kind == "cem" else 1
    # Seven classes and two numbers; the guess; and the explorer's two normals, seven scores and three coins.
    assert noise.shape == (4, rounds, 3, 10, 9 + size + 12)
    again = planner.action_noise(4, agent.world, state.deter, torch.Generator().manual_seed(0))
    assert torch.equal(noise, again)
    with torch.no_grad():
        actions = {mode: planner.decide(agent.world, state, noise, mode) for mode in ("explore", "sample", "mode")}
        bare = planner.decide(agent.world, state, noise[..., : 9 + size], "sample")
    assert torch.equal(actions["sample"], actions["mode"])
    assert torch.equal(actions["sample"], bare), "without an explorer's columns, nothing but exploring is missing"
    assert not torch.equal(actions["sample"], actions["explore"])
    for action in actions.values():
        assert action.shape == (4, 9)
        assert action.abs().max() <= 1
        for columns in (slice(0, 3), slice(3, 5), slice(5, 7)):
            assert torch.equal(action[:, columns].sum(-1), torch.ones(4))
            assert action[:, columns].max() == 1
    assert not list(planner.parameters())
    assert not planner.state_dict()
    assert planner.groups() == {}
    assert planner.horizon == 3
    learns = {"dyn", "rep", "reward", "cont"} | {f"objective/{key}" for key in agent.world.objective.keys}
    agent.behaviour = planner
    losses = agent.losses(batch, agent.update_noise(*batch.reward.shape, torch.Generator().manual_seed(0)))
    assert losses.losses.keys() == learns, "only the world is learnt"
    agent.after_update(torch.tensor(True))


SMALL_RSSM = {
    "kind": "rssm",
    "hidden": 8,
    "core": {"kind": "block_gru", "units": 16, "hidden": 8, "blocks": 8},
}


def latent_tree(latent) -> dict:
    """Settings of a latent, as a tree."""
    if isinstance(latent, GaussianConfig):
        return {"kind": "gaussian", "size": latent.size}
    return {"kind": "categorical", "groups": latent.groups, "classes": latent.classes}


def test_noise_is_gumbel_for_classes_and_normal_for_numbers():
    agent = make_agent(dynamics={**SMALL_RSSM, "latent": {"kind": "gaussian", "size": 4}})
    planner = CEMConfig(horizon=5, candidates=400, iterations=2).build(agent.world, EVERYTHING.action)
    noise = planner.action_noise(3, agent.world, torch.zeros(1), torch.Generator().manual_seed(0))
    near(noise[..., :7].mean(), 0.5772, 0.02)
    near(noise[..., :7].var(), 1.6449, 0.05)
    for columns in (noise[..., 7:9], noise[..., 9:]):
        near(columns.mean(), 0.0, 0.02)
        near(columns.var(), 1.0, 0.03)


# ── worlds in which the best action is known ────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("place", "target", "best"), [(0.0, 0.2, 0.4), (0.3, 0.0, -0.6), (0.0, 3.0, 1.0), (1.0, 1.0, 0.0)]
)
def test_cem_finds_the_best_number(place, target, best):
    """Half an action reaches the target at once, or as far as it goes."""
    world = Track()
    planner = CEMConfig(horizon=3, candidates=200, elites=20, iterations=10).build(world, NUMBER)
    near(decide(planner, world, world.at((place, target))), [[best]], 0.05)


def test_more_rounds_come_nearer():
    world, errors = Track(), []
    for iterations in (1, 3, 8):
        planner = CEMConfig(horizon=3, candidates=100, elites=10, iterations=iterations).build(world, NUMBER)
        actions = torch.stack([decide(planner, world, world.at((0.0, 0.3)), seed) for seed in range(10)])
        errors.append((actions - 0.6).abs().mean().item())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_random_shooting_begins_the_best_of_its_plans():
    world = Track()
    planner = RandomShootingConfig(horizon=2, candidates=30).build(world, NUMBER)
    state = world.at((0.0, 0.3), (0.5, 0.0))
    noise = planner.action_noise(2, world, state.deter, torch.Generator().manual_seed(0))
    plans = noise[:, 0, ..., 0].clamp(-1, 1)  # B H M
    first = state.deter[:, :1] + 0.5 * plans[:, 0]
    second = first + 0.5 * plans[:, 1]
    worth = -(first - state.deter[:, 1:]).square() - (second - state.deter[:, 1:]).square()
    best = plans[:, 0].gather(1, worth.argmax(1, keepdim=True))
    near(planner.decide(world, state, noise, "sample"), best, 1e-6)


class Locks:
    """Each state wants a class of each of two entries (3 and 2 of them) and a number, and never changes. deter: B 3."""

    def __init__(self) -> None:
        self.latent = GaussianConfig(size=1).build()
        self.dynamics = self

    def imagine_step(self, state: State, action: Tensor, noise: Tensor) -> State:
        # What was done stands beside what is wanted, so that rewards can tell.
        return State(torch.cat([state.deter[:, :3], action], -1), noise)

    def feat(self, state: State) -> Tensor:
        return state.deter

    def reward(self, feat: Tensor) -> SimpleNamespace:
        wanted, done = feat[:, :3], feat[:, 3:]
        one = done[:, :3].gather(1, wanted[:, :1].long())
        two = done[:, 4:].gather(1, wanted[:, 1:2].long())
        return SimpleNamespace(mean=(one + two - (done[:, 3:4] - wanted[:, 2:]).square())[:, 0])

    def cont(self, feat: Tensor) -> SimpleNamespace:
        return SimpleNamespace(mean=torch.ones_like(feat[:, 0]))


MIXED = (
    ActionPart("a", "discrete", (3,)),
    ActionPart("b", "continuous", size=1),
    ActionPart("c", "discrete", (2,)),
)


@pytest.mark.parametrize("kind", PLANNERS)
def test_planners_find_classes_and_numbers_together_for_every_environment(kind):
    world = Locks()
    wanted = torch.tensor([[0, 0, 0.0], [1, 1, 0.5], [2, 0, -0.5], [2, 1, 0.9]])
    more = {"elites": 20, "iterations": 6} if kind == "cem" else {}
    planner = PLANNERS[kind](horizon=1 if kind == "random_shooting" else 3, candidates=300, **more).build(world, MIXED)
    action = decide(planner, world, State(wanted, torch.zeros(4, 1)))
    assert action[:, :3].argmax(-1).tolist() == [0, 1, 2, 2]
    assert action[:, 4:].argmax(-1).tolist() == [0, 1, 0, 1]
    near(action[:, 3], wanted[:, 2], 0.1)


def test_several_environments_are_planned_for_as_if_each_were_alone():
    """The official code mixes up candidates of different environments; see `Planner._for_each_candidate`."""
    agent = make_agent(awake=True)
    planner = CEMConfig(**SMALL).build(agent.world, EVERYTHING.action)
    state = agent.initial(3).state
    generator = torch.Generator().manual_seed(3)
    state = State(torch.randn(state.deter.shape, generator=generator).tanh(), state.stoch)
    noise = planner.action_noise(3, agent.world, state.deter, generator)
    with torch.no_grad():
        together = planner.search(agent.world, state, noise)
        assert not torch.equal(together.action[0], together.action[1])
        for i in range(3):
            one = planner.search(agent.world, State(*(x[i : i + 1] for x in state)), noise[i : i + 1])
            near(one.scores[0], together.scores[i], 1e-4)
            assert torch.equal(one.kept[0], together.kept[i])
            near(one.action[0], together.action[i], 1e-5)


def test_scores_add_up_rewards_as_far_as_episodes_are_likely_to_last(precision):
    """By hand: half an action each step, and a chance of one half to go on from every place above zero."""
    world = Track(ends=lambda x: torch.where(x > 0, 0.5, 1.0).to(x.dtype))
    planner = CEMConfig(horizon=3, candidates=2, elites=1, iterations=1).build(world, NUMBER)
    plans = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])[None, ..., None]  # B H M A
    starts = State(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2))
    scores = planner.score(world, starts, plans, torch.zeros(1, 3, 2, 3))
    # Places ½, 1, ½: rewards -¼, -1, -¼ with weights 1, ½, ¼. Places -½, 0, ½: -¼, 0, -¼, all of them in full.
    near(scores, [[-0.25 - 0.5 - 0.0625, -0.5]], precision.tolerance)


def test_a_value_counts_where_the_plan_ends():
    world = Track(ends=lambda x: torch.where(x > 0, 0.5, 1.0))
    cfg = CEMConfig(horizon=3, candidates=2, elites=1, iterations=1, bootstrap=True)
    plans = torch.tensor([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])[None, ..., None]
    starts = State(torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.zeros(2, 2))
    planner = cfg.build(world, NUMBER, lambda feat: 8 * feat[:, 0])
    scores = planner.score(world, starts, plans, torch.zeros(1, 3, 2, 3))
    # Both end at ½, worth 4: after three places above zero with weight ⅛, after one with ½.
    near(scores, [[-0.8125 + 0.5, -0.5 + 2.0]], 1e-6)


def test_plans_avoid_what_ends_the_episode():
    """To the right lies the target, and the end; only who knows of it stays."""

    def first(ends) -> float:
        world = Track(ends)
        world.reward = lambda feat: SimpleNamespace(mean=torch.where(feat[:, 0] > 0.2, 2.0, 1.0))
        planner = CEMConfig(horizon=6, candidates=200, elites=20, iterations=6).build(world, NUMBER)
        return decide(planner, world, world.at((0.0, 0.0))).item()

    assert first(None) > 0.4
    assert first(lambda x: torch.where(x > 0.2, 0.0, 1.0)) < 0.4


def test_kept_candidates_can_be_told():
    world = Track()
    planner = CEMConfig(**SMALL).build(world, NUMBER)
    state = world.at((0.0, 0.3), (0.0, -0.3))
    noise = planner.action_noise(2, world, state.deter, torch.Generator().manual_seed(0))
    free = planner.search(world, state, noise)
    assert free.kept.shape == (2, 4, 8)
    assert free.scores.shape == (2, 4, 60)
    assert torch.equal(free.kept, free.scores.topk(8).indices)
    told = planner.search(world, state, noise, free.kept)
    assert torch.equal(told.action, free.action)
    other = planner.search(world, state, noise, free.kept.flip(0))
    assert not torch.equal(other.action, free.action)


def test_exploring_disturbs_what_is_done_and_not_what_is_planned():
    world = Track()
    planner = CEMConfig(**SMALL, explorer=ActionNoiseConfig(std=0.2)).build(world, NUMBER)
    state = world.at(*[(0.0, 0.1)] * 3)
    noise = planner.action_noise(3, world, state.deter, torch.Generator().manual_seed(0))
    assert noise.shape[-1] == 1 + 2 + 1
    own = noise[:, 0, 0, 0, 3:]
    assert len(own.unique()) == 3, "every environment is disturbed by itself"
    planned, done = (planner.decide(world, state, noise, mode) for mode in ("mode", "explore"))
    near(done, (planned + 0.2 * own).clamp(-1, 1), 1e-6)


# ── settings ────────────────────────────────────────────────────────────────────────────────────────────────


def test_settings_that_contradict_each_other_are_refused():
    assert "candidates" in refused(CEMConfig, candidates=50).what
    with pytest.raises(ConfigError, match="no critic"):
        CEMConfig(bootstrap=True).build(Track(), NUMBER)
    assert CEMConfig() == CEMConfig(horizon=12, candidates=1000, elites=100, iterations=10)  # PlaNet's
