"""How options are read: every one arrives, typos name the nearest, wrong values say what is right."""

from pathlib import Path

import pytest

from dreamer_cli.requests import EvaluateRequest, ExportRequest, ImagineRequest, PlayRequest, TrainRequest
from dreamer_cli.runs import RunDir


@pytest.fixture
def run(tmp_path) -> str:
    path = tmp_path / "runs" / "CartPole-v1" / "20260101-000000-mine-s0"
    path.mkdir(parents=True)
    RunDir(path).write({"status": "finished", "started": "2026-01-01"})
    return "mine"


def test_train_without_options_asks_for_nothing(call, command):
    requests = command("train")
    assert call("train").code == 0
    assert requests == [TrainRequest(argv=("train",))]


def test_every_train_option_arrives(call, command):
    requests = command("train")
    typed = (
        "train -e ALE/Pong-v5 --env-kwarg a=1 --env-kwarg b=x -p atari -p cpu -c c.yaml -s optim.lr=1e-4 -s run.keep=2"
        " -n 1.5M --size 12m --train-ratio 0.5 --num-envs 4 --vec sync --pixels --image-size 64x96 --seed 3"
        " --device cuda:1 --precision bf16 --no-compile --deterministic --run-dir d --runs-dir r --name n --resume must"
        " --save-every 10m --keep 5 --max-time 11h30m --eval-every 10k --eval-episodes 7 --dream-every 1e3"
        " --init-from @last --log tensorboard,wandb --plan"
    )
    argv = typed.split()
    assert call(*argv).code == 0
    expected = TrainRequest(
        env="ALE/Pong-v5",
        env_kwarg=("a=1", "b=x"),
        preset=("atari", "cpu"),
        config=Path("c.yaml"),
        settings=("optim.lr=1e-4", "run.keep=2"),
        steps=1_500_000,
        size="12m",
        train_ratio=0.5,
        num_envs=4,
        vec="sync",
        pixels=True,
        image_size=(64, 96),
        seed=3,
        device="cuda:1",
        precision="bf16",
        compile=False,
        deterministic=True,
        run_dir=Path("d"),
        runs_dir=Path("r"),
        name="n",
        resume="must",
        save_every="10m",
        keep=5,
        max_time=41_400.0,
        eval_every=10_000,
        eval_episodes=7,
        dream_every=1000,
        init_from="@last",
        log=("tensorboard", "wandb"),
        plan=True,
        argv=tuple(argv),
    )
    assert requests == [expected]
    defaults = vars(TrainRequest())
    assert all(value != defaults[name] for name, value in vars(expected).items())


def test_every_option_of_the_other_commands_arrives(call, command, run):
    evaluated, imagined, exported = command("evaluate"), command("imagine"), command("export")
    played = command("play")
    argv = (
        "evaluate mine --checkpoint last --episodes 5 --num-envs 2 --seed 1 --policy mode --versus random --env X-v0"
        " --env-kwarg a=1 --min-return -200.5 --video v.mp4 --output o.csv --device cpu"
    )
    assert call(*argv.split()).code == 0
    assert evaluated == [
        EvaluateRequest(
            run="mine", checkpoint="last", episodes=5, num_envs=2, seed=1, policy="mode", versus="random", env="X-v0",
            env_kwarg=("a=1",), min_return=-200.5, video=Path("v.mp4"), output=Path("o.csv"), device="cpu",
        )
    ]  # fmt: skip
    argv = (
        "imagine mine --checkpoint 400k -o d.gif --mode policy --source replay --context 3 --horizon 9 --samples 2"
        " --seed 4 --scale 3 --fps 10 --metrics m.json --device cpu"
    )
    assert call(*argv.split()).code == 0
    assert imagined == [
        ImagineRequest(
            run="mine", checkpoint=400_000, out=Path("d.gif"), mode="policy", source="replay", context=3, horizon=9,
            samples=2, seed=4, scale=3, fps=10, metrics=Path("m.json"), device="cpu",
        )
    ]  # fmt: skip
    argv = (
        "imagine mine --mode branches --branch policy,noop --branch 3 --layout tree --overlay reward,kl --plot p.png"
        " --source x.npz"
    )
    assert call(*argv.split()).code == 0
    assert imagined[1] == ImagineRequest(
        run="mine", mode="branches", branch=("policy", "noop", "3"), layout="tree", overlay=("reward", "kl"),
        plot=Path("p.png"), source=Path("x.npz"),
    )  # fmt: skip
    argv = "play mine --ui term --port 8000 --open --fps 30 --policy mode --seed 3 -e X-v0 --env-kwarg a=1"
    assert call(*argv.split()).code == 0
    assert played == [
        PlayRequest(
            run="mine", ui="term", port=8000, open_browser=True, fps=30, policy="mode", seed=3, env="X-v0",
            env_kwarg=("a=1",),
        )
    ]  # fmt: skip
    argv = "export mine -o x --format pt2 --part all --no-verify --opset 18 --checkpoint best"
    assert call(*argv.split()).code == 0
    assert exported == [
        ExportRequest(
            run="mine", checkpoint="best", out=Path("x"), format="pt2", part="all", verify=False, opset=18
        )
    ]  # fmt: skip


