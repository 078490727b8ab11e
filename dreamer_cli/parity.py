"""Does an exported file do what the agent does? Recorded steps are replayed through it, and compared.

Every step starts from torch's own carry, so that errors cannot add up and none can hide behind another. A planner
keeps the candidates that the file kept, for the same reason: of hundreds of candidates some are always as good as
each other, and which of them is kept decides what follows. What the file kept is judged by what it is worth.
Graph checks alone do not find wrong numbers: torch's exporter has written recurrent cells that were valid and
14 % off (pytorch#189225).
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dreamer_cli.agent import Agent
from dreamer_cli.envs.wrappers import DreamerEnv
from dreamer_cli.formats import Feed, Runner
from dreamer_cli.frozen import Answer, Part, decision_noise, size_of
from dreamer_cli.ports import Choice, port_names
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Noise

STEPS = 64
TOLERANCE = 1e-4
TOGETHER = 3  # rows of the batch that is compared once, beside the single steps
# Of candidates that were kept, so many may be worse than ours: in their dreams a near tie fell the other way.
ODD, LEAST_ODD = 0.01, 2

# Yields an observation and whether an episode begins; is sent the flat action (A,).
Observations = Generator[tuple[Mapping[str, np.ndarray], bool], np.ndarray, None]


@dataclass(frozen=True)
class Parity:
    """How far a file is from the agent.

    Attributes:
        steps: recorded steps that were replayed.
        max_abs_error: the largest difference of any output in any step; of outputs in the environment's own
            units (reward, decoded vectors, native actions) relative to their size where that is above 1.
        ties: samples that fell the other way because their two best scores lie within 1e-4, and candidates that a
            planner kept in place of others which are worth as much.
        worst: the output that `max_abs_error` was seen in.
    """

    steps: int
    max_abs_error: float
    ties: int
    worst: str = ""

    @property
    def passed(self) -> bool:
        """Whether every difference is within 1e-4; a NaN anywhere is none."""
        return self.max_abs_error <= TOLERANCE

    def to_json(self) -> dict[str, Any]:
        """The fields of the `--json` document."""
        return {name: value for name, value in asdict(self).items() if name != "worst"}


class Steps(Sequence[Feed]):
    """Inputs of a part, step by step, one row each. Noise is drawn anew when it is looked at: a planner's is large."""

    def __init__(self, noise: Callable[[int], Feed]) -> None:
        self.feeds: list[Feed] = []
        self.noise = noise

    def __len__(self) -> int:
        return len(self.feeds)

    def __getitem__(self, index: Any) -> Any:
        return {**self.feeds[index], **self.noise(index)}


Recording = dict[str, Steps]  # by part


class Compared(NamedTuple):
    """One call of a file: errors by output, ties, and by how much what was kept is worse than what ours keeps."""

    errors: dict[str, float]
    ties: int
    regrets: np.ndarray


def played(env: DreamerEnv) -> Observations:
    """Observations of a real environment; a new episode begins where one ends."""
    episode, first = 0, True
    obs, _ = env.reset(seed=episode)
    while True:
        action = yield obs, first
        obs, _, terminated, truncated, _ = env.step(action)
        first = terminated or truncated
        if first:
            episode += 1
            obs, _ = env.reset(seed=episode)


def invented(spec: EnvSpec, rng: np.random.Generator) -> Observations:
    """Random observations of the right shapes and types; an episode ends after 16 of them, on average."""
    first = True
    while True:
        yield {key: random_observation(spec, key, rng) for key in spec.observation}, first
        first = bool(rng.random() < 1 / 16)


def random_observation(spec: EnvSpec, key: str, rng: np.random.Generator) -> np.ndarray:
    """Noise in the shape of one key: pictures of all colours, vectors of some size, any classes."""
    seen = spec.observation[key]
    if seen.kind == "image":
        return rng.integers(0, 256, seen.shape, np.uint8)
    if seen.kind == "discrete":
        return rng.integers(0, np.array(seen.classes), seen.shape).astype(np.int32)
    return (3 * rng.standard_normal(seen.shape)).astype(np.float32)


@torch.no_grad()
def record(agent: Agent, observations: Observations, steps: int = STEPS, seed: int = 0) -> Recording:
    """Let the agent act, and keep what every part would be asked on the way."""

    def drawn(step: int) -> tuple[Noise, Tensor]:
        generator = torch.Generator().manual_seed(STEPS * seed + range(steps)[step])
        noise = decision_noise(agent, generator)
        return noise, agent.world.dynamics.latent.noise((1,), noise.latent, generator)

    def deciding(step: int) -> Feed:
        noise, _ = drawn(step)
        return _arrays({"latent_noise": noise.latent, "action_noise": noise.action})

    def dreaming(step: int) -> Feed:
        return _arrays({"latent_noise": drawn(step)[1]})

    names = port_names(agent.seen.observation, "obs")
    carry = agent.initial(1)
    recording = {"policy": Steps(deciding), "world": Steps(dreaming)}
    obs, first = next(observations)
    for step in range(steps):
        seen = {key: torch.from_numpy(value)[None] for key, value in obs.items()}
        is_first = torch.tensor([first])
        recording["policy"].feeds.append(
            _arrays(
                {names[key]: seen[key] for key in names},
                {"is_first": is_first, **carry.state._asdict(), "prev_action": carry.action},
            )
        )
        action, carry = agent.policy(seen, is_first, carry, drawn(step)[0])
        recording["world"].feeds.append(_arrays({**carry.state._asdict(), "action": action}))
        obs, first = observations.send(action[0].numpy())
    return recording


