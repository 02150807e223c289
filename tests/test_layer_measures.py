"""Measures against hand computation, and that they change nothing."""

import math

import pytest
import torch
import torch.nn.functional as F
from blobs import write_prepared
from torch import nn

from mlml import model_folder, points
from mlml.activations import Step
from mlml.config import TrainConfig
from mlml.data.batches import Batch, Batches
from mlml.declaration import resolve
from mlml.layer_measures import LayerMeasures, Pending, dead, decided, norm, root_mean_square, saturated, symmetric
from mlml.method import Method, Output
from mlml.seeds import seed_everything
from mlml.train import _Loop, fit

CPU = torch.device("cpu")


class Net(Method):
    """A perceptron that is given its layers; `teacher` is owned by nobody and runs without gradients."""

    def __init__(self, *layers: nn.Module) -> None:
        nn.Module.__init__(self)
        self.net = nn.Sequential(*layers)
        self.teacher = nn.Sequential(nn.Linear(1, 4), nn.ReLU())

    def phase_parameters(self, phase):
        return self.net.parameters()

    def forward(self, batch, phase):
        with torch.no_grad():
            self.teacher(batch.images.flatten(1)[:, :1])
        outputs = self.net(batch.images)
        outputs = outputs[0] if isinstance(outputs, tuple) else outputs
        return Output(outputs.square().mean())


def measured(method, images, rate=0.1):
    """Measures of one step of plain gradient descent, and the gradients."""
    parameters = list(method.phase_parameters("train"))
    measures = LayerMeasures(method, parameters)
    with measures.watching():
        loss = method(Batch(images, None), "train").loss
    loss.backward()
    gradients = {name: p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
    measures.before_update()
    torch.optim.SGD(parameters, lr=rate).step()
    return {name: float(value) for name, value in measures.after_update().items()}, gradients


def test_norms_and_update_ratio_are_those_of_gradient_descent():
    torch.manual_seed(0)
    first, last = nn.Linear(3, 5), nn.Linear(5, 2)
    method, images = Net(first, nn.Tanh(), last), torch.randn(7, 3)
    weight, bias = first.weight.detach().clone(), first.bias.detach().clone()
    values, gradients = measured(method, images)
    gradient = gradients["net.0.weight"]
    assert values["layer/net.0/gradient_norm"] == pytest.approx(gradient.square().sum().sqrt().item(), rel=1e-5)
    ratio = 0.1 * gradient.norm() / weight.norm()
    assert values["layer/net.0/update_ratio"] == pytest.approx(ratio.item(), rel=1e-4)
    outputs = images @ weight.T + bias
    assert values["layer/net.0/activation_norm"] == pytest.approx(outputs.square().mean().sqrt().item(), rel=1e-5)
    assert set(values) == {
        *(f"layer/net.{n}/{m}" for n in (0, 2) for m in ("gradient_norm", "activation_norm", "update_ratio")),
        *("layer/net.0/symmetric", "layer/net.2/symmetric", "layer/net.1/saturated"),
    }


def test_a_layer_at_zero_has_moved_or_not():
    layers = [nn.Linear(2, 2, bias=False) for _ in range(2)]
    for layer in layers:
        nn.init.zeros_(layer.weight)
    method = Net(*layers)
    values, _ = measured(method, torch.ones(4, 2))
    assert values["layer/net.1/update_ratio"] == 0
    nn.init.ones_(layers[0].weight)
    parameters = list(method.net.parameters())
    measures = LayerMeasures(method, parameters)
    (method.net(torch.ones(4, 2)) - 1).square().mean().backward()
    measures.before_update()
    torch.optim.SGD(parameters, lr=0.1).step()
    assert float(measures.after_update()["layer/net.1/update_ratio"]) == 1


def test_dead_units_are_those_that_never_rise_above_zero():
    layer = nn.Linear(3, 4)
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([-100.0, 100.0, -100.0, 0.0]))
    values, _ = measured(Net(layer, nn.ReLU()), torch.randn(32, 3, generator=torch.Generator().manual_seed(0)))
    assert values["layer/net.1/dead"] == 0.5


def test_a_unit_of_images_is_a_channel_and_of_tokens_a_feature():
    images = torch.zeros(2, 4, 3, 3)
    images[1, 2, 0, 1] = 1.0
    assert float(dead(images)) == 0.75
    assert float(dead(images.contiguous(memory_format=torch.channels_last))) == 0.75
    tokens = torch.zeros(2, 3, 5)
    tokens[0, 1, :2] = 1.0
    assert float(dead(tokens)) == pytest.approx(0.6)


