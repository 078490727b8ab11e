"""`dreamer imagine` on a real, tiny run: files, JSON, seeds, refusals."""

import json
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pytest
import torch
from PIL import Image

from dreamer_cli.commands.imagine import dream_video, imagine
from dreamer_cli.commands.train import train
from dreamer_cli.dream import batch_windows, dream, stack_windows
from dreamer_cli.errors import DreamerError, StateError, UsageError
from dreamer_cli.panels import CONTEXT, DREAM, INK
from dreamer_cli.report import Reporter, Result
from dreamer_cli.requests import ImagineRequest, TrainRequest
from dreamer_cli.world.objectives import Reconstruct
from tests.small import make_agent, make_batch
from tests.test_dream import make_stretch


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """CartPole, played for a few hundred steps by the tiniest networks; nothing is learnt, to save time."""
    path = tmp_path_factory.mktemp("imagine") / "run"
    request = TrainRequest(env="CartPole-v1", preset=("debug",), steps=240, train_ratio=0.0, run_dir=path, device="cpu")
    train(request, Reporter(quiet=True))
    return path


def ask(run: Path, **options: Any) -> Result:
    """One call, on the CPU, with small numbers unless said otherwise."""
    small = {"context": 3, "horizon": 6, "device": "cpu"} | (
        {} if options.get("mode") == "branches" else {"samples": 2}
    )
    return imagine(ImagineRequest(run=str(run), **{**small, **options}), Reporter(quiet=True))


def test_defaults_go_into_the_run(run):
    result = ask(run)
    out = run / "videos" / f"dream-{result.json['checkpoint_step']:09d}-openloop.mp4"
    assert result.text == [str(out)]
    with imageio.get_reader(out) as film:
        assert sum(1 for _ in film) == result.json["frames"] == 9
        assert film.get_meta_data()["size"] == (result.json["width"], result.json["height"])
    expected = {
        "run": str(run), "mode": "openloop", "source": "env", "out": str(out), "fps": 12,
        "context": 3, "horizon": 6, "samples": 2, "seed": 0,
    }  # fmt: skip
    assert expected.items() <= result.json.items()
    compared = {f"{name}{than}" for name in ("vector/mse", "reward/error") for than in ("", "/repeat", "/mean")}
    assert set(result.json["metrics"]) == {*compared, "cont/accuracy"}
    assert all(np.isfinite(value) for value in result.json["metrics"].values())


@pytest.mark.parametrize(("source", "mode"), [("env", "openloop"), ("replay", "policy")])
def test_a_seed_repeats_the_file(run, tmp_path, source, mode):
    def bytes_of(name: str, seed: int) -> bytes:
        ask(run, out=tmp_path / name, source=source, mode=mode, seed=seed)
        return (tmp_path / name).read_bytes()

    assert bytes_of("a.npz", 1) == bytes_of("b.npz", 1) != bytes_of("c.npz", 2)
    assert bytes_of("a.gif", 1) == bytes_of("b.gif", 1)


def test_arrays(run, tmp_path):
    result = ask(run, out=tmp_path / "dream.npz", mode="policy")
    with np.load(tmp_path / "dream.npz", allow_pickle=False) as arrays:
        assert arrays["model/vector"].shape == arrays["truth/vector"].shape == (2, 9, 4)
        assert arrays["action"].shape == (2, 9, 2)
        assert arrays["known"].tolist() == [3, 3]
        assert int(arrays["context"]) == 3
    assert (result.json["frames"], result.json["width"], result.json["fps"]) == (9, None, None)
    assert set(result.json["metrics"]) == {"reward", "cont", "return", "length"}


def test_actions_of_a_file_act_exactly_and_a_dream_can_be_repeated(run, tmp_path):
    first = ask(run, out=tmp_path / "first.npz", mode="policy")
    with np.load(tmp_path / "first.npz") as arrays:
        led = arrays["action"][:, 2:]
    again = ask(
        run, out=tmp_path / "again.npz", mode="actions", actions=tmp_path / "first.npz", source=tmp_path / "first.npz"
    )
    with np.load(tmp_path / "again.npz") as arrays:
        np.testing.assert_array_equal(arrays["action"][:, 2:-1], led[:, :-1])  # the last one led nowhere
        repeated = arrays["model/vector"]
    with np.load(tmp_path / "first.npz") as arrays:  # the same records, actions and chances: the same dream
        np.testing.assert_allclose(repeated, arrays["model/vector"], rtol=1e-4, atol=1e-5)
    assert again.json["metrics"] == pytest.approx(first.json["metrics"], rel=1e-4)
    (tmp_path / "own.json").write_text("[1, 0, 1]")
    result = ask(run, out=tmp_path / "own.npz", mode="actions", actions=tmp_path / "own.json")
    with np.load(tmp_path / "own.npz") as arrays:
        assert arrays["action"][:, 2:5].argmax(-1).tolist() == [[1, 0, 1]] * 2
    assert result.json["horizon"] == 3


