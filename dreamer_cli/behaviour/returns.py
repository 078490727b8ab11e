"""Returns: pure functions of rewards, chances to go on, and values."""

import torch
from torch import Tensor

from dreamer_cli.shapes import Bool, Float


def lambda_return(
    reward: Float[Tensor, "B H"],
    cont: Float[Tensor, "B H"],
    value: Float[Tensor, "B H"],
    *,
    gamma: float,
    lam: float | Float[Tensor, "B H"],
) -> Float[Tensor, "B H"]:
    """Mix of all n-step returns: large lam looks further, small lam trusts the critic.

    Column t follows acting in s_t: its reward, cont, value (and lam) belong to s_{t+1}. Units: reward, unscaled.
    Source: Dreamer V1, Eq. 6 (arXiv 1912.01603), written backwards in time; Dreamer V3, Eq. 7.
    """
    mix = lam if isinstance(lam, Tensor) else torch.full_like(value, lam)
    trusted = reward + gamma * cont * (1 - mix) * value
    followed = gamma * cont * mix
    ret, columns = value[:, -1], []
    for t in reversed(range(reward.shape[1])):
        ret = trusted[:, t] + followed[:, t] * ret
        columns.append(ret)
    return torch.stack(columns[::-1], dim=1)


def step_weights(cont: Float[Tensor, "B H"], *, gamma: float) -> Float[Tensor, "B H"]:
    """Chance and discount that step k of a dream is reached: Π_{j ≤ k} gamma cont_j / gamma.

    The start's own cont counts, so a dream that begins in a terminal state weighs nothing. Source: official code.
    """
    return torch.cumprod(gamma * cont, dim=1) / gamma


def replay_return(
    reward: Float[Tensor, "B T"],
    is_last: Bool[Tensor, "B T"],
    is_terminal: Bool[Tensor, "B T"],
    boot: Float[Tensor, "B T"],
    *,
    gamma: float,
    lam: float,
) -> Float[Tensor, "B T1"]:
    """λ-returns along replayed records, T-1 columns, bootstrapped with the imagined return `boot` of each record.

    Nothing is looked up beyond a terminal record, and λ is cut at every episode's end: what follows there
    belongs to another episode. The column of a record with is_last itself means nothing; mask it.
    Source: Dreamer V3 (2024), "replay critic loss"; official code.
    """
    live = (~is_terminal[:, 1:]).to(boot.dtype)
    mix = lam * (~is_last[:, 1:]).to(boot.dtype)
    return lambda_return(reward[:, 1:].to(boot.dtype), live, boot[:, 1:], gamma=gamma, lam=mix)
