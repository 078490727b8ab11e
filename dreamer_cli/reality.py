"""What really happened, to dream next to: played now, or found in a run's replay.

A stretch lies inside one episode. Episodes that are long enough are preferred; of a shorter one all is
taken, and the dream ends where it ends.
"""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dreamer_cli.collector import Driver
from dreamer_cli.dream import Stretch
from dreamer_cli.envs.vector import VectorEnv
from dreamer_cli.errors import StateError
from dreamer_cli.npz import read_npz
from dreamer_cli.replay.chunks import read_chunk, saved_entries
from dreamer_cli.replay.ring import Ring, record_fields
from dreamer_cli.spaces import EnvSpec
from dreamer_cli.structs import Records

TRIES = 4  # episodes an environment may play until one is long enough
MOST_CHUNKS = 8  # chunks that are read, chosen at random; each may be 64 MB


def play_stretches(
    envs: VectorEnv,
    driver: Driver,
    length: int,
    progress: Callable[[], None] = lambda: None,
) -> list[Stretch]:
    """Play until every environment gave the first `length` records of an episode.

    From the beginning, because there a blank memory is the right one: from the middle of an episode a model that
    is shown a few records would have to guess what it has missed. Where several episodes in a row are shorter,
    the longest of them is taken.

    Args:
        progress: called at every step; may raise to stop.
    """
    stories: list[list[Stretch]] = [[] for _ in range(envs.num_envs)]
    best: list[Stretch | None] = [None] * envs.num_envs
    tries = np.zeros(envs.num_envs, int)
    open_ = np.ones(envs.num_envs, bool)
    now, carry = envs.reset(), driver.initial(envs.num_envs)
    while open_.any():
        progress()
        action, _, carry = driver(now, carry)
        after = envs.step(action)
        for env in np.flatnonzero(open_).tolist():
            stories[env].append(_record(now, action, env))
            if after.is_last[env] and not envs.crashed[env]:  # a crash leaves no last observation
                stories[env].append(_record(after, np.zeros_like(action), env))
            if after.is_last[env] or len(stories[env]) == length:
                found = _join(stories[env][:length])
                best[env] = _longer(best[env], found)
                tries[env] += 1
                open_[env] = len(found.reward) < length and tries[env] < TRIES
                stories[env] = []
        now = after.updated(envs.reset(after.is_last), after.is_last) if after.is_last.any() else after
    return [stretch for stretch in best if stretch is not None]


def replay_stretches(
    directory: Path,
    tree: Mapping[str, Any],
    spec: EnvSpec,
    number: int,
    length: int,
    need: int,
    rng: np.random.Generator,
    warn: Callable[[str], None],
) -> list[Stretch]:
    """Up to `number` stretches of `length` records from chunks on disk, chosen at random; none overlap.

    Args:
        directory, tree: where the chunks lie, and what the checkpoint says of them.
        need: shorter episodes than this are of no use.
        warn: told about chunks that are damaged or gone.

    Raises:
        StateError: no episode in the replay is long enough.
    """
    whole: list[Stretch] = []
    parts: list[Stretch] = []
    entries = saved_entries(tree)
    for i in rng.permutation(len(entries))[:MOST_CHUNKS]:
        try:
            episodes = _read_episodes(directory, entries[i], spec)
        except StateError as error:  # a training that goes on may have deleted it
            warn(error.what)
            continue
        whole += [piece for episode in episodes for piece in _pieces(episode, length, rng)]
        parts += [episode for episode in episodes if need <= len(episode.reward) < length]
        if len(whole) >= number:
            break
    chosen = [whole[i] for i in rng.permutation(len(whole))[:number]]
    parts.sort(key=lambda part: len(part.reward), reverse=True)
    chosen += parts[: number - len(chosen)]
    if not chosen:
        raise StateError(
            f"The replay holds no episode with {need} records or more.",
            hint="Try a smaller --context, or --source env.",
        )
    return chosen