def test_defaults_of_the_other_commands(call, command, run):
    evaluated, imagined, exported = command("evaluate"), command("imagine"), command("export")
    for verb in ("evaluate", "imagine", "export"):
        assert call(verb, run).code == 0
    assert evaluated == [EvaluateRequest(run=run)]
    assert imagined == [ImagineRequest(run=run)]
    assert exported == [ExportRequest(run=run)]


@pytest.mark.parametrize("verb", ["evaluate", "imagine", "export", "inspect"])
def test_an_unknown_run_is_a_state_error_before_anything_loads(call, verb):
    done = call(verb, "nothing")
    assert done.code == 4
    assert "nothing" in done.err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        ("train --steps 1m", "Did you mean 1M?"),
        ("train --steps 0", ""),
        ("train --steps ten", "400k"),
        ("train --steps 1.5", ""),
        ("train --steps=-5", ""),
        ("train --train-ratio nan", ""),
        ("train --train-ratio=-1", ""),
        ("train --num-envs 1M", ""),
        ("train --max-time 3600", "3600s"),
        ("train --save-every often", "10m for minutes"),
        ("train --seed -1", ""),
        ("train --seed 5G", ""),
        ("train --size 13m", "12m, 25m"),
        ("train --vec nativ", "auto"),
        ("train --resume allways", "never"),
        ("train --precision fp16", "bf16"),
        ("train --image-size 64x", "64x64"),
        ("train --image-size 9999x9999", "64x64"),
        ("train --device foo", "cuda:1"),
        ("evaluate mine --device foo", "cuda:1"),
        ("imagine mine --device cup", "Did you mean 'cpu'?"),
        ("train --log tensorbord", "Did you mean 'tensorboard'?"),
        ("train --stpes 5", "Did you mean '--steps'?"),
        ("train --steps", "--help"),
        ("train extra", "--help"),
        ("train --run-dir=", ""),
        ("trian", "Did you mean 'train'?"),
        ("runs lst", "Did you mean 'list'?"),
        ("evaluate", "RUN"),
        ("evaluate mine --policy plans", "sample"),
        ("evaluate mine --output x.txt", ".json or .csv"),
        ("evaluate mine --checkpoint bset", "Did you mean 'best'?"),
        ("imagine mine --mode branch", "branches"),
        ("imagine mine --overlay reward,vaule", "'value'"),
        ("imagine mine --source preplay", "'replay'"),
        ("play", "RUN"),
        ("play mine --ui window", "term"),
        ("play mine --port 99999", "--help"),
        ("plot mine", "Known:"),
        ("--nothing", "--help"),
        ("runs list --status deaf", "Did you mean 'dead'?"),
    ],
)
def test_usage_errors_exit_2_and_say_what_is_right(call, run, argv, hint):
    done = call(*argv.split())
    assert (done.code, done.out) == (2, "")
    assert hint in done.err.splitlines()[1]
    assert len(done.err.splitlines()) == 2


def test_a_checkpoint_directory_and_an_option_for_one_contradict(call, tmp_path, run):
    checkpoint = tmp_path / "runs" / "CartPole-v1" / "20260101-000000-mine-s0" / "checkpoints" / "000000100"
    checkpoint.mkdir(parents=True)
    assert call("inspect", str(checkpoint), "--checkpoint", "last").code == 2
