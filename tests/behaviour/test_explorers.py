"""Explorers: how much they disturb, what they leave alone, and what they draw."""

import pytest
import torch

from dreamer_cli.behaviour.explorers import EXPLORERS, ActionNoiseConfig, NoExplorerConfig
from tests.small import CONTINUOUS, DISCRETE, UNEQUAL, near

PARTS = (UNEQUAL, CONTINUOUS, DISCRETE)  # classes 3, 2, 2; two numbers; classes 4
WIDTH = 3 + 2 + 2 + 2 + 4
LIKE = torch.zeros(1)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_actions(rows: int) -> torch.Tensor:
    """The first class of every entry, and the numbers 0.5 and -1."""
    entries = [torch.eye(n)[0] for n in (3, 2, 2)]
    return torch.cat([*entries, torch.tensor([0.5, -1.0]), torch.eye(4)[0]]).repeat(rows, 1)


@pytest.mark.parametrize("kind", EXPLORERS)
def test_contract(kind):
    explorer = EXPLORERS[kind]().build(PARTS)
    noise = explorer.noise(5, torch.zeros(1, dtype=torch.float64), generator())
    assert noise.shape == (5, explorer.width)
    assert noise.dtype == torch.float64
    assert torch.equal(noise, explorer.noise(5, torch.zeros(1, dtype=torch.float64), generator()))
    action = some_actions(5)
    disturbed = explorer(action, noise.float())
    assert disturbed.shape == (5, WIDTH)
    for columns in (slice(0, 3), slice(3, 5), slice(5, 7), slice(9, 13)):
        assert torch.equal(disturbed[:, columns].sum(-1), torch.ones(5))
        assert disturbed[:, columns].max() == 1
    assert disturbed.abs().max() <= 1
    assert not list(explorer.state_dict())


@pytest.mark.parametrize("config", [NoExplorerConfig(), ActionNoiseConfig(std=0.0)])
def test_none_draws_nothing_and_changes_nothing(config):
    random = generator()
    before = random.get_state()
    explorer = config.build(PARTS)
    noise = explorer.noise(4, LIKE, random)
    assert noise.shape == (4, 0)
    assert torch.equal(random.get_state(), before)
    action = 3 * torch.randn(4, WIDTH, generator=random)  # numbers out of bounds stay there, too
    assert torch.equal(explorer(action, noise), action)


def test_numbers_are_disturbed_and_clipped_and_classes_are_not():
    explorer = ActionNoiseConfig(std=0.3).build(PARTS)
    action = some_actions(20_000)
    moved = explorer(action, explorer.noise(len(action), LIKE, generator()))
    assert torch.equal(moved[:, :7], action[:, :7])
    assert torch.equal(moved[:, 9:], action[:, 9:])
    # 0.5 + 0.3 ε is clipped at 1, beyond 5/3 deviations: P = 0.0478. -1 + 0.3 ε is clipped in half of all cases.
    near((moved[:, 7] == 1).float().mean(), 0.0478, 0.005)
    near((moved[:, 8] == -1).float().mean(), 0.5, 0.01)
    inside = moved[(moved[:, 7] < 0.8), 7]  # the lower side is not cut: its median is that of the whole's below 0.8
    near((inside < 0.5).float().mean(), 0.5 / 0.8413, 0.01)  # 0.8 lies one deviation above
    near((moved[:, 7] < 0.2).float().mean(), 0.1587, 0.01)  # and 0.2 one below


def test_noise_is_added_as_it_comes():
    explorer = ActionNoiseConfig(std=0.5).build((CONTINUOUS, UNEQUAL, CONTINUOUS))
    action = torch.cat([torch.tensor([0.0, 0.9]), some_actions(1)[0, :7], torch.tensor([-0.2, 0.0])])[None]
    moved = explorer(action, torch.tensor([[1.0, 1.0, -2.0, 0.5]]))
    near(moved[0, [0, 1, 9, 10]], [0.5, 1.0, -1.0, 0.25], 1e-6)  # 0 + .5, .9 + .5 cut, -.2 - 1 cut, 0 + .25
    assert torch.equal(moved[:, 2:9], action[:, 2:9])


def test_epsilon_is_the_chance_of_any_class():
    explorer = ActionNoiseConfig(std=0.0, epsilon=0.4).build(PARTS)
    action = some_actions(20_000)
    chosen = explorer(action, explorer.noise(len(action), LIKE, generator()))
    assert torch.equal(chosen[:, 7:9], action[:, 7:9])
    share = chosen.mean(0)
    for first, classes in ((0, 3), (3, 2), (5, 2), (9, 4)):  # 0.6 stay; of 0.4 every class gets the same
        expected = torch.full((classes,), 0.4 / classes)
        expected[0] += 0.6
        near(share[first : first + classes], expected, 0.012)
    # Entries are drawn apart from each other: both of two entries change as often as chance has it.
    changed = (chosen != action).float()
    near((changed[:, 3] * changed[:, 5]).mean(), 0.2 * 0.2, 0.006)


def test_all_or_nothing():
    explorer = ActionNoiseConfig(epsilon=1.0).build((DISCRETE,))
    scores = torch.tensor([[0.0, 2.0, 1.0, 0.0, 0.999]])  # scores of four classes, then the coin
    assert explorer(torch.eye(4)[:1], scores).tolist() == [[0, 1, 0, 0]]
    explorer = ActionNoiseConfig(epsilon=0.5).build((DISCRETE,))
    assert explorer(torch.eye(4)[:1], scores).tolist() == [[1, 0, 0, 0]]


def test_ranges():
    with pytest.raises(ValueError, match="less than or equal to 1"):
        ActionNoiseConfig(epsilon=1.5)
    with pytest.raises(ValueError, match="greater than or equal to 0"):
        ActionNoiseConfig(std=-0.1)
