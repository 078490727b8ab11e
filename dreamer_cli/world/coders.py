"""Observation dict → embed, and feat → observation dict. Networks are chosen per key, from the space.

Images of all keys are joined on their channels and share one convolutional stack; vectors and one-hot
categorical entries are joined and share one MLP.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dreamer_cli.nets.bricks import BRICKS
from dreamer_cli.nets.kernels import full_precision
from dreamer_cli.nets.recompute import in_parts
from dreamer_cli.nets.transforms import symexp, symlog
from dreamer_cli.spaces import ObsSpec
from dreamer_cli.world.coder_settings import DecoderConfig, EncoderConfig, Specs, chosen, images, vectors
from dreamer_cli.world.convolutions import DECODERS, ENCODERS
from dreamer_cli.world.pictures import as_it_is, brightness

__all__ = ["Decoder", "DecoderConfig", "Encoder", "EncoderConfig", "Specs", "one_hot"]


class Squash(NamedTuple):
    """What numbers go through, and the way back."""

    do: Callable[[Tensor], Tensor]
    undo: Callable[[Tensor], Tensor]


SQUASHES = {"symlog": Squash(symlog, symexp), "none": Squash(as_it_is, as_it_is)}
# The factor of the sum of squared errors, given the deviation.
LOSSES: dict[str, Callable[[float], float]] = {"squared": lambda std: 1.0, "gaussian": lambda std: 0.5 / (std * std)}


def one_hot(x: Tensor, classes: tuple[int, ...]) -> Tensor:
    """... entries → ... sum(classes), a one-hot for each entry. A missing entry (-1) becomes zeros."""
    columns = [x[..., i : i + 1] == torch.arange(count, device=x.device) for i, count in enumerate(classes)]
    return torch.cat(columns, -1)


class VectorEncoder(nn.Module):
    """Squashed numbers and one-hots of classes, joined, through an MLP."""

    def __init__(self, specs: Specs, cfg: EncoderConfig) -> None:
        super().__init__()
        self.specs, self.squash = dict(specs), SQUASHES[cfg.squash]
        self.net = BRICKS[cfg.bricks].mlp(sum(spec.width for spec in specs.values()), cfg.units, cfg.layers)
        self.size = cfg.units

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """N n of each key → N E."""
        dtype = next(self.parameters()).dtype
        parts = [
            one_hot(obs[key], spec.classes).to(dtype) if spec.classes else self.squash.do(obs[key].to(dtype))
            for key, spec in self.specs.items()
        ]
        return self.net(torch.cat(parts, -1))


class Encoder(nn.Module):
    """Observation dict → embed: vectors' part first, images' part after it."""

    def __init__(self, specs: Specs, cfg: EncoderConfig) -> None:
        super().__init__()
        self.specs = specs = dict(chosen(cfg.keys, specs, "world.encoder"))
        parts: list[Any] = []
        if vectors(specs):
            parts.append(VectorEncoder(vectors(specs), cfg))
        if images(specs):
            parts.append(ENCODERS[cfg.conv](images(specs), cfg))
        self.parts = nn.ModuleList(parts)
        self.size = sum(part.size for part in parts)
        self.lead_key, spec = next(iter(specs.items()))
        self.event_dims = len(spec.shape)
        self.recompute = cfg.recompute

    def forward(self, obs: dict[str, Tensor]) -> Tensor:
        """Any leading axes, then each key's own → the same leading axes, then E."""
        lead = obs[self.lead_key].shape[: obs[self.lead_key].dim() - self.event_dims]
        flat = {key: obs[key].flatten(0, len(lead) - 1) for key in self.specs}
        return in_parts(self._encode, self.recompute, flat).unflatten(0, lead)

    def _encode(self, obs: dict[str, Tensor]) -> Tensor:
        return torch.cat([part(obs) for part in self.parts], -1)


class VectorDecoder(nn.Module):
    """One MLP, then each key's own last layer: squashed numbers, or logits of its classes."""

    def __init__(self, specs: Specs, cfg: DecoderConfig, feat: int) -> None:
        super().__init__()
        bricks = BRICKS[cfg.bricks]
        self.keys = list(specs)
        self.net = bricks.mlp(feat, cfg.units, cfg.layers)
        self.out = nn.ModuleList(bricks.linear(cfg.units, spec.width) for spec in specs.values())

    def forward(self, deter: Tensor, stoch: Tensor) -> dict[str, Tensor]:
        """N D, N S·K → each key's raw outputs, N n."""
        x = self.net(torch.cat([stoch, deter], -1))
        return {key: out(x) for key, out in zip(self.keys, self.out, strict=True)}


class Decoder(nn.Module):
    """(deter, stoch) → raw outputs for every key; their losses, and what they say in the observation's units."""

    def __init__(self, specs: Specs, cfg: DecoderConfig, deter: int, stoch: int) -> None:
        super().__init__()
        self.specs = specs = dict(chosen(cfg.keys, specs, "world.decoder"))
        self.split = (deter, stoch)
        self.squash, self.factor = SQUASHES[cfg.squash], LOSSES[cfg.loss](cfg.std)
        self.brightness = brightness(cfg.bits)
        self.recompute = cfg.recompute
        parts: list[Any] = []
        if vectors(specs):
            parts.append(VectorDecoder(vectors(specs), cfg, deter + stoch))
        if images(specs):
            parts.append(DECODERS[cfg.conv](images(specs), cfg, deter, stoch))
        self.parts = nn.ModuleList(parts)

    def forward(self, feat: Tensor) -> dict[str, Tensor]:
        """... F → each key's raw outputs, float32 at least: pictures from 0 to 1, squashed numbers, logits."""
        deter, stoch = feat.flatten(0, -2).split(self.split, -1)
        out = {key: value for part in self.parts for key, value in part(deter, stoch).items()}
        return {key: full_precision(value).unflatten(0, feat.shape[:-1]) for key, value in out.items()}

    def losses(self, out: dict[str, Tensor], obs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Each key's loss, B T: squared errors summed (never averaged) over the key, cross-entropies over entries.

        Source: Dreamer V3, Eq. 5 and section "Robust predictions"; the sums as in the official code. Half of the
        squares: PlaNet, Eq. 3, with a Gaussian.
        """
        return {key: self._loss(spec, out[key], obs[key]) for key, spec in self.specs.items()}

    def _loss(self, spec: ObsSpec, out: Tensor, target: Tensor) -> Tensor:
        if spec.kind == "image":
            return self.factor * (out - self.brightness(target.to(out.dtype))).square().flatten(2).sum(-1)
        if spec.kind == "vector":
            return self.factor * (out - self.squash.do(target.to(out.dtype))).square().sum(-1)
        parts = [
            torch.log_softmax(logits, -1).gather(-1, target[..., i : i + 1].long()).squeeze(-1)
            for i, logits in enumerate(out.split(spec.classes, -1))
        ]
        return -torch.stack(parts).sum(0)

    def display(self, out: dict[str, Tensor]) -> dict[str, Tensor]:
        """Raw outputs in the observation's units: pictures 0 to 1, numbers, probabilities of each entry's classes."""
        shown = {}
        for key, spec in self.specs.items():
            if spec.kind == "image":
                shown[key] = out[key].clamp(0, 1)
            elif spec.kind == "vector":
                shown[key] = self.squash.undo(out[key])
            else:
                shown[key] = torch.cat([torch.softmax(x, -1) for x in out[key].split(spec.classes, -1)], -1)
        return shown
