"""Pictures to a file: .mp4, .gif, .webp, .png, and arrays to .npz.

A film appears under its name only when it is whole: it is written beside its place under a temporary
name, then renamed. The same pictures give the same bytes (no dates, no encoder versions inside).
"""

import contextlib
import itertools
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from dreamer_cli.errors import ResourceError, UsageError, closest
from dreamer_cli.files import TEMPORARY

FORMATS = (".mp4", ".gif", ".webp", ".png", ".npz")
FILMS = (".mp4", ".gif", ".webp")
# A GIF counts hundredths of a second, and browsers slow down anything below two of them.
SHORTEST_GIF_MS = 20


class Film(NamedTuple):
    """What was written: number of pictures, and their size in pixels (mp4: after padding to even)."""

    frames: int
    width: int
    height: int


def check_format(path: Path, formats: tuple[str, ...] = FORMATS) -> str:
    """The lower-case suffix of `path`.

    Raises:
        UsageError: no such format; better known before an hour of rendering than after it.
    """
    suffix = path.suffix.lower()
    if suffix not in formats:
        raise UsageError(
            f"{path.name} does not end in a format that can be written.",
            hint=closest(suffix, list(formats)) + f"Known endings: {' '.join(formats)}",
        )
    return suffix


def write_film(path: Path, frames: Iterable[np.ndarray], fps: int | float) -> Film:
    """Write pictures as a film (.mp4, .gif, .webp), one at a time where the format allows.

    Args:
        path: its suffix chooses the format; missing folders are made.
        frames: uint8 (rows, columns, 3), all of one size; may be a generator.
        fps: pictures per second.

    Raises:
        UsageError: unknown suffix, no pictures, or fps not positive.
        ResourceError: the place cannot be written, or the encoder failed.
    """
    suffix = check_format(path, FILMS)
    if fps <= 0:
        raise UsageError(f"{fps} pictures per second make no film.", hint="--fps 15")
    stream = iter(frames)
    first = next(stream, None)
    if first is None:
        raise UsageError(f"There are no pictures to write to {path.name}.")
    counted = _Counted(itertools.chain([first], stream), first.shape)
    writer = {".mp4": _write_mp4, ".gif": _write_gif, ".webp": _write_webp}[suffix]
    _whole_or_not_at_all(path, lambda temporary: writer(temporary, counted, fps))
    rows, columns = first.shape[:2]
    if suffix == ".mp4":
        rows, columns = rows + rows % 2, columns + columns % 2
    return Film(counted.count, columns, rows)


def write_picture(path: Path, picture: np.ndarray) -> Film:
    """Write one uint8 picture (rows, columns, 3) as .png.

    Raises:
        UsageError, ResourceError: as `write_film`.
    """
    check_format(path, (".png",))
    _whole_or_not_at_all(path, lambda temporary: Image.fromarray(picture).save(temporary, format="PNG"))
    return Film(1, picture.shape[1], picture.shape[0])


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write named arrays as a compressed .npz that loads without pickle.

    Raises:
        UsageError, ResourceError: as `write_film`.
    """
    check_format(path, (".npz",))

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    _whole_or_not_at_all(path, write)


class _Counted:
    """Pictures on their way to an encoder: counted, checked to be of one size."""

    def __init__(self, frames: Iterator[np.ndarray], shape: tuple[int, ...]) -> None:
        self.frames = frames
        self.shape = shape
        self.count = 0

    def __iter__(self) -> Iterator[np.ndarray]:
        for frame in self.frames:
            if frame.shape != self.shape or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise ValueError(f"picture {self.count} is {frame.dtype} {frame.shape}, not uint8 {self.shape}")
            self.count += 1
            yield frame


def _whole_or_not_at_all(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside `path`, then rename: a reader never meets half a file, an old file survives a failure."""
    temporary = path.with_name(f"{TEMPORARY}{uuid.uuid4().hex}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        os.replace(temporary, path)
    except OSError as error:
        # imageio reports a failing ffmpeg as an OSError too, with its whole log: the last line says why.
        lines = [error.strerror or "", *(line.strip() for line in str(error).splitlines())]
        why = lines[0] or next((line for line in reversed(lines) if line), type(error).__name__)
        raise ResourceError(
            f"{path} cannot be written: {why}.", hint="Name another place or format: --out FILE"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_mp4(path: Path, frames: Iterable[np.ndarray], fps: int | float) -> None:
    """H.264 in yuv420p, which every player and browser takes; it needs even sizes."""
    # Imported here: looking for the ffmpeg binary costs a tenth of a second, and gif needs none.
    import imageio.v2 as imageio

    writer = imageio.get_writer(
        str(path),
        format="FFMPEG",
        mode="I",
        fps=fps,
        codec="libx264",
        pixelformat="yuv420p",
        macro_block_size=2,  # imageio's own 16 would rescale, and blur, most sizes
        quality=None,
        output_params=["-crf", "17", "-movflags", "+faststart", "-fflags", "+bitexact", "-flags:v", "+bitexact"],
        ffmpeg_log_level="error",
    )
    with contextlib.closing(writer):
        for frame in frames:
            rows, columns = frame.shape[:2]
            writer.append_data(np.pad(frame, ((0, rows % 2), (0, columns % 2), (0, 0)), mode="edge"))


def _write_gif(path: Path, frames: Iterable[np.ndarray], fps: int | float) -> None:
    """One palette for the whole film: with one a picture, flat areas flicker."""
    pictures = [Image.fromarray(frame) for frame in frames]
    sample = np.concatenate([np.asarray(picture)[::2, ::2] for picture in pictures[:: max(1, len(pictures) // 8)]])
    palette = Image.fromarray(sample).quantize(colors=255, method=Image.Quantize.MEDIANCUT)
    indexed = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    duration = max(SHORTEST_GIF_MS, 10 * round(100 / fps))
    indexed[0].save(
        path, format="GIF", save_all=True, append_images=indexed[1:], duration=duration, loop=0, optimize=False
    )


def _write_webp(path: Path, frames: Iterable[np.ndarray], fps: int | float) -> None:
    """Lossless: pixels and letters stay sharp, and flat areas cost nothing."""
    stream = (Image.fromarray(frame) for frame in frames)
    first = next(stream)
    first.save(
        path,
        format="WEBP",
        save_all=True,
        append_images=stream,
        duration=round(1000 / fps),
        loop=0,
        lossless=True,
        quality=30,
        method=2,
    )
