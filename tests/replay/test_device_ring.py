"""Records on a device are the records in main memory; and nothing there needs to look at a value."""

import contextlib

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.autograd.profiler import profile

from dreamer_cli.errors import ResourceError
from dreamer_cli.replay.device_ring import DeviceRing
from dreamer_cli.replay.ring import Ring, locate
from dreamer_cli.replay.storage import Index, Replay
from dreamer_cli.spaces import ActionPart, EnvSpec, ObsSpec
from dreamer_cli.structs import Batch, Records
from tests.replay.toy import LATENT, SPEC, fill, latent_of, make_replay

CPU = torch.device("cpu")
FIELDS = {
    "odd": ((3,), "uint8"),
    "words": ((2, 4), "uint8"),
    "short": ((3,), "uint16"),
    "long": ((), "uint32"),
    "flag": ((), np.bool_),
    "none": ((0,), np.float32),
}


def tensors(batch: Batch) -> list[torch.Tensor]:
    """All of them."""
    return [*batch.obs.values(), *batch.start, *(value for value in batch if isinstance(value, torch.Tensor))]


def assert_equal(one: Batch, two: Batch) -> None:
    """Bit for bit, dtypes too."""
    for left, right in zip(tensors(one), tensors(two), strict=True):
        assert left.dtype == right.dtype
        assert torch.equal(left, right)


def random_values(generator: np.random.Generator, count: int) -> dict[str, np.ndarray]:
    """Of every field, over the whole range of its dtype."""
    found = {}
    for name, (shape, dtype) in FIELDS.items():
        high = 2 if np.dtype(dtype) == np.bool_ else np.iinfo(dtype).max + 1 if np.dtype(dtype).kind == "u" else 9
        found[name] = generator.integers(high, size=(count, *shape)).astype(dtype)
    return found


def test_every_dtype_comes_back_as_from_main_memory():
    generator = np.random.default_rng(0)
    host, device = Ring(2, 7, FIELDS), DeviceRing(2, 7, FIELDS, CPU)
    for count in range(9):
        values = random_values(generator, 2)
        for ring in (host, device):
            ring.write(np.array([1, 0]), np.array([count, count]), values)
    rows = torch.from_numpy(generator.integers(14, size=(3, 4)))
    for name, (_, dtype) in FIELDS.items():
        assert torch.equal(host.gather(name, rows).long(), device.gather(name, rows).long())
        for left, right in zip(host.get(name, 1, 3, 9), device.get(name, 1, 3, 9), strict=True):
            assert left.dtype == right.dtype == dtype
            np.testing.assert_array_equal(left, right)
    assert device.gather("short", rows).max() > 2**15
    assert device.gather("long", rows).max() > 2**31
    assert device.first_rows("short", 0, 5).dtype == torch.uint16


@pytest.mark.parametrize(
    ("start", "oldest", "expected"),
    [
        ([0], 0, [[-1, 1, 2, 3]]),  # the context is read, not written
        ([18], 10, [[-19, 19, 0, 1]]),  # around the ring's end
        ([5], 7, [[-6, -7, 7, 8]]),  # record 6 was evicted
        ([2, 3], 0, [[-3, 3, -5, -6], [-4, 4, 5, 6]]),  # shared records belong to the later sequence
        ([3, 2], 0, [[-4, -5, -6, 6], [-3, 3, 4, 5]]),
        ([2, 2], 0, [[-3, -4, -5, -6], [-3, 3, 4, 5]]),
    ],
)
def test_rows_say_what_may_be_written(start, oldest, expected):
    start = np.array(start)
    rows = locate(20, np.zeros_like(start), start, 4, np.full_like(start, oldest))
    np.testing.assert_array_equal(rows, expected)


