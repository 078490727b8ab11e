"""What trainer and worker say to each other: a line of JSON, and bytes. No pickles: a worker runs foreign code.

```
4 bytes: length of the JSON | 4 bytes: length of what follows it | JSON | bytes
```
Reading never waits for the rest of a message, so a worker that stops in the middle of one keeps nobody.
"""

import json
import selectors
import socket
import struct
from collections.abc import Callable
from typing import Any

LENGTHS = struct.Struct("!II")
LONGEST_JSON, LONGEST_BYTES = 16 << 20, 1 << 30
WAIT_S = 0.2


class BadMessage(Exception):
    """What came is no message."""


class Gone(Exception):
    """The other side has closed its end, or is no more."""


class Channel:
    """One end of `socket.socketpair()`."""

    def __init__(self, end: socket.socket) -> None:
        end.setblocking(False)
        self._end = end
        self._received = bytearray()

    def fileno(self) -> int:
        """For waiting until there is something to read."""
        return self._end.fileno()

    def send(self, tree: Any, blob: bytes = b"", check_stop: Callable[[], None] = lambda: None) -> None:
        """Say something; where the other side does not take it, `check_stop` is called until it does.

        Raises:
            Gone: nobody is left to hear it.
        """
        line = json.dumps(tree).encode()
        left = memoryview(LENGTHS.pack(len(line), len(blob)) + line + blob)
        try:
            while left:
                try:
                    left = left[self._end.send(left) :]
                except BlockingIOError:
                    with selectors.DefaultSelector() as selector:
                        selector.register(self._end, selectors.EVENT_WRITE)
                        selector.select(WAIT_S)
                    check_stop()
        except OSError as err:
            raise Gone from err

    def poll(self) -> tuple[Any, bytes] | None:
        """The next message if it has come as a whole; never waits.

        Raises:
            BadMessage: what came is none.
            Gone: nothing more will come.
        """
        message = self._take()
        while message is None:
            try:
                chunk = self._end.recv(1 << 20)
            except BlockingIOError:
                return None
            except OSError as err:
                raise Gone from err
            if not chunk:
                raise Gone
            self._received += chunk
            message = self._take()
        return message

    def wait(self) -> tuple[Any, bytes]:
        """The next message, however long it takes.

        Raises:
            BadMessage, Gone: as `poll`.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._end, selectors.EVENT_READ)
            while (message := self.poll()) is None:
                selector.select()
            return message

    def close(self) -> None:
        """Close this end."""
        self._end.close()

    def _take(self) -> tuple[Any, bytes] | None:
        if len(self._received) < LENGTHS.size:
            return None
        json_size, blob_size = LENGTHS.unpack_from(self._received)
        if json_size > LONGEST_JSON or blob_size > LONGEST_BYTES:
            raise BadMessage(f"a message of {json_size} and {blob_size} bytes")
        end = LENGTHS.size + json_size
        if len(self._received) < end + blob_size:
            return None
        line, blob = bytes(self._received[LENGTHS.size : end]), bytes(self._received[end : end + blob_size])
        del self._received[: end + blob_size]
        try:
            return json.loads(line), blob
        except (ValueError, RecursionError) as err:
            raise BadMessage("no JSON") from err
