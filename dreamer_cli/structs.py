"""Tensors that travel together.

```
             t=0          t=1          t=2
obs           o0           o1           o2     obs[t], reward[t], is_*[t] arrive together
action           a0 ────▶     a1 ────▶         action[t] answers obs[t]; prev_action[t] = action[t-1]
```
"""

from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

# How a decision is made: as while data is collected, as the policy says by chance, or what it holds to be best.
Mode = Literal["explore", "sample", "mode"]


class State(NamedTuple):
    """A moment of the RSSM (or a sequence of moments, with a time axis in front of the features).

    deter: ... D, the memory; stoch: ... S K one-hot (categorical) or ... S (Gaussian), the sampled guess.
    """

    deter: Tensor
    stoch: Tensor


class Carry(NamedTuple):
    """What acting keeps between environment steps: the last state and the action that followed it (B A)."""

    state: State
    action: Tensor


class Noise(NamedTuple):
    """Randomness of one decision, drawn outside: of the latent (B S K Gumbel, or B S normal), and of the action.

    action: as the behaviour's `action_noise` draws it: B A (Gumbel or normal) of an actor, more of a planner.
    """

    latent: Tensor
    action: Tensor


class Batch(NamedTuple):
    """B sequences of T trained records, and what came just before each.

    obs: B T ...; action: B T+1 A, led by the action of the context record; reward, is_*: B T;
    start: the latent stored with the context record (B ...), in which the sequence begins.
    """

    obs: dict[str, Tensor]
    action: Tensor
    reward: Tensor
    is_first: Tensor
    is_last: Tensor
    is_terminal: Tensor
    start: State

    @property
    def prev_action(self) -> Tensor:
        """B T A: the action that led to each record. The only place that shifts actions against time."""
        return self.action[:, :-1]

    def to(self, device: torch.device) -> "Batch":
        """The same on a device; pinned memory is copied while the host goes on."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, non_blocking=True)

        return Batch(
            obs={key: move(x) for key, x in self.obs.items()},
            action=move(self.action),
            reward=move(self.reward),
            is_first=move(self.is_first),
            is_last=move(self.is_last),
            is_terminal=move(self.is_terminal),
            start=State(*(move(x) for x in self.start)),
        )


class Records(NamedTuple):
    """One record of each of N environments, as numpy arrays.

    obs: key → N ...; reward: N float32, unscaled; is_first, is_last, is_terminal: N bool.
    """

    obs: dict[str, np.ndarray]
    reward: np.ndarray
    is_first: np.ndarray
    is_last: np.ndarray
    is_terminal: np.ndarray

    def updated(self, fresh: "Records", mask: np.ndarray) -> "Records":
        """Rows of `fresh` where `mask` (N bool), the others as they are: for example after a reset."""

        def choose(kept: np.ndarray, new: np.ndarray) -> np.ndarray:
            return np.where(mask.reshape(-1, *(1,) * (kept.ndim - 1)), new, kept)

        obs = {key: choose(value, fresh.obs[key]) for key, value in self.obs.items()}
        return Records(obs, *(choose(kept, new) for kept, new in zip(self[1:], fresh[1:], strict=True)))


def to_numpy(x: Tensor) -> np.ndarray:
    """On the CPU; numbers with a point as float32, because numpy knows no bfloat16."""
    return (x.float() if x.is_floating_point() else x).detach().cpu().numpy()
