"""The loop against hand-written ones, and what it does when things go wrong."""

import logging
import math
import shutil

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mlml import checkpoint, points
from mlml.config import TrainConfig
from mlml.data.batches import Batch, Batches
from mlml.method import Method, Output
from mlml.train import NonFiniteLossError, evaluate, fit, total_steps

CPU = torch.device("cpu")
SGD = {"name": "sgd", "learning_rate": 0.1, "momentum": 0.0}


class Regression(Method):
    """Least squares on features; `poison` makes the loss NaN from that forward pass in train mode on."""

    def __init__(self, poison: int | None = None) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(3, 1)
        nn.init.constant_(self.linear.weight, 0.5)
        nn.init.zeros_(self.linear.bias)
        self.poison, self.calls = poison, 0

    def forward(self, batch: Batch, phase: str) -> Output:
        loss = F.mse_loss(self.linear(batch.images).squeeze(1), batch.labels.float())
        if self.training:
            self.calls += 1
            if self.poison is not None and self.calls > self.poison:
                loss = loss * float("nan")
        return Output(loss, {"size": torch.tensor(float(len(batch.labels)))})


class TwoPhases(Regression):
    """Two players, each with a layer of its own, and one layer that nobody owns."""

    phases = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        self.other, self.frozen = nn.Linear(3, 1), nn.Linear(1, 1)

    def phase_parameters(self, phase):
        return (self.linear if phase == "first" else self.other).parameters()

    def forward(self, batch, phase):
        layer = self.linear if phase == "first" else self.other
        self.last_requires_grad = {name: p.requires_grad for name, p in self.named_parameters()}
        assert all(p.requires_grad for p in layer.parameters()) or not self.training
        return Output(self.frozen(layer(batch.images)).square().mean())


def data(n=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 3, generator=generator)
    y = (x @ torch.tensor([1.0, -2.0, 3.0])).round().long()
    return x.numpy(), y.numpy()


def splits(batch_size=16, n=64):
    return Batches(*data(n), batch_size, 0, CPU), Batches(*data(n, 1), batch_size, 0, CPU)


def config(**numbers):
    given = {"steps": 10, "batch_size": 16, "log_every": 1, "evaluate_every": 5, "optimizer": SGD}
    return TrainConfig.model_validate({**given, "schedule": {"name": "constant"}, **numbers})


def test_it_is_gradient_descent(tmp_path):
    method = Regression()
    train, validation = splits()
    fit(method, train, validation, config(), 0, tmp_path)
    weight, bias = torch.full((1, 3), 0.5), torch.zeros(1)
    for n in range(10):
        batch = train(n)
        weight.requires_grad_(), bias.requires_grad_()
        F.mse_loss((batch.images @ weight.T + bias).squeeze(1), batch.labels.float()).backward()
        weight, bias = (weight - 0.1 * weight.grad).detach(), (bias - 0.1 * bias.grad).detach()
    torch.testing.assert_close(method.linear.weight.detach(), weight)
    torch.testing.assert_close(method.linear.bias.detach(), bias)


def test_accumulation_equals_the_larger_batch(tmp_path):
    one, many = Regression(), Regression()
    train, validation = splits(64)
    fit(one, train, validation, config(batch_size=64, steps=1), 0, tmp_path / "one")
    train, validation = splits(16)  # the four batches of one epoch are the same 64 examples
    fit(many, train, validation, config(accumulate=4, steps=1), 0, tmp_path / "many")
    torch.testing.assert_close(one.linear.weight, many.linear.weight)


@pytest.mark.parametrize("kind", ["norm", "value"])
def test_clipping(tmp_path, kind):
    method = Regression()
    fit(method, *splits(), config(steps=1, **{f"clip_{kind}": 0.01}), 0, tmp_path)
    moved = torch.cat([(method.linear.weight - 0.5).flatten(), method.linear.bias]).detach() / 0.1
    measured = moved.norm() if kind == "norm" else moved.abs().max()
    assert float(measured) == pytest.approx(0.01, rel=1e-3)


