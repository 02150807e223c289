import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mlml import model_folder
from mlml.data.batches import Batch
from mlml.pretext.dino import dino_loss, warmed_up

MLP = {"network": "mlp", "hidden_widths": [6]}
SMALL = {"train": {"steps": 1}, "hidden_dim": 8, "bottleneck_dim": 5, "num_prototypes": 7}


def build(spec, encoder=MLP, **numbers):
    torch.manual_seed(0)
    return model_folder.build("pretext", "dino", {**SMALL, "encoder": encoder, **numbers}, spec)


def drawn(method, b=4):
    images = torch.rand(b, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return method.augment(Batch(images, torch.zeros(b)), torch.Generator().manual_seed(0))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = [math.exp(value) for value in logits]
    return np.array([power / sum(powers) for power in powers])


def slow_loss(student, teacher, center, tau_s, tau_t) -> float:
    """Caron et al. 2021, Eq. 1 to 3 and Algorithm 1, as loops."""
    (b, v, k), g = student.shape, teacher.shape[1]
    total, pairs = 0.0, 0
    for image in range(b):
        for wide in range(g):
            target = softmax((teacher[image, wide] - center) / tau_t)
            for crop in range(v):
                if crop == wide:
                    continue
                pairs += 1
                total -= sum(target[j] * math.log(softmax(student[image, crop] / tau_s)[j]) for j in range(k))
    return total / pairs


@settings(max_examples=20)
@given(
    b=st.integers(1, 3), g=st.integers(1, 2), more=st.integers(1, 3), k=st.integers(2, 6),
    tau_s=st.floats(0.1, 1), tau_t=st.floats(0.04, 1), seed=st.integers(0, 99),
)  # fmt: skip
def test_it_equals_the_paper(b, g, more, k, tau_s, tau_t, seed):
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.rand(b, g + more, k, generator=generator), torch.rand(b, g, k, generator=generator)
    center = torch.rand(k, generator=generator)
    expected = slow_loss(*(x.double().numpy() for x in (student, teacher, center)), tau_s, tau_t)
    assert float(dino_loss(student, teacher, center, tau_s, tau_t)) == pytest.approx(expected, rel=1e-5, abs=1e-5)


def test_the_gradient_is_that_of_the_slow_loss_and_none_goes_into_the_teacher():
    generator = torch.Generator().manual_seed(0)
    student = torch.rand(2, 3, 4, generator=generator).double().requires_grad_()
    teacher = torch.rand(2, 2, 4, generator=generator).double().requires_grad_()
    center = torch.rand(4, generator=generator).double()
    dino_loss(student, teacher, center, 0.3, 0.2).backward()
    step = 1e-5
    for place in np.ndindex(2, 3, 4):
        ends = []
        for sign in (1, -1):
            moved = student.detach().numpy().copy()
            moved[place] += sign * step
            ends.append(slow_loss(moved, teacher.detach().numpy(), center.numpy(), 0.3, 0.2))
        assert float(student.grad[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-5)
    assert teacher.grad is None


def test_closed_form_of_a_uniform_student():
    """Whatever the teacher says, a student that tells nothing has the entropy of k equal prototypes."""
    teacher = torch.randn(3, 2, 5, generator=torch.Generator().manual_seed(0))
    assert float(dino_loss(torch.zeros(3, 4, 5), teacher, torch.zeros(5), 0.1, 0.04)) == pytest.approx(math.log(5))


def test_a_single_crop_is_refused():
    with pytest.raises(ValueError, match="must see 2 crops or more, and all of the teacher's; got 1 and 1"):
        dino_loss(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3), torch.zeros(3), 0.1, 0.04)
    with pytest.raises(ValueError, match="got 2 and 3"):
        dino_loss(torch.zeros(2, 2, 3), torch.zeros(2, 3, 3), torch.zeros(3), 0.1, 0.04)


@pytest.mark.parametrize(("progress", "expected"), [(0, 0.04), (0.15, 0.055), (0.3, 0.07), (0.31, 0.07), (1, 0.07)])
def test_the_teachers_temperature_warms_up(progress, expected):
    assert warmed_up(0.04, 0.07, 0.3, progress) == pytest.approx(expected)
    assert warmed_up(0.04, 0.07, 0.0, progress) == 0.07


def test_a_step_sees_the_schedule_in_buffers(blob_data):
    method = build(blob_data.spec)
    assert float(method.teacher_temperature) == pytest.approx(0.04)
    method.after_step(0.15)
    assert float(method.teacher_temperature) == pytest.approx(0.055)
    resumed = build(blob_data.spec)
    resumed.load_state_dict(method.state_dict())
    assert float(resumed.teacher_temperature) == pytest.approx(0.055)
    assert float(resumed.head[-1].learning) == 1
    batch = drawn(method)
    assert torch.equal(method.eval()(batch, "train").loss, resumed.eval()(batch, "train").loss)


def test_the_loss_is_of_all_pairs_of_crops(blob_data):
    method = build(blob_data.spec).eval()
    torch.manual_seed(1)
    method.center.normal_(std=0.1)
    for parameter in method.teacher.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    batch = drawn(method)
    with torch.no_grad():
        crops = [batch.wide[:, 0], batch.wide[:, 1], *batch.local.unbind(1)]
        assert len(crops) == 10
        student = torch.stack([method.head(method.encoder(crop)) for crop in crops], 1)
        teacher = torch.stack([method.teacher(crop) for crop in crops[:2]], 1)
    expected = slow_loss(*(x.double().numpy() for x in (student, teacher, method.center)), 0.1, 0.04)
    output = method(batch, "train")
    assert float(output.loss) == pytest.approx(expected, rel=1e-4)
    rows = [softmax((row - method.center.numpy()) / 0.04) for row in teacher.flatten(0, 1).numpy()]
    entropy = np.mean([-sum(p * math.log(p) for p in row if p) for row in rows])
    assert float(output.metrics["teacher_entropy"]) == pytest.approx(entropy, rel=1e-4)


def test_the_centre_is_a_running_mean_of_the_teacher(blob_data):
    method, twin = build(blob_data.spec, center_momentum=0.8), build(blob_data.spec)
    expected = np.zeros(7)
    for _ in range(3):
        batch = drawn(method)
        with torch.no_grad():
            logits = twin.teacher(batch.wide.flatten(0, 1)).double().numpy()
        expected = 0.8 * expected + 0.2 * logits.mean(0)
        method(batch, "train")
    np.testing.assert_allclose(method.center.numpy(), expected, atol=1e-5)
    assert "center" in method.state_dict()


def test_evaluation_moves_nothing(blob_data):
    method = build(blob_data.spec)
    method(drawn(method), "train")
    method.eval()
    before = {key: value.clone() for key, value in method.state_dict().items()}
    method(drawn(method), "train")
    for key, value in method.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_prototypes_are_held_for_the_first_part_of_the_run(blob_data):
    """A decay of weights would move them without a gradient; they are set back to what they were, bit for bit."""
    method = build(blob_data.spec, frozen_prototypes=0.5)
    prototypes, first = method.head[-1].weight, method.head[-1].weight.detach().clone()
    optimizer = torch.optim.Adam(method.phase_parameters("train"), lr=0.01, weight_decay=0.1)
    moved = []
    for step in range(4):
        optimizer.zero_grad()
        method(drawn(method), "train").loss.backward()
        assert bool(prototypes.grad.any()) == (step >= 2)
        optimizer.step()
        method.after_step((step + 1) / 4)
        moved.append(not torch.equal(prototypes, first))
    assert moved == [False, False, True, True]


def test_features_are_the_teachers(blob_data):
    method = build(blob_data.spec).eval()
    for parameter in method.encoder.parameters():
        parameter.data.zero_()
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(method.encode(images), method.teacher[0](images))
    assert method.encode(images).any()


@pytest.mark.parametrize(
    ("encoder", "size"),
    [
        (MLP, (8, 8)),  # its weights belong to single pixels: small parts come magnified
        ({"network": "rnn", "hidden_dim": 6}, (8, 8)),
        ({"network": "cnn", "width": 4, "num_stages": 2}, (3, 3)),
        ({"network": "resnet", "depth": 8, "width": 4}, (3, 3)),
        ({"network": "vit", "patch_size": 2, "dim": 8, "depth": 1, "num_heads": 2}, (4, 4)),
    ],
)
def test_local_crops_have_a_size_that_the_encoder_takes(blob_data, encoder, size):
    method = build(blob_data.spec, encoder)
    batch = drawn(method)
    assert batch.local.shape == (4, 8, 1, *size)
    method(batch, "train").loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in method.phase_parameters("train"))


def test_without_local_crops_the_two_global_ones_learn_from_each_other(blob_data):
    method = build(blob_data.spec, crops={"num_local": 0})
    batch = drawn(method)
    assert batch.local.shape[1] == 0
    assert math.isfinite(method(batch, "train").loss)
