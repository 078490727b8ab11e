"""Encoders and decoders: sizes, layouts, losses."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from dreamer_cli.errors import ConfigError
from dreamer_cli.nets.bricks import BRICKS
from dreamer_cli.spaces import ObsSpec
from dreamer_cli.world.coders import Decoder, DecoderConfig, Encoder, EncoderConfig, one_hot
from dreamer_cli.world.convolutions import DECODERS, ENCODERS
from dreamer_cli.world.pictures import Pyramid
from tests.small import CARDS, IMAGE, VECTOR, make_obs, near, refused

DETER, STOCH = 16, 12
ENC = EncoderConfig(depth=2, units=8, layers=1)
DEC = DecoderConfig(depth=2, units=8, layers=1)
OLD = {"depth": 2, "mults": (1, 2, 4, 8), "units": 8, "layers": 1}
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
    encoder, decoder = Encoder(specs, ENC), Decoder(specs, DEC, DETER, STOCH)
    assert Pyramid(specs, ENC).small == small
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
    encoder, decoder = Encoder(specs, ENC), Decoder(specs, DEC, DETER, STOCH)
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


def test_different_sizes_cannot_share_a_stack():
    with pytest.raises(ConfigError, match="left 8x8, right 8x10") as caught:
        Pyramid({"left": image(3, 8, 8), "right": image(3, 8, 10)}, ENC)
    assert "--image-size" in caught.value.hint


@pytest.mark.parametrize("size", [(4, 4), (2, 64), (640, 480), (300, 64)])
def test_pictures_that_do_not_fit(size):
    with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]} do not fit 4 stages") as caught:
        Pyramid({"camera": image(3, *size)}, ENC)
    assert caught.value.hint == "Set --image-size 64x64, or lengthen world.encoder.mults and world.decoder.mults."


def test_small_pictures_use_the_last_widths():
    assert Pyramid({"camera": image(3, 8, 8)}, EncoderConfig(depth=2, mults=(1, 2, 5))).widths == [10]


@pytest.mark.parametrize(
    ("keys", "says", "hint"),
    [
        (("imag",), "world.encoder.keys names 'imag', which is no observation key.", "Did you mean 'image'?"),
        ((), "world.encoder.keys is empty", "There are: image."),
    ],
)
def test_keys_must_be_there(keys, says, hint):
    with pytest.raises(ConfigError) as caught:
        Encoder({"image": ObsSpec("image", (3, 16, 16))}, EncoderConfig(keys=keys))
    assert says in caught.value.what
    assert hint in caught.value.hint


@pytest.mark.parametrize("cls", [EncoderConfig, DecoderConfig])
def test_even_kernels_are_refused_where_they_are_used(cls):
    assert refused(cls, kernel=4).what == "kernel=4 is even."
    assert cls(conv="same", kernel=4).kernel == 4


@pytest.mark.parametrize(("blocks", "depth", "suggested"), [(3, 2, 1), (8, 3, 4), (16, 2, 8)])
def test_blocks_must_divide_memory_and_channels(blocks, depth, suggested):
    specs = {"camera": IMAGE}
    with pytest.raises(
        ConfigError, match=f"blocks={blocks} do not divide 16 units of memory and {4 * depth}"
    ) as caught:
        Decoder(specs, DecoderConfig(depth=depth, units=8, blocks=blocks), DETER, STOCH)
    assert caught.value.hint == f"Set world.decoder.blocks={suggested}, or another depth."
    decoder = Decoder(specs, DecoderConfig(depth=depth, units=8, blocks=suggested), DETER, STOCH)
    assert decoder(torch.randn(2, DETER + STOCH))["camera"].shape == (2, 3, 8, 8)


def test_one_hot():
    x = torch.tensor([[0, 3], [2, -1], [-1, 0]], dtype=torch.int32)
    expected = [[1, 0, 0, 0, 0, 0, 1], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 1, 0, 0, 0]]
    assert one_hot(x, (3, 4)).int().tolist() == expected, "a missing entry is zeros"


def test_image_encoder_by_hand():
    """Convolution, pooling, norm over channels, SiLU; flattened in the official order: rows, columns, channels."""
    specs = {"b": image(2, 12, 8), "a": image(1, 12, 8)}
    torch.manual_seed(0)
    encoder = Encoder(specs, ENC)
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
    decoder = Decoder({"camera": image(3, 8, 8)}, DecoderConfig(depth=4, units=8), DETER, STOCH)
    part = decoder.parts[0]
    torch.nn.init.normal_(part.from_deter.bias)
    torch.nn.init.zeros_(part.from_stoch[1].weight)
    torch.nn.init.normal_(part.from_stoch[1].bias)
    seen = []
    part.join.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
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
    decoder = Decoder(specs, DEC, DETER, STOCH)
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


def test_a_gaussian_of_deviation_1_counts_half(reference, precision):
    """-ln N(x; m, 1) = (x - m)² / 2 and a constant. Numbers are compared as they are; cards know no squares."""
    known = reference["symlog_mse"]
    specs = {"speed": ObsSpec("vector", (3,)), "camera": image(3, 16, 16), "cards": CARDS}
    cfg = DecoderConfig(loss="gaussian", squash="none", **OLD)
    decoder, plain = Decoder(specs, cfg, DETER, STOCH), Decoder(specs, DEC, DETER, STOCH)
    picture = torch.randint(256, (1, 1, 3, 16, 16), dtype=torch.uint8)
    out = {"speed": torch.tensor([[known["pred"]]]), "camera": torch.rand(picture.shape), "cards": torch.randn(1, 1, 7)}
    obs = {"speed": torch.tensor([[known["target"]]]), "camera": picture, "cards": torch.tensor([[[2, 1]]]).int()}
    losses, others = decoder.losses(out, obs), plain.losses(out, obs)
    # predicted 0.5, -1, 3; seen 1, -2.5, 40
    near(losses["speed"], [[(0.5**2 + 1.5**2 + 37**2) / 2]], precision.tolerance)
    normal = torch.distributions.Normal(out["camera"], 1.0)
    best = torch.distributions.Normal(0.0, 1.0).log_prob(torch.tensor(0.0)) * picture.numel()
    near(losses["camera"], [[best - normal.log_prob(picture / 255).sum()]], 100 * precision.tolerance)
    near(losses["camera"], others["camera"] / 2, precision.tolerance)
    closer = Decoder(specs, replace(cfg, std=0.2), DETER, STOCH).losses(out, obs)
    near(closer["speed"], 25 * losses["speed"], precision.tolerance)
    near(closer["cards"], losses["cards"], precision.tolerance)
    near(losses["cards"], others["cards"], 0)


def test_display_is_in_the_units_of_the_observation():
    specs = {"speed": VECTOR, "cards": CARDS}
    decoder = Decoder(specs, DEC, DETER, STOCH)
    shown = decoder.display({"speed": torch.tensor([[2.0, -3.0]]), "cards": torch.zeros(1, 7)})
    near(shown["speed"], [[torch.e**2 - 1, 1 - torch.e**3]], 1e-5)
    near(shown["cards"], [[1 / 3] * 3 + [1 / 4] * 4], 1e-6)


def test_numbers_that_are_not_squashed():
    specs = {"speed": VECTOR}
    decoder = Decoder(specs, DecoderConfig(squash="none", **OLD), DETER, STOCH)
    near(decoder.display({"speed": torch.tensor([[2.0, -3.0]])})["speed"], [[2, -3]], 0)
    speed = torch.tensor([[2.0, -30.0]])
    torch.manual_seed(0)
    plain = Encoder(specs, EncoderConfig(squash="none", **OLD))
    squashed = Encoder(specs, EncoderConfig(**OLD))
    squashed.load_state_dict(plain.state_dict())
    near(squashed({"speed": torch.expm1(speed.abs()) * speed.sign()}), plain({"speed": speed}), 1e-5)


# ── kinds of convolutions ───────────────────────────────────────────────────────────────────────────────────

KINDS = [("pooled", "rms_silu"), ("valid", "elu"), ("valid", "relu"), ("same", "ln_silu"), ("pooled", "ln_silu")]


def both(conv: str, bricks: str, specs: dict[str, ObsSpec], **decoder) -> tuple[Encoder, Decoder]:
    encoder = Encoder(specs, EncoderConfig(conv=conv, bricks=bricks, **OLD))
    return encoder, Decoder(specs, DecoderConfig(conv=conv, bricks=bricks, **OLD, **decoder), DETER, STOCH)


def test_every_kind_has_both_ways():
    assert set(ENCODERS) == set(DECODERS) == {conv for conv, _ in KINDS}
    assert set(BRICKS) == {bricks for _, bricks in KINDS}


@pytest.mark.parametrize(
    ("conv", "size", "end", "begin"),
    [
        # valid: sides n → (n - 4) / 2 + 1, padded so that it comes out even, but for 64x64; backwards (n - 6) / 2 + 1
        # if even, (n - 5) / 2 + 1 if odd
        ("valid", (64, 64), (2, 2), (1, 1)),  # 64 31 14 6 2; 64 30 13 5 1
        ("valid", (96, 96), (5, 5), (3, 3)),  # 110 54 26 12 5; 96 46 21 9 3
        ("valid", (16, 16), (3, 3), (1, 1)),  # 18 8 3; 16 6 1
        ("valid", (10, 10), (1, 1), (3, 3)),  # 10 4 1; 10 3
        ("valid", (15, 20), (3, 4), (1, 2)),  # 18 8 3, 22 10 4; 15 6 1, 20 8 2
        ("valid", (64, 96), (3, 5), (1, 3)),
        ("valid", (21, 9), (10, 4), (9, 3)),  # 22 10, 10 4; 21 9, 9 3
        ("same", (64, 64), (4, 4), (4, 4)),
        ("same", (96, 96), (6, 6), (6, 6)),
        ("same", (16, 16), (4, 4), (4, 4)),
        ("same", (10, 10), (3, 3), (3, 3)),  # padded to 12
        ("same", (15, 22), (4, 6), (4, 6)),
        ("pooled", (10, 10), (3, 3), (3, 3)),
    ],
)
def test_pictures_of_many_sizes(conv, size, end, begin):
    specs = {"camera": image(4, *size)}
    obs = observe(specs, (1, 2))
    encoder, decoder = both(conv, "elu", specs, picture="linear")
    seen = []
    decoder.parts[0].out.register_forward_hook(lambda module, inputs, output: seen.append(output.shape[2:]))
    ups = decoder.parts[0].ups[0] if decoder.parts[0].ups else decoder.parts[0].out
    ups.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].shape[2:]))
    embed, out = encoder(obs), decoder(torch.randn(1, 2, DETER + STOCH))["camera"]
    assert encoder.size == embed.shape[-1] == 16 * end[0] * end[1], "always 2 x 8 channels"
    assert tuple(seen[0]) == begin
    assert conv != "valid" or tuple(seen[1]) == size, "nothing to cut off"
    assert out.shape == (1, 2, 4, *size)
    loss = decoder.losses({"camera": out}, obs)["camera"]
    (loss.sum() + embed.square().sum()).backward()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        assert bool(parameter.grad.isfinite().all())


PLANET = {"depth": 32, "mults": (1, 2, 4, 8), "conv": "valid", "bricks": "relu"}
V2 = {"depth": 48, "mults": (1, 2, 4, 8), "conv": "valid", "bricks": "elu"}
V3_2023 = {"depth": 32, "mults": (1, 2, 4, 8), "conv": "same", "bricks": "ln_silu"}


@pytest.mark.parametrize(
    ("settings", "channels", "deter", "stoch", "encoder_counts", "decoder_counts"),
    [
        (PLANET, 3, 200, 30, 690_144, 3_795_555),  # Dreamer V1's too
        (V2, 1, 600, 32 * 32, 1_549_776, 10_497_553),  # Atari
        (V2, 3, 200, 32 * 32, 1_551_312, 9_886_611),  # DMC
        # Kernels without biases and two numbers a channel of the norm, but for the last; its dense layer has a bias.
        (
            V3_2023,
            3,
            512,
            32 * 32,
            16 * (3 * 32 + 32 * 64 + 64 * 128 + 128 * 256) + 2 * (32 + 64 + 128 + 256),
            (1536 + 1) * 4096 + 16 * (256 * 128 + 128 * 64 + 64 * 32 + 32 * 3) + 2 * (128 + 64 + 32) + 3,
        ),
    ],
    ids=["planet", "v2-atari", "v2-dmc", "v3-2023"],
)
def test_parameter_counts_of_older_variants(settings, channels, deter, stoch, encoder_counts, decoder_counts):
    specs = {"image": image(channels, 64, 64)}
    with torch.device("meta"):
        encoder, decoder = (
            Encoder(specs, EncoderConfig(**settings)),
            Decoder(specs, DecoderConfig(**settings), deter, stoch),
        )
    assert sum(p.numel() for p in encoder.parameters()) == encoder_counts
    assert sum(p.numel() for p in decoder.parameters()) == decoder_counts


@pytest.mark.parametrize("conv", ["pooled", "valid", "same"])
@pytest.mark.parametrize("size", [(16, 16), (15, 20), (84, 84), (64, 96)])
def test_every_pixel_is_seen(conv, size):
    """A paddle in the last row, say. Only the sources' own 64x64 lose two rows and columns, without a border."""
    encoder = Encoder({"camera": image(1, *size)}, EncoderConfig(conv=conv, bricks="ln_silu", **OLD)).double()
    seen = []
    encoder.parts[0].camera = lambda obs, dtype, camera=encoder.parts[0].camera: (
        seen.append(camera(obs, dtype).requires_grad_()) or seen[0]
    )
    encoder(observe({"camera": image(1, *size)}, (4, 1))).square().sum().backward()
    rows, columns = ((seen[0].shape[2 + i] - size[i]) // 2 if conv == "valid" else 0 for i in range(2))
    assert bool((seen[0].grad[:, :, rows : rows + size[0], columns : columns + size[1]].abs().amax((0, 1)) > 0).all())


@pytest.mark.parametrize("size", [(3, 64), (320, 64)])
def test_pictures_that_do_not_fit_without_a_border(size):
    specs = {"camera": image(3, *size)}
    for build in (
        lambda: Encoder(specs, EncoderConfig(conv="valid", **OLD)),
        lambda: Decoder(specs, DecoderConfig(conv="valid", **OLD), DETER, STOCH),
    ):
        with pytest.raises(ConfigError, match=f"{size[0]}x{size[1]} do not fit 4 stages"):
            build()


def test_encoder_without_a_border_by_hand():
    """Stride 2, ELU, no norm; flattened by rows, columns, channels. The first of two stages is left out at 10x12."""
    specs = {"b": image(2, 8, 10), "a": image(1, 8, 10)}
    encoder = Encoder(specs, EncoderConfig(conv="valid", bricks="elu", depth=3, mults=(2, 1, 2)))
    part = encoder.parts[0]
    assert [tuple(conv.weight.shape) for conv in part.convs] == [(6, 3, 4, 4)], "8x10 fits once"
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    obs = observe(specs, (2,))
    x = torch.cat([obs["a"], obs["b"]], 1).float() / 255 - 0.5
    weight, bias = part.convs[0].weight, part.convs[0].bias
    embed = encoder(obs)
    assert embed.shape == (2, 3 * 4 * 6)
    for row, column, channel in [(0, 0, 0), (2, 3, 5), (1, 2, 4)]:
        window = x[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        product = (window * weight[channel]).sum((1, 2, 3)) + bias[channel]
        expected = torch.where(product > 0, product, product.exp() - 1)
        near(embed[:, (row * 4 + column) * 6 + channel], expected, 1e-5)


def test_encoder_of_2023_by_hand():
    """Stride 2 and a border of 1; the norm over each pixel's channels comes before SiLU."""
    specs = {"camera": image(1, 6, 8)}
    encoder = Encoder(specs, EncoderConfig(conv="same", bricks="ln_silu", depth=2, mults=(1, 3)))
    part = encoder.parts[0]
    assert len(part.convs) == 1
    assert part.convs[0].bias is None
    for parameter in encoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    obs = observe(specs, (2,))
    x = F.pad(obs["camera"].float() / 255 - 0.5, (1, 1, 1, 1))
    embed = encoder(obs).unflatten(-1, (3, 4, 6))
    norm = part.norms[0]
    for row, column in [(0, 0), (2, 3), (1, 2)]:
        window = x[:, :, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        pixel = (window.unsqueeze(1) * part.convs[0].weight).sum((2, 3, 4))
        near(embed[:, row, column], F.silu(F.layer_norm(pixel, (6,), norm.scale, norm.shift, 1e-3)), 1e-5)


@pytest.mark.parametrize("conv", ["valid", "same"])
def test_strided_decoder_by_hand(conv):
    """A dense layer of guess and memory, by rows, columns, channels; then what a transposed convolution says."""
    specs = {"camera": image(2, 6, 7)}
    cfg = DecoderConfig(conv=conv, bricks="relu", picture="linear", depth=3, mults=(1,))
    decoder = Decoder(specs, cfg, DETER, STOCH)
    part = decoder.parts[0]
    assert len(part.ups) == 0
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    rows, columns, channels, border = (1, 2, 2 * 3, 0) if conv == "valid" else (3, 4, 3, 1)
    x = torch.randn(1, DETER + STOCH)
    start = part.start(torch.cat([x[:, DETER:], x[:, :DETER]], -1)).view(rows, columns, channels)
    weight = part.out.weight
    assert weight.shape == (channels, 2, *((6, 5) if conv == "valid" else (4, 4)))
    canvas = (part.out.bias + 0.5)[:, None, None].expand(-1, 20, 20).clone()
    for row in range(rows):
        for column in range(columns):
            patch = torch.einsum("c,coyx->oyx", start[row, column], weight)
            canvas[:, 2 * row :, 2 * column :][:, : patch.shape[1], : patch.shape[2]] += patch
    near(decoder(x)["camera"][0], canvas[:, border : border + 6, border : border + 7], 1e-5)


@pytest.mark.parametrize("conv", ["valid", "same"])
def test_norm_and_activation_stand_between_all_but_the_last(conv):
    specs = {"camera": image(3, 16, 16)}
    decoder = Decoder(specs, DecoderConfig(conv=conv, bricks="ln_silu", **OLD), DETER, STOCH)
    part = decoder.parts[0]
    assert all(up.bias is None for up in part.ups)
    assert len(part.norms) == len(part.ups) == 1
    assert part.out.bias is not None
    x = part.start(torch.cat([torch.ones(1, STOCH), torch.zeros(1, DETER)], -1))
    x = x.view(1, *part.small, -1).permute(0, 3, 1, 2)
    x = F.conv_transpose2d(x, part.ups[0].weight, stride=2, padding=int(conv == "same"))
    normed = F.layer_norm(x.permute(0, 2, 3, 1), (x.shape[1],), eps=1e-3).permute(0, 3, 1, 2)
    x = F.conv_transpose2d(F.silu(normed), part.out.weight, stride=2, padding=int(conv == "same"))
    state = torch.cat([torch.zeros(1, DETER), torch.ones(1, STOCH)], -1)
    near(decoder(state)["camera"], torch.sigmoid(x), 1e-5)


def test_linear_pictures_begin_at_a_middle_grey():
    """Whatever the last convolution says is shown on the same scale, and may leave it; what is displayed may not."""
    specs = {"camera": image(1, 16, 16)}
    decoder = Decoder(specs, DecoderConfig(conv="valid", bricks="relu", picture="linear", **OLD), DETER, STOCH)
    part = decoder.parts[0]
    torch.nn.init.zeros_(part.out.weight)
    for said, drawn, shown in [(0.0, 0.5, 0.5), (0.25, 0.75, 0.75), (3.0, 3.5, 1.0), (-1.0, -0.5, 0.0)]:
        torch.nn.init.constant_(part.out.bias, said)
        out = decoder(torch.randn(2, DETER + STOCH))
        near(out["camera"], torch.full((2, 1, 16, 16), drawn), 0)
        near(decoder.display(out)["camera"], torch.full((2, 1, 16, 16), shown), 0)


def test_planet_sees_and_draws_five_bits(reference, precision):
    known = reference["planet_preprocess"]
    specs = {"camera": image(1, 16, 16)}
    seen = torch.tensor(known["uint8"], dtype=torch.uint8).repeat(43)[:256].view(1, 1, 1, 16, 16)
    expected = torch.tensor(known["without_noise_floor(x/8)/32-0.5"]).repeat(43)[:256].view(1, 1, 16, 16)
    encoder, decoder = (
        Encoder(specs, EncoderConfig(bits=known["bits"], **OLD)),
        Decoder(specs, DecoderConfig(bits=known["bits"], **OLD), DETER, STOCH),
    )
    found = []
    encoder.parts[0].convs[0].register_forward_pre_hook(lambda module, inputs: found.append(inputs[0]))
    encoder({"camera": seen})
    near(found[0], expected, 0)
    # What is drawn lies from 0 to 1, not from -0.5 to 0.5.
    near(decoder.losses({"camera": expected[None] + 0.5}, {"camera": seen})["camera"], [[0]], 0)
    near(decoder.losses({"camera": expected[None]}, {"camera": seen})["camera"], [[256 / 4]], precision.tolerance)


@pytest.mark.parametrize(("conv", "bricks"), KINDS)
def test_recomputing_changes_nothing_of_any_kind(conv, bricks):
    specs = {"camera": image(3, 16, 16), "speed": VECTOR}
    obs, (encoder, decoder) = observe(specs), both(conv, bricks, specs)
    again = Encoder(specs, EncoderConfig(conv=conv, bricks=bricks, recompute=4, **OLD))
    again.load_state_dict(encoder.state_dict())
    assert decoder.recompute == 0
    results = []
    for net in (encoder, again):
        embed = net(obs)
        embed.square().sum().backward()
        results.append([embed, *(p.grad for p in net.parameters())])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("conv", "bricks"), [("valid", "elu"), ("same", "ln_silu")])
def test_strided_kinds_are_exported_for_any_number_of_frames(conv, bricks):
    """Without looking at any number: one graph for all inputs."""
    specs = {"camera": image(3, 9, 16)}

    class There(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.decoder = both(conv, bricks, specs, bits=5, picture="linear")

        def forward(self, camera: Tensor) -> tuple[Tensor, Tensor]:
            embed = self.encoder({"camera": camera})
            return embed, self.decoder(embed[:, : DETER + STOCH])["camera"]

    net = There().eval().requires_grad_(False)
    frames = torch.export.Dim("frames", min=2, max=64)
    two, five = observe(specs, (2,)), observe(specs, (5,))
    graph = torch.export.export(net, (two["camera"],), dynamic_shapes=({0: frames},)).module()
    for ours, exported in zip(net(five["camera"]), graph(five["camera"]), strict=True):
        torch.testing.assert_close(exported, ours, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("conv", "bricks"), KINDS)
def test_half_precision_draws_and_compares_in_float32(conv, bricks):
    specs = {"camera": image(3, 16, 16)}
    encoder, decoder = both(conv, bricks, specs, picture="linear")
    obs, x = observe(specs), torch.randn(2, 3, DETER + STOCH)
    with torch.autocast("cpu", torch.bfloat16):
        embed, out = encoder(obs), decoder(x)
        losses = decoder.losses(out, obs)
    assert out["camera"].dtype == losses["camera"].dtype == torch.float32
    torch.testing.assert_close(embed.float(), encoder(obs), rtol=0.1, atol=0.1)
    torch.testing.assert_close(out["camera"], decoder(x)["camera"], rtol=0.1, atol=0.1)
