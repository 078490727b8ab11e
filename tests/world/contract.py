"""Small RSSMs of every mixture of parts, and inputs for them."""

from itertools import product
from typing import Any

import torch
from torch import Tensor

from dreamer_cli.structs import State
from dreamer_cli.world.cores import CORES
from dreamer_cli.world.latents import LATENTS
from dreamer_cli.world.rssm import RSSM, RSSMConfig
from tests.golden import configure

B, T, E, A = 3, 6, 5, 4

# Every core has these two settings; presets of sizes set them.
SMALL = {"units": 16, "hidden": 8}
CORE_SPECS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind, **SMALL} for kind in CORES},
    "gru, reset before": {"kind": "gru", **SMALL, "reset_after": False},
    "gru_ln of 2023": {"kind": "gru_ln", **SMALL, "bias": False, "bricks": "ln_silu"},
}
# Those that time loops know, in their richest form.
LOOPED_SPECS: dict[str, dict[str, Any]] = {
    "block_gru": {"kind": "block_gru", **SMALL, "blocks": 4, "layers": 2},
    "gru_ln": {"kind": "gru_ln", **SMALL, "bricks": "rms_silu"},
    "gru_ln without bias": {"kind": "gru_ln", **SMALL, "bricks": "rms_silu", "bias": False},
    "lstm": {"kind": "lstm", **SMALL},
}
LATENT_SPECS: dict[str, dict[str, Any]] = {
    **{kind: {"kind": kind} for kind in LATENTS},
    "categorical": {"kind": "categorical", "groups": 3, "classes": 4},
    "gaussian": {"kind": "gaussian", "size": 6},
    "gaussian, sigmoid": {"kind": "gaussian", "size": 6, "std": "sigmoid2"},
}
BEGINNINGS = ("zeros", "learned")
MIXTURES = list(product(CORE_SPECS, LATENTS, BEGINNINGS))
# Half of them, in which every two parts still meet.
PAIRS = [
    (core, latent, BEGINNINGS[(i + j) % 2]) for i, core in enumerate(CORE_SPECS) for j, latent in enumerate(LATENTS)
]


def make_core(name: str, stoch: int = 6, action: int = A) -> Any:
    """A small core with fresh weights."""
    spec = {key: value for key, value in CORE_SPECS[name].items() if key != "kind"}
    return configure(CORES[CORE_SPECS[name]["kind"]], spec).build(stoch=stoch, action=action)


def make_latent(name: str) -> Any:
    """A small latent."""
    spec = {key: value for key, value in LATENT_SPECS[name].items() if key != "kind"}
    return configure(LATENTS[LATENT_SPECS[name]["kind"]], spec).build()


def make_rssm(
    core: dict[str, Any], latent: dict[str, Any], dtype: torch.dtype = torch.float32, **settings: Any
) -> RSSM:
    """A small RSSM whose every parameter is drawn, zeros and ones too, so that all of them matter."""
    torch.manual_seed(0)
    rssm = configure(RSSMConfig, {"core": core, "latent": latent, "hidden": 8, "post_layers": 2, **settings})
    rssm = rssm.build(embed=E, action=A).to(dtype)
    with torch.no_grad():
        for parameter in rssm.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return rssm


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Standard normal numbers, the same ones every time."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def make_inputs(rssm: RSSM) -> dict[str, Any]:
    """Three sequences; in the second an episode begins at step 3, in the third at step 0."""
    like = rssm.initial(B)
    dtype = like.deter.dtype
    is_first = torch.zeros(B, T, dtype=torch.bool)
    is_first[1, 3] = is_first[2, 0] = True
    generator = torch.Generator().manual_seed(1)
    noise = rssm.latent.noise((B, T), like.deter, generator)
    stoch = rssm.latent.sample(draw(B, rssm.latent.stats_size, dtype=dtype), noise[:, 0])
    return {
        "embed": draw(B, T, E, dtype=dtype, seed=2),
        "prev_action": draw(B, T, A, dtype=dtype, seed=3),
        "is_first": is_first,
        "start": State(draw(*like.deter.shape, dtype=dtype, seed=4).tanh(), stoch),
        "noise": rssm.latent.noise((B, T), like.deter, generator),
    }
