"""Returns: worked out by hand, and against the official code."""

import pytest
import torch

from dreamer_cli.behaviour.returns import RETURNS, lambda_return, replay_return, step_weights
from tests.small import near


@pytest.mark.parametrize(
    ("lam", "cont", "expected"),
    [
        (1.0, [1, 1, 1], [4.5, 7.0, 10.0]),  # rewards to the end, then the last value
        (0.0, [1, 1, 1], [3.0, 4.0, 10.0]),  # one reward, then the critic
        (1.0, [1, 0, 1], [2.0, 2.0, 10.0]),  # nothing leaks past a death
    ],
)
def test_lambda_return_by_hand(lam, cont, expected):
    reward, value = torch.tensor([[1.0, 2.0, 2.0]]), torch.tensor([[4.0, 4.0, 16.0]])
    ret = lambda_return(reward, torch.tensor([cont]).float(), value, gamma=0.5, lam=lam)
    near(ret, [expected], 1e-6)


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
def test_lambda_return_is_the_mix_of_all_n_step_returns(lam):
    torch.manual_seed(0)
    horizon, gamma = 5, 0.9
    reward, cont, value = torch.randn(3, 2, horizon, dtype=torch.float64)
    cont = torch.sigmoid(cont)

    def n_step(t: int, n: int) -> torch.Tensor:
        total, reached = torch.zeros(2, dtype=torch.float64), torch.ones(2, dtype=torch.float64)
        for k in range(t, t + n):
            total = total + reached * reward[:, k]
            reached = reached * gamma * cont[:, k]
        return total + reached * value[:, t + n - 1]

    ret = lambda_return(reward, cont, value, gamma=gamma, lam=lam)
    for t in range(horizon):
        left = horizon - t
        mix = sum((1 - lam) * lam ** (n - 1) * n_step(t, n) for n in range(1, left)) + lam ** (left - 1) * n_step(
            t, left
        )
        near(ret[:, t], mix, 1e-12)


@pytest.mark.parametrize(
    ("name", "cont", "weights"),
    [
        ("lambda_return_imag_v3", "con_with_contdisc", "weight"),
        ("lambda_return_imag_no_contdisc", "con", "weight_official"),
    ],
)
def test_imagined(reference, precision, name, cont, weights):
    known = reference[name]
    reward, cont, value = (torch.tensor([known[key]]) for key in ("rew", cont, "val"))
    ret = lambda_return(reward[:, 1:], cont[:, 1:], value[:, 1:], gamma=known["disc"], lam=0.95)
    near(ret[0], known["ret"], precision.tolerance)
    near(step_weights(cont, gamma=known["disc"])[0], known[weights], precision.tolerance)


def test_replayed(reference, precision):
    known = reference["lambda_return_replay_v3"]
    is_last, is_terminal = (torch.tensor([known[key]]).bool() for key in ("is_last", "is_terminal"))
    reward, boot = torch.tensor([known["rew"]]), torch.tensor([known["boot"]])
    ret = replay_return(reward, is_last, is_terminal, boot, gamma=known["disc"], lam=known["lam"])
    near(ret[0], known["ret"], precision.tolerance)
    near((~is_last[0, :-1]).to(precision.dtype), known["weight"], 0)


def test_replayed_returns_stop_at_episode_ends():
    """What another episode holds is no part of a return; a time limit trusts the bootstrap, a death nothing."""
    reward, boot = torch.randn(1, 6), torch.randn(1, 6)
    is_last = torch.tensor([[0, 0, 1, 0, 0, 0]]).bool()
    other = reward.clone()
    other[0, 3:] += 100
    for dies in (False, True):
        is_terminal = is_last & dies
        ret = replay_return(reward, is_last, is_terminal, boot, gamma=0.9, lam=0.95)
        same = replay_return(other, is_last, is_terminal, boot + 7 * (torch.arange(6) > 2), gamma=0.9, lam=0.95)
        near(ret[:, :2], same[:, :2], 0)
        near(ret[0, 1], reward[0, 2] + (0 if dies else 0.9 * boot[0, 2]), 1e-6)


def test_a_dream_that_begins_dead_weighs_nothing():
    assert not step_weights(torch.tensor([[0.0, 1.0, 1.0]]), gamma=0.9).any()


def dream(known: dict) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rewards, chances and values of one dream; what the last state earns and survives is never asked for."""
    reward, cont = (torch.tensor([[*known[key], 123.0]]) for key in ("reward", "pcont"))
    return reward, cont, torch.tensor([[*known["value"], known["bootstrap"]]])


def test_own_reward_from_the_start(reference, precision):
    """Dreamer V2: R_k belongs to s_k; the action in s_k is judged by R_{k+1} against v_k, with the weight of s_k."""
    known = reference["lambda_return_v1_v2"]
    credit = RETURNS["own_reward"]().build(1.0, known["lam"])(*dream(known))
    assert (credit.valued, credit.acted) == (slice(0, 4), slice(0, 3))
    near(credit.target[0], known["ret"], precision.tolerance)
    near(credit.value_weight[0], known["v2_weight_from_disc"], precision.tolerance)
    near(credit.ret[0], known["ret"][1:], precision.tolerance)
    near(credit.base[0], known["value"][:3], precision.tolerance)
    near(credit.weight[0], known["v2_weight_from_disc"][:3], precision.tolerance)


def test_own_reward_without_the_start(reference, precision):
    """Dreamer V1 leaves the start out: its reward, chance and value change nothing."""
    known = reference["lambda_return_v1_v2"]
    reward, cont, value = (torch.cat([torch.tensor([[55.0]]).to(x), x], 1) for x in dream(known))
    credit = RETURNS["own_reward"](from_start=False).build(1.0, known["lam"])(reward, cont, value)
    weight = known["v1_discount_weight_from_pcont(len H incl. last=0.9)"]
    assert (credit.valued, credit.acted) == (slice(1, 5), slice(0, 4))
    near(credit.target[0], known["ret"], precision.tolerance)
    near(credit.ret[0], known["ret"], precision.tolerance)
    near(credit.weight[0], weight, precision.tolerance)
    near(credit.value_weight[0], weight, precision.tolerance)


def test_an_explicit_discount_is_that_of_the_chances():
    torch.manual_seed(0)
    reward, cont, value = torch.randn(3, 2, 6)
    cont = torch.sigmoid(cont)
    for kind in RETURNS:
        inside, outside = RETURNS[kind]().build(1.0, 0.9), RETURNS[kind]().build(0.8, 0.9)
        folded, explicit = inside(reward, 0.8 * cont, value), outside(reward, cont, value)
        near(folded.ret, explicit.ret, 1e-6)
        near(folded.target, explicit.target, 1e-6)
        ratio = folded.weight / explicit.weight
        near(ratio, ratio[:, :1].expand_as(ratio), 1e-5)


@pytest.mark.parametrize("kind", RETURNS)
def test_only_what_the_actor_is_told_has_a_gradient(kind):
    reward, cont, value = (torch.rand(2, 6, requires_grad=True) for _ in range(3))
    credit = RETURNS[kind]().build(1.0, 0.9)(reward, cont, value)
    assert credit.ret.requires_grad
    assert not any(x.requires_grad for x in (credit.weight, credit.target, credit.value_weight))
    assert credit.ret.shape == credit.base.shape == credit.weight.shape == value[:, credit.acted].shape
    assert credit.target.shape == credit.value_weight.shape == value[:, credit.valued].shape