def test_the_elastic_net_is_part_of_what_is_descended(tmp_path):
    method = Regression()
    train, validation = splits()
    fit(method, train, validation, config(l1=0.2, l2=0.1), 0, tmp_path)
    weight, bias = torch.full((1, 3), 0.5), torch.zeros(1)
    for n in range(10):
        batch = train(n)
        weight.requires_grad_(), bias.requires_grad_()
        loss = F.mse_loss((batch.images @ weight.T + bias).squeeze(1), batch.labels.float())
        (loss + 0.2 * weight.abs().sum() + 0.05 * weight.square().sum()).backward()
        weight, bias = (weight - 0.1 * weight.grad).detach(), (bias - 0.1 * bias.grad).detach()
    torch.testing.assert_close(method.linear.weight.detach(), weight)
    torch.testing.assert_close(method.linear.bias.detach(), bias)


def test_ema_is_kept(tmp_path):
    plain, averaged = Regression(), Regression()
    fit(plain, *splits(), config(steps=1), 0, tmp_path / "plain")
    fit(averaged, *splits(), config(steps=1, ema_decay=0.75), 0, tmp_path / "ema")
    expected = 0.75 * torch.full((1, 3), 0.5) + 0.25 * plain.linear.weight
    torch.testing.assert_close(averaged.linear.weight, expected)


def test_metric_points_are_means_over_the_steps_between(tmp_path):
    fit(Regression(), *splits(), config(steps=6, log_every=1), 0, tmp_path / "each")
    fit(Regression(), *splits(), config(steps=6, log_every=4), 0, tmp_path / "mean")
    each = [value for name, _, value in points.read(tmp_path / "each" / "points.jsonl") if name == "train/loss"]
    mean = {
        step: value for name, step, value in points.read(tmp_path / "mean" / "points.jsonl") if name == "train/loss"
    }
    assert mean == {4: pytest.approx(sum(each[:4]) / 4), 6: pytest.approx(sum(each[4:]) / 2)}


@pytest.mark.parametrize("method", [Regression, TwoPhases])
def test_each_phase_s_learning_rate_is_a_point_at_each_log(tmp_path, method):
    """That of the step just made, by the schedule: with a warm-up of one step and a straight line, by hand."""
    schedule = {"name": "linear", "warmup_steps": 1}
    fit(method(), *splits(), config(steps=5, log_every=2, schedule=schedule), 0, tmp_path)
    logged = [point for point in points.read(tmp_path / "points.jsonl") if point[0].endswith("/learning_rate")]
    for phase in method.phases:
        rates = [(step, value) for name, step, value in logged if name == f"{phase}/learning_rate"]
        assert rates == [(2, 0.1), (4, pytest.approx(0.1 * 0.5)), (5, pytest.approx(0.1 * 0.25))]
    assert len(logged) == 3 * len(method.phases)


def test_evaluation_is_the_mean_over_examples():
    method = Regression()
    x, y = data(37, 1)
    measured = evaluate(method, Batches(x, y, 16, 0, CPU), 0)
    expected = F.mse_loss(torch.from_numpy(x) @ torch.full((3,), 0.5), torch.from_numpy(y).float())
    assert measured["loss"] == pytest.approx(float(expected), rel=1e-6)


def test_early_stopping_counts_evaluations_without_gain(tmp_path):
    numbers = {"steps": 100, "evaluate_every": 2, "patience": 3, "min_delta": 1e9}
    fitted = fit(Regression(), *splits(), config(**numbers), 0, tmp_path)
    assert fitted.steps == 2 + 3 * 2  # the first evaluation is the best; three without gain follow


def test_restore_best_keeps_the_best_weights(tmp_path):
    """With a rate that diverges the first evaluation is the best."""
    numbers = {"evaluate_every": 1, "steps": 6, "optimizer": {**SGD, "learning_rate": 1.5}}
    first, best = Regression(), Regression()
    fit(first, *splits(), config(**{**numbers, "steps": 1}), 0, tmp_path / "first")
    fitted = fit(best, *splits(), config(**numbers, restore_best=True), 0, tmp_path / "best")
    assert torch.equal(first.linear.weight, best.linear.weight)
    assert fitted.metrics["validation/loss"] == evaluate(best, splits()[1], 0)["loss"]


