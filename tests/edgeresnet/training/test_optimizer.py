import copy
import math

import pytest
import torch
from torch import nn

from edgeresnet.training.config import TrainingConfig
from edgeresnet.training.optimizer import build_optimizer, orthogonalize
from edgeresnet.training.state import TrainingState

MUON = TrainingConfig(lr=0.05, muon_lr=0.03, batch_size=4, image_size=8, crop_padding=0)


@pytest.mark.parametrize("shape", [(24, 200), (200, 24), (32, 32), (1, 9)])
def test_an_orthogonal_update_keeps_directions_and_evens_out_their_sizes(shape):
    torch.manual_seed(0)
    matrix = torch.randn(shape)
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    inside = left.T @ orthogonalize(matrix) @ right.T
    evened = inside.diagonal()
    assert (inside - evened.diag()).abs().max() < 1e-4
    large = evened[sizes > 0.1 * sizes[0]]
    assert large.min() > 0.6
    assert large.max() < 1.25


def test_nothing_to_update_is_no_update():
    assert torch.equal(orthogonalize(torch.zeros(4, 6)), torch.zeros(4, 6))


def build_small_network(memory_format=torch.channels_last):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2))
    return network.to(memory_format=memory_format)


def take_steps(network, config, count=3, lr_fraction=1.0):
    optimizer = build_optimizer(network, config)
    for group in optimizer.param_groups:
        group["lr"] = lr_fraction * group["peak_lr"]
    torch.manual_seed(1)
    for _ in range(count):
        network(torch.randn(16, 3, 3, 3)).logsumexp(1).sum().backward()
        optimizer.prepare()
        optimizer.step()
        optimizer.zero_grad()


def test_a_filter_keeps_its_norm_and_changes_by_the_learning_rate():
    network = build_small_network()
    take_steps(network, MUON, count=1, lr_fraction=0.0)
    before = network[0].weight.detach().clone()
    assert before.norm() == pytest.approx(math.sqrt(8), rel=1e-5)
    take_steps(network, MUON, count=1)
    change = network[0].weight.detach() - before
    assert 0.7 * 0.03 < change.norm() / before.norm() < 1.25 * 0.03
    sizes = torch.linalg.svdvals(change.flatten(1))
    assert sizes.max() < 2 * sizes.min()


def test_the_layout_of_filters_in_memory_does_not_matter():
    results = []
    for memory_format in (torch.channels_last, torch.contiguous_format):
        network = build_small_network(memory_format)
        take_steps(network, MUON)
        results.append(network[0].weight)
    assert torch.allclose(*results, atol=1e-6)


def test_all_but_filters_are_updated_as_by_sgd():
    network = build_small_network()
    network[0].weight.requires_grad_(False)
    other = copy.deepcopy(network)
    take_steps(network, MUON)
    take_steps(other, TrainingConfig(lr=0.05))
    before = build_small_network()
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, dict(other.named_parameters())[name])
        assert torch.equal(parameter, dict(before.named_parameters())[name]) == (name == "0.weight")


def test_a_run_with_muon_resumes_exactly(tmp_path):
    def advance(state, steps):
        for _ in range(steps):
            generator = torch.Generator().manual_seed(state.step)
            state.network.train()(torch.randn(4, 3, 8, 8, generator=generator)).square().sum().backward()
            state.optimizer.prepare()
            state.optimizer.step()
            state.optimizer.zero_grad()
            state.step += 1

    whole, first = (TrainingState.new(MUON, ("cat", "dog"), torch.device("cpu")) for _ in range(2))
    advance(whole, 3)
    advance(first, 2)
    first.save(tmp_path / "state.pt", MUON)
    resumed, config = TrainingState.load(tmp_path / "state.pt", torch.device("cpu"))
    assert config == MUON
    advance(resumed, 1)
    for one, other in zip(whole.network.state_dict().values(), resumed.network.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def orthogonalize_by_hand(matrix):
    """Three turns of Newton and Schulz's iteration, as Jordan writes it."""
    x = matrix.double() / matrix.double().norm()
    if len(x) > x.shape[1]:
        return orthogonalize_by_hand(matrix.T).T
    for _ in range(3):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


def test_filters_are_updated_as_by_plain_muon_with_nesterovs_momentum():
    network = build_small_network()
    config = TrainingConfig(lr=0.05, muon_lr=0.03, momentum=0.6, weight_decay=0.4)
    optimizer = build_optimizer(network, config)
    filters = network[0].weight.detach().double()
    mean = torch.zeros_like(filters)
    torch.manual_seed(1)
    for _ in range(3):
        optimizer.param_groups[0]["lr"] = 0.5 * config.muon_lr
        network(torch.randn(16, 3, 3, 3)).logsumexp(1).sum().backward()
        gradient = network[0].weight.grad.double()
        mean = 0.6 * mean + gradient
        update = (gradient + 0.6 * mean).permute(0, 2, 3, 1).flatten(1)
        update = orthogonalize_by_hand(update).view(8, 3, 3, 3).permute(0, 3, 1, 2)
        filters = filters * math.sqrt(8) / filters.norm() - 0.015 * update
        optimizer.prepare()
        optimizer.step()
        optimizer.zero_grad()
        torch.testing.assert_close(network[0].weight.detach().double(), filters, rtol=1e-4, atol=1e-4)
