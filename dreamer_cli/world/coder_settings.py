"""Settings of encoders and decoders, and which observation keys they concern."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass

from dreamer_cli.errors import ConfigError, closest
from dreamer_cli.nets.bricks import BrickName
from dreamer_cli.registry import STRICT, Count, Layers, Positive, Units
from dreamer_cli.spaces import ObsSpec

Specs = Mapping[str, ObsSpec]

Mults = Annotated[tuple[Units, ...], Field(max_length=16)]
Kernel = Annotated[int, Field(ge=1, le=64)]
Bits = Annotated[int, Field(ge=1, le=8)]
ConvName = Literal["pooled", "valid", "same"]
SquashName = Literal["symlog", "none"]


@dataclass(frozen=True, kw_only=True, config=STRICT)
class EncoderConfig:
    """What makes numbers of an observation.

    Attributes:
        conv: kind of the picture's convolutions: `pooled` (Dreamer V3), `valid` (PlaNet, Dreamer V1 and V2), `same`
            (Dreamer V3 of 2023).
        depth: channels of a stage are depth times its entry in `mults`.
        mults: one entry for each stage that halves the picture.
        kernel: side of the `pooled` convolutions; odd. The others' is 4.
        units: width of the MLP for vectors and classes.
        layers: depth of that MLP.
        bricks: what its layers are made of.
        squash: what numbers go through first.
        bits: of each byte of a picture that are seen; 8: all, 5: PlaNet, but for its noise, which is left out.
        keys: observation keys that are coded; null: all. One that is left out is never seen.
        recompute: frames that are worked on at a time, and again on the way back: slower, but in far less memory;
            0: all at once, and everything is kept.
    """

    conv: ConvName = "pooled"
    depth: Units = 16
    mults: Mults = (2, 3, 4, 4)
    kernel: Kernel = 5
    units: Units = 256
    layers: Layers = 3
    bricks: BrickName = "rms_silu"
    squash: SquashName = "symlog"
    bits: Bits = 8
    keys: tuple[str, ...] | None = None
    recompute: Count = 0

    def __post_init__(self) -> None:
        odd(self.conv, self.kernel)


@dataclass(frozen=True, kw_only=True, config=STRICT)
class DecoderConfig:
    """What makes an observation of a state.

    Attributes:
        conv: kind of the picture's convolutions: `pooled` (Dreamer V3), `valid` (PlaNet, Dreamer V1 and V2), `same`
            (Dreamer V3 of 2023).
        depth: channels of a stage are depth times its entry in `mults`.
        mults: one entry for each stage, the smallest picture's last.
        kernel: side of the `pooled` convolutions; odd. That of `same` is 4, those of `valid` are 5 and 6.
        units: width of the MLP for vectors and classes.
        layers: depth of that MLP.
        blocks: how the first layer of `pooled` splits the memory.
        bricks: what its layers are made of.
        picture: how the last convolution becomes a brightness from 0 to 1: through a sigmoid (Dreamer V3), or as it
            is, from a middle grey on.
        squash: what numbers go through before they are compared.
        loss: of pictures and numbers: the sum of squared errors (Dreamer V3), or half of it over `std` squared, a
            Gaussian without its constant (PlaNet, Dreamer V1 and V2).
        std: deviation of that Gaussian: how closely a number or a brightness is to be known.
        bits: of each byte of a picture that are compared; 8: all, 5: PlaNet, but for its noise, which is left out.
        keys: observation keys that are decoded; null: all. One that is left out is never drawn.
        recompute: frames that are worked on at a time, and again on the way back: slower, but in far less memory;
            0: all at once, and everything is kept.
    """

    conv: ConvName = "pooled"
    depth: Units = 16
    mults: Mults = (2, 3, 4, 4)
    kernel: Kernel = 5
    units: Units = 256
    layers: Layers = 3
    blocks: Units = 8
    bricks: BrickName = "rms_silu"
    picture: Literal["sigmoid", "linear"] = "sigmoid"
    squash: SquashName = "symlog"
    loss: Literal["squared", "gaussian"] = "squared"
    std: Positive = 1.0
    bits: Bits = 8
    keys: tuple[str, ...] | None = None
    recompute: Count = 0

    def __post_init__(self) -> None:
        odd(self.conv, self.kernel)


def odd(conv: str, kernel: int) -> None:
    """Nothing.

    Raises:
        ConfigError: the kernel is even, and used.
    """
    if conv == "pooled" and kernel % 2 == 0:
        raise ConfigError(f"kernel={kernel} is even.", hint="An odd kernel keeps the picture's size.")


def chosen(keys: tuple[str, ...] | None, specs: Specs, where: str) -> Specs:
    """The observation keys that are coded; `where` names the settings in messages.

    Raises:
        ConfigError: there is no such key, or none is left.
    """
    if keys is None:
        return specs
    listed = f"There are: {', '.join(specs)}."
    if not keys:
        raise ConfigError(f"{where}.keys is empty, so nothing is left of the observation.", hint=listed)
    for key in keys:
        if key not in specs:
            raise ConfigError(
                f"{where}.keys names {key!r}, which is no observation key.", hint=closest(key, specs) + listed
            )
    return {key: spec for key, spec in specs.items() if key in keys}


def images(specs: Specs) -> dict[str, ObsSpec]:
    """The keys that are pictures, sorted."""
    return {key: specs[key] for key in sorted(specs) if specs[key].kind == "image"}


def vectors(specs: Specs) -> dict[str, ObsSpec]:
    """The keys that are numbers or classes, sorted."""
    return {key: specs[key] for key in sorted(specs) if specs[key].kind != "image"}