@pytest.mark.parametrize("stop_at", [4, 6, 8])
def test_early_stopping_and_the_best_weights_survive_a_stop(tmp_path, stop_at):
    """With a rate that makes the loss rise and fall, patience is part used up when the run is stopped."""
    numbers = {"evaluate_every": 2, "steps": 60, "checkpoint_every": 3, "patience": 4, "restore_best": True}
    numbers |= {"optimizer": {**SGD, "learning_rate": 0.9}, "ema_decay": 0.5}

    def stop(step, metrics):
        if step == stop_at:
            raise KeyboardInterrupt

    whole, parts = Regression(), Regression()
    fitted = fit(whole, *splits(), config(**numbers), 0, tmp_path / "whole")
    assert stop_at < fitted.steps < 60
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(), *splits(), config(**numbers), 0, tmp_path / "parts", stop)
    again = fit(parts, *splits(), config(**numbers), 0, tmp_path / "parts")
    assert (again.steps, again.metrics) == (fitted.steps, fitted.metrics)
    assert torch.equal(whole.linear.weight, parts.linear.weight)


@pytest.mark.parametrize("stop_at", [4, 8, 14])
def test_a_plateau_lowers_the_rate_and_survives_a_stop(tmp_path, stop_at):
    """With a rate that diverges until it has been lowered twice; a run that forgot that would end elsewhere."""
    schedule = {"name": "plateau", "patience": 1, "gamma": 0.5}
    numbers = {"evaluate_every": 2, "steps": 20, "checkpoint_every": 3, "schedule": schedule}
    numbers |= {"optimizer": {**SGD, "learning_rate": 1.2}}

    def stop(step, metrics):
        if step == stop_at:
            raise KeyboardInterrupt

    whole, parts, constant = Regression(), Regression(), Regression()
    fitted = fit(whole, *splits(), config(**numbers), 0, tmp_path / "whole")
    saved = checkpoint.load_newest(tmp_path / "whole", CPU)
    assert saved["state"]["plateau"][0] < 0.5
    with pytest.raises(KeyboardInterrupt):
        fit(Regression(), *splits(), config(**numbers), 0, tmp_path / "parts", stop)
    fit(parts, *splits(), config(**numbers), 0, tmp_path / "parts")
    assert torch.equal(whole.linear.weight, parts.linear.weight)
    still = fit(constant, *splits(), config(**{**numbers, "schedule": {"name": "constant"}}), 0, tmp_path / "constant")
    assert fitted.metrics["validation/loss"] < still.metrics["validation/loss"]


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path):
    class Blind(Regression):
        def forward(self, batch, phase):
            output = super().forward(batch, phase)
            return output if self.training else Output(output.loss * float("inf"))

    with pytest.raises(NonFiniteLossError, match="Blind: validation: the loss is inf at step 5"):
        fit(Blind(), *splits(), config(), 0, tmp_path)


def test_a_phase_may_come_twice_and_share_parameters(tmp_path):
    class Alternating(TwoPhases):
        phases = ("first", "first", "second")

        def phase_parameters(self, phase):
            return [*super().phase_parameters(phase), self.frozen.weight]

    method = Alternating()
    before = method.frozen.weight.clone()
    fit(method, *splits(), config(steps=2), 0, tmp_path)
    assert not torch.equal(method.frozen.weight, before)
    assert method.last_requires_grad["frozen.weight"]
    assert total_steps(config(steps=None, epochs=3), 10, 3) == 10


def test_what_a_training_cost_is_told_also_of_the_processes_before_this_one(tmp_path):
    fitted = fit(Regression(), *splits(), config(steps=6, checkpoint_every=3), 0, tmp_path)
    told = {name: value for name, _, value in points.read(tmp_path / "points.jsonl")}
    assert told["system/train_seconds"] == fitted.seconds > 0
    assert told["system/peak_memory_bytes"] == fitted.peak_bytes > 2**20
    saved = checkpoint.load_newest(tmp_path, CPU)
    checkpoint.save(tmp_path, 6, {**saved, "state": {**saved["state"], "seconds": 100.0, "peak_bytes": 2**50}})
    again = fit(Regression(), *splits(), config(steps=6, checkpoint_every=3), 0, tmp_path)
    assert 100 < again.seconds < 100 + 60
    assert again.peak_bytes == 2**50


