"""Encoders and decoders: sizes, layouts, losses."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_cli.errors import ConfigError
from dreamer_cli.spaces import ObsSpec
from dreamer_cli.world.coders import CoderConfig, Decoder, Encoder, Pyramid, one_hot
from dreamer_cli.world.objectives import OBJECTIVES
from tests.small import CARDS, IMAGE, VECTOR, make_obs, near, refused

DETER, STOCH = 16, 12
CFG = CoderConfig(depth=2, units=8, layers=1)
SETS = {
    "vector": {"speed": VECTOR},
    "discrete": {"cards": CARDS},
    "image": {"camera": IMAGE},
    "two images": {"left": IMAGE, "right": ObsSpec("image", (1, 8, 8))},
    "mixed": {"camera": IMAGE, "speed": VECTOR, "cards": CARDS, "backwards": ObsSpec("image", (4, 8, 8))},
}


def image(channels: int, rows: int, columns: int) -> ObsSpec:
    return ObsSpec("image", (channels, rows, columns))


def observe(specs: dict[str, ObsSpec], lead: tuple[int, ...] = (2, 3)) -> dict[str, Tensor]:
    return make_obs(specs, lead, torch.Generator().manual_seed(0))


def feat() -> Tensor:
    return torch.cat([torch.randn(2, 3, DETER), F.one_hot(torch.randint(4, (2, 3, 3)), 4).float().flatten(2)], -1)


@pytest.mark.parametrize(
    ("size", "small"),
    [
        ((8, 8), (4, 4)),
        ((10, 10), (3, 3)),
        ((12, 20), (3, 5)),
        ((64, 64), (4, 4)),
        ((84, 84), (6, 6)),
        ((96, 96), (6, 6)),
    ],
)
@pytest.mark.parametrize("channels", [1, 3, 4, 6])
def test_images_of_many_sizes(size, small, channels):
    specs = {"camera": image(channels, *size)}
    obs = observe(specs, (1, 2))
    encoder, decoder = Encoder(specs, CFG), Decoder(specs, CFG, DETER, STOCH)
    assert Pyramid(specs, CFG).small == small
    embed = encoder(obs)
    assert embed.shape == (1, 2, encoder.size)
    assert encoder.size == 8 * small[0] * small[1]
    out = decoder(torch.randn(1, 2, DETER + STOCH))
    assert out["camera"].shape == obs["camera"].shape
    assert 0 <= out["camera"].min() <= out["camera"].max() <= 1
    loss = decoder.losses(out, obs)["camera"]
    assert loss.shape == (1, 2)
    (loss.sum() + embed.square().sum()).backward()
    assert all(bool(p.grad.isfinite().all()) for p in (*encoder.parameters(), *decoder.parameters()))


@pytest.mark.parametrize("name", SETS)
def test_every_mixture_of_keys(name):
    specs = SETS[name]
    obs = observe(specs)
    encoder, decoder = Encoder(specs, CFG), Decoder(specs, CFG, DETER, STOCH)
    embed = encoder(obs)
    assert embed.shape == (2, 3, encoder.size)
    # Each frame by itself, and the keys in any order.
    backwards = {key: obs[key][1] for key in reversed(obs)}
    near(encoder(backwards), embed[1], 1e-5)
    out = decoder(feat())
    assert set(out) == set(specs)
    assert {key: loss.shape for key, loss in decoder.losses(out, obs).items()} == dict.fromkeys(specs, (2, 3))
    shown = decoder.display(out)
    for key, spec in specs.items():
        assert shown[key].shape == (2, 3, *(spec.shape if not spec.classes else (spec.width,)))
        assert bool(shown[key].isfinite().all())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_objective_contract(kind):
    specs = SETS["mixed"]
    obs = observe(specs)
    objective = OBJECTIVES[kind]().build(specs, embed=20, deter=DETER, stoch=STOCH)
    losses = objective.losses(obs, torch.randn(2, 3, 20), feat())
    assert losses
    assert all(loss.shape == (2, 3) for loss in losses.values())
    sum(loss.mean() for loss in losses.values()).backward()
    assert all(p.grad is not None for p in objective.parameters())
    drawn = objective.decode(feat())
    assert drawn is None or set(drawn) == set(specs)


def test_different_sizes_cannot_share_a_stack():
    with pytest.raises(ConfigError, match="left 8x8, right 8x10") as caught:
        Pyramid({"left": image(3, 8, 8), "right": image(3, 8, 10)}, CFG)
    assert "--image-size" in caught.value.hint


@pytest.mark.parametrize("size", [(4, 4), (2, 64), (640, 480), (300, 64)])
def test_pictures_that_do_not_fit(size):
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]} do not fit 4 stages") as caught:
        Pyramid({"camera": image(3, *size)}, CFG)
    assert "--image-size 64x64" in caught.value.hint


def test_small_pictures_use_the_last_widths():
    assert Pyramid({"camera": image(3, 8, 8)}, CoderConfig(depth=2, mults=(1, 2, 5))).widths == [10]


@pytest.mark.parametrize(
    ("keys", "says", "hint"),
    [
        (("imag",), "world.encoder.keys names 'imag', which is no observation key.", "Did you mean 'image'?"),
        ((), "world.encoder.keys is empty", "There are: image."),
    ],
)
def test_keys_must_be_there(keys, says, hint):
    with pytest.raises(ConfigError) as caught:
        Encoder({"image": ObsSpec("image", (3, 16, 16))}, CoderConfig(keys=keys))
    assert says in caught.value.what
    assert hint in caught.value.hint


def test_even_kernels_are_refused():
    assert refused(CoderConfig, kernel=4).what == "kernel=4 is even."


@pytest.mark.parametrize(("blocks", "depth", "suggested"), [(3, 2, 1), (8, 3, 4), (16, 2, 8)])
def test_blocks_must_divide_memory_and_channels(blocks, depth, suggested):
    specs = {"camera": IMAGE}
    with pytest.raises(
        ConfigError, match=f"blocks={blocks} do not divide 16 units of memory and {4 * depth}"
    ) as caught:
        Decoder(specs, CoderConfig(depth=depth, units=8, blocks=blocks), DETER, STOCH)
    assert caught.value.hint == f"Set world.objective.decoder.blocks={suggested}, or another depth."
    decoder = Decoder(specs, CoderConfig(depth=depth, units=8, blocks=suggested), DETER, STOCH)
    assert decoder(torch.randn(2, DETER + STOCH))["camera"].shape == (2, 3, 8, 8)


def test_one_hot():
    x = torch.tensor([[0, 3], [2, -1], [-1, 0]], dtype=torch.int32)
    expected = [[1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]]
    assert one_hot(x, (3, 4)).int().tolist() == expected, "a missing entry is zeros"


def test_image_encoder_by_hand():
    """Convolution, pooling, norm over channels, SiLU; flattened in the official order: rows, columns, channels."""
    specs = {"b": image(2, 12, 8), "a": image(1, 12, 8)}
    torch.manual_seed(0)
    encoder = Encoder(specs, CFG)
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    obs = observe(specs, (2,))
    x = torch.cat([obs["a"], obs["b"]], 1).float() / 255 - 0.5
    part = encoder.parts[0]
    assert len(part.convs) == 1
    x = F.max_pool2d(F.conv2d(x, part.convs[0].weight, part.convs[0].bias, padding=2), 2)
    x = x / (x.square().mean(1, keepdim=True) + 1e-4).sqrt() * part.norms[0].scale[:, None, None]
    x = F.silu(x)
    embed = encoder(obs)
    for y, z, c in [(0, 0, 0), (0, 0, 7), (0, 1, 0), (1, 0, 3), (5, 3, 7)]:
        near(embed[:, (y * 4 + z) * 8 + c], x[:, c, y, z], 1e-5)


def test_image_decoder_unfolds_the_memory_in_the_official_order():
    """Block g of the memory makes channels g·C/8 onward of every pixel."""
    torch.manual_seed(0)
    cfg = CoderConfig(depth=4, units=8)
    decoder = Decoder({"camera": image(3, 8, 8)}, cfg, DETER, STOCH)
    part = decoder.parts[0]
    torch.nn.init.normal_(part.from_deter.bias)
    torch.nn.init.zeros_(part.from_stoch[1].weight)
    torch.nn.init.normal_(part.from_stoch[1].bias)
    seen = []
    silu = part.join.silu
    part.join.silu = lambda x: (seen.append(x), silu(x))[1]
    x = torch.randn(1, DETER + STOCH)
    decoder(x)
    per_block = 4 * 4 * 16 // 8
    for block, row, column, channel in [(0, 0, 0, 0), (1, 0, 1, 0), (5, 2, 3, 1), (7, 3, 3, 1)]:
        inputs = x[0, 2 * block : 2 * block + 2]
        place = (row * 4 + column) * 2 + channel
        expected = inputs @ part.from_deter.weight[block, :, place] + part.from_deter.bias[block * per_block + place]
        expected = expected + part.from_stoch[1].bias[(row * 4 + column) * 16 + 2 * block + channel]
        near(seen[0][0, 2 * block + channel, row, column], expected, 1e-5)


def test_losses_are_sums(reference, precision):
    known = reference["symlog_mse"]
    specs = {"speed": ObsSpec("vector", (3,)), "camera": image(3, 8, 8), "cards": CARDS}
    decoder = Decoder(specs, CFG, DETER, STOCH)
    logits = torch.randn(1, 1, 7)
    picture = torch.randint(256, (1, 1, 3, 8, 8), dtype=torch.uint8)
    losses = decoder.losses(
        {"speed": torch.tensor([[known["pred"]]]), "camera": torch.full(picture.shape, 0.5), "cards": logits},
        {"speed": torch.tensor([[known["target"]]]), "camera": picture, "cards": torch.tensor([[[2, 1]]]).int()},
    )
    near(losses["speed"], [[known["loss_sum"]]], precision.tolerance)
    near(losses["camera"][0, 0], sum((0.5 - byte / 255) ** 2 for byte in picture.flatten().tolist()), 1e-5)
    first, second = logits[0, 0].split([3, 4])
    near(losses["cards"][0, 0], -(first.log_softmax(-1)[2] + second.log_softmax(-1)[1]), precision.tolerance)


def test_display_is_in_the_units_of_the_observation():
    specs = {"speed": VECTOR, "cards": CARDS}
    decoder = Decoder(specs, CFG, DETER, STOCH)
    shown = decoder.display({"speed": torch.tensor([[2.0, -3.0]]), "cards": torch.zeros(1, 7)})
    near(shown["speed"], [[torch.e**2 - 1, 1 - torch.e**3]], 1e-5)
    near(shown["cards"], [[1 / 3] * 3 + [1 / 4] * 4], 1e-6)
