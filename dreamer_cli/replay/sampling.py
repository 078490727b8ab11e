"""Which sequences can be replayed, and which come next: the fresh ones first, then any, uniformly.

Every environment has its own stream of records, counted from 0 for ever: a record's absolute id. An *item*
is a start id with `length` records following in the same stream, episode borders or not.
```
ids      0  1  2  3  4  5  6  7  8  9  10        length 5, ring of 8: records 0..2 are evicted,
                  [3  4  5  6  7]                items start at 3, 4, 5, 6;
                              [6  7  8  9  10]   added 10 = a multiple of 5: this newest item is queued
```
"""

from collections import deque
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from dreamer_cli.shapes import Int


class Choice(NamedTuple):
    """Items that were chosen: environment and start id (B); those from the queue; the generator's state afterwards."""

    env: np.ndarray
    start: np.ndarray
    fresh: list[tuple[int, int]]
    generator: Mapping[str, Any]


class ItemSampler:
    """Bookkeeping of N streams and the choice of items; knows ids only, no data.

    Args:
        num_envs: streams (N).
        per_env: records that each stream's ring holds.
        length: records of an item, context included.
        online: hand out every `length`-th newest item once, before sampling uniformly.
        seed: of the random choice.

    Source: the online queue and items of Dreamer V3's replay (arXiv 2301.04104 and its code).
    """

    def __init__(self, num_envs: int, per_env: int, length: int, online: bool, seed: int) -> None:
        self.num_envs, self.per_env, self.length, self.online = num_envs, per_env, length, online
        self.next = np.zeros(num_envs, np.int64)  # the id that a stream's next record gets
        self.generator = np.random.Generator(np.random.PCG64(seed))
        self._scratch = np.random.Generator(np.random.PCG64(seed))  # for draws that may be forgotten
        self.queue: deque[tuple[int, int]] = deque()
        # Unbroken stretches of ids (env, begin, end). The first N are where streams grow (their end is `next`);
        # more of them, older, exist only after a load that had lost some records.
        self._env = np.arange(num_envs)
        self._begin = np.zeros(num_envs, np.int64)
        self._end = np.zeros(num_envs, np.int64)

    @property
    def oldest(self) -> Int[np.ndarray, " N"]:
        """Of each stream, the id below which everything is evicted."""
        return np.maximum(self.next - self.per_env, 0)

    @property
    def spans(self) -> list[tuple[int, int, int]]:
        """Stretches of records that exist: env, first id, id after the last; by env, then by id."""
        begin, end = self._limits()
        found = zip(self._env.tolist(), begin.tolist(), end.tolist(), strict=True)
        return sorted(span for span in found if span[1] < span[2])

    @property
    def records(self) -> int:
        """Records that exist."""
        begin, end = self._limits()
        return int(np.maximum(end - begin, 0).sum())

    def __len__(self) -> int:
        return int(self._counts()[1].sum())

    def add(self, env_ids: Int[np.ndarray, " n"]) -> None:
        """One more record in each of these streams."""
        new = self.next[env_ids]
        self.next[env_ids] += 1
        if not self.online:
            return
        due = (new % self.length == 0) & (new - self.length + 1 >= self._begin[env_ids])
        self.queue.extend(
            (int(env), int(last) - self.length + 1) for env, last in zip(env_ids[due], new[due], strict=True)
        )
        # Nobody may be sampling for long (prefill): what was evicted meanwhile need not wait.
        while self.queue and self.queue[0][1] < self.oldest[self.queue[0][0]]:
            self.queue.popleft()

    def draw(self, number: int) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
        """Choose items: environment and start id of each. There has to be at least one item."""
        fresh = self._fresh(number)
        self._dequeue(fresh)
        return _join(fresh, self.uniform(number - len(fresh), self.generator))

    def choose(self, number: int) -> "Choice":
        """What `draw` would give now. Nothing has changed until `commit`, so a choice can also be forgotten."""
        fresh = self._fresh(number)
        self._scratch.bit_generator.state = self.generator.bit_generator.state
        env, start = _join(fresh, self.uniform(number - len(fresh), self._scratch))
        return Choice(env, start, fresh, self._scratch.bit_generator.state)

    def commit(self, choice: "Choice") -> None:
        """Take a choice; records may have been added since it was made, but nothing else been drawn."""
        self._dequeue(choice.fresh)
        self.generator.bit_generator.state = choice.generator

    def _fresh(self, number: int) -> list[tuple[int, int]]:
        """The first items of the queue that are not evicted."""
        if not self.queue:
            return []
        oldest = self.oldest
        return list(islice((item for item in self.queue if item[1] >= oldest[item[0]]), number))

    def _dequeue(self, items: list[tuple[int, int]]) -> None:
        """Take out these, which were the first that were not evicted, and what is evicted before them."""
        while self.queue and (self.queue[0] in items or self.queue[0][1] < self.oldest[self.queue[0][0]]):
            self.queue.popleft()

    def uniform(
        self, number: int, generator: np.random.Generator
    ) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
        """Items of all streams, equally likely, without touching the queue."""
        begin, counts = self._counts()
        total = np.cumsum(counts)
        ticket = generator.integers(total[-1], size=number)
        span = np.searchsorted(total, ticket, side="right")
        return self._env[span], begin[span] + ticket - (total[span] - counts[span])

    def state(self) -> dict[str, Any]:
        """Everything that decides about the future choice, as JSON; which records exist is not part of it."""
        return {
            "per_env": self.per_env,
            "next": self.next.tolist(),
            "queue": [list(item) for item in self.queue],
            "generator": self.generator.bit_generator.state,
        }

    def load(self, state: dict[str, Any], spans: Sequence[tuple[int, int, int]]) -> None:
        """Go on from a saved `state()`, with the records of `spans` (env, begin, end; no two touch)."""
        self.next[:] = state["next"]
        self.generator.bit_generator.state = state["generator"]
        growing = {env: begin for env, begin, end in spans if end == self.next[env]}
        older = [span for span in spans if span[2] != self.next[span[0]]]
        self._begin = np.array([growing.get(env, self.next[env]) for env in range(self.num_envs)], np.int64)
        self._env = np.concatenate([np.arange(self.num_envs), np.array([env for env, _, _ in older], np.int64)])
        self._begin = np.concatenate([self._begin, np.array([begin for _, begin, _ in older], np.int64)])
        self._end = np.array([0] * self.num_envs + [end for _, _, end in older], np.int64)
        self.queue = deque((env, start) for env, start in state["queue"] if self._holds(env, start))

    def _limits(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every stretch, begin and end as they are now: grown, and eaten away by eviction."""
        end = self._end.copy()
        end[: self.num_envs] = self.next
        return np.maximum(self._begin, self.oldest[self._env]), end

    def _counts(self) -> tuple[np.ndarray, np.ndarray]:
        """Of every stretch, the first start id and how many items there are."""
        begin, end = self._limits()
        return begin, np.maximum(end - begin - self.length + 1, 0)

    def _holds(self, env: int, start: int) -> bool:
        begin, counts = self._counts()
        return bool(((self._env == env) & (start >= begin) & (start < begin + counts)).any())


def _join(fresh: list[tuple[int, int]], others: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Environments and start ids of items, those from the queue first."""
    if not fresh:
        return others
    env, start = np.array(fresh, np.int64).T
    return np.concatenate([env, others[0]]), np.concatenate([start, others[1]])
