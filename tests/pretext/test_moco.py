import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from gradients import finite_differences
from hypothesis import given, settings
from hypothesis import strategies as st
from specs import make_spec

from mlml import model_folder, ranks
from mlml.data.batches import Batch, Batches
from mlml.declaration import resolve
from mlml.pretext.moco import MoCo, info_nce
from mlml.seeds import seed_everything
from mlml.train import evaluate, fit

MLP = {"network": "mlp", "hidden_widths": [16], "norm": "none"}
CNN = {"network": "cnn", "width": 4, "num_stages": 2}  # with batch norm
TRAIN = {"steps": 4, "batch_size": 16, "optimizer": {"name": "sgd", "learning_rate": 0.05}}


def build(spec, encoder=MLP, seed=0, **numbers):
    seed_everything(seed, "init")
    return model_folder.build("pretext", "moco", {"encoder": encoder, "train": {"steps": 1}, **numbers}, spec)


def batch_of(method, count=16, seed=0):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 1, 8, 8, generator=generator)
    return method.augment(Batch(images, None), generator)


def slow_info_nce(q: np.ndarray, k: np.ndarray, queue: np.ndarray, temperature: float) -> float:
    """He et al. 2020, Eq. 1, as loops, the mean over queries."""
    total = 0.0
    for i in range(len(q)):
        positive = math.exp(sum(q[i] * k[i]) / temperature)
        negatives = 0.0
        for key in queue:
            product = 0.0
            for d in range(len(key)):
                product += q[i, d] * key[d]
            negatives += math.exp(product / temperature)
        total -= math.log(positive / (positive + negatives))
    return total / len(q)


def drawn(n, d, size, seed):
    generator = torch.Generator().manual_seed(seed)
    shapes = ((n, d), (n, d), (size, d))
    return [F.normalize(torch.randn(shape, generator=generator, dtype=torch.float64), dim=1) for shape in shapes]


