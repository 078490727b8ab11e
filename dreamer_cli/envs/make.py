"""From an id to a wrapped environment: find it, import it, build it, and say what to type where that fails.

| id | means |
|---|---|
| `CartPole-v1`, `ALE/Pong-v5` | registered with Gymnasium, by itself or by a suite of `envs/catalog.py` |
| `atari:pong`, `classic:CartPole-v1` | a suite and its task: `ALE/Pong-v5`, `CartPole-v1` |
| `package:Id-v0` | import `package`, which registers `Id-v0` |
| `package.module:Class`, `./file.py:Class` | import it and call `Class(**kwargs)` |
"""

import contextlib
import ctypes.util
import difflib
import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import field
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, Literal

import gymnasium
from gymnasium.envs.registration import load_env_creator
from gymnasium.wrappers import TimeLimit
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from dreamer_cli.envs.catalog import SUITES, canonical, register_suites, suite_of
from dreamer_cli.envs.wrappers import DreamerEnv, Pixels, Repeat
from dreamer_cli.errors import ConfigError, DreamerError, EnvError, closest
from dreamer_cli.registry import STRICT

Vec = Literal["auto", "sync", "async", "native"]
# What MuJoCo draws with where there is no screen, the better first; Debian: libegl1 with libegl-mesa0, libosmesa6.
OFFSCREEN = (("egl", "EGL"), ("osmesa", "OSMesa"))
LEAST_BYTES = 128 << 20  # an interpreter with Gymnasium takes half of it


def _canonical(env_id: str | None) -> str | None:
    return None if env_id is None else canonical(env_id)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EnvConfig:
    """Which environment, and how it is shown to the agent.

    Attributes:
        id: Gymnasium id, `module:Id`, `pkg.mod:Class`, `./file.py:Class` or `suite:task`; None only before
            `--env` is known.
        kwargs: handed to the environment's constructor.
        repeat: every action is applied this often; rewards are summed.
        pixels: `off` takes observations as they are, `only` shows the rendered picture instead of them,
            `both` adds the picture to them as `image`.
        image_size: (rows, columns) of every image; None keeps sides up to 96 and makes 64x64 of larger ones.
        vec: `sync` steps one environment after the other, `async` steps them at once in several processes, `native`
            in C++ (games of `ALE/*` only), `auto` measures. Ids that are built in run in this process with `sync`,
            all others in one of their own. The records are the same, bit for bit.
        workers: processes of `async`, which share the environments evenly; None: one a core, or fewer environments.
        max_episode_steps: time limit in steps of the bare environment, before action repeat; None keeps its own.
        timeout_s: seconds that an environment may take for its constructor, a reset or a step, before it counts as
            hung; 0 waits for ever.
        max_bytes: what each worker process may allocate, beyond which the environment meets a MemoryError; None: half
            of the memory that is free at the start. Linux.
        on_crash: `fail` ends the run when an environment raises, dies, hangs or breaks its contract; `restart` cuts
            off its episode, builds it anew and goes on, three times in ten minutes.
    """

    id: Annotated[str | None, AfterValidator(_canonical)] = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    repeat: int = 1
    pixels: Literal["off", "only", "both"] = "off"
    image_size: tuple[int, int] | None = None
    vec: Vec = "auto"
    max_episode_steps: int | None = None
    timeout_s: float = 300.0
    workers: int | None = None
    max_bytes: int | None = None
    on_crash: Literal["fail", "restart"] = "fail"

    def __post_init__(self) -> None:
        if self.repeat < 1:
            raise ConfigError(f"env.repeat={self.repeat} is no number of steps.", hint="Try env.repeat=1.")
        if self.image_size is not None and min(self.image_size) < 8:
            raise ConfigError(f"env.image_size={self.image_size} is too small.", hint="Try 64x64.")
        if self.max_episode_steps is not None and self.max_episode_steps < 1:
            raise ConfigError(f"env.max_episode_steps={self.max_episode_steps} is no time limit.", hint="Try 1000.")
        if self.timeout_s < 0:
            raise ConfigError(f"env.timeout_s={self.timeout_s:g} is negative.", hint="0 waits for ever.")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"env.workers={self.workers} is no number of processes.", hint="Try env.workers=1.")
        if self.max_bytes is not None and self.max_bytes < LEAST_BYTES:
            raise ConfigError(
                f"env.max_bytes={self.max_bytes} is too little for a process.", hint=f"Try env.max_bytes={LEAST_BYTES}."
            )