def test_the_same_life_on_host_and_device():
    """Batches that overlap, refreshed before and after their records are evicted: equal to the bit all along."""
    host, device = (make_replay(per_env=9, batch=5, storage=storage) for storage in ("host", "device"))
    sampled: list[Index] = []
    for number in range(25):
        for replay in (host, device):
            fill(replay, 7 if number == 0 else number % 4)
        (batch, index), (other, where) = host.sample(), device.sample()
        np.testing.assert_array_equal(index, where)
        assert_equal(batch, other)
        assert_equal(host.peek(number), device.peek(number))
        sampled.append(index)
        for origin in (sampled[-1], sampled[number // 2]):
            # Sequences that share a record disagree about it, so that it shows who came last.
            version = np.arange(5)[:, None] + np.full((5, 4), 10 * number)
            fresh = latent_of(origin.env[:, None], origin.start[:, None] + np.arange(1, 5), version)
            for replay in (host, device):
                replay.refresh(origin, fresh)
    for name in LATENT:
        for env in (0, 1):
            np.testing.assert_array_equal(host.ring.first_rows(name, env, 9), device.ring.first_rows(name, env, 9))


@pytest.mark.parametrize("storage", ["host", "device"])
def test_store_is_refresh(storage):
    one, two = (make_replay(batch=6, storage=storage) for _ in range(2))
    for replay in (one, two):
        fill(replay, 12)
    index = one.draw()
    fresh = latent_of(np.arange(6)[:, None], index.start[:, None] + np.arange(4), np.ones((6, 4)))
    tensors = {name: torch.from_numpy(value) for name, value in fresh.items()}
    one.refresh(index, fresh)
    two.store(two.rows(index), tensors)
    two.store(torch.full((6, 5), -1), {name: x + 1 for name, x in tensors.items()})  # as a warm-up would
    for name in LATENT:
        for env in (0, 1):
            np.testing.assert_array_equal(one.ring.first_rows(name, env, 12), two.ring.first_rows(name, env, 12))
    with pytest.raises(ValueError, match="deter"):
        two.store(two.rows(index), {**tensors, "deter": tensors["deter"][:, :3]})


# Slow on the latter two only because their first use in a process imports half of torch.
@pytest.mark.parametrize(
    ("device", "mode"),
    [
        ("cpu", contextlib.nullcontext),
        pytest.param("meta", contextlib.nullcontext, marks=pytest.mark.extended),
        pytest.param("cuda", FakeTensorMode, marks=pytest.mark.extended),
    ],
)
def test_a_graph_can_capture_gather_and_store(device, mode):
    """No operation that looks at a value. On `meta`, copying one to the host would fail besides; as fake, mixing."""
    with mode():
        check_capturable(device)


def check_capturable(device: str) -> None:
    """Run both, and see what ran."""
    spec = EnvSpec({**SPEC.observation, "big": ObsSpec("discrete", (), (70_000,))}, SPEC.action)
    latent = {**LATENT, "stoch": ((2,), "uint16")}
    replay = Replay(spec, 2, latent, capacity=40, batch_size=3, batch_length=4, storage="device", device=device)
    rows = torch.zeros((3, 5), dtype=torch.int64, device=device)
    fresh = {
        "deter": torch.empty((3, 4, 3), dtype=torch.bfloat16, device=device),
        "stoch": torch.empty((3, 4, 2), dtype=torch.int64, device=device),
    }
    with profile() as ops:
        batch = replay.gather(rows)
        replay.store(rows, fresh)
    assert batch.obs["image"].shape == (3, 4, 3, 2, 4)
    assert {x.device.type for x in tensors(batch)} == {device}
    assert (batch.obs["big"].dtype, batch.start.stoch.dtype) == (torch.int32, torch.int64)
    names = {event.name for event in ops.function_events}
    assert {"aten::index_select", "aten::index_copy_"} <= names
    assert not names & {"aten::item", "aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::equal"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_captured_graph_samples_and_refreshes_like_the_host():
    host = make_replay(batch=6)
    device = make_replay(batch=6, storage="device", device="cuda")
    for replay in (host, device):
        fill(replay, 15)
    rows = torch.full((6, 5), -1, dtype=torch.int64, device="cuda")
    fresh = {
        "deter": torch.zeros((6, 4, 3), device="cuda"),
        "stoch": torch.zeros((6, 4, 2), dtype=torch.int64, device="cuda"),
    }
    device.gather(rows)  # what is allocated or loaded once
    device.store(rows, fresh)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        batch = device.gather(rows)
        device.store(rows, fresh)
    for number in range(6):
        expected, index = host.sample()
        rows.copy_(device.rows(device.draw()))
        ids = index.start[:, None] + np.arange(1, 5)
        values = latent_of(index.env[:, None], ids, np.arange(6)[:, None] + np.full_like(ids, 10 * number))
        for name, value in values.items():
            fresh[name].copy_(torch.from_numpy(value))
        graph.replay()
        found = batch.to(CPU)
        torch.cuda.synchronize()  # `to` does not wait
        assert_equal(found, expected)
        host.refresh(index, values)
        for replay in (host, device):
            fill(replay, 2)


def test_too_large_for_the_device_is_said():
    with pytest.raises(ResourceError, match="no memory for a replay"):
        Replay(
            EnvSpec({"x": ObsSpec("vector", (1 << 30,))}, (ActionPart("a", "discrete", (2,)),)),
            1,
            LATENT,
            capacity=1 << 20,
            storage="device",
        )


def test_misuse_is_refused_alike():
    for storage in ("host", "device"):
        replay = make_replay(storage=storage)
        with pytest.raises(ValueError, match="no sequence"):
            replay.draw()
        flags = np.zeros(1, bool)
        records = Records({"vector": np.zeros((1, 2), np.float32)}, np.zeros(1, np.float32), flags, flags, flags)
        with pytest.raises(ValueError, match="obs/image"):
            replay.add(np.array([0]), records, np.zeros((1, 3), np.float32), latent_of(np.array([0]), 0, 0))
        assert replay.records == 0
