"""Dreams next to what really happened: real records and an agent in, plain arrays out.

```
 t          0 … context-1              context … T-1
 truth      real records               real records (open loop), else unknown
 model      posterior reconstructions  imagined: no observation enters any more
 action[t]  real                       from t = context-1 on: real (open loop), the agent's own (policy), or given
```
The model sees exactly the `context` records of the window: its memory is blank before them, unless a
`start` is given. With a context of 0 it sees nothing at all: a dream from the prior alone. Randomness comes in as one
generator, so a seed repeats a dream. Every window lies inside one episode: nothing after an episode's end is ever shown
as a dream of it.
"""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.agent import Agent
from dreamer_cli.errors import StateError
from dreamer_cli.steering import Steering
from dreamer_cli.structs import Batch, Carry, State, to_numpy
from dreamer_cli.world.rssm import stack, zero_where

DreamMode = Literal["openloop", "policy", "actions", "branches"]
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
    entries as probabilities; action: M T A; reward, cont: M T, predicted; true_reward, true_cont: M T, rewards
    as they are learnt (`world.reward_squash`), NaN where they are not known;
    value: M T, what the critic expects from there on, NaN without a critic; kl: M T, nats by which the guess changes
    when the observation is shown (open loop: could it be seen), NaN where there is none; entropy: M T, nats, of the
    guess before seeing; known: M, moments for which there is a truth (later ones repeat the last); length: M, moments
    before the dream ends; names: of the dreams, if they have any.
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
    value: np.ndarray
    kl: np.ndarray
    entropy: np.ndarray
    known: np.ndarray
    length: np.ndarray
    names: tuple[str, ...] = ()

    @property
    def border(self) -> int:
        """The first moment whose action may be none of the truth's."""
        return max(0, self.context - 1)

    @property
    def has_truth(self) -> bool:
        """Whether there is a truth beyond the context."""
        return self.mode == "openloop"

    @property
    def returns(self) -> np.ndarray:
        """M, predicted rewards beyond the context, until the dream ends; each by the chance that it comes to that."""
        at = np.arange(self.moments)
        dreamt = (at >= self.context) & (at < self.length[:, None])
        going_on = np.where(at >= self.context, self.cont, 1).cumprod(1)
        alive = np.concatenate([np.ones_like(going_on[:, :1]), going_on[:, :-1]], 1)
        return np.where(dreamt, alive * self.reward, 0).sum(1)

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


def no_windows(agent: Agent, samples: int) -> Windows:
    """M windows of nothing, for dreams from the prior alone."""
    obs = {key: np.zeros((samples, 1, *spec.shape), spec.dtype) for key, spec in agent.spec.observation.items()}
    zeros = np.zeros((samples, 1), np.float32)
    action = np.zeros((samples, 1, agent.spec.action_width), np.float32)
    return Windows(obs, action, zeros, zeros.astype(bool), np.zeros(samples, int))