def test_saturation_counts_outputs_within_a_hundredth_of_the_way_between_the_bounds():
    assert float(saturated(torch.tensor([0.0, 0.009, 0.011, 0.5, 0.989, 0.991, 1.0]), 0.0, 1.0)) == pytest.approx(4 / 7)
    assert float(saturated(torch.tensor([-1.0, -0.981, -0.979, 0.0, 0.979, 0.981]), -1.0, 1.0)) == pytest.approx(0.5)
    one_hot = torch.tensor([[0.995, 0.005], [0.6, 0.4], [0.5, 0.5], [0.001, 0.999]])
    assert float(decided(one_hot, 1)) == 0.5
    assert float(decided(one_hot.T, 0)) == 0.5


@pytest.mark.parametrize(("activation", "share"), [(nn.Sigmoid(), 0.5), (nn.Tanh(), 0.5), (Step(), 1.0)])
def test_bounded_activations_are_watched(activation, share):
    layer = nn.Linear(1, 4)
    with torch.no_grad():
        layer.weight.zero_()
        layer.bias.copy_(torch.tensor([-20.0, 20.0, 0.1, -0.1]))
    method = Net(layer, activation)
    measures = LayerMeasures(method, method.net.parameters())
    with measures.watching():
        method.net(torch.ones(3, 1))
    assert float(measures.after_update()["layer/net.1/saturated"]) == share


def test_symmetric_is_the_share_of_copies():
    torch.manual_seed(0)
    rows = torch.randn(9, 20)
    assert float(symmetric(rows)) == 0
    rows[3:8] = rows[0]  # six alike: 4 different of 9
    assert float(symmetric(rows)) == pytest.approx((9 - 4) / 8)
    assert float(symmetric(torch.zeros(5, 7))) == 1
    assert float(symmetric(torch.full((5, 7), 0.3))) == 1
    wide = torch.randn(512, 4096) / 64
    assert float(symmetric(wide)) < 0.05
    wide[:256] = wide[256:]
    assert float(symmetric(wide)) == pytest.approx(256 / 511, abs=0.05)


def test_norms_are_taken_in_float32():
    values = torch.full((1000,), 3000.0, dtype=torch.float16)  # the norm does not fit into float16
    assert float(norm([values])) == pytest.approx(3000 * 1000**0.5, rel=1e-3)
    assert float(norm([values, values])) == pytest.approx(3000 * 2000**0.5, rel=1e-3)
    assert float(root_mean_square(values)) == pytest.approx(3000, rel=1e-3)


def test_convolutions_recurrences_and_attention_are_layers():
    torch.manual_seed(0)
    convolutions = Net(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.ConvTranspose2d(4, 2, 3), nn.Flatten())
    values, _ = measured(convolutions, torch.randn(3, 1, 6, 6))
    assert {name.split("/")[1] for name in values} == {"net.0", "net.2", "net.3"}
    for cell, extra in ((nn.LSTM, set()), (nn.GRU, set()), (nn.RNN, {"saturated"})):
        layer = cell(3, 4, batch_first=True)
        values, gradients = measured(Net(layer), torch.randn(2, 5, 3))
        kinds = {"gradient_norm", "activation_norm", "update_ratio", "symmetric"} | extra
        assert set(values) == {f"layer/net.0/{kind}" for kind in kinds}
        both = torch.cat([gradients[f"net.0.weight_{kind}_l0"].flatten() for kind in ("ih", "hh")])
        assert values["layer/net.0/gradient_norm"] == pytest.approx(both.norm().item(), rel=1e-5)
    block = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    values, gradients = measured(Net(block), torch.randn(2, 5, 8))
    assert {name.split("/")[1] for name in values} == {"net.0.self_attn", "net.0.linear1", "net.0.linear2"}
    assert "layer/net.0.self_attn/activation_norm" in values
    own = [gradients[f"net.0.self_attn.{weight}"].flatten() for weight in ("in_proj_weight", "out_proj.weight")]
    assert values["layer/net.0.self_attn/gradient_norm"] == pytest.approx(torch.cat(own).norm().item(), rel=1e-5)


def test_transposed_and_grouped_convolutions_have_their_own_units():
    transposed = nn.ConvTranspose2d(2, 3, 3)  # weight (inputs, outputs, ...)
    with torch.no_grad():
        transposed.weight[:, 1:] = transposed.weight[:, :1]
    values, _ = measured(Net(transposed), torch.randn(2, 2, 5, 5))
    assert values["layer/net.0/symmetric"] == 1
    values, _ = measured(Net(nn.Conv2d(4, 4, 3, groups=4)), torch.randn(2, 4, 5, 5))
    assert "layer/net.0/symmetric" not in values