def _arrays(*tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray]:
    return {name: value.numpy() for group in tensors for name, value in group.items()}


def compare(part: Part, run: Runner, feeds: Sequence[Feed]) -> Parity:
    """Replay recorded steps one by one, and then three of them at once, with an episode beginning in the second."""
    results = [_compare(part, run, feed) for feed in feeds]
    rows = [feeds[i * len(feeds) // TOGETHER] for i in range(TOGETHER)]
    batch = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    if "is_first" in batch:
        batch["is_first"] = np.arange(TOGETHER) == 1
    return _verdict([*results, _compare(part, run, batch)], len(feeds))


def compare_step(part: Part, run: Runner, feed: Feed) -> Parity:
    """Compare one call of `run` with the agent's own answer."""
    return _verdict([_compare(part, run, feed)], 1)


def join(parities: Sequence[Parity]) -> Parity:
    """One verdict on several parts."""
    worst = max(parities, key=lambda parity: parity.max_abs_error)
    return Parity(worst.steps, worst.max_abs_error, sum(parity.ties for parity in parities), worst.worst)


def _verdict(results: Sequence[Compared], steps: int) -> Parity:
    """The worst of all, but for a few candidates."""
    regrets = np.sort(np.concatenate([result.regrets for result in results]))[::-1]
    spared = max(LEAST_ODD, int(ODD * len(regrets)))
    errors = [result.errors for result in results] + [{"kept": float(regret)} for regret in regrets[spared:][:1]]
    error, name = max((error, name) for found in errors for name, error in found.items())
    return Parity(steps, error, sum(result.ties for result in results), name)


@torch.no_grad()
def _compare(part: Part, run: Runner, feed: Feed) -> Compared:
    got = run(feed)
    inputs = {name: torch.from_numpy(value) for name, value in feed.items()}
    kept = [port.name for port in part.outputs if port.role == "kept"]
    inputs |= {name: torch.from_numpy(got[name]) for name in kept}
    answer, ties = part.reference(inputs), 0
    for choice in part.choices:
        nudged = _side_with(choice, got, answer, inputs)
        if nudged is not None:
            before = _apart(choice, got, answer).sum()
            inputs, answer = nudged, part.reference(nudged)
            ties += int(before - _apart(choice, got, answer).sum())
    regrets = np.concatenate([_regrets(got[name], answer.scores[name]) for name in kept] or [np.empty(0)])
    errors = {port.name: _error(got[port.name], answer, port.name) for port in part.outputs if port.name not in kept}
    return Compared(errors, ties + int((regrets > 0).sum()), regrets)


def _regrets(kept: np.ndarray, scores: Tensor) -> np.ndarray:
    """By how much candidates (B R E of scores B R M) are worse than the last that is good enough, in its own size.

    Infinite if one was kept twice.
    """
    index = torch.from_numpy(kept)
    least = scores.topk(kept.shape[-1]).values[..., -1:]
    twice = (index.sort(-1).values.diff() == 0).any(-1, keepdim=True)
    regrets = ((least - scores.gather(-1, index)) / size_of(least)).clamp(min=0)
    return torch.where(twice, torch.inf, regrets).nan_to_num(nan=torch.inf).double().numpy().reshape(-1)


def _side_with(
    choice: Choice, got: Mapping[str, np.ndarray], answer: Answer, inputs: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Inputs with noise moved by 1e-4 towards what the file chose, or None if both chose the same.

    Sampling takes the argmax of scores plus noise, so asking the agent once more shows whether it was a near
    tie: then it now chooses as the file did, and everything that follows from the choice can be compared too.
    """
    apart = _apart(choice, got, answer)
    if not apart.any():
        return None
    noise = inputs[choice.noise].clone()
    columns = noise[..., choice.columns]
    chosen = torch.from_numpy(got[choice.output][..., choice.columns]).argmax(-1, keepdim=True)
    columns.scatter_add_(-1, chosen, TOLERANCE * apart[..., None].to(noise.dtype))
    return {**inputs, choice.noise: noise}


def _apart(choice: Choice, got: Mapping[str, np.ndarray], answer: Answer) -> Tensor:
    ours = answer.outputs[choice.output][..., choice.columns].argmax(-1)
    return ours != torch.from_numpy(got[choice.output][..., choice.columns]).argmax(-1)


def _error(got: np.ndarray, answer: Answer, name: str) -> float:
    """The largest difference, in float64; infinite where either is no number or the shapes differ."""
    want = answer.outputs[name].double().numpy()
    if got.shape != want.shape:
        return np.inf
    unit = answer.units[name].double().numpy() if name in answer.units else 1.0
    difference = np.abs(got.astype(np.float64) - want) / unit
    return float(difference.max()) if np.isfinite(difference).all() else np.inf
