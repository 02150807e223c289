import copy
from itertools import pairwise

import pytest
import torch
from blobs import write_prepared
from torch import nn

from mlml import model_folder, optimizers
from mlml.config import AdamWConfig, DeclarationError, SGDConfig, TrainConfig
from mlml.data.batches import split_batches
from mlml.data.dataset import DataError
from mlml.declaration import resolve
from mlml.probes.finetune import FineTune, FineTuned, layer_groups
from mlml.seeds import seed_everything
from mlml.train import fit

CPU = torch.device("cpu")


def encoder(data, method="simclr", **network):
    network = network or {"network": "mlp", "hidden_widths": [8, 8, 8]}
    entry = {"method": method, "dataset": "blobs", "encoder": network}
    config = resolve("pretext", method, entry | ({} if method == "random" else {"train": {"steps": 1}})).config
    seed_everything(0, "init")
    return model_folder.build("pretext", method, config, data.spec).eval()


def config(**numbers):
    train = TrainConfig(
        steps=8,
        batch_size=16,
        evaluate_every=4,
        checkpoint_every=3,
        log_every=2,
        optimizer=numbers.pop("optimizer", SGDConfig()),
        schedule={"name": "constant"},
    )
    return FineTune.Config(encoder="e", train=train, **numbers)


def tune(data, folder, on_evaluation=None, source=None, **numbers):
    seed_everything(0, "finetune")
    declared = config(**numbers)
    network = FineTuned(source or encoder(data), declared, 4)
    splits = [split_batches(data, name, 16, 0, CPU) for name in ("train", "validation")]
    return network, fit(network, *splits, declared.train, 0, folder, on_evaluation)


def weights(network):
    """Of the head, and of the layers of the encoder from the first on."""
    linear = [module for module in network.encoder.encoder.modules() if isinstance(module, nn.Linear)]
    return [layer.weight.detach().clone() for layer in (network.head, *linear)]


def test_groups_are_layers_in_order_and_a_projector_is_in_none(blob_data):
    source = encoder(blob_data)
    groups = layer_groups(source, 2)
    linear = [module for module in source.encoder.modules() if isinstance(module, nn.Linear)]
    norms = [module for module in source.encoder.modules() if isinstance(module, nn.BatchNorm1d)]
    assert [group.modules for group in groups] == [[linear[0], norms[0], linear[1], norms[1]], [linear[2], norms[2]]]
    owned = {id(p) for group in groups for p in group.parameters}
    assert owned == {id(p) for p in source.encoder.parameters()}
    assert not owned & {id(p) for p in source.projector.parameters()}
    assert len(layer_groups(source, 99)) == 3
    assert layer_groups(encoder(blob_data, "random", network="pixels"), 3) == []


@pytest.mark.parametrize("network", ["resnet", "vit", "rnn"])
def test_every_weight_of_an_encoder_is_in_one_group(blob_data, network):
    numbers = {"resnet": {"depth": 8, "width": 4}}.get(network, {})
    source = encoder(blob_data, "random", network=network, **numbers)
    found = [id(p) for group in layer_groups(source, 3) for p in group.parameters]
    assert len(found) == len(set(found))
    assert set(found) == {id(p) for p in source.parameters()}


def test_an_encoder_that_lets_no_gradient_through_is_refused(blob_data):
    source = encoder(blob_data)
    source.encode = torch.no_grad()(source.encode)
    with pytest.raises(ValueError, match=r"finetune: SimCLR\.encode lets no gradient through; probe it by 'linear'"):
        layer_groups(source, 3)


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_an_update_of_sgd_is_in_proportion_to_the_declared_rates(blob_data, decay):
    """One step, all groups open: each weight moves by its group's rate times its gradient."""
    network = FineTuned(encoder(blob_data), config(rate_decay=decay, frozen_share=0.0, unfreezing_share=0.0), 4)
    network.train()
    built = optimizers.build(
        SGDConfig(momentum=0.0), network.phase_parameters("train"), False, network.rate_factors("train")
    )
    optimizers.set_rate(built, 0.3)
    before = weights(network)
    network(split_batches(blob_data, "train", 16, 0, CPU)(0), "train").loss.backward()
    linear = [module for module in network.encoder.encoder.modules() if isinstance(module, nn.Linear)]
    gradients = [layer.weight.grad.clone() for layer in (network.head, *linear)]
    built.step()
    for old, new, gradient, power in zip(before, weights(network), gradients, [0, 3, 2, 1], strict=True):
        torch.testing.assert_close(old - new, 0.3 * decay**power * gradient, rtol=1e-4, atol=1e-7)
    assert built.param_groups[0]["lr"] == 0.3  # that of the head, which is logged


