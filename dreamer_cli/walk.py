"""A way through a dream, with the real game beside it, step by step. No clock, no screen: `play` brings both.

```
game    o0 ──a0──▶ o1 ──a1──▶ o2 ...      what happens; after a rewind it is played again up to there
belief  s0         s1         s2          what the agent makes of it: posteriors
dream   s0 ──a0──▶ ẑ1 ──a1──▶ ẑ2 ...      what the model expects, from the moment it last woke; sees nothing
```
Both take the same actions. A step from a moment that has a future already begins another line, and so does waking
there; the old one stays, as long as there is room.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dreamer_cli.agent import Agent
from dreamer_cli.dream import ENDED_BELOW, Stretch, require_decoder
from dreamer_cli.envs.state import Job, observation_digest
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import StateError
from dreamer_cli.spaces import as_bytes
from dreamer_cli.structs import Mode, Records, State, to_numpy

NUMBERS = ("reward", "value", "cont", "entropy")
LARGEST = 256  # pixels of a side of what a game draws
MOST_BYTES = 1 << 30  # of all moments: then a walk has to begin anew


class Moment(NamedTuple):
    """One moment of a way.

    action: A, what led here; None: nothing did. dream: the state dreamt. shown: key → what it looks like, as
    `Dreams.model`, images uint8. numbers: what the model expects of it, by `NUMBERS` (value NaN without a critic).
    promised, paid: sums of rewards up to here, dreamt and real. belief: the state believed, None where there is no
    game. seen: key → observation; picture: what the game draws, where no image is observed; reward: what it paid, as
    it is learnt (`world.reward_squash`), NaN at its beginning; over: it has ended with this.
    """

    action: np.ndarray | None
    dream: State
    shown: dict[str, np.ndarray]
    numbers: dict[str, float]
    promised: float = 0.0
    paid: float = 0.0
    belief: State | None = None
    seen: dict[str, np.ndarray] | None = None
    picture: np.ndarray | None = None
    reward: float = float("nan")
    over: bool = False

    @property
    def dream_over(self) -> bool:
        """Whether the model itself gives its going on less than a half."""
        return self.numbers["cont"] < ENDED_BELOW

    @property
    def nbytes(self) -> int:
        """Of its arrays and tensors."""
        arrays = [*self.shown.values(), *(self.seen or {}).values(), *([] if self.picture is None else [self.picture])]
        states = [*self.dream, *(self.belief or ())]
        return sum(array.nbytes for array in arrays) + sum(x.element_size() * x.numel() for x in states)


class Walk:
    """Lines of moments, and where on them one stands.

    Attributes:
        lines: each from its beginning; several may share their first moments.
        line, at: where one stands.
        episode: number of the game's episode; -1 where there is no game.
        bytes: of all moments.
        lost: why the game could not be brought back; empty while it could.

    Args:
        agent: on its device, with a decoder.
        envs: one environment; None: dreams only.
        mode: how the agent chooses actions.

    Raises:
        StateError: the model has no decoder.
    """

    def __init__(self, agent: Agent, envs: VectorEnv | None, mode: Mode, seed: int) -> None:
        require_decoder(agent)
        self.agent, self.envs, self.mode = agent, envs, mode
        self.generator = torch.Generator(agent.like.device).manual_seed(seed)
        self.lines: list[list[Moment]] = []
        self.line = self.at = self.bytes = 0
        self.lost = ""
        self.episode = -1
        self._stands: Moment | None = None  # where the game itself is
        self._images = {key for key, kind in agent.spec.observation.items() if kind.kind == "image"}

    @property
    def now(self) -> Moment:
        """Where one stands."""
        return self.lines[self.line][self.at]

    @property
    def has_game(self) -> bool:
        """Whether a game can be stepped from here."""
        return self.now.seen is not None and not self.now.over

    @torch.no_grad()
    def begin(self) -> None:
        """A new episode of the game, seen once; the dream begins awake.

        Raises:
            EnvError: the environment failed.
        """
        assert self.envs is not None
        records = self.envs.reset()
        self.episode = int(self.envs.episodes[0]) - 1
        carry = self.agent.initial(1)
        belief = self._observe(carry.state, carry.action, records, first=True)
        self._start(self._moment(None, belief, belief, records))
        self._stands = self.now

    @torch.no_grad()
    def begin_from(self, stretch: Stretch) -> None:
        """From a moment that was once recorded: the dream has seen the stretch, and there is no game."""
        self.episode = -1
        state, action = self.agent.initial(1)
        for t in range(len(stretch.reward)):
            obs = {key: value[t : t + 1] for key, value in stretch.obs.items()}
            state = self._observe(state, action, Records(obs, *[np.zeros(1)] * 4), first=t == 0)
            action = self._tensor(stretch.action[t])
        last = {key: value[-1] for key, value in stretch.obs.items()}
        self._start(self._moment(None, state)._replace(picture=_drawn(last, self.agent)))

    @torch.no_grad()
    def begin_from_nothing(self) -> None:
        """From the prior alone."""
        self.episode = -1
        state, action = self.agent.initial(1)
        state = self.agent.world.dynamics.blank(torch.ones(1, dtype=torch.bool, device=state.deter.device), state)
        self._start(self._moment(None, self._imagine(state, action)))

    @torch.no_grad()
    def step(self, action: np.ndarray | None = None, awake: bool = False) -> Moment:
        """One decision in the dream, and in the game where there is one.

        Args:
            action: A; None: the agent decides.
            awake: it decides by what it sees of the game, not by its dream.

        Raises:
            EnvError: the environment failed. StateError: there is no room for more.
        """
        here, line = self.now, self.lines[self.line]
        if self.bytes > MOST_BYTES:
            raise StateError(f"More than {MOST_BYTES >> 30} GiB of moments: R begins anew.")
        if action is None:
            state = here.belief if awake and here.belief is not None else here.dream
            action = to_numpy(self._decide(state))[0]
        chosen = np.asarray(action, np.float32)
        records = None
        if self.has_game and self._bring_back():
            assert self.envs is not None
            records = self.envs.step(chosen[None])
        taken, belief = self._tensor(chosen), None
        if records is not None and here.belief is not None:
            belief = self._observe(here.belief, taken, records, first=False)
        moment = self._moment(chosen, self._imagine(here.dream, taken), belief, records, here)
        if self.at + 1 < len(line):
            self.lines.append(line[: self.at + 1])
            self.line = len(self.lines) - 1
        self._append(moment)
        if records is not None:
            self._stands = moment
        return moment

    @torch.no_grad()
    def wake(self) -> None:
        """Let the dream see the game: it goes on from what the agent believes now."""
        here, line = self.now, self.lines[self.line]
        if here.belief is None:
            return
        awake = self._moment(here.action, here.belief, here.belief)
        before = here.promised - (0.0 if here.action is None else here.numbers["reward"])
        promised = before + (0.0 if here.action is None else awake.numbers["reward"])
        moment = here._replace(dream=awake.dream, shown=awake.shown, numbers=awake.numbers, promised=promised)
        if self._stands is here:
            self._stands = moment
        if self.at + 1 < len(line):  # the future that it had stays, on the old line
            self.lines.append(line[: self.at])
            self.line = len(self.lines) - 1
        else:
            self.lines[self.line] = line[:-1]  # other lines may share its beginning
        self.at -= 1
        self._append(moment)

    def go(self, at: int) -> None:
        """To another moment of this line; the game follows when it is stepped."""
        self.at = min(max(0, at), len(self.lines[self.line]) - 1)

    def change_line(self, by: int) -> None:
        """To another line, at the same moment or its last."""
        self.line = (self.line + by) % len(self.lines)
        self.go(self.at)

    def actions(self) -> np.ndarray:
        """n A, what was done on this line up to here."""
        taken = [moment.action for moment in self.lines[self.line][1 : self.at + 1]]
        return np.array(taken, np.float32).reshape(len(taken), self.agent.spec.action_width)

    def _start(self, moment: Moment) -> None:
        self.lines, self.line, self.at, self.bytes, self.lost, self._stands = [[]], 0, -1, 0, "", None
        self._append(moment)

    def _append(self, moment: Moment) -> None:
        """One more at the end of this line, where one stands then."""
        self.lines[self.line].append(moment)
        self.at += 1
        self.bytes += moment.nbytes

    def _decide(self, state: State) -> Tensor:
        behaviour, world = self.agent.behaviour, self.agent.world
        noise = behaviour.action_noise(1, world, self.agent.like, self.generator)
        action: Tensor = behaviour.decide(world, state, noise, self.mode)
        return action

    def _imagine(self, state: State, action: Tensor) -> State:
        dynamics = self.agent.world.dynamics
        step: State = dynamics.imagine_step(state, action, dynamics.latent.noise((1,), self.agent.like, self.generator))
        return step

    def _observe(self, state: State, action: Tensor, records: Records, first: bool) -> State:
        world, device = self.agent.world, self.agent.like.device
        embed = world.encoder({key: torch.as_tensor(value, device=device) for key, value in records.obs.items()})
        noise = world.dynamics.latent.noise((1,), self.agent.like, self.generator)
        seen: State = world.dynamics.observe_step(state, action, embed, torch.full((1,), first, device=device), noise)[
            0
        ]
        return seen

    def _moment(
        self,
        action: np.ndarray | None,
        dream: State,
        belief: State | None = None,
        records: Records | None = None,
        before: Moment | None = None,
    ) -> Moment:
        world = self.agent.world
        feat = world.dynamics.feat(dream)
        decoded = world.decode(feat)
        assert decoded is not None
        critic = getattr(self.agent.behaviour, "critic", None)
        numbers = {
            "reward": float(world.reward(feat).mean),
            "value": float("nan") if critic is None else float(critic(feat).mean),
            "cont": min(1.0, max(0.0, float(world.cont(feat).mean / world.cont_scale))),
            "entropy": float(world.dynamics.latent.entropy(world.dynamics.prior(dream.deter))),
        }
        shown = {key: to_numpy(value)[0] for key, value in decoded.items()}
        shown |= {key: as_bytes(shown[key]) for key in self._images & shown.keys()}
        promised, paid = (0.0, 0.0) if before is None else (before.promised + numbers["reward"], before.paid)
        found = Moment(action, dream, shown, numbers, promised, paid, belief)
        if records is None:
            return found
        reward = float("nan")
        if action is not None:
            reward = float(world.squash_reward(torch.as_tensor(records.reward[0])))
            paid += float(records.reward[0])
        seen = {key: value[0].copy() for key, value in records.obs.items()}
        picture = None if self._images else self._picture()
        return found._replace(paid=paid, seen=seen, picture=picture, reward=reward, over=bool(records.is_last[0]))

    def _bring_back(self) -> bool:
        """The game, to where one stands: its episode is played again. False, and `lost` says why, if that fails."""
        assert self.envs is not None
        if self.lost or self.now is self._stands:
            return not self.lost
        assert self.now.seen is not None
        job = Job(self.episode, self.actions(), None, observation_digest(self.now.seen))
        self.lost = self.envs.resume({0: job}).get(0, "")
        self._stands = self.now
        return not self.lost

    def _picture(self) -> np.ndarray | None:
        assert self.envs is not None
        frames = self.envs.render()
        return _at_most(frames[0], LARGEST) if frames else None

    def _tensor(self, action: np.ndarray) -> Tensor:
        return torch.as_tensor(action[None], dtype=self.agent.like.dtype, device=self.agent.like.device)


def _drawn(obs: dict[str, Any], agent: Agent) -> np.ndarray | None:
    """The first image that is observed."""
    key = next((key for key, spec in agent.spec.observation.items() if spec.kind == "image"), None)
    return None if key is None else obs[key]


def _at_most(picture: np.ndarray, side: int) -> np.ndarray:
    share = side / max(picture.shape[:2])
    if share >= 1:
        return picture
    size = max(1, round(picture.shape[1] * share)), max(1, round(picture.shape[0] * share))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BOX))
