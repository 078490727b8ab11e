"""Returns: pure functions of rewards, chances to go on, and values; and which return belongs to which state.

```
 dream          s0 ──a0──▶ s1 ──a1──▶ s2 ... sH        reward, cont, value: one number a state
 next_reward    R0 = r1 + c1 (..)     of state and action; V3: a state's value is of what comes after it
 own_reward     R0 = r0 + c0 (..)     of the state alone; V1 and V2: a state's value holds its own reward
```
"""

from typing import ClassVar, NamedTuple

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.registry import STRICT, Registry
from dreamer_cli.shapes import Bool, Float


def lambda_return(
    reward: Float[Tensor, "B H"],
    cont: Float[Tensor, "B H"],
    value: Float[Tensor, "B H"],
    *,
    gamma: float,
    lam: float | Float[Tensor, "B H"],
) -> Float[Tensor, "B H"]:
    """Mix of all n-step returns: large lam looks further, small lam trusts the critic.

    Column t follows acting in s_t: its reward, cont, value (and lam) belong to s_{t+1}. Units: reward, unscaled.
    Source: Dreamer V1, Eq. 6 (arXiv 1912.01603), written backwards in time; Dreamer V3, Eq. 7.
    """
    mix = lam if isinstance(lam, Tensor) else torch.full_like(value, lam)
    trusted = reward + gamma * cont * (1 - mix) * value
    followed = gamma * cont * mix
    ret, columns = value[:, -1], []
    for t in reversed(range(reward.shape[1])):
        ret = trusted[:, t] + followed[:, t] * ret
        columns.append(ret)
    return torch.stack(columns[::-1], dim=1)


def step_weights(cont: Float[Tensor, "B H"], *, gamma: float) -> Float[Tensor, "B H"]:
    """Chance and discount that step k of a dream is reached: Π_{j ≤ k} gamma cont_j / gamma.

    The start's own cont counts, so a dream that begins in a terminal state weighs nothing. Source: official code.
    """
    return torch.cumprod(gamma * cont, dim=1) / gamma


def replay_return(
    reward: Float[Tensor, "B T"],
    is_last: Bool[Tensor, "B T"],
    is_terminal: Bool[Tensor, "B T"],
    boot: Float[Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> Float[Tensor, "B T1"]:
    """λ-returns along replayed records, T-1 columns, bootstrapped with the imagined return `boot` of each record.

    Nothing is looked up beyond a terminal record, and λ is cut at every episode's end: what follows there
    belongs to another episode. The column of a record with is_last itself means nothing; mask it.
    Source: Dreamer V3 (2024), "replay critic loss"; official code.
    """
    live = (~is_terminal[:, 1:]).to(boot.dtype)
    mix = lam * (~is_last[:, 1:]).to(boot.dtype)
    return lambda_return(reward[:, 1:].to(boot.dtype), live, boot[:, 1:], gamma=gamma, lam=mix)


class Credit(NamedTuple):
    """What actor and critic are told of N dreams, and in which columns of states they are told it.

    acted: columns in which the actor is judged; ret, base, weight: N of them each, the return that followed the
    action, what was expected before it, and how much it counts.
    valued: columns in which the critic learns; target, value_weight: N of them each.
    """

    acted: slice
    ret: Tensor
    base: Tensor
    weight: Tensor
    valued: slice
    target: Tensor
    value_weight: Tensor


class NextReward:
    """Returns of acting in a state: what is rewarded is where it leads. See `NextRewardConfig`."""

    def __init__(self, gamma: float, lam: float) -> None:
        self.gamma, self.lam = gamma, lam

    def __call__(
        self, reward: Float[Tensor, "N H1"], cont: Float[Tensor, "N H1"], value: Float[Tensor, "N H1"]
    ) -> Credit:
        """Rewards, chances to go on and values of dreams' states, the start first."""
        ret = lambda_return(reward[:, 1:], cont[:, 1:], value[:, 1:], gamma=self.gamma, lam=self.lam)
        weight = step_weights(cont.detach()[:, :-1], gamma=self.gamma)
        columns = slice(0, ret.shape[1])
        return Credit(columns, ret, value[:, :-1], weight, columns, ret.detach(), weight)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class NextRewardConfig:
    """R_k = r_{k+1} + c_{k+1} [(1-λ) v_{k+1} + λ R_{k+1}], and a start's own chance counts (Dreamer V3, Eq. 7)."""

    least_horizon: ClassVar[int] = 1
    on_replay: ClassVar[bool] = True

    def build(self, gamma: float, lam: float) -> NextReward:
        """Gamma is 1 where the chances contain it."""
        return NextReward(gamma, lam)


class OwnReward:
    """Returns of being in a state. See `OwnRewardConfig`."""

    def __init__(self, from_start: bool, gamma: float, lam: float) -> None:
        self.first, self.gamma, self.lam = int(not from_start), gamma, lam

    def __call__(
        self, reward: Float[Tensor, "N H1"], cont: Float[Tensor, "N H1"], value: Float[Tensor, "N H1"]
    ) -> Credit:
        """Rewards, chances to go on and values of dreams' states, the start first."""
        first, last = self.first, reward.shape[1] - 1
        ret = lambda_return(
            reward[:, first:-1], cont[:, first:-1], value[:, first + 1 :], gamma=self.gamma, lam=self.lam
        )
        # Of the first state that counts, nothing has to be survived.
        lived = torch.cumprod(self.gamma * cont.detach()[:, first : last - 1], 1)
        weight = torch.cat([torch.ones_like(lived[:, :1]), lived], 1)
        # Column k of the returns is of state k + first, into which the action before led.
        acted = slice(0, last - 1)
        led_to = ret[:, 1 - first :]
        return Credit(acted, led_to, value[:, acted], weight[:, : last - 1], slice(first, last), ret.detach(), weight)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OwnRewardConfig:
    """R_k = r_k + c_k [(1-λ) v_{k+1} + λ R_{k+1}]: an action is judged by the state it leads to (Dreamer V1, V2).

    Attributes:
        from_start: whether the dream's start is one of its states (V2: value and weights begin there), or only what
            leads to the first of them (V1).
    """

    least_horizon: ClassVar[int] = 2
    on_replay: ClassVar[bool] = False

    from_start: bool = True

    def build(self, gamma: float, lam: float) -> OwnReward:
        """Gamma is 1 where the chances contain it."""
        return OwnReward(self.from_start, gamma, lam)


RETURNS = Registry({"next_reward": NextRewardConfig, "own_reward": OwnRewardConfig})