@pytest.mark.parametrize("optimizer", [SGDConfig(weight_decay=0.1), AdamWConfig(learning_rate=0.01, weight_decay=0.1)])
def test_closed_groups_do_not_move_and_open_from_the_last_to_the_first(blob_data, tmp_path, optimizer):
    """Of 8 steps the head learns alone for 2; the three layers join after 2, 4 and 6."""
    numbers = {"frozen_share": 0.25, "unfreezing_share": 0.5, "optimizer": optimizer}
    source = encoder(blob_data)
    begun = FineTuned(source, config(**numbers), 4)
    assert [begun.opening(place) for place in range(3)] == [0.75, 0.5, 0.25]
    seen = []
    after = FineTuned.after_step

    def watch(network, progress):
        norms = [m.running_mean.clone() for m in network.encoder.encoder.modules() if isinstance(m, nn.BatchNorm1d)]
        seen.append((weights(network), norms))
        after(network, progress)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FineTuned, "after_step", watch)
        tune(blob_data, tmp_path, source=source, **numbers)
    moved = [[not torch.equal(a, b) for a, b in zip(x[0], y[0], strict=True)] for x, y in pairwise(seen)]
    expected = [[True, step >= 6, step >= 4, step >= 2] for step in range(1, 8)]
    assert moved == expected
    statistics = [[not torch.equal(a, b) for a, b in zip(x[1], y[1], strict=True)] for x, y in pairwise(seen)]
    assert statistics == [row[1:] for row in expected]


def test_a_run_that_stopped_ends_as_if_it_had_not(blob_data, tmp_path):
    """Resumed from a checkpoint at which one group was open, whose optimizer so had a state for some weights only."""
    numbers = {"frozen_share": 0.25, "unfreezing_share": 0.5, "optimizer": AdamWConfig()}

    class Stopped(BaseException):
        pass

    def stop(step, metrics):
        if step == 4:
            raise Stopped

    whole, fitted = tune(blob_data, tmp_path / "whole", **numbers)
    with pytest.raises(Stopped):
        tune(blob_data, tmp_path / "parts", stop, **numbers)
    resumed, again = tune(blob_data, tmp_path / "parts", **numbers)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[key]), key
    assert fitted.metrics == again.metrics


def test_the_source_is_not_trained_and_the_rate_is_chosen_on_validation(blob_data, tmp_path):
    source = encoder(blob_data)
    before = copy.deepcopy(source.state_dict())
    probe = FineTune(config(learning_rates=(1e-7, 0.1), frozen_share=0.0, augment={"padding": 0, "flip_prob": 0}))
    found = probe.evaluate(source, blob_data, 0, tmp_path, CPU)
    assert found["learning_rate"] == 0.1
    assert found["test/accuracy"] > 0.6
    for key, value in source.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_what_cannot_be_tuned_is_refused(blob_data, tmp_path):
    unlabelled = write_prepared(tmp_path / "unlabelled", labelled=False)
    with pytest.raises(DataError, match="has no labels"):
        FineTune(config()).evaluate(encoder(blob_data), unlabelled, 0, tmp_path, CPU)
    entry = {"method": "finetune", "dataset": "d", "encoder": "e", "frozen_share": 0.6, "unfreezing_share": 0.4}
    with pytest.raises(DeclarationError, match="must sum to less than 1"):
        resolve("probe", "f", entry)