@settings(max_examples=30)
@given(
    n=st.integers(1, 5),
    d=st.integers(1, 6),
    size=st.integers(1, 7),
    temperature=st.floats(0.07, 2),
    seed=st.integers(0, 99),
)
def test_it_equals_the_paper(n, d, size, temperature, seed):
    q, k, queue = drawn(n, d, size, seed)
    expected = slow_info_nce(q.numpy(), k.numpy(), queue.numpy(), temperature)
    assert float(info_nce(q, k, queue, temperature)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_gradient_is_that_of_the_paper():
    q, k, queue = drawn(3, 4, 5, 0)
    q.requires_grad_()
    info_nce(q, k, queue, 0.5).backward()
    (expected,) = finite_differences(
        lambda a: slow_info_nce(a, k.numpy(), queue.numpy(), 0.5), [q.detach().numpy().copy()]
    )
    np.testing.assert_allclose(q.grad.numpy(), expected, rtol=1e-5, atol=1e-5)


def test_half_precision_leaves_the_loss_in_float32():
    q, k, queue = (part.float() for part in drawn(8, 16, 32, 0))
    with torch.autocast("cpu", torch.bfloat16):
        shortened = info_nce(q, k, queue, 0.07)
    torch.testing.assert_close(shortened, info_nce(q, k, queue, 0.07), rtol=1e-5, atol=1e-6)


def test_a_temperature_of_0_is_refused():
    with pytest.raises(ValueError, match="temperature must be > 0; got 0"):
        info_nce(*drawn(2, 3, 4, 0), 0)


@pytest.mark.parametrize("size", [64, 40, 16, 10, 1])  # 16 divides the first and the third
def test_the_queue_holds_the_last_keys(size):
    method = build(make_spec(), queue_size=size)
    entered = list(method.queue.clone())
    for step in range(6):
        batch = batch_of(method, seed=step)
        before = method.queue.clone()
        with torch.no_grad():
            k = F.normalize(method.key_projector(method.key_encoder(batch.keys)), dim=1)
            q = F.normalize(method.projector(method.encoder(batch.queries)), dim=1)
        loss = method(batch, "train").loss
        loss.backward()
        assert float(loss.detach()) == pytest.approx(float(info_nce(q, k, before, 0.2)), rel=1e-5)
        entered += list(k)
        oldest_first = method.queue.roll(-int(method.place), 0)
        torch.testing.assert_close(oldest_first, torch.stack(entered[-size:]), msg=f"step {step}")


def test_the_queue_is_of_the_paper_or_a_twentieth_of_the_images(blob_data):
    large = make_spec().model_copy(update={"sizes": {"train": 1_281_167}})
    assert build(large).queue.shape == (64058, 128)
    larger = make_spec().model_copy(update={"sizes": {"train": 2_000_000}})
    assert build(larger).queue.shape == (65536, 128)
    assert build(blob_data.spec).queue.shape == (4, 128)  # of 96 images
    assert build(blob_data.spec, queue_size=200).queue.shape == (200, 128)
    torch.testing.assert_close(build(blob_data.spec).queue.norm(dim=1), torch.ones(4))


def test_evaluation_has_a_loss_and_moves_nothing(blob_data):
    method = build(blob_data.spec, CNN)
    method(batch_of(method), "train")
    before = {key: value.clone() for key, value in method.state_dict().items()}
    split = blob_data.split("validation")
    measured = evaluate(method, Batches(split.images, None, 7, 0, torch.device("cpu")), 0)  # 24 = 3 * 7 + 3
    assert math.isfinite(measured["loss"])
    assert 0 <= measured["accuracy"] <= 1
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_keys_come_from_the_momentum_average(blob_data):
    method = build(blob_data.spec, CNN, momentum=0.9)
    owned = {id(parameter) for parameter in method.phase_parameters("train")}
    for name, parameter in method.named_parameters():
        assert (id(parameter) in owned) == (not name.startswith("key_")), name
    before = {name: value.clone() for name, value in method.named_parameters()}
    for parameter in method.phase_parameters("train"):
        parameter.data += torch.randn_like(parameter)
    method(batch_of(method), "train").loss.backward()
    statistics = [buffer.clone() for buffer in method.key_encoder.buffers()]
    method.after_step(0.5)
    now = dict(method.named_parameters())
    for name in (name for name in now if name.startswith("key_")):
        assert now[name].grad is None
        wanted = 0.9 * before[name] + 0.1 * now[name.removeprefix("key_")]
        torch.testing.assert_close(now[name].data, wanted.data, msg=name)
    for after, own in zip(method.key_encoder.buffers(), statistics, strict=True):
        assert torch.equal(after, own)  # those of its own passes


def test_accuracy_is_the_share_of_queries_nearest_to_their_own_key():
    method = build(make_spec(), queue_size=1).eval()
    batch = batch_of(method, 8)
    found = []
    with torch.no_grad():
        q = F.normalize(method.projector(method.encoder(batch.queries)), dim=1)
        k = F.normalize(method.key_projector(method.key_encoder(batch.keys)), dim=1)
        for key in (q[0], -q[0]):  # nearer to the first query than any other, and farther
            method.queue.copy_(key[None])
            nearest = [bool(q[i] @ k[i] > q[i] @ key) for i in range(8)]
            assert nearest[0] == (len(found) == 1)
            found.append(float(method(batch, "train").metrics["accuracy"]))
            assert found[-1] == sum(nearest) / 8
    assert found[0] < found[1]


@pytest.mark.parametrize("groups", [1, 2, 4, 8])
def test_batch_norm_sees_the_groups_of_a_batch(groups):
    """Each image's projection is that of its group alone, put through the networks by itself."""
    method = build(make_spec(), CNN, norm_groups=groups)
    batch = batch_of(method)
    passes = []
    method.encoder.register_forward_hook(lambda _, inputs, __: passes.append(inputs[0]))
    method.key_encoder.register_forward_hook(lambda _, inputs, __: passes.append(inputs[0]))
    expected = []
    with torch.no_grad():
        for encoder, projector, images, place in (
            (method.encoder, method.projector, batch.queries, torch.arange(16)),
            (method.key_encoder, method.key_projector, batch.keys, batch.order.argsort()),
        ):
            projected = torch.zeros(16, 128)
            for group in range(groups):
                members = [i for i in range(16) if place[i] % groups == group]
                projected[members] = F.normalize(projector(encoder(images[members])), dim=1)
            expected.append(projected)
        passes.clear()
        output = method(batch, "train")
    queue = build(make_spec(), CNN, norm_groups=groups).queue
    assert [len(images) for images in passes] == [16 // groups] * 2 * groups
    assert float(output.loss) == pytest.approx(float(info_nce(*expected, queue, 0.2)), rel=1e-5)
    torch.testing.assert_close(method.queue[:16], expected[1], rtol=1e-4, atol=1e-5)


def test_query_and_key_are_of_different_groups_mostly():
    method = build(make_spec(), CNN)
    order = batch_of(method, 256).order
    assert sorted(order.tolist()) == list(range(256))
    same = (order.argsort() % 8 == torch.arange(256) % 8).float().mean()
    assert same < 0.25  # 1/8, expected


@pytest.mark.parametrize(("count", "groups"), [(12, 8), (8, 8), (16, 5)])
def test_a_batch_that_cannot_be_grouped_is_refused(count, groups):
    method = build(make_spec(), CNN, norm_groups=groups)
    batch = batch_of(method, count)
    with pytest.raises(ValueError, match=rf"moco: norm_groups must divide .*, {count}, .*; got {groups}; change it"):
        method(batch, "train")
    method.eval()
    assert method(batch, "train").loss.isfinite()
    plain = build(make_spec(), MLP, norm_groups=groups)
    assert plain(batch_of(plain, count), "train").loss.isfinite()


def experiment(**train):
    entry = {"method": "moco", "dataset": "blobs", "encoder": CNN, "queue_size": 40, "train": {**TRAIN, **train}}
    return resolve("pretext", "moco", entry).config


def one(data, folder, on_evaluation=None, **train):
    config = experiment(**train)
    seed_everything(0, "init")
    method = model_folder.build("pretext", "moco", config, data.spec)
    splits = [data.split(name) for name in ("train", "validation")]
    batches = [Batches(split.images, None, config.train.batch_size, 0, torch.device("cpu")) for split in splits]
    return method, fit(method, *batches, config.train, 0, folder, on_evaluation).metrics


def test_two_processes_shuffle_as_one_does(blob_data, tmp_path):
    method, metrics = one(blob_data, tmp_path / "one")
    found = ranks.train("pretext", "moco", experiment(processes=2), blob_data.folder, 0, tmp_path / "two", None)
    for key, value in method.state_dict().items():
        torch.testing.assert_close(found[0].state_dict()[key], value, rtol=1e-3, atol=1e-4, msg=key)
    assert found[1] == pytest.approx(metrics, rel=1e-3)


def test_a_resumed_run_begins_with_the_queue_it_left(blob_data, tmp_path, monkeypatch):
    class Stopped(Exception):
        pass

    def stop(step, metrics):
        if step == 2:
            raise Stopped

    queues = []
    enqueue = MoCo._enqueue

    def remembering(self, keys):
        queues.append(self.queue.clone())
        enqueue(self, keys)

    monkeypatch.setattr(MoCo, "_enqueue", remembering)
    numbers = {"checkpoint_every": 1, "evaluate_every": 1}
    whole, _ = one(blob_data, tmp_path / "whole", **numbers)
    before_each_step = queues.copy()
    with pytest.raises(Stopped):
        one(blob_data, tmp_path / "parts", stop, **numbers)
    queues.clear()
    resumed, _ = one(blob_data, tmp_path / "parts", **numbers)
    assert len(queues) == 3  # the checkpoint is that of the first step
    assert all(torch.equal(queue, before) for queue, before in zip(queues, before_each_step[1:], strict=True))
    assert not torch.equal(queues[0], before_each_step[0])
    assert torch.equal(resumed.queue, whole.queue)
    assert int(resumed.place) == int(whole.place) == (4 * 16) % 40