@pytest.mark.parametrize("log_every", [1, 4, 100])
def test_a_loss_that_is_not_finite_ends_the_run(tmp_path, log_every):
    numbers = {"steps": 20, "log_every": log_every, "checkpoint_every": 3}
    with pytest.raises(NonFiniteLossError) as caught:
        fit(Regression(poison=7), *splits(), config(**numbers), 0, tmp_path)
    message = str(caught.value)
    assert message.startswith("Regression: phase 'train': the loss is nan at step 7; last finite values: train/loss=")
    assert str(tmp_path) in message
    saved = checkpoint.load_newest(tmp_path, CPU)
    assert saved["state"]["step"] == 6
    assert all(value.isfinite().all() for value in saved["method"].values())


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    """A gradient can overflow while its loss is finite; the next loss would tell, but a checkpoint may come before."""

    class Overflow(Regression):
        def after_step(self, progress):
            if progress == 0.5:
                self.linear.weight.data[0, 0] = math.inf

    with pytest.raises(NonFiniteLossError, match="the weights are not finite at step 5"):
        fit(Overflow(), *splits(), config(checkpoint_every=5, evaluate_every=10), 0, tmp_path)
    assert checkpoint.load_newest(tmp_path, CPU) is None


def test_phases_own_their_parameters(tmp_path):
    method = TwoPhases()
    frozen = method.frozen.weight.clone()
    before = method.other.weight.clone()
    fit(method, *splits(), config(steps=3), 0, tmp_path)
    assert torch.equal(method.frozen.weight, frozen)
    assert not torch.equal(method.other.weight, before)
    assert method.last_requires_grad["other.weight"]
    assert not method.last_requires_grad["linear.weight"]
    logged = {name for name, _, _ in points.read(tmp_path / "points.jsonl")}
    assert {"first/loss", "second/loss", "validation/loss"} <= logged


def test_length_in_epochs():
    assert total_steps(config(steps=None, epochs=3), 10, 1) == 30
    assert total_steps(config(steps=None, epochs=3, accumulate=2), 10, 1) == 15
    assert total_steps(config(steps=None, epochs=0.01), 10, 1) == 1
    assert total_steps(config(steps=7), 10, 1) == 7


def test_a_damaged_checkpoint_is_named_and_the_run_still_ends_the_same(tmp_path, caplog):
    whole, resumed = Regression(), Regression()
    numbers = {"checkpoint_every": 2}
    fit(whole, *splits(), config(**numbers), 0, tmp_path / "whole")

    def stop(step, metrics):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(Regression(), *splits(), config(**numbers), 0, tmp_path / "parts", stop)
    newest = sorted((tmp_path / "parts").glob("*.ckpt"))[-1]
    newest.write_bytes(newest.read_bytes()[:-5])
    with caplog.at_level(logging.WARNING):
        fit(resumed, *splits(), config(**numbers), 0, tmp_path / "parts")
    assert str(newest) in caplog.text
    assert torch.equal(whole.linear.weight, resumed.linear.weight)


def test_checkpoints_by_seconds(tmp_path):
    saved = []

    class Watched(Regression):
        def after_step(self, progress):
            saved.append(sorted(path.name for path in tmp_path.glob("*.ckpt")))

    fit(Watched(), *splits(), config(steps=4, checkpoint_every=1000, checkpoint_seconds=1e-9), 0, tmp_path)
    assert saved[1] == ["step_000000001.ckpt"]
    assert saved[3] == ["step_000000002.ckpt", "step_000000003.ckpt"]


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a processor needs a C++ compiler")
def test_a_compiled_model_trains_as_the_plain_one_and_goes_on(tmp_path):
    def run(folder, choice, watch=None):
        method = Regression()
        fit(method, *splits(), config(compile=choice, checkpoint_every=5, accumulate=2), 0, tmp_path / folder, watch)
        return method.linear.weight.detach()

    def stop(step, metrics):
        if step == 10:
            raise KeyboardInterrupt

    plain, compiled = run("plain", "off"), run("compiled", "on")
    torch.testing.assert_close(compiled, plain)
    with pytest.raises(KeyboardInterrupt):
        run("parts", "on", stop)
    assert checkpoint.load_newest(tmp_path / "parts", CPU)["state"]["step"] == 5
    assert torch.equal(run("parts", "on"), compiled)