def file_stretches(path: Path, spec: EnvSpec, number: int, length: int) -> list[Stretch]:
    """Up to `number` stretches of up to `length` records from an .npz file.

    It has `obs/KEY` (or `truth/KEY`, as `dreamer imagine -o FILE.npz` writes them; or KEY alone) for each observation
    of the environment, and `action`, flat as in the replay; T each, or M T. Images as they are stored, C Y X, or Y X C.
    `reward` (or `true_reward`) and `is_terminal` (or `true_cont`) may be missing, as may `known`: M, how many records
    of each are real. Rewards that are missing are NaN; records that do not say otherwise end nothing.

    Raises:
        StateError: it cannot be read, or holds something else.
    """
    arrays = read_npz(path)

    def find(*names: str) -> np.ndarray | None:
        return next((arrays[name] for name in names if name in arrays), None)

    def lead(name: str, array: np.ndarray, own: tuple[int, ...]) -> np.ndarray:
        array = array[None] if array.ndim == len(own) + 1 else array
        if array.ndim != len(own) + 2 or array.shape[2:] != own:
            wanted = ", ".join(map(str, ("T", *own)))
            raise StateError(f"{path}: {name} is {array.shape}, and should be ({wanted}) or (M, {wanted}).")
        return array

    obs = {}
    for key, kind in spec.observation.items():
        array = find(f"obs/{key}", f"truth/{key}", key)
        if array is None:
            raise StateError(f"{path} holds no observation {key!r}.", hint=f"Name it obs/{key}.")
        channels_last = kind.kind == "image" and array.shape[-3:] == (*kind.shape[1:], kind.shape[0])
        array = np.moveaxis(array, -1, -3) if channels_last else array
        if kind.kind == "image" and array.dtype != np.uint8:
            raise StateError(f"{path}: {key} holds {array.dtype}, and images are uint8.")
        obs[key] = lead(key, array, kind.shape).astype(kind.dtype)
        bad = kind.kind == "discrete" and ((obs[key] < 0) | (obs[key] >= np.array(kind.classes))).any()
        if bad or not np.isfinite(obs[key]).all():
            raise StateError(f"{path}: {key} holds values that cannot be observed.")
    action = find("action")
    if action is None:
        raise StateError(f"{path} holds no `action`.", hint="Flat, as in the replay; zeros if it is not known.")
    action = lead("action", action, (spec.action_width,)).astype(np.float32)
    rows, records = action.shape[:2]
    reward, terminal, cont = find("true_reward", "reward"), find("is_terminal"), find("true_cont")
    reward = np.full((rows, records), np.nan, np.float32) if reward is None else lead("reward", reward, ())
    if terminal is None:
        terminal = np.zeros((rows, records), bool) if cont is None else lead("true_cont", cont, ()) < 0.5
    terminal = lead("is_terminal", terminal, ()).astype(bool)
    known = arrays.get("known", np.full(rows, records))
    shapes = {value.shape[:2] for value in (*obs.values(), reward, terminal)}
    counted = known.shape == (rows,) and known.dtype.kind in "iu" and not ((known < 0) | (known > records)).any()
    if shapes != {(rows, records)} or not counted:
        raise StateError(f"{path}: its arrays are of different lengths.")
    if not np.isfinite(action).all() or np.isinf(reward).any():
        raise StateError(f"{path}: its actions or rewards are not finite.")
    stops = np.minimum(known, length).tolist()
    found = [
        Stretch(
            {key: v[m, :stop] for key, v in obs.items()},
            action[m, :stop],
            reward[m, :stop].astype(np.float32),
            terminal[m, :stop],
        )
        for m, stop in enumerate(stops)
        if stop
    ]
    if not found:
        raise StateError(f"{path} holds no record.")
    return found[:number]


def _read_episodes(directory: Path, entry: Any, spec: EnvSpec) -> list[Stretch]:
    """The stretches of a chunk, cut where episodes begin."""
    fields = record_fields(spec)
    arrays = read_chunk(directory, entry, Ring(1, 1, fields), fields.keys())
    obs = {
        key: arrays[f"obs/{key}"].astype(kind.dtype, copy=False) for key, kind in spec.observation.items()
    }  # discrete ones are stored in as few bytes as they need
    cuts = set(np.flatnonzero(arrays["is_first"]).tolist())
    at = 0
    for _, begin, end in entry["spans"]:
        cuts |= {at, at + end - begin}
        at += end - begin
    borders = sorted(cuts)
    return [
        Stretch(
            {key: value[start:stop] for key, value in obs.items()},
            *(arrays[name][start:stop] for name in ("action", "reward", "is_terminal")),
        )
        for start, stop in itertools.pairwise(borders)
    ]


def _pieces(episode: Stretch, length: int, rng: np.random.Generator) -> list[Stretch]:
    """As many stretches of `length` records as fit side by side, shifted at random."""
    count = len(episode.reward) // length
    if not count:
        return []
    first = int(rng.integers(len(episode.reward) - count * length + 1))
    return [_cut(episode, first + i * length, length) for i in range(count)]


def _cut(stretch: Stretch, start: int, length: int) -> Stretch:
    part = slice(start, start + length)
    obs = {key: value[part] for key, value in stretch.obs.items()}
    return Stretch(obs, stretch.action[part], stretch.reward[part], stretch.is_terminal[part])


def _record(records: Records, action: np.ndarray, env: int) -> Stretch:
    """One environment's record, with what was answered to it, as a stretch of one."""
    obs = {key: value[env] for key, value in records.obs.items()}
    return Stretch(obs, action[env], records.reward[env], records.is_terminal[env])


def _join(story: list[Stretch]) -> Stretch:
    return Stretch(
        {key: np.stack([record.obs[key] for record in story]) for key in story[0].obs},
        np.stack([record.action for record in story]),
        np.stack([record.reward for record in story]),
        np.stack([record.is_terminal for record in story]),
    )


def _longer(best: Stretch | None, found: Stretch) -> Stretch:
    return found if best is None or len(found.reward) > len(best.reward) else best
