"""Files that somebody made to hurt: what they are, how to put them into a run, and what reading them costs."""

import hashlib
import json
import os
import pickle
import resource
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dreamer_cli import yamlio
from dreamer_cli.errors import DreamerError
from dreamer_cli.files import JSON_LIMIT, file_digest, json_bytes, read_json
from dreamer_cli.manifest import MANIFEST


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def pickled(mark: Path, protocol: int = 4) -> bytes:
    """A pickle that makes the directory `mark`."""
    return pickle.dumps(Bomb(mark), protocol)


def vouch(checkpoint: Path, **files: list) -> None:
    """Write a manifest that agrees with a checkpoint's files as they are now; `files` are entries put in by hand."""
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["sha256"]
    present = [path for path in checkpoint.iterdir() if path.name not in (MANIFEST, *files)]
    manifest["files"] = {path.name: [path.stat().st_size, file_digest(path)] for path in present} | files
    own = hashlib.sha256(json_bytes(manifest)).hexdigest()
    (checkpoint / MANIFEST).write_text(json.dumps({**manifest, "sha256": own}))


def newest(run: Path) -> Path:
    """The newest checkpoint."""
    return max(path for path in (run / "checkpoints").iterdir() if path.name.isdecimal())


class Cost(NamedTuple):
    """Of one call: `ended` is `fine`, or the class of the exception and whether it was ours."""

    seconds: float
    bytes: int
    ended: str


def cost(function: Callable[[], object], limit_s: float = 20.0) -> Cost:
    """What a call costs, in a child of its own, so that memory counts that was given back at once."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit_s), int(limit_s) + 1))
        before, began = _peak(), time.process_time()
        try:
            function()
            ended = "fine"
        except BaseException as error:
            ended = f"{type(error).__name__}{'' if isinstance(error, DreamerError) else ' that is not ours'}"
        told = [time.process_time() - began, _peak() - before, ended]
        os.write(write, json.dumps(told).encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read()
    os.waitpid(child, 0)
    return Cost(*json.loads(told)) if told else Cost(limit_s, 0, "killed")


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


def safetensors_file(header: bytes | dict, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of that form, whatever the header says; `length` lies about the header's."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int = 0, end: int = 4, shape: object = (1,), dtype: str = "F32") -> dict:
    """One tensor of a header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