def make_env(cfg: EnvConfig, render_mode: str | None = None) -> DreamerEnv:
    """Build and wrap one environment.

    Args:
        cfg: which, and how it is shown.
        render_mode: `rgb_array` if `frame()` is to render; environments that cannot show their image instead.

    Raises:
        EnvError: unknown id, failed import, missing extra, the constructor raised, nothing to learn from or act with.
    """
    env = bare_env(cfg, "rgb_array" if cfg.pixels != "off" else render_mode)
    env_id = cfg.id or ""
    repeat = cfg.repeat * frames_of_a_decision(env)
    if cfg.repeat > 1:
        env = Repeat(env, cfg.repeat)
    if cfg.pixels != "off":
        env = Pixels(env, cfg.pixels == "both", cfg.image_size, env_id)
    return DreamerEnv(env, env_id, repeat, cfg.image_size)


def bare_env(cfg: EnvConfig, render_mode: str | None = None) -> gymnasium.Env:
    """The environment as its authors made it: found, imported and built, but not wrapped.

    Raises:
        EnvError: unknown id, failed import, missing extra, or the constructor raised.
    """
    if cfg.id is None:
        raise EnvError("No environment was named.", hint="--env CartPole-v1; `dreamer envs list` shows what there is.")
    headless()
    with contextlib.redirect_stdout(sys.stderr):  # standard output is for results
        return _construct(find(cfg), cfg.id, render_mode)


def headless() -> None:
    """Let environments draw without a screen or a sound card; must run before they are imported."""
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("SDL_AUDIODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if sys.platform == "linux" and not os.environ.get("DISPLAY") and "MUJOCO_GL" not in os.environ:
        found = (name for name, library in OFFSCREEN if ctypes.util.find_library(library))
        os.environ["MUJOCO_GL"] = next(found, OFFSCREEN[0][0])


def frames_of_a_decision(env: gymnasium.Env) -> int:
    """Environment steps that one step of the environment stands for by itself: more than 1 only for Atari games."""
    return int(env.get_wrapper_attr("decision_frames")) if env.has_wrapper_attr("decision_frames") else 1


Build = Callable[[str | None], gymnasium.Env]


def find(cfg: EnvConfig) -> Build:
    """What builds the environment, given a render mode; imports whatever the id asks for.

    Raises:
        EnvError: nothing of that name can be found or imported.
    """
    env_id = cfg.id or ""
    place, colon, name = env_id.rpartition(":")
    if not colon:
        for suite, why in register_suites(env_id).items():
            raise EnvError(f"{env_id} needs {suite}, which cannot be imported: {why}", hint="Install it anew.")
        if env_id not in gymnasium.registry:
            register_suites()  # some bring ids that they do not claim: `PongNoFrameskip-v4`
        return _registered(env_id, cfg)
    module = _import_file(place) if place.endswith(".py") else _import_module(place, env_id)
    thing = getattr(module, name, None)
    if callable(thing):
        return lambda mode: _limited(_call(thing, cfg.kwargs, mode), cfg.max_episode_steps)
    if name in gymnasium.registry:
        return _registered(name, cfg)
    known = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, gymnasium.Env)]
    raise EnvError(
        f"{place} has no class {name!r}, and registers no environment of that name.",
        hint=closest(name, known) + (f"It has: {', '.join(known)}." if known else ""),
    )


def _registered(env_id: str, cfg: EnvConfig) -> Build:
    if env_id not in gymnasium.registry:
        raise _unknown(env_id)
    # Other ids of a suite's package were registered with arguments of their own: `PongNoFrameskip-v4`.
    suite = next((suite for suite in SUITES if suite.builder and suite.claims(env_id)), None)
    if suite is not None:
        make: Any = load_env_creator(suite.builder)
        return lambda mode: make(env_id, cfg.kwargs, cfg.image_size, cfg.max_episode_steps, mode)
    kwargs = dict(cfg.kwargs)
    if cfg.max_episode_steps is not None:
        kwargs["max_episode_steps"] = cfg.max_episode_steps

    def build(mode: str | None) -> gymnasium.Env:
        entry = gymnasium.registry[env_id].entry_point
        creator = load_env_creator(entry) if isinstance(entry, str) else entry
        modes = getattr(creator, "metadata", {}).get("render_modes", [mode])
        # Passed on only where it is understood: a constructor may not know the argument, not even as None.
        drawn: dict[str, Any] = {"render_mode": mode} if mode is not None and mode in modes else {}
        # The checker would warn at every worker's first step; what matters is checked by DreamerEnv, at every step.
        return gymnasium.make(env_id, disable_env_checker=True, **drawn, **kwargs)

    return build


