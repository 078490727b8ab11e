"""Files are whole, playable, and the same for the same pictures."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import imageio.v2 as imageio
import numpy as np
import pytest
from PIL import Image

from dreamer_cli.errors import ResourceError, UsageError
from dreamer_cli.video import check_format, write_arrays, write_film, write_picture


def pictures(number: int = 6, rows: int = 33, columns: int = 47) -> Iterator[np.ndarray]:
    """A white square that wanders over flat colours; odd sizes."""
    for t in range(number):
        picture = np.zeros((rows, columns, 3), np.uint8)
        picture[:, :] = (0, 114, 178)
        picture[8:16, 4 * t : 4 * t + 8] = 255
        yield picture


def test_mp4_plays_everywhere(tmp_path):
    path = tmp_path / "new" / "film.mp4"
    film = write_film(path, pictures(), fps=10)
    assert film == (6, 48, 34)  # padded to even sizes, not scaled
    with imageio.get_reader(path) as reader:
        meta = reader.get_meta_data()
        read = [np.asarray(frame) for frame in reader]
    assert meta["codec"] == "h264"
    assert meta["pix_fmt"].startswith("yuv420p")
    assert meta["size"] == (48, 34)
    assert meta["fps"] == 10
    assert len(read) == 6
    assert read[2][12, 11].min() > 230
    assert np.abs(read[2][25, 40].astype(int) - (0, 114, 178)).max() < 12
    data = path.read_bytes()
    assert data.find(b"moov") < data.find(b"mdat"), "not faststart: browsers must load all before they play"
    assert [file.name for file in path.parent.iterdir()] == ["film.mp4"]


@pytest.mark.parametrize(("suffix", "tolerance"), [(".gif", 4), (".webp", 0)])
def test_gif_and_webp(tmp_path, suffix, tolerance):
    path = tmp_path / f"film{suffix}"
    assert write_film(path, pictures(), fps=8) == (6, 47, 33)
    with Image.open(path) as film:
        assert film.n_frames == 6
        assert film.size == (47, 33)
        film.seek(3)
        film.load()
        assert film.info["duration"] == (120 if suffix == ".gif" else 125)
        shown = np.asarray(film.convert("RGB")).astype(int)
    assert np.abs(shown - list(pictures())[3]).max() <= tolerance


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_same_pictures_same_bytes(tmp_path, suffix):
    for name in "ab":
        write_film(tmp_path / f"{name}{suffix}", pictures(), fps=10)
    assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_picture_and_arrays(tmp_path):
    picture = next(pictures())
    assert write_picture(tmp_path / "a.png", picture) == (1, 47, 33)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), picture)
    write_arrays(tmp_path / "a.npz", {"truth/image": picture, "reward": np.arange(3.0)})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["truth/image"], picture)
        assert arrays["reward"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", [".mp4", ".gif", ".webp"])
def test_a_failure_leaves_the_old_film_and_nothing_else(tmp_path, suffix):
    def breaks() -> Iterator[np.ndarray]:
        yield from pictures(3)
        raise RuntimeError("drawing failed")

    path = tmp_path / f"film{suffix}"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="drawing failed"):
        write_film(path, breaks(), fps=10)
    assert path.read_text() == "old"
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_pictures_are_taken_one_at_a_time(tmp_path):
    """A film of any length fits into memory: mp4 never asks for a second picture before the first is away."""
    drawn: list[int] = []

    def stream() -> Iterator[np.ndarray]:
        for t, picture in enumerate(pictures(4)):
            drawn.append(t)
            yield picture

    write_film(tmp_path / "film.mp4", stream(), fps=10)
    assert drawn == [0, 1, 2, 3]


def test_sizes_may_not_change(tmp_path):
    with pytest.raises(ValueError, match="picture 1"):
        write_film(tmp_path / "film.gif", [np.zeros((8, 8, 3), np.uint8), np.zeros((8, 9, 3), np.uint8)], fps=10)


def test_errors_say_what_to_type(tmp_path):
    with pytest.raises(UsageError) as error:
        write_film(tmp_path / "film.mp5", pictures(), fps=10)
    assert error.value.exit_code == 2
    assert "'.mp4'" in error.value.hint
    with pytest.raises(UsageError, match=r"film\.png"):
        write_film(tmp_path / "film.png", pictures(), fps=10)
    with pytest.raises(UsageError, match="no pictures"):
        write_film(tmp_path / "film.mp4", [], fps=10)
    with pytest.raises(UsageError, match="per second"):
        write_film(tmp_path / "film.mp4", pictures(), fps=0)
    assert check_format(Path("A.MP4")) == ".mp4"


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_a_place_that_cannot_be_written(tmp_path, suffix):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ResourceError, match="cannot be written") as error:
        write_film(tmp_path / "file" / f"film{suffix}", pictures(), fps=10)
    assert error.value.exit_code == 5
    (tmp_path / f"folder{suffix}").mkdir()
    with pytest.raises(ResourceError):
        write_film(tmp_path / f"folder{suffix}", pictures(), fps=10)


def test_an_encoder_that_fails(tmp_path, monkeypatch):
    """ffmpeg dies at once; the user gets one sentence, and no debris."""
    real = subprocess.Popen

    def popen(command: list[str], **options):
        return real(["false"], **options) if "libx264" in command else real(command, **options)

    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(ResourceError, match="cannot be written"):
        write_film(tmp_path / "film.mp4", pictures(200, 64, 64), fps=10)
    assert list(tmp_path.iterdir()) == []