def test_one_recording_of_a_file_is_one_dream(run, tmp_path):
    """However many samples there could be; and what the file does not know is not made up."""
    ask(run, out=tmp_path / "first.npz", samples=3)
    with np.load(tmp_path / "first.npz") as arrays:
        np.savez(tmp_path / "one.npz", vector=arrays["truth/vector"][0], action=arrays["action"][0])
        truth = arrays["truth/vector"][0]
    (tmp_path / "own.json").write_text("[1, 0]")
    options = {"source": tmp_path / "one.npz", "samples": 4, "horizon": None}
    result = ask(run, out=tmp_path / "led.npz", mode="actions", actions=tmp_path / "own.json", **options)
    assert (result.json["samples"], result.json["horizon"]) == (1, 2)
    result = ask(run, out=tmp_path / "open.npz", plot=tmp_path / "plot.png", **options)
    assert result.json["metrics"]["reward/error"] is None
    with np.load(tmp_path / "open.npz") as arrays:
        np.testing.assert_array_equal(arrays["truth/vector"][0], truth)
        assert np.isnan(arrays["true_reward"]).all()
    ask(run, out=tmp_path / "open.mp4", **options)


def test_ends_of_a_file_that_was_dreamt_are_known_again(run, tmp_path):
    ask(run, out=tmp_path / "first.npz", source="replay", horizon=200, samples=4)
    ask(run, out=tmp_path / "again.npz", source=tmp_path / "first.npz", horizon=200, samples=4)
    with np.load(tmp_path / "first.npz") as first, np.load(tmp_path / "again.npz") as again:
        assert (first["true_cont"] == 0).any()
        for name in ("true_cont", "true_reward", "known", "truth/vector"):
            np.testing.assert_array_equal(first[name], again[name])


def test_branches_say_what_they_promise(run, tmp_path):
    result = ask(
        run, out=tmp_path / "b.png", mode="branches", branch=("policy", "1", "random"), metrics=tmp_path / "b.json"
    )
    branches = result.json["branches"]
    assert [(one["branch"], one["length"]) for one in branches] == [("policy", 6), ("1", 6), ("random", 6)]
    assert branches[1]["action"] == 1
    assert result.json["samples"] == 3
    assert json.loads((tmp_path / "b.json").read_text())["branches"] == branches
    returns = [one["return"] for one in branches]
    assert result.json["metrics"]["return"] == pytest.approx(np.mean(returns))
    assert Image.open(tmp_path / "b.png").size == (result.json["width"], result.json["height"])


def test_two_files_of_one_name_are_refused(run, tmp_path):
    with pytest.raises(UsageError, match="different names"):
        ask(run, out=tmp_path / "x.png", plot=tmp_path / "." / "x.png")


def test_a_dream_from_the_prior_alone_plays_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setattr("dreamer_cli.commands.imagine.VectorEnv", None)
    result = ask(run, out=tmp_path / "prior.npz", mode="policy", source="prior")
    with np.load(tmp_path / "prior.npz") as arrays:
        assert arrays["known"].tolist() == [0, 0]
        assert arrays["model/vector"].shape[:2] == arrays["action"].shape[:2]
    assert result.json["context"] == 0
    assert ask(run, out=tmp_path / "prior.mp4", mode="policy", source="prior").json["frames"] == result.json["frames"]


def test_the_plot_is_a_picture(run, tmp_path):
    result = ask(run, out=tmp_path / "d.npz", plot=tmp_path / "errors.png")
    assert result.text == [str(tmp_path / "d.npz"), str(tmp_path / "errors.png")]
    assert result.json["plot_file"] == str(tmp_path / "errors.png")
    shown = np.asarray(Image.open(tmp_path / "errors.png"))
    for color in (DREAM, CONTEXT, INK):  # the model, and both that know nothing
        assert (shown == color).all(-1).sum() > 50


