import copy
import io
from typing import get_args

import numpy as np
import pytest
import torch
from torch import nn

from mlml import optimizers
from mlml.config import (
    AdaGradConfig,
    AdamConfig,
    AdamWConfig,
    LARSConfig,
    OptimizerConfig,
    RMSPropConfig,
    SGDConfig,
)
from mlml.optimizers.lars import LARS

CONFIGS = [
    SGDConfig(learning_rate=0.05, weight_decay=0.01),
    SGDConfig(learning_rate=0.05, momentum=0.0),
    SGDConfig(learning_rate=0.05, nesterov=True),
    AdamConfig(learning_rate=0.01, weight_decay=0.01),
    AdamWConfig(learning_rate=0.01, weight_decay=0.1),
    AdaGradConfig(learning_rate=0.05, epsilon=1e-6, weight_decay=0.01),
    RMSPropConfig(learning_rate=0.01, decay=0.9, momentum=0.5, epsilon=1e-6, weight_decay=0.01),
    RMSPropConfig(learning_rate=0.01, centered=True),
    LARSConfig(learning_rate=0.5, weight_decay=0.01),
]
TORCHS = CONFIGS[:-1]
identify = lambda config: f"{config.name}{'-nesterov' * getattr(config, 'nesterov', False)}"  # noqa: E731


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def train(model, optimizer, first, last):
    """Steps `first` to `last` of a run; the data and the rate are functions of the step."""
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = 0.05 / (1 + step)
        optimizer.zero_grad()
        dtype = next(model.parameters()).dtype
        model(torch.randn(8, 2, 4, 4, generator=generator, dtype=dtype)).square().mean().backward()
        optimizer.step()


def test_the_table_holds_what_can_be_declared():
    union, *_ = get_args(OptimizerConfig)
    tags = [config.model_fields["name"].default for config in get_args(union)]
    assert list(optimizers.OPTIMIZERS) == tags


@pytest.mark.parametrize("config", CONFIGS, ids=identify)
def test_scales_and_biases_are_not_decayed(config):
    model = network()
    optimizer = optimizers.build(config, model.parameters(), decay_norm_and_bias=False)
    assert type(optimizer) is optimizers.OPTIMIZERS[config.name]
    weights, vectors = optimizer.param_groups
    assert [id(p) for p in weights["params"]] == [id(model[0].weight), id(model[4].weight)]
    biases = [model[0].bias, model[1].weight, model[1].bias, model[4].bias]
    assert [id(p) for p in vectors["params"]] == [id(p) for p in biases]
    assert weights["weight_decay"] == config.weight_decay
    assert vectors["weight_decay"] == 0
    assert weights["lr"] == vectors["lr"] == config.learning_rate
    if config.name == "lars":
        assert (weights["adapt"], vectors["adapt"]) == (True, False)


@pytest.mark.parametrize("config", CONFIGS, ids=identify)
def test_scales_and_biases_are_decayed_when_asked(config):
    optimizer = optimizers.build(config, network().parameters(), decay_norm_and_bias=True)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {config.weight_decay}
    assert all(group.get("adapt", True) for group in optimizer.param_groups)


@pytest.mark.parametrize("shape", [(3,), (3, 2)])
@pytest.mark.parametrize("config", CONFIGS, ids=identify)
def test_parameters_of_one_kind_are_one_group(config, shape):
    parameter = nn.Parameter(torch.ones(shape))
    optimizer = optimizers.build(config, iter([parameter]), decay_norm_and_bias=False)
    assert [group["params"] for group in optimizer.param_groups] == [[parameter]]
    parameter.square().sum().backward()
    optimizer.step()
    assert (parameter < 1).all()


def test_build_refuses_no_parameters():
    with pytest.raises(ValueError, match=r"^optimizer 'adamw': must be given parameters; got none$"):
        optimizers.build(AdamWConfig(), [], decay_norm_and_bias=False)


def torchs(config, parameters):
    """Torch's own optimizer with the declared numbers, written out."""
    common = {"lr": config.learning_rate, "weight_decay": config.weight_decay}
    match config:
        case SGDConfig():
            return torch.optim.SGD(parameters, momentum=config.momentum, nesterov=config.nesterov, **common)
        case AdaGradConfig():
            return torch.optim.Adagrad(parameters, eps=config.epsilon, **common)
        case RMSPropConfig():
            numbers = {"alpha": config.decay, "momentum": config.momentum, "centered": config.centered}
            return torch.optim.RMSprop(parameters, eps=config.epsilon, **numbers, **common)
        case AdamConfig():
            return torch.optim.Adam(parameters, betas=(config.beta1, config.beta2), **common)
        case AdamWConfig():
            return torch.optim.AdamW(parameters, betas=(config.beta1, config.beta2), **common)


@pytest.mark.parametrize("config", TORCHS, ids=identify)
def test_declared_numbers_reach_torch_over_200_steps(config):
    # the bias before the batch norm has no gradient but rounding, of which Adam and its kin make full steps
    ours, theirs = network().double(), network().double()
    owned = [[p for p in model.parameters() if p is not model[0].bias] for model in (ours, theirs)]
    optimizer = optimizers.build(config, owned[0], decay_norm_and_bias=True)
    peer = torchs(config, owned[1])
    train(ours, optimizer, 0, 200)
    train(theirs, peer, 0, 200)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-7, atol=1e-9)
    before = network().double()
    assert (ours[4].weight - before[4].weight).abs().max() > 1e-3


