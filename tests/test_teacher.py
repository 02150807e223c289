import math

import pytest
import torch
from torch import nn

from mlml.teacher import cosine_momentum, teacher_of, teacher_update


def student():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).double()


def test_the_update_is_the_papers_loop():
    ours = student()
    teacher = teacher_of(ours)
    expected = [parameter.detach().numpy().copy() for parameter in ours.parameters()]
    for step in range(20):
        for parameter in ours.parameters():
            parameter.data += torch.randn_like(parameter)
        momentum = cosine_momentum(0.9, step / 20)
        for xi, theta in zip(expected, ours.parameters(), strict=True):
            for place in range(xi.size):
                xi.flat[place] = momentum * xi.flat[place] + (1 - momentum) * float(theta.detach().flatten()[place])
        teacher_update(teacher, ours, momentum)
    for xi, parameter in zip(expected, teacher.parameters(), strict=True):
        torch.testing.assert_close(parameter.detach(), torch.from_numpy(xi), rtol=1e-9, atol=1e-9)
        assert not parameter.requires_grad


def test_momentum_1_and_0_are_exact():
    ours = student()
    teacher = teacher_of(ours)
    before = [parameter.clone() for parameter in teacher.parameters()]
    for parameter in ours.parameters():
        parameter.data += 1
    teacher_update(teacher, ours, 1.0)
    assert all(torch.equal(now, then) for now, then in zip(teacher.parameters(), before, strict=True))
    teacher_update(teacher, ours, 0.0)
    assert all(torch.equal(now, then) for now, then in zip(teacher.parameters(), ours.parameters(), strict=True))


def test_a_teacher_keeps_its_own_running_statistics_and_drops_nothing_out():
    ours = student()
    teacher = teacher_of(ours)
    x = torch.randn(16, 3, dtype=torch.float64)
    assert torch.equal(teacher(x), teacher(x))
    assert not torch.equal(ours(x), ours(x))
    seen = teacher[1].running_mean.clone()
    teacher_update(teacher, ours, 0.5)
    assert torch.equal(teacher[1].running_mean, seen)


def test_attention_and_recurrent_layers_drop_nothing_out():
    torch.manual_seed(0)
    x = torch.randn(2, 5, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.5, batch_first=True)
    lstm = nn.LSTM(8, 4, 2, batch_first=True, dropout=0.5)
    assert not torch.equal(layer(x), layer(x))
    assert not torch.equal(lstm(x)[0], lstm(x)[0])
    taught = teacher_of(nn.ModuleList([layer, lstm]))
    assert torch.equal(taught[0](x), taught[0](x))
    assert torch.equal(taught[1](x)[0], taught[1](x)[0])


@pytest.mark.parametrize("first", [0.9, 0.996, 1.0])
def test_the_schedule_is_the_closed_form(first):
    for k in range(11):
        expected = 1 - (1 - first) * (math.cos(math.pi * k / 10) + 1) / 2
        assert cosine_momentum(first, k / 10) == pytest.approx(expected, rel=1e-12)
    assert cosine_momentum(first, 0) == first
    assert cosine_momentum(first, 0.5) == pytest.approx((1 + first) / 2)
    assert cosine_momentum(first, 1) == 1


def test_refusals():
    with pytest.raises(ValueError, match=r"momentum must be in \[0, 1\]; got 1.5"):
        teacher_update(student(), student(), 1.5)
    with pytest.raises(ValueError, match="must be a copy of the student; their 6 and 4 parameters differ"):
        teacher_update(student(), student()[:2], 0.5)
