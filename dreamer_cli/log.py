"""Metrics: averaged while they come in, then written to `metrics.jsonl` and `episodes.csv`, and to other sinks.

What is read again (by `plot`, by `runs list`, on resume) is the two files. Both are appended to a line
at a time; a line torn by a crash or a full disk is skipped by the readers and cut away on resume.
Torch is imported only once tensors arrive, so that reading a run stays instant.
"""

import json
import logging
import math
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Any, NamedTuple

from dreamer_cli.files import open_append, open_file, write_atomic
from dreamer_cli.sinks import Record, Sink

METRICS_FILE = "metrics.jsonl"
EPISODES_FILE = "episodes.csv"

logger = logging.getLogger(__name__)


class Episode(NamedTuple):
    """One row of episodes.csv: a real episode that has ended.

    Attributes:
        step: environment steps of the whole run when it ended.
        updates: optimiser steps until then.
        env: index of the environment it ran in.
        episode: its number within that environment.
        ret: sum of rewards; the column is called `return`.
        length: environment steps.
        seconds: wall seconds since this training process began.
    """

    step: int
    updates: int
    env: int
    episode: int
    ret: float
    length: int
    seconds: float


HEADER = ",".join("return" if name == "ret" else name for name in Episode._fields)


class MetricsLog:
    """Averages metrics and writes them as records.

    Means are of finite values: what one skipped update could not say does not spoil the others.
    Tensors stay on their device, summed up, until a record is written; nothing waits for the device before.

    Args:
        run_dir: must exist.
        step: the environment step that a continued run goes on from; lines beyond it, which a later
            crash left behind, are dropped. None for a new run.
        records: how many records there were at that moment, as `state` has it: several may be of one step.
        sinks: where records go beside the files; see `sinks.open_sinks`.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        run_dir: Path,
        step: int | None = None,
        records: int | None = None,
        sinks: Sequence[Sink] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        if step is not None:
            cut_metrics(run_dir / METRICS_FILE, step, records)
            cut_episodes(run_dir / EPISODES_FILE, step)
        self._clock = clock
        self._sinks = list(sinks)
        self._means = _Means()
        self._records = sum(_record(line) is not None for line in _lines(run_dir / METRICS_FILE))
        self._metrics = _LineFile(run_dir / METRICS_FILE)
        self._episodes = _LineFile(run_dir / EPISODES_FILE, header=HEADER)

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Count one update's metrics into the means: numbers, or tensors on any device (of many values: their mean)."""
        self._means.add(metrics)

    def episode(self, episode: Episode, told: Mapping[str, float] | None = None) -> None:
        """Write the row of one finished episode and count it into the next record's means.

        told: numbers by name that the environment tells of it.
        """
        row = (f"{value:.9g}" if isinstance(value, float) else str(value) for value in episode)
        self._episodes.append(",".join(row))
        self._means.add({"episode/return": episode.ret, "episode/length": episode.length})
        self._means.add({f"told/{name}": value for name, value in (told or {}).items()})

    def write(self, step: int, updates: int, episodes: int, values: Mapping[str, Any] | None = None) -> Record:
        """Write one record: the means since the last one, and `values` as they are.

        Returns:
            The record, as it was written: plain numbers, and None where one was not finite. Memory is added.
        """
        means, counts = self._means.take()
        if "episode/return" in counts:
            means["episode/count"] = counts["episode/return"]
        values = {**means, **(values or {}), **memory_bytes()}
        record: Record = {"time": round(self._clock(), 3), "step": step, "updates": updates, "episodes": episodes}
        record.update((name, plain_number(value)) for name, value in values.items())
        self._records += self._metrics.append(json.dumps(record, allow_nan=False))
        for sink in list(self._sinks):
            try:
                sink.write(record)
            except Exception as err:  # other people's code, and a logger must never end a training
                warnings.warn(f"{type(sink).__name__} failed and is switched off: {err}", RuntimeWarning, stacklevel=2)
                self._sinks.remove(sink)
        return record

    def state(self) -> Record:
        """The means under way, as a JSON tree: with it, a continued run writes the records of one never stopped."""
        return {**self._means.state(), "records": self._records}

    def restore(self, state: Record) -> None:
        """Take up the means that `state` saved."""
        self._means.restore(state)

    def close(self) -> None:
        """Close files and sinks. The means under way are lost: write a last record first."""
        self._metrics.close()
        self._episodes.close()
        for sink in self._sinks:
            sink.close()
        self._sinks.clear()

    def __enter__(self) -> "MetricsLog":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class _Means:
    """Sums and counts by name, of finite values only; tensors of one update are summed as one vector per device.

    In double precision, one after the other, and saved as they are: a run that stopped goes on adding where it was.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, tuple[float, int]] = {}
        self._tensors: dict[tuple[Any, tuple[str, ...]], tuple[Any, Any]] = {}  # sums, counts
        self._saved: dict[tuple[str, ...], tuple[list[float], list[int]]] = {}  # of tensors not met again yet

    def add(self, metrics: Mapping[str, Any]) -> None:
        tensors: dict[Any, dict[str, Any]] = {}
        for name, value in metrics.items():
            if hasattr(value, "detach"):
                value = value.detach().float()
                tensors.setdefault(value.device, {})[name] = value.mean() if value.ndim else value
            else:
                total, count = self._numbers.get(name, (0.0, 0))
                finite = math.isfinite(value)
                self._numbers[name] = (total + (float(value) if finite else 0.0), count + finite)
        for device, named in tensors.items():
            self._add_tensors(device, named)

    def _add_tensors(self, device: Any, named: Mapping[str, Any]) -> None:
        import torch

        names = tuple(named)
        # Summed at once, by copy: with CUDA graphs the next update overwrites these very tensors.
        vector = torch.stack(list(named.values()))
        vector = vector if device.type == "mps" else vector.double()  # mps has none
        finite = vector.isfinite()
        if (device, names) in self._tensors:
            total, count = self._tensors[device, names]
        elif names in self._saved:
            sums, counts = self._saved.pop(names)
            total, count = vector.new_tensor(sums), torch.tensor(counts, device=device)
        else:
            total, count = torch.zeros_like(vector), torch.zeros_like(finite, dtype=torch.int64)
        # An update that was skipped has nothing to say of the others.
        self._tensors[device, names] = (total + torch.where(finite, vector, 0), count + finite)

    def take(self) -> tuple[dict[str, float | None], dict[str, int]]:
        """Means and counts by name (no mean where no value was finite); begins anew."""
        sums = dict(self._numbers)
        for names, (totals, numbers) in self._vectors():
            for name, total, number in zip(names, totals, numbers, strict=True):
                before, count = sums.get(name, (0.0, 0))
                sums[name] = (before + total, count + number)
        self._numbers, self._tensors, self._saved = {}, {}, {}
        means = {name: total / count if count else None for name, (total, count) in sums.items()}
        return means, {name: count for name, (_, count) in sums.items()}

    def state(self) -> Record:
        return {
            "numbers": {name: [total, count] for name, (total, count) in self._numbers.items()},
            "tensors": [[list(names), totals, counts] for names, (totals, counts) in self._vectors()],
        }

    def restore(self, state: Record) -> None:
        self._tensors.clear()
        self._numbers = {name: (float(total), int(count)) for name, (total, count) in state["numbers"].items()}
        self._saved = {tuple(names): (totals, counts) for names, totals, counts in state["tensors"]}

    def _vectors(self) -> list[tuple[tuple[str, ...], tuple[list[float], list[int]]]]:
        """Sums and counts of tensors: one copy from the device per set of names."""
        here = [(names, (total.tolist(), count.tolist())) for (_, names), (total, count) in self._tensors.items()]
        return [*self._saved.items(), *here]


class _LineFile:
    """A text file that lines are appended to, each in one unbuffered write.

    A full disk loses lines, with one warning, but does not end the training; a line cut short by it is
    closed off, so that the next one is whole again.
    """

    def __init__(self, path: Path, header: str = "") -> None:
        self._path = path
        self._file = open_append(path)
        self._torn = False
        self._warned = False
        if header and self._file.tell() == 0:
            self.append(header)

    def append(self, line: str) -> bool:
        """Whether the line is there now, in whole."""
        data = (b"\n" if self._torn else b"") + line.encode() + b"\n"
        try:
            written = self._file.write(data)
            self._torn = written != len(data)
            problem = "the disk is full" if self._torn else ""
        except OSError as err:
            problem = err.strerror or str(err)
        if problem and not self._warned:
            self._warned = True
            warnings.warn(f"{self._path.name}: {problem}, lines are being lost", RuntimeWarning, stacklevel=3)
        return not problem

    def close(self) -> None:
        self._file.close()


def plain_number(value: Any) -> int | float | None:
    """A number that JSON can hold: single precision's seven digits, None if there is none that is finite."""
    if value is None:
        return None
    if isinstance(value, Integral):
        return int(value)
    number = float(value)
    return float(f"{number:.7g}") if math.isfinite(number) else None


