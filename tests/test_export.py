"""Exported encoders give the features that they gave here, in the programs that they are for."""

import json

import numpy as np
import pytest
import torch
from blobs import write_prepared
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18, resnet50

from mlml import export, model_folder
from mlml.declaration import resolve
from mlml.seeds import seed_everything

NETWORKS = {
    "mlp": {"hidden_widths": [16, 8]},
    "cnn": {"width": 8},
    "resnet": {"depth": 8, "width": 8},
    "vit": {"dim": 24, "depth": 2},
    "rnn": {"hidden_dim": 16},
    "convnet": {"layers": [{"layer": "convolution", "channels": 8, "kernel": 3}, {"layer": "flatten"}]},
}


def trained(tmp_path, network, channels=3, size=16, **numbers):
    """An encoder whose batch norms have seen images, as after training."""
    data = write_prepared(tmp_path / "blobs", channels=channels, size=size)
    encoder = {"network": network, **numbers}
    config = resolve(
        "pretext", "simclr", {"method": "simclr", "dataset": "blobs", "encoder": encoder, "train": {"steps": 1}}
    )
    seed_everything(0, "init")
    method = model_folder.build("pretext", "simclr", config.config, data.spec)
    images = torch.from_numpy(data.split("train").images[:32]).float() / 255
    with torch.no_grad():
        for _ in range(3):
            method.encode(images)
    return method.eval(), images[:5]


@pytest.mark.filterwarnings("ignore:_check_is_size:FutureWarning")  # torch's own, of what it exports of an LSTM
@pytest.mark.parametrize("network", NETWORKS)
def test_onnx_gives_the_same_features_for_any_batch(network, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    method, images = trained(tmp_path, network, **NETWORKS[network])
    export.to_onnx(method, tmp_path / "out")
    session = runtime.InferenceSession(str(tmp_path / "out" / "encoder.onnx"), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (features,) = session.run(["features"], {"images": images[:count].numpy()})
        expected = method.encode(images[:count]).detach().numpy()
        assert features.shape == (count, method.feature_dim)
        np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)
    assert json.loads((tmp_path / "out" / "encoder.json").read_text())["normalises"] is True


@pytest.mark.parametrize(
    ("depth", "stem", "channels"), [(18, "cifar", 1), (18, "pooled", 3), (18, "imagenet", 3), (50, "imagenet", 3)]
)
def test_torchvision_s_own_network_gives_the_same_features(depth, stem, channels, tmp_path):
    method, images = trained(tmp_path, "resnet", channels, 32, depth=depth, stem=stem)
    export.to_torchvision(method, tmp_path / "out")
    about = json.loads((tmp_path / "out" / "encoder.json").read_text())
    weights = load_file(tmp_path / "out" / "encoder.safetensors")
    model = export.torchvision_model(about["depth"], about["stem"], about["channels"]).eval()
    model.load_state_dict(weights)
    mean, std = (torch.tensor(about[key]).view(-1, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        np.testing.assert_allclose(model((images - mean) / std), method.encode(images), rtol=1e-4, atol=1e-5)
        if stem == "imagenet":  # nothing of ours is needed to read it
            plain = {18: resnet18, 50: resnet50}[depth](weights=None)
            plain.fc = nn.Identity()
            plain.eval().load_state_dict(weights)
            np.testing.assert_allclose(plain((images - mean) / std), method.encode(images), rtol=1e-4, atol=1e-5)


def test_safetensors_hold_the_encoder_alone(tmp_path):
    method, _ = trained(tmp_path, "cnn", width=8)
    export.to_safetensors(method, tmp_path / "out")
    weights = load_file(tmp_path / "out" / "encoder.safetensors")
    assert weights.keys() == method.encoder.state_dict().keys()
    assert all(torch.equal(weights[name], value) for name, value in method.encoder.state_dict().items())


@pytest.mark.parametrize("form", ["safetensors", "torchvision"])
def test_weights_of_an_encoder_that_is_not_the_features_are_refused(form, tmp_path):
    """Those of DINO are the teacher's, which only the whole network gives."""
    data = write_prepared(tmp_path / "blobs", channels=3, size=16)
    encoder = {"network": "resnet", "width": 64, "depth": 18}
    entry = {"method": "dino", "dataset": "blobs", "encoder": encoder, "train": {"steps": 1}}
    method = model_folder.build("pretext", "dino", resolve("pretext", "dino", entry).config, data.spec).eval()
    with torch.no_grad():
        for parameter in method.encoder.parameters():
            parameter.mul_(1.5)
    with pytest.raises(export.ExportError, match="DINO: its features are not those of its encoder alone"):
        export.FORMATS[form](method, tmp_path / "out")


@pytest.mark.parametrize(
    ("network", "numbers", "said"),
    [
        ("cnn", {"width": 8}, "the encoder must be a resnet; got 'cnn'"),
        ("resnet", {"depth": 8, "width": 8}, r"depth of \[18, 34, 50\], width 64 and shortcuts; got depth 8, width 8"),
        ("resnet", {"width": 32}, "width 32"),
        ("resnet", {"residual": False}, "residual False"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(network, numbers, said, tmp_path):
    method, _ = trained(tmp_path, network, **numbers)
    with pytest.raises(export.ExportError, match=said):
        export.to_torchvision(method, tmp_path / "out")
    assert not (tmp_path / "out").exists()
