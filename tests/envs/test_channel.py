"""Messages between trainer and worker arrive whole, or not at all, and keep nobody waiting."""

import socket
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dreamer_cli.envs.channel import LENGTHS, BadMessage, Channel, Gone
from dreamer_cli.errors import Preempted


@pytest.fixture
def ends():
    """A raw end, and a channel at the other."""
    raw, other = socket.socketpair()
    channel = Channel(other)
    yield raw, channel
    raw.close()
    channel.close()


@settings(max_examples=50, deadline=None)
@given(
    messages=st.lists(st.tuples(st.dictionaries(st.text(), st.integers()), st.binary(max_size=200)), max_size=4),
    cuts=st.lists(st.integers(1, 60), min_size=1),
)
def test_messages_arrive_however_they_are_cut(messages, cuts):
    left, right = socket.socketpair()
    recorder, sender = socket.socketpair()
    told, heard = Channel(sender), Channel(right)
    for tree, blob in messages:
        told.send(tree, blob)
    told.close()
    stream = b"".join(iter(lambda: recorder.recv(1 << 16), b""))
    found = []
    with left, recorder:
        while stream:
            size = cuts[len(stream) % len(cuts)]
            left.sendall(stream[:size])
            stream = stream[size:]
            while (message := heard.poll()) is not None:
                found.append(message)
        left.close()
        with pytest.raises(Gone):
            heard.poll()
    heard.close()
    assert found == messages


@pytest.mark.parametrize(
    "said",
    [
        b"\xff" * 8,
        b"x" * 64,
        LENGTHS.pack(4, 0) + b"}}}}",
        LENGTHS.pack(2, 0) + b"\xff\xfe",
        LENGTHS.pack(200_000, 0) + b"[" * 200_000,
    ],
)
def test_nonsense_is_refused(ends, said):
    raw, channel = ends
    threading.Thread(target=raw.sendall, args=(said,)).start()
    with pytest.raises(BadMessage):
        channel.wait()


def test_half_a_message_keeps_nobody(ends):
    raw, channel = ends
    raw.sendall(LENGTHS.pack(100, 1 << 20) + b"{")
    assert channel.poll() is None
    raw.close()
    with pytest.raises(Gone):
        channel.poll()


def test_who_does_not_listen_is_not_waited_for_in_vain(ends):
    _, channel = ends
    began = time.monotonic()

    def stop():
        raise Preempted("asked to")

    with pytest.raises(Preempted):
        channel.send({}, bytes(1 << 24), check_stop=stop)
    assert time.monotonic() - began < 2
