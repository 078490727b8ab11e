"""Records that say where they come from: every value encodes (environment, count)."""

import numpy as np

from dreamer_cli.replay.storage import Replay
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Records

SPEC = EnvSpec(
    observation={
        "image": ObsSpec("image", (3, 2, 4)),
        "vector": ObsSpec("vector", (2,)),
        "level": ObsSpec("discrete", (2,), classes=(50, 300)),
    },
    action=(ActionPart("action", "continuous", size=3),),
)
LATENT = {"deter": ((3,), "float32"), "stoch": ((2,), "uint8")}


def make_replay(num_envs: int = 2, per_env: int = 20, batch: int = 3, time: int = 4, **settings) -> Replay:
    """A replay of toy records."""
    return Replay(SPEC, num_envs, LATENT, capacity=num_envs * per_env, batch_size=batch, batch_length=time, **settings)


def latent_of(env: np.ndarray, count: np.ndarray, version: np.ndarray) -> dict[str, np.ndarray]:
    """The toy latent of some records: (env, count, how often it was refreshed), and small class indices."""
    env, count, version = np.broadcast_arrays(env, count, version)
    deter = np.stack([env, count, version], -1).astype(np.float32)
    return {"deter": deter, "stoch": np.stack([count % 256, version % 256], -1).astype(np.uint8)}


def flags_of(env: np.ndarray, count: np.ndarray) -> dict[str, np.ndarray]:
    """Episodes of irregular lengths, some of which end without `is_last` (abandoned)."""
    first = (count == 0) | ((count * 7 + env * 3) % 5 == 0)
    last = (((count + 1) * 7 + env * 3) % 5 == 0) & (count % 2 == 0)
    return {"is_first": first, "is_last": last, "is_terminal": last & (count % 4 == 0)}


def records_of(env: np.ndarray, count: np.ndarray) -> tuple[Records, np.ndarray]:
    """The toy records of some environments, and the actions that answer them."""
    env, count = np.broadcast_arrays(np.asarray(env), np.asarray(count))
    mark = (env * 50 + count) % 256
    obs = {
        "image": np.broadcast_to(mark[..., None, None, None], (*mark.shape, 3, 2, 4)).astype(np.uint8),
        "vector": np.stack([env, count], -1).astype(np.float32),
        "level": np.stack([count % 50, count % 300], -1).astype(np.int32),
    }
    action = np.stack([env, count, np.ones_like(count)], -1).astype(np.float32)
    return Records(obs=obs, reward=(1000 * env + count).astype(np.float32), **flags_of(env, count)), action


def fill(replay: Replay, number: int, envs: list[int] | None = None) -> None:
    """Add so many toy records to each of these environments (all, if none are named)."""
    ids = np.arange(replay.sampler.num_envs) if envs is None else np.array(envs)
    for _ in range(number):
        count = replay.sampler.next[ids].copy()
        records, action = records_of(ids, count)
        replay.add(ids, records, action, latent_of(ids, count, np.zeros_like(count)))