JSON: dict[str, Callable[[], bytes]] = {
    "empty lists": lambda: b"[" + b"[]," * (JSON_LIMIT // 3) + b"0]",
    "as many as allowed": lambda: b"[" + b"[0]," * 399_990 + b"0]",
    "dicts as allowed": lambda: b"[" + b'{"a":0},' * 199_990 + b"0]",
    "one dict": lambda: b"{" + b",".join(b'"%d":%d' % (i, i) for i in range(399_000)) + b"}",
    "numbers": lambda: b"[" + b"1.5," * ((JSON_LIMIT - 8) // 4) + b"0]",
    "texts": lambda: b"[" + b'"ab",' * ((JSON_LIMIT - 8) // 5) + b"0]",
    "wide text": lambda: '"😀'.encode() + b"x" * (JSON_LIMIT - 10) + b'"',
    "deep lists": lambda: b"[" * JSON_LIMIT,
    "rather deep lists": lambda: b"[" * 390_000,
    "deep dicts": lambda: b'{"a":' * 199_000,
    "long number": lambda: b"1" * JSON_LIMIT,
    "too long": lambda: b" " * (JSON_LIMIT + 1),
    "escapes": lambda: b'"' + b"\\u0041" * (JSON_LIMIT // 6 - 2) + b'"',
}

MOST = yamlio.MAX_BYTES
YAML: dict[str, Callable[[], bytes]] = {
    "aliases": lambda: (
        b"a: &a [x, x]\n" + b"\n".join(b"%c: &%c [*%c, *%c]" % (c, c, c - 1, c - 1) for c in b"bcdefghijk")
    ),
    "tags": lambda: b"!!python/object/apply:os.system ['true']",
    "deep lists": lambda: b"[" * MOST,
    "deep dicts": lambda: b"{a: " * (MOST // 4),
    "deep blocks": lambda: b"- " * (MOST // 2),
    "deep keys": lambda: b"? " * (MOST // 2),
    "many keys": lambda: b"".join(b"k%d: 1\n" % i for i in range(MOST // 12)),
    "one key": lambda: b"a: 1\n" * (MOST // 5),
    "empty lists": lambda: b"[" + b"[]," * (MOST // 3 - 1) + b"]",
    "numbers": lambda: b"[" + b"1," * (MOST // 2 - 1) + b"]",
    "long number": lambda: b"a: " + b"9" * (MOST - 3),
    "exponent": lambda: b"a: 1e999999999",
    "comments": lambda: b"#\n" * (MOST // 2),
    "anchors": lambda: b"- &a a\n" * (MOST // 7),
    "documents": lambda: b"---\n" * (MOST // 4),
    "too long": lambda: b"a: " + b"x" * 5_000_000,
    "NUL": lambda: b"a: \0",
    "UTF-16": lambda: "a: 1".encode("utf-16"),
    "quotes": lambda: b'a: "' + b"\\x41" * (MOST // 4 - 2),
}


def costs(directory: Path) -> dict[str, Cost]:
    """Of every kind above, name → what reading it costs in a plain process: pytest's type checks take longer."""
    found = {}
    for kinds, read in ((JSON, read_json), (YAML, yamlio.load_file)):
        for name, make in kinds.items():
            path = directory / "any"
            path.write_bytes(make())
            found[f"{'JSON' if kinds is JSON else 'YAML'}, {name}"] = cost(lambda read=read, path=path: read(path))
    return found


FOUR, MEGABYTE = b"\0\0\0\0", 1_000_000
TENSORS: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "three bytes": lambda: b"\1\2\3",
    "no header": lambda: safetensors_file(b"", length=0),
    "header of 2**63": lambda: safetensors_file(b"{}", length=2**63),
    "header of 2**64 - 1": lambda: safetensors_file(b"{}", length=2**64 - 1),
    "header longer than the file": lambda: safetensors_file(b"{}", length=1000),
    "header of 50 MB": lambda: safetensors_file(b"{" + b" " * 50 * MEGABYTE + b"}"),
    "header of blanks": lambda: safetensors_file(b" " * 100),
    "deep header": lambda: safetensors_file(b'{"a":' * 100_000),
    "deep metadata": lambda: safetensors_file(b'{"__metadata__":' + b"[" * 1_000_000),
    "a list": lambda: safetensors_file(b"[]"),
    "no UTF-8": lambda: safetensors_file(b'{"\xff":{}}'),
    "overlap": lambda: safetensors_file({"a": entry(), "b": entry()}, FOUR),
    "hole": lambda: safetensors_file({"a": entry(), "b": entry(8, 12)}, FOUR * 3),
    "beyond the end": lambda: safetensors_file({"a": entry(0, 4 * MEGABYTE, (MEGABYTE,))}, FOUR),
    "truncated": lambda: safetensors_file({"a": entry(0, 16, (4,))}, FOUR * 3),
    "rest": lambda: safetensors_file({"a": entry()}, FOUR * 2),
    "negative offset": lambda: safetensors_file({"a": entry(-4, 0)}, FOUR),
    "backwards": lambda: safetensors_file({"a": entry(4, 0)}, FOUR),
    "negative shape": lambda: safetensors_file({"a": entry(shape=(-1, -1))}, FOUR),
    "shape that overflows": lambda: safetensors_file({"a": entry(shape=(2**32, 2**32, 2**32))}, FOUR),
    "shape that overflows to fit": lambda: safetensors_file({"a": entry(shape=(2**62, 4, 1))}, FOUR),
    "shape of text": lambda: safetensors_file({"a": entry(shape="1")}, FOUR),
    "other dtype": lambda: safetensors_file({"a": entry(dtype="F64")}, FOUR),
    "unknown dtype": lambda: safetensors_file({"a": entry(dtype="PICKLE")}, FOUR),
    "same name twice": lambda: safetensors_file(
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        FOUR * 2,
    ),
    "zip": lambda: b"PK\3\4" + bytes(100),
}


if __name__ == "__main__":
    print(json.dumps(costs(Path(sys.argv[1]))))
