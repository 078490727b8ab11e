"""The tree of all settings, and the way from files and options to it.

Each part's settings stand beside the part; here are the run's own, and the root.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass as plain_dataclass
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from dreamer_cli import presets as preset_files
from dreamer_cli import yamlio
from dreamer_cli.behaviour.actor_critic import ActorCriticConfig
from dreamer_cli.behaviour.contract import BEHAVIOURS
from dreamer_cli.checks import check_blocks, validate
from dreamer_cli.devices import parse_device
from dreamer_cli.envs.catalog import canonical
from dreamer_cli.envs.make import EnvConfig
from dreamer_cli.errors import ConfigError, StateError, UsageError, closest
from dreamer_cli.migrate import CONFIG_VERSION, migrate_config
from dreamer_cli.numbers import parse_cadence
from dreamer_cli.optim.build import OPTIMISERS
from dreamer_cli.optim.laprop import LaPropConfig
from dreamer_cli.registry import STRICT, AtLeastOne, Count, Weight, slot, to_tree
from dreamer_cli.replay.storage import ReplayConfig
from dreamer_cli.trees import leaves
from dreamer_cli.world.model import WorldConfig

SCHEMA_VERSION = CONFIG_VERSION

# The weight of each loss. A loss without one is an error, so that none is dropped by accident.
LOSS_SCALES = {
    "dyn": 1.0,
    "rep": 0.1,
    "objective": 1.0,
    "reward": 1.0,
    "cont": 1.0,
    "actor": 1.0,
    "critic": 1.0,
    "replay_critic": 0.3,
    "overshoot": 1.0,
    "preview": 1.0,
    "ensemble": 1.0,
}


def _cadence(value: int | str) -> int | str:
    """Steps as a number, a duration as its bare text: one form of each, whoever wrote it."""
    try:
        steps = parse_cadence(value, "run.save_every").steps
    except UsageError as error:
        raise ConfigError(error.what, hint=error.hint) from error
    return str(value).strip() if steps is None else steps


def _device(value: str) -> str:
    try:
        return parse_device(value, "run.device")
    except UsageError as error:
        raise ConfigError(error.what, hint=error.hint) from error


@dataclass(frozen=True, kw_only=True, config=STRICT)
class RunConfig:
    """How long, how often, and on what.

    Attributes:
        steps: environment steps of the whole run.
        seed: of everything random: weights, actions, environments, batches.
        num_envs: environments that are played side by side.
        prefill: environment steps with random actions before the first update.
        min_records: records that must exist before the first update; a batch's own B·T if that is less.
        train_ratio: replayed records per collected record; 0 collects without learning.
        overlap: learn while environments step, not afterwards. Updates are as many, but see the end of an episode one
            round later. null: on a GPU yes, else no; config.yaml says which it was, and the run keeps to it.
        save_every: environment steps, or a duration such as `10m`; 0: only at the end.
        keep: checkpoints to keep, beside the best.
        eval_every: environment steps between evaluations; 0: never.
        eval_episodes: episodes of one evaluation.
        stop_return: end the run once an evaluation's mean return reaches this; null does not.
        eval_policy: whether evaluation samples actions or takes the likeliest.
        dream_every: environment steps between films of dreams; 0: never.
        log_every: environment steps between records in metrics.jsonl.
        device: auto, cpu, cuda, cuda:1 or mps; auto takes a GPU if there is one.
        precision: of the networks; auto takes bf16 on GPUs that have it, else fp32.
        compile: compile the arithmetic between matrix products; null: on a GPU yes, else no: on a CPU it takes a
            minute and gains little.
        cuda_graph: launch updates and decisions on a GPU as one recorded whole.
        deterministic: deterministic kernels, so that the same GPU gives the same numbers; slower.
        threads: of torch on the CPU; null leaves its choice.
        profile_every: updates between those whose time is taken apart, as profile/SECTION in metrics.jsonl; 0: never.
        log: more places for metrics: tensorboard, wandb.
    """

    steps: AtLeastOne = 1_000_000
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = 0
    num_envs: Annotated[int, Field(ge=1, le=4096)] = 16
    prefill: Count = 0
    min_records: AtLeastOne = 1024
    train_ratio: Weight = 32.0
    overlap: bool | None = None
    save_every: Annotated[int | str, AfterValidator(_cadence)] = "10m"
    keep: AtLeastOne = 3
    eval_every: Count = 0
    eval_episodes: AtLeastOne = 10
    eval_policy: Literal["sample", "mode"] = "sample"
    stop_return: float | None = None
    dream_every: Count = 0
    log_every: AtLeastOne = 1000
    device: Annotated[str, AfterValidator(_device)] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    compile: bool | None = None
    cuda_graph: bool = True
    deterministic: bool = False
    threads: Annotated[int, Field(ge=1, le=1024)] | None = None
    profile_every: Count = 0
    log: tuple[Literal["tensorboard", "wandb"], ...] = ()


@dataclass(frozen=True, kw_only=True, config=STRICT)
class Config:
    """Everything that can be set; `config.yaml` holds it in full.

    Attributes:
        schema_version: of this tree; a run's config.yaml says which version wrote it.
        behaviour: how to act, and how to learn it.
        optim: what moves the parameters.
        loss_scales: weight of each loss in the sum that is minimised.
    """

    schema_version: int = SCHEMA_VERSION
    env: EnvConfig = EnvConfig()
    run: RunConfig = RunConfig()
    replay: ReplayConfig = ReplayConfig()
    world: WorldConfig = WorldConfig()
    behaviour: slot("behaviour", BEHAVIOURS) = ActorCriticConfig()  # type: ignore[valid-type]
    optim: slot("optim", OPTIMISERS) = LaPropConfig()  # type: ignore[valid-type]
    loss_scales: dict[str, Weight] = field(default_factory=lambda: dict(LOSS_SCALES))

    def __post_init__(self) -> None:
        if self.schema_version != SCHEMA_VERSION:
            raise ConfigError(
                f"schema_version is {self.schema_version}, but this dreamer reads {SCHEMA_VERSION}.",
                hint="Use the version of dreamer that wrote it.",
            )
        for name in self.loss_scales:
            if name not in LOSS_SCALES and not name.startswith("objective/"):
                known = f"Known: {', '.join(LOSS_SCALES)}."
                raise ConfigError(f"Unknown key loss_scales.{name}.", hint=closest(name, LOSS_SCALES) + known)
        always = to_tree(self.world)["cont"]["kind"] == "always"
        if always and getattr(self.behaviour, "contdisc", False):
            raise ConfigError(
                "world.cont always goes on, and behaviour.contdisc leaves the discount to it: returns would have none.",
                hint="Set behaviour.contdisc=false.",
            )


@plain_dataclass(frozen=True)
class Resolved:
    """Settings, and where they come from.

    Attributes:
        origins: dotted key of every leaf → which layer set it.
        notes: what was added without being asked for, in sentences.
        algorithm, suite: names of the presets at work, None where a complete `-c` stood for them.
        presets: names given with `-p`.
    """

    config: Config
    origins: dict[str, str]
    notes: list[str]
    algorithm: str | None
    suite: str | None
    presets: tuple[str, ...]


def resolve(
    env: str | None = None,
    presets: Sequence[str] = (),
    config_file: Path | None = None,
    settings: Sequence[str] = (),
    size: str | None = None,
    options: Mapping[str, tuple[Any, str]] | None = None,
    has_pixels: bool | None = None,
) -> Resolved:
    """Settings from presets, files and options; the arguments are those of `presets.resolve_tree`.

    Raises:
        ConfigError: unknown key, wrong type or range; UsageError: no such preset or size.
    """
    env = None if env is None else canonical(env)
    merged = preset_files.resolve_tree(env, presets, config_file, settings, size, options, has_pixels)
    check_blocks(Config, merged.blocks)
    config = validate(Config, merged.tree)
    # A part that was chosen by kind brings defaults that no file mentions.
    origins = {key: merged.origins.get(key, "default") for key, _ in leaves(to_tree(config))}
    return Resolved(config, origins, merged.notes, merged.algorithm, merged.suite, merged.presets)


def load_config(path: Path) -> Config:
    """The settings of a run, from its config.yaml.

    Raises:
        StateError: the file is missing, damaged, or from a newer version.
    """
    try:
        return validate(Config, migrate_config(yamlio.load_file(path), str(path)))
    except ConfigError as error:
        raise StateError(f"The run's settings cannot be used: {error.what}", hint=error.hint) from error


def to_yaml(config: Config) -> str:
    """The text of a config.yaml: every setting; fed back with `-c` it gives an equal Config."""
    return yamlio.dump(to_tree(config))