def test_strip_and_metrics_file(run, tmp_path):
    result = ask(run, out=tmp_path / "dream.png", metrics=tmp_path / "new" / "errors.json")
    assert result.text == [str(tmp_path / "dream.png"), str(tmp_path / "new" / "errors.json")]
    assert Image.open(tmp_path / "dream.png").size == (result.json["width"], result.json["height"])
    assert result.json["frames"] == 1
    tree = json.loads((tmp_path / "new" / "errors.json").read_text())
    assert [row["step"] for row in tree["steps"]] == [1, 2, 3, 4, 5, 6]
    assert tree["mean"] == result.json["metrics"]
    assert tree["mean"]["vector/mse"] == pytest.approx(np.mean([row["vector/mse"] for row in tree["steps"]]))


def test_horizon_beyond_the_episode(run, tmp_path):
    """Random balance lasts for some twenty steps; nothing is dreamt after an end, and nothing else is made up."""
    result = ask(run, out=tmp_path / "long.npz", horizon=2000, source="replay")
    with np.load(tmp_path / "long.npz") as arrays:
        longest = arrays["length"].max()
        assert arrays["action"].shape[1] == longest < 2003
        for m, length in enumerate(arrays["length"]):
            assert arrays["true_cont"][m, length - 1] in (0, 1)
            # CartPole moves less than this in a step; a reset in between would jump.
            assert np.abs(np.diff(arrays["truth/vector"][m, :length, 0])).max() < 0.2
    assert result.json["horizon"] == 2000
    assert result.json["frames"] == longest


@pytest.mark.parametrize(
    ("options", "kind", "says"),
    [
        ({"out": Path("film.avi")}, UsageError, ".mp4"),
        ({"metrics": Path("errors.csv")}, UsageError, ".json"),
        ({"checkpoint": 7}, StateError, "last"),
        ({"context": 400, "source": "replay"}, StateError, "--context"),
        ({"source": "prior"}, UsageError, "--mode"),
        ({"plot": Path("errors.svg")}, UsageError, ".png"),
        ({"mode": "branches", "branch": ("2",)}, UsageError, "0 to 1"),
        ({"mode": "branches", "branch": ("noop",)}, UsageError, "0 to 1"),
        ({"mode": "branches", "layout": "tree"}, UsageError, "grid"),
        ({"mode": "actions", "actions": Path("a.txt")}, UsageError, ".json"),
        ({"mode": "branches", "samples": 3}, UsageError, "--branch"),
    ],
)
def test_refusals_say_what_to_do(run, options, kind, says):
    with pytest.raises(kind) as error:
        ask(run, **options)
    assert says in error.value.hint


def test_without_decoder_nothing_is_played(run, monkeypatch):
    monkeypatch.setattr(Reconstruct, "decode", lambda self, feat: None)
    monkeypatch.setattr("dreamer_cli.commands.imagine.VectorEnv", None)
    with pytest.raises(DreamerError, match="no decoder") as error:
        ask(run)
    assert error.value.exit_code == 4


def test_a_checkpoint_without_replay(run, monkeypatch):
    monkeypatch.setattr("dreamer_cli.commands.imagine.REPLAY", "other.json")
    with pytest.raises(StateError, match=r"other\.json"):
        ask(run, source="replay")


def test_a_training_films_its_batches(tmp_path):
    """What `--dream-every` calls: from a replayed batch, with the state that was stored with it."""
    agent = make_agent(awake=True)
    batch = make_batch(agent, batch=3, time=12)
    windows, start = batch_windows(agent, batch, samples=2)
    random = torch.Generator().manual_seed(1)
    path = tmp_path / "dream.gif"
    film, dreams, errors = dream_video(agent, windows, path, title="toy", generator=random, start=start, horizon=50)
    assert film.frames == 12
    assert Image.open(path).size == (film.width, film.height)
    assert {"camera/mse", "camera/psnr", "camera/ssim", "speed/mse", "cards/accuracy"} <= set(errors)
    assert json.loads(path.with_suffix(".json").read_text())["mean"] == errors
    assert dreams.moments == 12
    assert torch.is_grad_enabled()


def test_dreams_leave_no_gradients():
    agent = make_agent()
    windows = stack_windows([make_stretch(5, 0)])
    dream(agent, windows, "policy", context=2, horizon=3, generator=torch.Generator().manual_seed(0))
    assert all(parameter.grad is None for parameter in agent.parameters())
