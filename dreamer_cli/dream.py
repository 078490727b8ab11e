"""Dreams next to what really happened: real records and an agent in, plain arrays out.

```
 t          0 … context-1              context … T-1
 truth      real records               real records (open loop), unknown (policy)
 model      posterior reconstructions  imagined: no observation enters any more
 action[t]  real                       real (open loop), the agent's own from t = context-1 on (policy)
```
The model sees exactly the `context` records of the window: its memory is blank before them, unless a
`start` is given. Randomness comes in as one generator, so a seed repeats a dream. Every window lies
inside one episode: nothing after an episode's end is ever shown as a dream of it.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.agent import Agent
from dreamer_cli.errors import StateError
from dreamer_cli.structs import Batch, Carry, State, to_numpy
from dreamer_cli.world.rssm import stack, zero_where

DreamMode = Literal["openloop", "policy"]
# A dream is over once the model itself gives its going on less than this.
ENDED_BELOW = 0.5


class Stretch(NamedTuple):
    """Real records of one episode, one after the other. Shapes as in `Windows`, without M."""

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    is_terminal: np.ndarray


class Windows(NamedTuple):
    """M stretches, padded to the longest one by repeating their last record.

    obs: key → M T ...; action: M T A, action[t] answers obs[t]; reward, is_terminal: M T;
    length: M, how many records are real.
    """

    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    is_terminal: np.ndarray
    length: np.ndarray


class Dreams(NamedTuple):
    """M dreams of T moments, as numpy arrays, in the units of the observation.

    truth: key → M T ... as in the environment; model: the same, images as float 0..1 and discrete
    entries as probabilities; action: M T A; reward, cont: M T, predicted; true_reward, true_cont: M T;
    known: M, moments for which there is a truth (later ones repeat the last); length: M, moments before
    the dream ends.
    """

    mode: DreamMode
    context: int
    truth: dict[str, np.ndarray]
    model: dict[str, np.ndarray]
    action: np.ndarray
    reward: np.ndarray
    cont: np.ndarray
    true_reward: np.ndarray
    true_cont: np.ndarray
    known: np.ndarray
    length: np.ndarray

    @property
    def moments(self) -> int:
        """T."""
        return self.action.shape[1]

    @property
    def samples(self) -> int:
        """M."""
        return self.action.shape[0]

    def arrays(self) -> dict[str, np.ndarray]:
        """Everything under flat names, for .npz: `truth/<key>`, `model/<key>`, `action`, `reward`, ..."""
        flat: dict[str, np.ndarray] = {"context": np.array(self.context)}
        for name, value in self._asdict().items():
            if isinstance(value, dict):
                flat.update({f"{name}/{key}": array for key, array in value.items()})
            elif isinstance(value, np.ndarray):
                flat[name] = value
        return flat


def stack_windows(stretches: Iterable[Stretch]) -> Windows:
    """Stretches of different lengths as one array each."""
    stretches = list(stretches)
    length = np.array([len(stretch.reward) for stretch in stretches])

    def join(arrays: list[np.ndarray]) -> np.ndarray:
        return np.stack([array[np.minimum(np.arange(length.max()), len(array) - 1)] for array in arrays])

    return Windows(
        {key: join([stretch.obs[key] for stretch in stretches]) for key in stretches[0].obs},
        join([stretch.action for stretch in stretches]),
        join([stretch.reward for stretch in stretches]),
        join([stretch.is_terminal for stretch in stretches]),
        length,
    )


def batch_windows(agent: Agent, batch: Batch, samples: int, at_least: int = 1) -> tuple[Windows, Carry]:
    """Up to `samples` sequences of a replayed batch, each cut where another episode begins, and their start.

    Those that stay longest in one episode come first. The batch is taken as the replay gives it.

    Raises:
        StateError: none stays in one episode for `at_least` records.
    """
    inside = batch.is_first.clone()
    inside[:, 0] = False  # an episode that begins with the sequence is whole
    ends = torch.where(inside.any(1), inside.int().argmax(1), batch.is_first.shape[1])
    chosen = ends.sort(descending=True, stable=True).indices[: min(samples, int((ends >= at_least).sum()))]
    if not len(chosen):
        raise StateError(f"No replayed sequence stays in one episode for {at_least} records.", hint="Train for longer.")

    def stretch(row: int) -> Stretch:
        stop = int(ends[row])
        obs = {key: to_numpy(value[row, :stop]) for key, value in batch.obs.items()}
        action = to_numpy(batch.action[row, 1 : stop + 1])
        return Stretch(obs, action, to_numpy(batch.reward[row, :stop]), to_numpy(batch.is_terminal[row, :stop]))

    dynamics, device = agent.world.dynamics, agent.like.device
    stoch = batch.start.stoch
    unpacked = stoch if stoch.is_floating_point() else dynamics.latent.unpack(stoch)
    fresh = batch.is_first[chosen, 0].to(device)
    start = State(*(x[chosen].to(device) for x in (batch.start.deter, unpacked)))
    action = zero_where(fresh, batch.prev_action[:, 0][chosen].to(device))
    return stack_windows(stretch(row) for row in chosen.tolist()), Carry(dynamics.blank(fresh, start), action)


@torch.no_grad()
def dream(
    agent: Agent,
    windows: Windows,
    mode: DreamMode,
    *,
    context: int,
    horizon: int,
    generator: torch.Generator,
    start: Carry | None = None,
) -> Dreams:
    """Watch `context` real records, then dream `horizon` moments on.

    Open loop, no longer than the longest window: where the truth ends, so does the dream.

    Args:
        windows: at least `context` real records each, and one more in open loop.
        generator: on the agent's device.
        start: state and action before the first record; None: a blank memory.

    Raises:
        StateError: the model has no decoder, or a window is too short.
    """
    require_decoder(agent)
    need = context + (mode == "openloop")
    if windows.length.min() < need:
        longest = int(windows.length.max())
        raise StateError(
            f"An episode with {windows.length.min()} records is too short for a context of {context}.",
            hint=f"Try --context {max(1, longest - 1)} or less: the longest has {longest} records.",
        )
    moments = min(context + horizon, int(windows.length.max())) if mode == "openloop" else context + horizon
    states, action = _walk(agent, windows, mode, context, moments, generator, start)
    feat = agent.world.dynamics.feat(states)
    model = agent.world.decode(feat)
    assert model is not None
    # The discount may be folded into the head; what is shown is the chance that the episode goes on.
    cont = to_numpy(agent.world.cont(feat).mean / agent.world.cont_scale).clip(0, 1)
    if mode == "openloop":
        known = length = np.minimum(windows.length, moments)
    else:
        known = np.full(len(windows.length), context)
        over = (cont < ENDED_BELOW) & (np.arange(moments) >= context)
        length = np.where(over.any(1), over.argmax(1) + 1, moments)

    rows, held = np.arange(len(known))[:, None], np.minimum(np.arange(moments), known[:, None] - 1)
    return Dreams(
        mode=mode,
        context=context,
        truth={key: value[rows, held] for key, value in windows.obs.items() if key in model},
        model={key: to_numpy(value) for key, value in model.items()},
        action=to_numpy(action),
        reward=to_numpy(agent.world.reward(feat).mean),
        cont=cont,
        true_reward=windows.reward[rows, held],
        true_cont=1.0 - windows.is_terminal[rows, held],
        known=known,
        length=length,
    )


def require_decoder(agent: Agent) -> None:
    """See that the model can draw what it dreams.

    Raises:
        StateError: it was trained without a decoder.
    """
    if agent.world.decode(agent.world.dynamics.feat(agent.initial(1).state)) is None:
        raise StateError(
            "This model has no decoder, so its dreams cannot be shown.",
            hint="A decoder can learn beside it, without changing it: dreamer train -s world.preview=true ...",
        )


def _walk(
    agent: Agent,
    windows: Windows,
    mode: DreamMode,
    context: int,
    moments: int,
    generator: torch.Generator,
    start: Carry | None,
) -> tuple[State, Tensor]:
    """States (M T ...) and actions (M T A): posteriors first, then what the model expects of itself."""
    samples, dynamics = len(windows.length), agent.world.dynamics
    state, prev_action = start or agent.initial(samples)
    given = torch.as_tensor(windows.action, dtype=prev_action.dtype, device=prev_action.device)
    obs = {key: torch.as_tensor(value[:, :context], device=given.device) for key, value in windows.obs.items()}
    embed = agent.world.encoder(obs)
    blank = torch.full((samples,), start is None, device=given.device)
    states: list[State] = []
    actions: list[Tensor] = []
    for t in range(moments):
        # Drawn in the same order in both modes, so that the same seed sees the same context.
        noise = dynamics.latent.noise((samples,), prev_action, generator)
        if t < context:
            state, _ = dynamics.observe_step(state, prev_action, embed[:, t], blank & (t == 0), noise)
        else:
            state = dynamics.imagine_step(state, prev_action, noise)
        own = mode == "policy" and t >= context - 1
        prev_action = _decide(agent, state, generator) if own else given[:, t]
        states.append(state)
        actions.append(prev_action)
    return stack(states), torch.stack(actions, 1)


def _decide(agent: Agent, state: State, generator: torch.Generator) -> Tensor:
    """What the agent would do in states, M A."""
    noise = agent.behaviour.action_noise(len(state.deter), agent.world, state.deter, generator)
    action: Tensor = agent.behaviour.decide(agent.world, state, noise, "sample")
    return action