def test_a_layer_called_twice_counts_with_the_mean():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.relu = nn.Linear(2, 2, bias=False), nn.ReLU()

        def forward(self, x):
            return self.relu(self.layer(x)) + self.relu(-self.layer(3 * x))

    module = Twice()
    with torch.no_grad():
        module.layer.weight.copy_(torch.eye(2))
    images = torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    values, _ = measured(Net(module), images)
    assert values["layer/net.0.layer/activation_norm"] == pytest.approx((1 + 3) / 2)
    assert values["layer/net.0.relu/dead"] == 0.5


def test_a_pass_without_gradients_does_not_count():
    layer = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(2))
    method = Net(layer)
    measures = LayerMeasures(method, method.net.parameters())
    with measures.watching():
        with torch.no_grad():
            method.net(torch.full((3, 2), 100.0))  # targets by the network itself
        method.net(torch.ones(3, 2))
    assert float(measures.after_update()["layer/net.0/activation_norm"]) == 1


def test_layers_of_others_are_left_out_and_no_hook_stays():
    method = Net(nn.Linear(3, 2), nn.ReLU())
    values, _ = measured(method, torch.randn(4, 3))
    assert not [name for name in values if "teacher" in name]
    assert [layer.name for layer in LayerMeasures(method, method.net.parameters()).layers] == ["net.0"]
    assert not any(module._forward_hooks for module in method.modules())


