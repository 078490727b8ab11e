"""Arrays from .npz files that anybody may have written: no pickles, no surprise in size."""

import zipfile
import zlib
from collections.abc import Container
from pathlib import Path

import numpy as np

from dreamer_cli.errors import StateError
from dreamer_cli.files import open_file

LARGEST = 4 << 30  # bytes of all arrays that are asked for


def read_npz(path: Path, only: Container[str] | None = None) -> dict[str, np.ndarray]:
    """Arrays by name.

    Args:
        only: names to read, if they are there; None: all.

    Raises:
        StateError: the file is absent, damaged, too large, or holds something else than arrays of numbers.
    """
    found: dict[str, np.ndarray] = {}
    try:
        with open_file(path) as file, zipfile.ZipFile(file) as archive:
            members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
            wanted = {name: info for name, info in members.items() if only is None or name in only}
            if sum(info.file_size for info in wanted.values()) > LARGEST:
                raise StateError(f"{path} is not read: its arrays take more than {LARGEST >> 30} GiB.")
            if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in wanted.values()):
                raise StateError(f"{path} is not read: numpy does not compress like this.")
            for name, info in wanted.items():
                with archive.open(info) as member:
                    found[name] = np.lib.format.read_array(member, allow_pickle=False)
    except OSError as error:
        raise StateError(f"{path} cannot be read: {error.strerror or error}.") from error
    except (
        ValueError,
        EOFError,
        zipfile.BadZipFile,
        zlib.error,
        RuntimeError,
        NotImplementedError,
        MemoryError,
    ) as error:
        raise StateError(f"{path} is no .npz file of arrays ({type(error).__name__}).") from error
    for name, array in found.items():
        if array.dtype.kind not in "biuf":
            raise StateError(f"{path} is not read: {name} holds {array.dtype}, which is no number.")
    return found