def memory_bytes() -> dict[str, int]:
    """Memory of this process and, once torch uses an accelerator, what torch holds there; metrics by name."""
    memory = {}
    statm = Path("/proc/self/statm")
    if statm.exists():
        memory["memory/process_bytes"] = int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        memory["memory/device_bytes"] = torch.cuda.memory_reserved()
    return memory


def read_metrics(path: Path, tail_bytes: int | None = None) -> list[Record]:
    """The records of a run directory, or of a metrics.jsonl, in the order they were written.

    Lines that are no record (torn by a crash, or still being written) are skipped; no file, no records.
    With `tail_bytes`, only those in so much of the end.
    """
    path = path / METRICS_FILE if path.is_dir() else path
    return [record for line in _lines(path, tail_bytes) if (record := _record(line)) is not None]


def read_episodes(path: Path, tail_bytes: int | None = None) -> list[Episode]:
    """The episodes of a run directory, or of an episodes.csv; like `read_metrics`."""
    path = path / EPISODES_FILE if path.is_dir() else path
    return [episode for line in _lines(path, tail_bytes) if (episode := _episode(line)) is not None]


def cut_metrics(path: Path, step: int, records: int | None = None) -> None:
    """Drop what is no whole record, and the records beyond `step` or beyond so many."""
    kept = 0

    def keep(line: bytes) -> bool:
        nonlocal kept
        record = _record(line)
        good = record is not None and record["step"] <= step and (records is None or kept < records)
        kept += good
        return good

    _cut(path, keep)


