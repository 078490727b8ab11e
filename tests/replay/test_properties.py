"""The replay against a list of what was added, over random lives with saves, crashes and resumes."""

import shutil
import tempfile
from pathlib import Path

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dreamer_cli.replay.storage import Index, Replay
from dreamer_cli.structs import Batch
from tests.replay.toy import fill, latent_of, make_replay, records_of

TIME = 3


class ReplayMachine(RuleBasedStateMachine):
    """Everything that the replay gives back has to be what the model remembers."""

    replay: Replay

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp())

    def teardown(self) -> None:
        shutil.rmtree(self.directory)

    @initialize(
        num_envs=st.integers(1, 3),
        per_env=st.integers(TIME + 1, 12),
        online=st.booleans(),
        batch=st.integers(1, 5),
        storage=st.sampled_from(["host", "device"]),
    )
    def begin(self, num_envs: int, per_env: int, online: bool, batch: int, storage: str) -> None:
        self.settings = {"num_envs": num_envs, "per_env": per_env, "online": online, "batch": batch, "time": TIME}
        self.replay = make_replay(**self.settings, storage=storage)
        self.added = [0] * num_envs
        self.version: dict[tuple[int, int], int] = {}  # how often a record's latent was refreshed
        self.sampled: list[Index] = []
        self.saved: tuple | None = None

    @rule(number=st.integers(1, 9), data=st.data())
    def add(self, number: int, data: st.DataObject) -> None:
        envs = data.draw(st.permutations(range(len(self.added))))[: data.draw(st.integers(1, len(self.added)))]
        fill(self.replay, number, list(envs))
        for env in envs:
            self.added[env] += number

    @rule()
    def sample(self) -> None:
        if len(self.replay):
            batch, index = self.replay.sample()
            self.check(batch, index)
            self.sampled.append(index)

    @precondition(lambda self: self.sampled)
    @rule(data=st.data())
    def refresh(self, data: st.DataObject) -> None:
        """Also of batches sampled long ago, whose records may be gone."""
        index = data.draw(st.sampled_from(self.sampled))
        ids = index.start[:, None] + np.arange(1, TIME + 1)
        version = np.zeros_like(ids)
        for row, env in enumerate(index.env.tolist()):
            for column, count in enumerate(ids[row].tolist()):
                version[row, column] = self.version.get((env, count), 0) + 1
        for at, new in np.ndenumerate(version):
            self.version[int(index.env[at[0]]), int(ids[at])] = int(new)
        self.replay.refresh(index, latent_of(index.env[:, None], ids, version))

    @rule()
    def save(self) -> None:
        latents, tree = self.replay.save(self.directory)
        copies = {name: torch.as_tensor(value).clone() for name, value in latents.items()}
        self.saved = (copies, tree, list(self.added), dict(self.version))

    @precondition(lambda self: self.saved)
    @rule(prune=st.booleans(), draws=st.integers(0, 3), storage=st.sampled_from(["host", "device"]))
    def crash(self, prune: bool, draws: int, storage: str) -> None:
        """Everything since the last save is gone; what was saved is there, and the choice goes on from there."""
        latents, tree, self.added, version = self.saved
        self.version = dict(version)
        tensors = {name: value.clone() for name, value in latents.items()}
        revived, twin = make_replay(**self.settings, seed=5, storage=storage), make_replay(**self.settings, seed=6)
        for replay in (revived, twin):
            assert replay.load(self.directory, tensors, tree) == []
        if prune:
            revived.prune(self.directory, [tree])
        for _ in range(draws if len(twin) else 0):
            batch, index = twin.sample()
            again, where = revived.sample()
            self.check(again, where)
            np.testing.assert_array_equal(index, where)
            np.testing.assert_array_equal(batch.reward, again.reward)
        self.replay, self.sampled, self.added = revived, [], list(self.added)

    def check(self, batch: Batch, index: Index) -> None:
        ids = index.start[:, None] + np.arange(TIME + 1)
        for env, row in zip(index.env.tolist(), ids.tolist(), strict=True):
            assert row[0] >= self.added[env] - self.settings["per_env"]  # not evicted
            assert row[-1] < self.added[env]  # not from the future
        records, action = records_of(index.env[:, None], ids)
        for key, value in records.obs.items():
            np.testing.assert_array_equal(batch.obs[key], value[:, 1:])
        np.testing.assert_array_equal(batch.action, action)
        np.testing.assert_array_equal(batch.reward, records.reward[:, 1:])
        np.testing.assert_array_equal(batch.is_first, records.is_first[:, 1:])
        pairs = zip(index.env.tolist(), index.start.tolist(), strict=True)
        version = np.array([self.version.get(pair, 0) for pair in pairs])
        start = latent_of(index.env, index.start, version)
        np.testing.assert_array_equal(batch.start.deter, start["deter"])
        np.testing.assert_array_equal(batch.start.stoch, start["stoch"])

    @invariant()
    def sizes(self) -> None:
        if hasattr(self, "added"):
            held = [min(number, self.settings["per_env"]) for number in self.added]
            assert self.replay.records == sum(held)
            assert len(self.replay) == sum(max(0, number - TIME) for number in held)


TestReplay = ReplayMachine.TestCase
TestReplay.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