def test_betas_are_the_declared_ones():
    optimizer = optimizers.build(AdamConfig(beta1=0.5, beta2=0.75), network().parameters(), False)
    assert all(group["betas"] == (0.5, 0.75) for group in optimizer.param_groups)


@pytest.mark.parametrize("config", [config for config in TORCHS if config.name != "rmsprop"], ids=identify)
def test_torchs_optimizers_are_fused(config):
    """But for RMSProp, which torch has not fused."""
    optimizer = optimizers.build(config, network().parameters(), False)
    assert all(group["fused"] is True for group in optimizer.param_groups)
    half = nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))
    assert optimizers.build(config, [half], False).param_groups[0]["fused"] is False


@pytest.mark.parametrize("stop", [0, 1, 7])
@pytest.mark.parametrize("config", CONFIGS, ids=identify)
def test_a_saved_and_loaded_run_goes_on_bit_for_bit(config, stop):
    model = network()
    optimizer = optimizers.build(config, model.parameters(), decay_norm_and_bias=False)
    train(model, optimizer, 0, stop)
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    train(model, optimizer, stop, 12)

    saved = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    resumed = network()
    resumed.load_state_dict(saved["model"])
    again = optimizers.build(config, resumed.parameters(), decay_norm_and_bias=False)
    again.load_state_dict(saved["optimizer"])
    train(resumed, again, stop, 12)
    for name, value in model.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name


def lars_of_the_paper(w, gradient, rates, m, beta, eta, adapt):
    """Algorithm 1, one layer, in float64."""
    v = np.zeros_like(w)
    for t, gamma in enumerate(rates):
        g = gradient(w, t)
        local = 1.0
        if adapt and np.linalg.norm(w) > 0 and np.linalg.norm(g) > 0:
            local = eta * np.linalg.norm(w) / (np.linalg.norm(g) + beta * np.linalg.norm(w))
        v = m * v + gamma * local * (g + beta * w)
        w = w - v
    return w


@pytest.mark.parametrize("adapt", [True, False])
@pytest.mark.parametrize(("m", "beta", "eta"), [(0.9, 0.01, 0.02), (0.0, 0.0, 0.05), (0.5, 0.1, 0.01)])
def test_lars_is_the_papers_algorithm(m, beta, eta, adapt):
    steps = 200
    rates = [0.3 * (1 - t / steps) ** 2 for t in range(steps)]  # the paper's polynomial decay
    rng = np.random.default_rng(0)
    layers = [rng.normal(size=(5, 3)), rng.normal(size=(2, 3, 2)) * 10, np.zeros((3, 2)), rng.normal(size=7)]
    scales = [rng.uniform(0.1, 2, size=layer.shape) for layer in layers]
    targets = [rng.normal(size=layer.shape) for layer in layers]
    noise = [rng.normal(size=(steps, *layer.shape)) * 0.1 for layer in layers]

    parameters = [nn.Parameter(torch.from_numpy(layer.copy())) for layer in layers]
    groups = [{"params": parameters[:2]}, {"params": parameters[2:]}]  # two groups, one rule
    optimizer = LARS(groups, momentum=m, weight_decay=beta, trust_coefficient=eta)
    for t, gamma in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"], group["adapt"] = gamma, adapt
        for parameter, scale, target, drawn in zip(parameters, scales, targets, noise, strict=True):
            parameter.grad = torch.from_numpy(scale * (parameter.detach().numpy() - target) + drawn[t])
        optimizer.step()
    for parameter, layer, scale, target, drawn in zip(parameters, layers, scales, targets, noise, strict=True):

        def gradient(w, t, scale=scale, target=target, drawn=drawn):
            return scale * (w - target) + drawn[t]

        wanted = lars_of_the_paper(layer, gradient, rates, m, beta, eta, adapt)
        np.testing.assert_allclose(parameter.detach().numpy(), wanted, rtol=1e-9, atol=1e-12)
        assert np.abs(wanted - layer).max() > 1e-3


def test_lars_without_adaptation_and_at_one_rate_is_sgd():
    ours, theirs = network().double(), network().double()
    mine = LARS([{"params": ours.parameters(), "adapt": False}], lr=0.05, momentum=0.9, weight_decay=0.01)
    peer = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=0.9, weight_decay=0.01)
    for step in range(20):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(8, 2, 4, 4, dtype=torch.float64, generator=generator)
        for model, optimizer in ((ours, mine), (theirs, peer)):
            optimizer.zero_grad()
            model(images).square().mean().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_lars_step_does_not_change_with_the_scale_of_the_gradient():
    moved = []
    for scale in (1.0, 1e4):
        weight = nn.Parameter(torch.arange(6.0).view(2, 3))
        optimizer = LARS([weight], lr=1.0, weight_decay=0.0, trust_coefficient=0.1)
        weight.grad = scale * torch.tensor([[1.0, -2, 3], [0, 1, 1]])
        before = weight.detach().clone()
        optimizer.step()
        moved.append(before - weight.detach())
    torch.testing.assert_close(moved[0], moved[1])
    assert moved[0].norm().item() == pytest.approx(0.1 * before.norm().item(), rel=1e-5)


def test_lars_leaves_frozen_parameters_and_runs_the_closure():
    weight, frozen = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    kept = copy.deepcopy(frozen)
    optimizer = LARS([weight, frozen], lr=1.0)

    def closure():
        optimizer.zero_grad()
        loss = weight.square().sum()
        loss.backward()
        return loss.item()

    assert optimizer.step(closure) == 4.0
    assert (weight != 1).all()
    assert torch.equal(frozen, kept)
    assert frozen not in optimizer.state
