import shutil

import pytest
import torch
from torch import nn

from mlml.precision import COMPILED_STEPS, Precision, compiled, exact_products

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def test_float16_scales_the_loss_and_gives_back_its_gradient():
    precision, plain = Precision("float16", CPU, ["train"]), Precision("float32", CPU, ["train"])
    gradients = []
    for chosen in (precision, plain):
        weight = nn.Parameter(torch.tensor([3.0]))
        optimizer = torch.optim.SGD([weight], lr=0.1)
        chosen.backward((weight * 1e-6).sum(), "train")  # below what float16 holds without scaling
        if chosen is precision:
            assert weight.grad.item() == pytest.approx(1e-6 * 65536)
        chosen.unscale(optimizer, "train")
        gradients.append(weight.grad.item())
        chosen.step(optimizer, "train")
        assert weight.item() == pytest.approx(3.0 - 0.1 * 1e-6)
    assert gradients[0] == pytest.approx(gradients[1])


def test_a_step_that_overflows_is_left_out_and_the_scale_is_halved_and_kept():
    precision = Precision("float16", CPU, ["train"])
    weight = nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    precision.backward((weight * torch.inf).sum(), "train")
    precision.unscale(optimizer, "train")
    precision.step(optimizer, "train")
    assert weight.item() == 3.0
    again = Precision("float16", CPU, ["train"])
    again.load_state_dict(precision.state_dict())
    assert again.scalers["train"].get_scale() == precision.scalers["train"].get_scale() == 65536 / 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [("float32", torch.float32), ("tf32", torch.float32), ("bfloat16", torch.bfloat16), ("float16", torch.float16)],
)
def test_products_are_of_the_declared_type(name, expected):
    with Precision(name, CPU, ["train"]).autocast():
        assert nn.Linear(3, 2)(torch.ones(1, 3)).dtype == expected


def test_tf32_is_allowed_while_it_is_asked_for():
    def state():
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = state()
    try:
        exact_products()
        assert state() == ("highest", False)
        with Precision("tf32", CPU, ["train"]).products():
            assert state() == ("high", True)
        assert state() == ("highest", False)
        with Precision("bfloat16", CPU, ["train"]).products():
            assert state() == ("highest", False)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def test_auto_compiles_long_runs_on_a_gpu_only(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, dynamic: "compiled")
    model = nn.Linear(3, 2)
    assert compiled(model, "auto", CUDA, COMPILED_STEPS) == "compiled"
    assert compiled(model, "auto", CUDA, COMPILED_STEPS - 1) is model
    assert compiled(model, "auto", CPU, COMPILED_STEPS) is model
    assert compiled(model, "off", CUDA, COMPILED_STEPS) is model
    assert compiled(model, "on", CPU, 1) == "compiled"


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a processor needs a C++ compiler")
def test_a_compiled_model_computes_the_same():
    model = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, 2))
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    gradients = []
    for chosen in (model, compiled(model, "on", CPU, 1)):
        model.zero_grad()
        chosen(x).square().sum().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-5)