def cut_episodes(path: Path, step: int) -> None:
    """Drop what is no whole row, and the episodes that ended beyond `step`."""
    header = HEADER.encode()
    _cut(path, lambda line: line == header or ((row := _episode(line)) is not None and row.step <= step))


def _lines(path: Path, tail_bytes: int | None = None) -> list[bytes]:
    """Whole lines only: one without its line feed is still being written, or was torn."""
    if not path.is_file():  # a pipe in its place would be waited for, for ever
        return []
    with open_file(path) as file:
        begin = 0 if tail_bytes is None else max(0, os.fstat(file.fileno()).st_size - tail_bytes)
        file.seek(begin)
        lines = file.read().split(b"\n")[:-1]
    return lines[1:] if begin else lines  # the first one may have been cut by the seek


def _record(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None


def _episode(line: bytes) -> Episode | None:
    try:
        step, updates, env, episode, ret, length, seconds = line.decode().split(",")
        return Episode(int(step), int(updates), int(env), int(episode), float(ret), int(length), float(seconds))
    except ValueError:
        return None


def _cut(path: Path, keep: Callable[[bytes], bool]) -> None:
    """Rewrite a file with the lines to keep; it is replaced whole, or not at all."""
    if not path.is_file():
        return
    old = path.read_bytes()
    new = b"".join(line + b"\n" for line in _lines(path) if keep(line))
    if new != old:
        write_atomic(path, [new])


@contextmanager
def warnings_to(say: Callable[[str], object]) -> Iterator[None]:
    """Give Python's warnings, and what libraries log as a warning or worse, to `say`, a line each.

    On a terminal they would tear the live display apart; `Reporter.detail` puts them into the log file.
    """
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: _say(say, f"{record.levelname.lower()}: {record.name}: {record.getMessage()}")  # type: ignore[method-assign]
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, category, filename, lineno, file=None, line=None: _say(
            say, f"warning: {category.__name__}: {message} ({filename}:{lineno})"
        )
        logging.getLogger().addHandler(handler)
        try:
            yield
        finally:
            logging.getLogger().removeHandler(handler)


def _say(say: Callable[[str], object], text: str) -> None:
    say(" ".join(re.sub(r"\x1b\[[0-9;]*m", "", text).split()))