def repeat_window(windows: Windows, times: int) -> Windows:
    """The first window so many times."""
    picked = np.zeros(times, int)
    obs = {key: value[picked] for key, value in windows.obs.items()}
    return Windows(obs, *(value[picked] for value in windows[1:]))


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
    steering: Steering | None = None,
    names: tuple[str, ...] = (),
) -> Dreams:
    """Watch `context` real records, then dream `horizon` moments on.

    Open loop, no longer than the longest window: where the truth ends, so does the dream. Else until all are over.

    Args:
        windows: at least `context` real records each, and one more in open loop; `no_windows` for a context of 0.
        generator: on the agent's device.
        start: state and action before the first record; None: a blank memory.
        steering: who acts, in the modes `actions` and `branches`; from the last record of the context on.
        names: of the dreams.

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
    given, own = _actions(windows, mode, max(0, context - 1), moments, steering)
    together = max(1, context) if mode == "branches" else 0
    states, action = _walk(agent, windows, context, together, given, own, generator, start)
    dynamics = agent.world.dynamics
    feat = dynamics.feat(states)
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
    if steering is not None:
        length = np.minimum(length, max(0, context - 1) + 1 + steering.until)
    critic = getattr(agent.behaviour, "critic", None)
    value = np.full(cont.shape, np.nan, np.float32) if critic is None else to_numpy(critic(feat).mean)
    prior = dynamics.prior(states.deter)

    moments = int(length.max())
    rows, held = np.arange(len(known))[:, None], np.minimum(np.arange(moments), known[:, None] - 1)
    return Dreams(
        mode=mode,
        context=context,
        truth={key: value[rows, held] for key, value in windows.obs.items() if key in model},
        model={key: to_numpy(value)[:, :moments] for key, value in model.items()},
        action=to_numpy(action)[:, :moments],
        reward=to_numpy(agent.world.reward(feat).mean)[:, :moments],
        cont=cont[:, :moments],
        true_reward=_learnt_reward(agent, windows.reward)[rows, held],
        true_cont=1.0 - windows.is_terminal[rows, held],
        value=value[:, :moments],
        kl=_surprise(agent, windows, states, prior, known)[:, :moments],
        entropy=to_numpy(dynamics.latent.entropy(prior))[:, :moments],
        known=known,
        length=length,
        names=names,
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


def _actions(
    windows: Windows, mode: DreamMode, border: int, moments: int, steering: Steering | None
) -> tuple[np.ndarray, np.ndarray]:
    """Actions that are given (M T A), and where the agent decides itself (M T)."""
    samples = len(windows.length)
    given = windows.action[:, np.minimum(np.arange(moments), windows.action.shape[1] - 1)].copy()
    own = np.zeros((samples, moments), bool)
    if mode == "policy":
        own[:, border:] = True
    elif steering is not None:
        given[:, border:] = 0  # none is known for the last moment, which needs none
        end = min(moments, border + steering.own.shape[1])
        given[:, border:end], own[:, border:end] = steering.given[:, : end - border], steering.own[:, : end - border]
    return given, own


def _walk(
    agent: Agent,
    windows: Windows,
    context: int,
    together: int,
    given: np.ndarray,
    own: np.ndarray,
    generator: torch.Generator,
    start: Carry | None,
) -> tuple[State, Tensor]:
    """States (M T ...) and actions (M T A): posteriors first, then what the model expects of itself.

    together: so many moments in which all dreams guess alike: branches grow from one state.
    """
    samples, dynamics = len(windows.length), agent.world.dynamics
    state, prev_action = start or agent.initial(samples)
    chosen = torch.as_tensor(given, dtype=prev_action.dtype, device=prev_action.device)
    decides = torch.as_tensor(own, device=chosen.device)
    blank = torch.full((samples,), start is None, device=chosen.device)
    state = state if context else dynamics.blank(blank, state)
    embed = _embed(agent, windows, context) if context else None
    states: list[State] = []
    actions: list[Tensor] = []
    # All before any action is drawn, so that the same seed meets the same chances, whoever acts.
    chances = [dynamics.latent.noise((samples,), prev_action, generator) for _ in range(given.shape[1])]
    for t, noise in enumerate(chances):
        noise = noise[:1].expand_as(noise) if t < together else noise
        if embed is not None and t < context:
            state, _ = dynamics.observe_step(state, prev_action, embed[:, t], blank & (t == 0), noise)
        else:
            state = dynamics.imagine_step(state, prev_action, noise)
        prev_action = chosen[:, t]
        if own[:, t].any():
            prev_action = torch.where(decides[:, t, None], _decide(agent, state, generator), prev_action)
        states.append(state)
        actions.append(prev_action)
    return stack(states), torch.stack(actions, 1)


def _embed(agent: Agent, windows: Windows, moments: int) -> Tensor:
    """What the encoder says of the first records, M T E."""
    device = agent.like.device
    embed: Tensor = agent.world.encoder(
        {key: torch.as_tensor(value[:, :moments], device=device) for key, value in windows.obs.items()}
    )
    return embed


def _surprise(agent: Agent, windows: Windows, states: State, prior: Tensor, known: np.ndarray) -> np.ndarray:
    """M T, KL between the guesses after and before seeing, in the dream's own memory; NaN where nothing is known."""
    kl = np.full(prior.shape[:2], np.nan, np.float32)
    seen = int(known.max())
    if seen:
        post = agent.world.dynamics.post(states.deter[:, :seen], _embed(agent, windows, seen))
        kl[:, :seen] = to_numpy(agent.world.dynamics.latent.kl(post, prior[:, :seen]))
        kl[np.arange(kl.shape[1]) >= known[:, None]] = np.nan
    return kl


def _learnt_reward(agent: Agent, reward: np.ndarray) -> np.ndarray:
    """Rewards in the units of the reward head."""
    return to_numpy(agent.world.squash_reward(torch.as_tensor(reward)))


def _decide(agent: Agent, state: State, generator: torch.Generator) -> Tensor:
    """What the agent would do in states, M A."""
    noise = agent.behaviour.action_noise(len(state.deter), agent.world, state.deter, generator)
    action: Tensor = agent.behaviour.decide(agent.world, state, noise, "sample")
    return action
