"""A planner for any agent, also for one that learnt to act in another way."""

from collections.abc import Callable, Sequence
from typing import Any

from pydantic.dataclasses import dataclass
from torch import Tensor

from dreamer_cli.agent import Agent
from dreamer_cli.behaviour.planners import PLANNERS, CEMConfig, Planner
from dreamer_cli.checks import validate
from dreamer_cli.registry import STRICT, slot, to_tree
from dreamer_cli.trees import merge, parse_settings


@dataclass(frozen=True, kw_only=True, config=STRICT)
class PlanSettings:
    """What `--plan` sets.

    Attributes:
        plan: the search.
    """

    plan: slot("plan", PLANNERS) = CEMConfig()  # type: ignore[valid-type]


def planner(own: Any, agent: Agent, typed: Sequence[str] = ()) -> Planner:
    """The agent's own planner, or for other behaviours the cross-entropy method, with settings as typed (`K=V`).

    Args:
        own: settings of the agent's behaviour.

    Raises:
        ConfigError: a setting that it has not, or of the wrong type or range.
    """
    tree = to_tree(PlanSettings(plan=own if PLANNERS.kind_of(own) else CEMConfig()))
    settings = parse_settings(typed, "--plan")
    merge(tree, {}, {"plan": settings} if settings else {}, "--plan")  # an empty mapping would empty
    built: Planner = validate(PlanSettings, tree).plan.build(agent.world, agent.spec.action, value_after(agent))
    return built


def value_after(agent: Agent) -> Callable[[Tensor], Tensor] | None:
    """What the agent's critic expects to follow a state, N F → N; None if there is no critic.

    Where a state's value holds the state's own reward (Dreamer V1, V2), plans have counted that already, and the chance
    to go on from there, too: both are taken off.
    """
    critic = getattr(agent.behaviour, "critic", None)
    if critic is None or agent.behaviour.cfg.returns.on_replay:
        return critic and (lambda feat: critic(feat).mean)
    world = agent.world
    return lambda feat: (critic(feat).mean - world.reward(feat).mean) / world.cont(feat).mean.clamp(min=1e-3)
