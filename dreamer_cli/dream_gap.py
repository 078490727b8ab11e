"""The dream gap: what the model promises of a state against what came of it, over the same number of decisions.

```
episode   s0 ─ r1 ─ r2 ... rH ─ ... s20 ─ r21 ... r20+H ─ ...        real: the rewards' sum
            └ ẑ1 ─ ẑ2 ... ẑH            └ ...                        dreamt: the same action first, then the agent's own
```
A model whose rewards or dynamics are too rosy has a gap above zero: its actor learns from promises that do not hold.
"""

from typing import NamedTuple

import numpy as np
import torch

from dreamer_cli.agent import Agent
from dreamer_cli.structs import Carry, Mode, Records, State, to_numpy

EVERY, MOST, AT_ONCE = 20, 256, 64  # decisions between states, states in all, dreams side by side


class Gap(NamedTuple):
    """Of `states` states: mean and deviation of imagined minus real return over `horizon` decisions."""

    mean: float
    std: float
    horizon: int
    states: int


class _Start(NamedTuple):
    at: int
    deter: torch.Tensor
    stoch: torch.Tensor
    action: torch.Tensor


class DreamGap:
    """Watches episodes that the agent plays, and dreams from some of their states afterwards.

    Args:
        agent: with an actor; planners take too long for this.
        mode: how it chooses actions.
        seed: of the dreams.
    """

    def __init__(self, agent: Agent, mode: Mode, seed: int, num_envs: int) -> None:
        self.agent, self.mode, self.horizon = agent, mode, agent.behaviour.horizon
        self.generator = torch.Generator(agent.like.device).manual_seed(seed)
        self._rewards: list[list[float]] = [[] for _ in range(num_envs)]
        self._open: list[list[_Start]] = [[] for _ in range(num_envs)]
        self._starts: list[_Start] = []
        self._real: list[float] = []

    def decided(self, carry: Carry) -> None:
        """The agent has decided in every environment: states and actions as they are carried on."""
        for row, rewards in enumerate(self._rewards):
            if len(rewards) % EVERY == 0 and len(self._starts) + sum(map(len, self._open)) < MOST:
                values = (x[row].to(self.agent.like.dtype, copy=True) for x in (*carry.state, carry.action))
                self._open[row].append(_Start(len(rewards), *values))

    def followed(self, now: Records, counts: np.ndarray) -> None:
        """What came of it. counts: N bool, whether the episode is one of those that are scored."""
        learnt = self.agent.world.squash_reward(
            torch.as_tensor(now.reward)
        ).tolist()  # what the model is asked to promise
        for row, rewards in enumerate(self._rewards):
            rewards.append(learnt[row])
            if not now.is_last[row]:
                continue
            for start in self._open[row] if counts[row] else []:
                after = rewards[start.at : start.at + self.horizon]
                # Of an episode that was cut off nobody knows how it would have gone on.
                if len(after) == self.horizon or now.is_terminal[row]:
                    self._starts.append(start)
                    self._real.append(sum(after))
            self._open[row], self._rewards[row] = [], []

    @torch.no_grad()
    def measure(self) -> Gap | None:
        """Dream from all states; None if there is none, or the model promises nothing finite."""
        if not self._starts:
            return None
        imagined = [self._imagined(self._starts[i : i + AT_ONCE]) for i in range(0, len(self._starts), AT_ONCE)]
        gaps = np.concatenate(imagined) - np.array(self._real)
        if not np.isfinite(gaps).all():
            return None
        return Gap(float(gaps.mean()), float(gaps.std(ddof=1)) if len(gaps) > 1 else 0.0, self.horizon, len(gaps))

    def _imagined(self, starts: list[_Start]) -> np.ndarray:
        """N, expected sums of rewards: what comes after an end counts as much as it is unlikely."""
        world, behaviour = self.agent.world, self.agent.behaviour
        columns = list(zip(*(start[1:] for start in starts), strict=True))
        deter, stoch, action = (torch.stack(column) for column in columns)
        state = State(deter, stoch)
        total, alive = torch.zeros_like(deter[:, 0]), torch.ones_like(deter[:, 0])
        for _ in range(self.horizon):
            noise = world.dynamics.latent.noise((len(starts),), self.agent.like, self.generator)
            state = world.dynamics.imagine_step(state, action, noise)
            feat = world.dynamics.feat(state)
            total += alive * world.reward(feat).mean
            alive = alive * (world.cont(feat).mean / world.cont_scale).clamp(0, 1)
            noise = behaviour.action_noise(len(starts), world, self.agent.like, self.generator)
            action = behaviour.decide(world, state, noise, self.mode)
        return to_numpy(total)
