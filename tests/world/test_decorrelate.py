"""Objectives that compare the projected state with the embed: decorrelate and contrast."""

import math
from types import SimpleNamespace

import pytest
import torch

from dreamer_cli.world.contrast import ContrastConfig, info_nce
from dreamer_cli.world.decorrelate import DecorrelateConfig, barlow
from dreamer_cli.world.objectives import Seen
from tests.small import near
from tests.world.parts import make_batch, make_parts

CONFIGS = {"decorrelate": DecorrelateConfig, "contrast": ContrastConfig}


def rows(known: dict) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(known["x1"]), torch.tensor(known["x2"])


def test_barlow(reference, precision):
    known = reference["barlow"]
    x, y = rows(known)
    near(barlow(x, y, known["lambda"]), known["loss"], precision.tolerance)
    near(barlow(x, y, 0.0), known["invariance"], precision.tolerance)
    near(barlow(x, y, 1.0), known["invariance"] + known["redundancy"], precision.tolerance)


def test_a_perfect_match_is_nearly_free(precision):
    """Columns (1, -1, 1, -1) and (1, 1, -1, -1): correlations of 3/4 with themselves (products averaged over N = 4,
    deviations over 3), none with each other."""
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    near(barlow(x, x, 1.0), 2 * (1 / 4) ** 2, 1e-6)
    near(barlow(x, -x, 1.0), 2 * (7 / 4) ** 2, 1e-6)
    near(barlow(x, 5 * x + 3, 1.0), 2 * (1 / 4) ** 2, 1e-6)  # neither scale nor offset matters


def test_info_nce(reference, precision):
    known = reference["infonce"]
    near(info_nce(*rows(known)).mean(), known["loss"], precision.tolerance)


def test_info_nce_by_hand():
    """Logits (2, 0) and (0, 0): row 0 is right with weight e² of e² + 1, row 1 is a guess."""
    loss = info_nce(torch.tensor([[2.0], [0.0]]), torch.tensor([[1.0], [0.0]]))
    near(loss, [math.log(math.e**2 + 1) - 2, math.log(2)], 1e-6)
    huge = info_nce(torch.tensor([[1e4], [-1e4]]), torch.tensor([[1e4], [-1e4]]))
    near(huge, [0.0, 0.0], 0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_all_records_of_the_batch_are_compared(kind):
    parts = make_parts()
    objective = parts.objective(kind)
    seen = parts.see(make_batch(parts))
    x, y = objective.projector(seen.feat).flatten(0, 1), seen.embed.flatten(0, 1)
    known = {"decorrelate": barlow(x, y, 5e-4), "contrast": info_nce(x, y).view(2, 5)}[kind]
    near(parts.losses(objective, seen)[kind], known.detach(), 0)


@pytest.mark.parametrize("kind", CONFIGS)
def test_the_embed_is_a_target(kind):
    """The encoder learns through the state alone."""
    parts = make_parts()
    objective = parts.objective(kind)
    seen = parts.see(make_batch(parts))
    embed, feat = (x.detach().requires_grad_() for x in (seen.embed, seen.feat))
    (loss,) = parts.losses(objective, Seen(seen.batch, embed, seen.states, feat, seen.post)).values()
    loss.mean().backward()
    assert embed.grad is None
    assert bool(feat.grad.any(-1).all())
    assert bool(objective.projector.weight.grad.any())


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize(("name", "embed"), [("size12M:img:", 1024), ("size12M:vec:", 256)])
def test_parameter_counts(reference, kind, name, embed):
    known = reference["param_counts_r2dreamer"]["counts"][name + "r2dreamer"]["prj"]
    with torch.device("meta"):
        objective = CONFIGS[kind]().build(
            SimpleNamespace(size=embed), SimpleNamespace(feat_size=2560), torch.nn.Identity
        )
    assert sum(p.numel() for p in objective.parameters()) == known


def test_projectors_begin_like_other_layers():
    torch.manual_seed(0)
    sizes = SimpleNamespace(size=64), SimpleNamespace(feat_size=400)
    weight = ContrastConfig().build(*sizes, torch.nn.Identity).projector.weight
    near(weight.std() * math.sqrt(400), 1.0, 0.02)
    assert weight.abs().max() <= 2 * 1.1368 / math.sqrt(400) + 1e-6