def _unknown(env_id: str) -> EnvError:
    absent = next((s for s in SUITES if s.claims(env_id) and not s.installed), None)
    if absent is not None:
        return EnvError(
            f"{env_id} needs what is not installed: {absent.needs.replace(' ', ', ')}.", hint=absent.install
        )
    stem = env_id.rpartition("-v")[0] or env_id
    versions = [known for known in gymnasium.registry if stem in (_stem(known), _stem(known.rpartition("/")[2]))]
    if versions:
        meant = " or ".join(sorted(versions, key=lambda known: known.rpartition("-v")[2], reverse=True))
        return EnvError(f"There is no {env_id} here, but other versions of it.", hint=f"Did you mean {meant}?")
    # Compared without case and namespace, so that `cartpole` and `Pong-v5` find CartPole-v1 and ALE/Pong-v5.
    names = {known.rpartition("/")[2].lower(): known for known in gymnasium.registry if "/" in known}
    names |= {known.lower(): known for known in gymnasium.registry}
    close = difflib.get_close_matches(env_id.lower(), names, n=1)
    did_you_mean = f"Did you mean {names[close[0]]!r}? " if close else ""
    return EnvError(
        f"There is no environment {env_id!r}.",
        hint=f"{did_you_mean}`dreamer envs list` shows all; your own: -e ./file.py:Class or -e package.mod:Class.",
    )


def _stem(env_id: str) -> str:
    """The id without its version."""
    return env_id.rpartition("-v")[0]


def _import_module(name: str, env_id: str) -> ModuleType:
    # A console script does not look in the current directory, where a user's own module most often is.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name is not None and (name == err.name or name.startswith(f"{err.name}.")):
            raise EnvError(
                f"There is no module {name!r} for the environment {env_id!r}.",
                hint=f"Is the package installed? A file of yours: -e ./{name.replace('.', '/')}.py:Class",
            ) from err
        raise _import_failed(name, err) from err
    except (Exception, SystemExit) as err:
        raise _import_failed(name, err) from err


def _import_file(place: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise EnvError(f"There is no file {place} ({path}).", hint="The path counts from where dreamer is started.")
    # One module for each file, however many environments are built from it.
    name = f"dreamer_env_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise EnvError(f"{place} cannot be imported.")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # its neighbours are imported by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as err:
        del sys.modules[name]
        raise _import_failed(place, err) from err
    return module


def _import_failed(name: str, err: BaseException) -> EnvError:
    return EnvError(
        f"Importing {name} raised {type(err).__name__}: {err}", hint="--verbose shows where; then mend or install it."
    )


def _call(thing: Callable[..., Any], kwargs: Mapping[str, Any], mode: str | None) -> Any:
    """Call a class or a function of the user's; `render_mode` only where it is taken."""
    try:
        parameters = inspect.signature(thing).parameters.values()
        takes_mode = any(p.name == "render_mode" or p.kind is p.VAR_KEYWORD for p in parameters)
    except ValueError:  # built-in callables have no signature
        takes_mode = False
    return thing(**kwargs, render_mode=mode) if takes_mode and mode is not None else thing(**kwargs)


def _limited(env: Any, max_episode_steps: int | None) -> Any:
    return env if max_episode_steps is None else TimeLimit(env, max_episode_steps)


def _construct(build: Build, env_id: str, mode: str | None) -> gymnasium.Env:
    """Run the constructor; whatever it raises becomes an error that names the environment."""
    try:
        try:
            env = build(mode)
        except TypeError as err:
            # A registered environment whose constructor knows no render_mode.
            if mode is None or "render_mode" not in str(err):
                raise
            env = build(None)
    except DreamerError:
        raise
    except (gymnasium.error.DependencyNotInstalled, ModuleNotFoundError) as err:
        suite = suite_of(env_id)
        hint = suite.install if suite is not None and suite.extra else "Install it, then try again."
        raise EnvError(f"{env_id} cannot be built, something is not installed: {err}", hint=hint) from err
    except (Exception, SystemExit) as err:
        raise EnvError(
            f"{env_id} could not be built: {type(err).__name__}: {err}",
            hint="Its constructor's arguments are set with --env-kwarg NAME=VALUE; --verbose shows where it failed.",
        ) from err
    if not isinstance(env, gymnasium.Env):
        raise EnvError(
            f"{env_id} gave a {type(env).__module__}.{type(env).__name__}, which is no gymnasium.Env.",
            hint="Old gym and dm_env environments need an adapter: pip install shimmy",
        )
    return env
