"""Updates that are skipped: nothing changes, they are counted, and good ones go on after them."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from dreamer_cli.graph import WARM_UP, Captured
from dreamer_cli.learner import Learner
from dreamer_cli.structs import Batch
from tests.small import make_agent, make_batch, make_learner
from tests.test_graph import Again

COUNTS = ("skipped", "skipped_in_a_row")


def bits(learner: Learner) -> dict[str, Tensor]:
    """Everything that an update changes, but the counts of skipped ones and the random generator."""
    state = {**learner.agent.state_dict(), **learner.state()}
    return {name: x.clone() for name, x in state.items() if name not in (*COUNTS, "generator")}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def reward_of(value: float) -> Callable[[Batch], Batch]:
    """A batch with one reward like this."""

    def spoil(batch: Batch) -> Batch:
        reward = batch.reward.clone()
        reward[0, 1] = value
        return batch._replace(reward=reward)

    return spoil


def infinite_observation(batch: Batch) -> Batch:
    speed = batch.obs["speed"].clone()
    speed[1, 2, 0] = math.inf
    return batch._replace(obs={**batch.obs, "speed": speed})


def make() -> Learner:
    return make_learner(make_agent(awake=True))


def good(learner: Learner, updates: int = 1) -> dict[str, Tensor]:
    for seed in range(updates):
        _, metrics = learner.update(make_batch(learner.agent, seed=seed))
    return metrics


@pytest.mark.parametrize("spoil", [reward_of(math.nan), infinite_observation], ids=["reward", "observation"])
def test_an_update_that_is_not_sound_changes_nothing(spoil):
    learner, spared = make(), make()
    for each in (learner, spared):
        good(each, 2)
    before = bits(learner)
    for number in (1, 2):
        _, metrics = learner.update(spoil(make_batch(learner.agent)))
        assert same(bits(learner), before)
        assert (int(learner.skipped), int(learner.skipped_in_a_row)) == (number, number)
    assert metrics.pop("update/skipped") == 1
    assert all(bool(metric.isnan()) for metric in metrics.values())

    spared.generator.set_state(learner.generator.get_state())
    (after, expected) = (good(each, 2) for each in (learner, spared))
    assert after == expected, "it goes on as if they had not been"
    assert same(bits(learner), bits(spared))
    assert (int(learner.skipped), int(learner.skipped_in_a_row)) == (2, 0)


@pytest.mark.parametrize("number", [math.inf, 1e30])
def test_a_gradient_that_overflows_though_the_loss_is_finite(number):
    learner = make()
    good(learner)
    before, totals = bits(learner), []
    losses = learner.agent.losses

    def listen(*args):
        said = losses(*args)
        totals.extend(loss.mean().item() for loss in said.losses.values())
        return said

    learner.agent.losses = listen
    hook = learner.params[3].register_hook(lambda grad: torch.full_like(grad, number))
    metrics = good(learner)
    assert all(map(math.isfinite, totals))
    assert metrics["update/skipped"] == 1
    assert same(bits(learner), before)
    hook.remove()
    assert good(learner)["update/skipped"] == 0
    assert not same(bits(learner), before)


def test_a_loss_that_is_infinite_though_its_gradients_are_not():
    learner = make()
    good(learner)
    before, losses = bits(learner), learner.agent.losses

    def spoil(*args):
        said = losses(*args)
        return said._replace(losses={**said.losses, "cont": said.losses["cont"] + math.inf})

    learner.agent.losses = spoil
    assert good(learner)["update/skipped"] == 1
    assert all(bool(param.grad.isfinite().all()) for param in learner.params)
    assert same(bits(learner), before)


def test_counts_are_saved():
    learner, resumed = make(), make()
    for _ in range(3):
        learner.update(reward_of(math.nan)(make_batch(learner.agent)))
    resumed.load_state({name: x.clone() for name, x in learner.state().items()})
    resumed.update(reward_of(math.nan)(make_batch(learner.agent)))
    good(resumed)
    resumed.update(reward_of(math.nan)(make_batch(learner.agent)))
    assert [int(resumed.state()[name]) for name in COUNTS] == [5, 1]


def test_recorded_updates_are_skipped_alike_and_say_so_to_whoever_keeps_latents():
    plain, captured = make(), make()
    captured.learn = Captured(captured.learn_as_is, pytest.fail, record=Again)
    kept: list[bool] = []
    captured.keep = lambda source, latents, sound: kept.append(bool(sound))
    order = [False, True, False, True, False, True, True, False]  # is it spoilt?
    for seed, spoilt in enumerate(order):
        batch = make_batch(plain.agent, seed=seed)
        batch = reward_of(math.nan)(batch) if spoilt else batch
        (_, metrics), (_, expected) = captured.update(batch), plain.update(batch)
        assert metrics["update/skipped"] == expected["update/skipped"] == spoilt
        assert same(bits(captured), bits(plain))
    assert len(order) > WARM_UP + 2
    assert kept[-4:] == [True, False, False, True]
    assert [int(captured.state()[name]) for name in COUNTS] == [int(plain.state()[name]) for name in COUNTS] == [4, 0]