def test_a_compiled_network_is_measured():
    method = Net(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    compiled = torch.compile(method, backend="eager")
    images = torch.randn(4, 3)
    compiled(Batch(images, None), "train")  # compiled without hooks
    measures = LayerMeasures(method, method.net.parameters())
    with measures.watching():
        compiled(Batch(images, None), "train")
    values = measures.after_update()
    expected = method.net[0](images).square().mean().sqrt().item()
    assert float(values["layer/net.0/activation_norm"]) == pytest.approx(expected, rel=1e-5)
    assert "layer/net.1/dead" in values


def test_measures_wait_on_the_device_until_they_are_read():
    pending = Pending()
    pending.add(1, {"a": torch.tensor(0.5), "b": torch.tensor(2)})
    pending.add(26, {})
    pending.add(51, {"a": torch.tensor(0.25)})
    assert all(isinstance(values, torch.Tensor) for _, _, values in pending.steps)
    assert pending.take() == [(1, {"a": 0.5, "b": 2.0}), (51, {"a": 0.25})]
    assert pending.take() == []


TRAIN = {
    "steps": 17,
    "batch_size": 16,
    "log_every": 5,
    "diagnose_every": 4,
    "evaluate_every": 6,
    "checkpoint_every": 7,
    "clip_norm": 0.5,
    "ema_decay": 0.9,
    "accumulate": 2,
}


def classifier(data, **train):
    encoder = {"network": "mlp", "hidden_widths": [16, 16], "dropout_prob": 0.2}
    entry = {"method": "classifier", "dataset": "blobs", "encoder": encoder, "train": {**TRAIN, **train}}
    seed_everything(0, "init")
    return model_folder.build("supervised", "classifier", resolve("supervised", "c", entry).config, data.spec)


def run(data, folder, on_evaluation=None, **train):
    method = classifier(data, **train)
    splits = [Batches(data.split(name).images, data.split(name).labels, 16, 0, CPU) for name in ("train", "validation")]
    fit(method, *splits, method.config.train, 0, folder, on_evaluation)
    return method


def test_measuring_changes_no_bit_of_the_training(blob_data, tmp_path):
    without = run(blob_data, tmp_path / "without", diagnose_every=None).state_dict()
    for every in (1, 4):
        for key, value in run(blob_data, tmp_path / f"{every}", diagnose_every=every).state_dict().items():
            assert torch.equal(value, without[key]), (every, key)
    plain = [p for p in points.read(tmp_path / "4/points.jsonl") if not p[0].startswith(("layer/", "step/", "system/"))]
    assert plain == [p for p in points.read(tmp_path / "without/points.jsonl") if not p[0].startswith("system/")]


def test_every_so_many_steps_and_the_last_are_measured(blob_data, tmp_path):
    run(blob_data, tmp_path, diagnose_every=5)
    steps = {step for name, step, _ in points.read(tmp_path / "points.jsonl") if name == "layer/head/gradient_norm"}
    assert steps == {1, 6, 11, 16, 17}
    gradients = [p for p in points.read(tmp_path / "points.jsonl") if p[0] == "step/train/gradient_norm"]
    assert [step for _, step, _ in gradients] == [1, 6, 11, 16, 17]


def test_outputs_are_those_of_the_first_batch_of_a_step(blob_data, tmp_path):
    config = TrainConfig.model_validate({"steps": 1, "batch_size": 16, "accumulate": 3})
    split = blob_data.split("train")
    batches = Batches(split.images, split.labels, 16, 0, CPU)
    method = Net(nn.Flatten(), nn.Linear(64, 2))
    expected = method.net(batches(0).images).square().mean().sqrt().item()
    assert expected != pytest.approx(method.net(batches(2).images).square().mean().sqrt().item(), rel=1e-4)
    fit(method, batches, batches, config, 0, tmp_path)
    measured = {name: value for name, _, value in points.read(tmp_path / "points.jsonl")}
    assert measured["layer/net.1/activation_norm"] == pytest.approx(expected, rel=1e-6)


def test_gradients_are_measured_before_they_are_clipped(blob_data, tmp_path):
    """The global norm that clipping saw is that of all parameters; weights alone are a little less."""
    run(blob_data, tmp_path, clip_norm=1e-3)
    read = points.read(tmp_path / "points.jsonl")
    total = next(value for name, step, value in read if name == "step/train/gradient_norm" and step == 1)
    layers = [
        v for name, step, v in read if step == 1 and name.startswith("layer/") and name.endswith("/gradient_norm")
    ]
    together = math.hypot(*layers)
    assert 0.9 * total < together <= total * (1 + 1e-5)
    assert total > 0.1


@pytest.mark.parametrize("killed_at", [6, 12])
def test_a_run_that_stopped_writes_the_same_measures(blob_data, tmp_path, killed_at):
    """Checkpoints lie between logs here, so measures that wait to be logged are in them."""

    class Stopped(BaseException):
        pass

    def stop(step, metrics):
        if step == killed_at:
            raise Stopped

    numbers = {"checkpoint_every": 2, "diagnose_every": 1}
    run(blob_data, tmp_path / "whole", **numbers)
    with pytest.raises(Stopped):
        run(blob_data, tmp_path / "parts", stop, **numbers)
    run(blob_data, tmp_path / "parts", **numbers)
    whole, parts = (
        [point for point in points.read(tmp_path / part / "points.jsonl") if not point[0].startswith("system/")]
        for part in ("whole", "parts")
    )
    assert whole == parts
    assert len([point for point in whole if point[0] == "layer/head/update_ratio"]) == 17


class TwoPlayers(Method):
    """Each phase trains one of two layers, through both."""

    phases = ("first", "second")

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first, self.second = (nn.Sequential(nn.Linear(64, 64), nn.ReLU()) for _ in range(2))

    def phase_parameters(self, phase):
        return getattr(self, phase).parameters()

    def forward(self, batch, phase):
        return Output(F.mse_loss(self.second(self.first(batch.images.flatten(1))), batch.images.flatten(1)))


def test_each_phase_measures_the_layers_that_it_trains(blob_data, tmp_path):
    config = TrainConfig.model_validate({**TRAIN, "ema_decay": None, "steps": 4, "diagnose_every": 2})
    split = blob_data.split("train")
    batches = Batches(split.images, split.labels, 16, 0, CPU)
    fit(TwoPlayers(), batches, batches, config, 0, tmp_path)
    names = {name for name, _, _ in points.read(tmp_path / "points.jsonl") if name.startswith("layer/")}
    layer = {"gradient_norm", "activation_norm", "update_ratio", "symmetric"}
    assert names == {f"layer/{player}.0/{kind}" for player in ("first", "second") for kind in layer} | {
        "layer/first.1/dead",
        "layer/second.1/dead",
    }


def test_no_measure_is_read_between_logs(blob_data, tmp_path, monkeypatch):
    """Reading a tensor makes a GPU wait; a step, diagnosed or not, reads none."""
    method = classifier(blob_data, diagnose_every=1)
    split = blob_data.split("train")
    batches = Batches(split.images, split.labels, 16, 0, CPU)
    loop = _Loop(method, batches, batches, method.config.train, 0, tmp_path)

    def refuse(self, *_):
        raise AssertionError("a tensor was read")

    for reading in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(torch.Tensor, reading, refuse)
    loop._step()
    assert len(loop.measured.steps) == 1


def test_the_resnet_and_the_transformer_are_measured_whole(tmp_path):
    data = write_prepared(tmp_path / "blobs")
    # 8 blocks of 2 convolutions, 3 of the shortcuts, the first and the head; tokens, patches, 2 blocks of 3, the head
    for encoder, count in (({"network": "resnet"}, 21), ({"network": "vit", "dim": 12, "depth": 2}, 9)):
        entry = {"method": "classifier", "dataset": "blobs", "encoder": encoder, "train": {"steps": 1}}
        method = model_folder.build("supervised", "classifier", resolve("supervised", "c", entry).config, data.spec)
        assert len(LayerMeasures(method, method.parameters()).layers) == count
