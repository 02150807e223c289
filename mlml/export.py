"""A trained encoder in forms that other programs read: images in [0, 1] in, features out.

<out>/encoder.safetensors    weights of the encoder, under this project's or torchvision's names
<out>/encoder.onnx           the network with its weights and its normalisation; images (b, c, h, w) -> features (b, d)
<out>/encoder.json           what the files are: format, network, size of the images, their mean and deviation, features
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors.torch import save as save_tensors
from torch import Tensor, nn
from torchvision.models import ResNet as TorchvisionResNet

from mlml.method import Encodes, Method
from mlml.models._network import Network
from mlml.models.resnet import BLOCKS, ResNet

WEIGHTS = "encoder.safetensors"

OPSET = 20
"""Version of ONNX's operators: the first with all that torch's exporter of today writes by default."""

TORCHVISION_WIDTH = 64
"""Channels of the first stage of every torchvision ResNet; the class takes no other."""


class ExportError(ValueError):
    """An encoder that cannot be written in the form asked for; the message says why."""


def to_safetensors(method: Method, folder: Path) -> None:
    """Write the weights of the encoder alone, without projectors, heads and teachers.

    Raises:
        ExportError: the method has no encoder of its own.
    """
    encoder = _encoder(method)
    _write_weights(folder, encoder.state_dict())
    _describe(folder, method, "safetensors", WEIGHTS, {"normalises": True})


def to_onnx(method: Method, folder: Path) -> None:
    """Write the encoder as an ONNX network whose batch may be of any size.

    Raises:
        ExportError: the method gives no features, or the package onnxscript is not installed.
    """
    if not isinstance(method, Encodes):
        raise ExportError(f"{type(method).__name__} has no encoder to export; export a method with 'encode'")
    try:
        import onnxscript  # noqa: F401  # torch's exporter asks for it, in the middle of its work
    except ImportError as error:
        raise ExportError("--to onnx: needs onnx and onnxscript; run 'pip install mlml[export]'") from error
    folder.mkdir(parents=True, exist_ok=True)
    spec = method.spec
    torch.onnx.export(
        _Features(method).eval(),
        (torch.zeros(2, spec.channels, spec.height, spec.width),),
        str(folder / "encoder.onnx"),
        input_names=["images"],
        output_names=["features"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        external_data=False,
        dynamo=True,
        verbose=False,
    )
    _describe(folder, method, "onnx", "encoder.onnx", {"normalises": True})


def to_torchvision(method: Method, folder: Path) -> None:
    """Write the weights of a ResNet under torchvision's names, without its last layer, for `torchvision_model`.

    Raises:
        ExportError: the encoder is not a ResNet that torchvision has.
    """
    encoder = _encoder(method)
    _refuse_others(encoder)
    assert isinstance(encoder, ResNet)
    _write_weights(folder, encoder.trunk.state_dict())
    about = {"normalises": False, "depth": encoder.config.depth, "stem": encoder.config.stem}
    _describe(folder, method, "torchvision", WEIGHTS, about)


def torchvision_model(depth: int, stem: str, channels: int) -> nn.Module:
    """Build torchvision's own ResNet for weights that `to_torchvision` wrote; it takes normalised images.

    Args:
        depth: 18, 34 or 50.
        stem: "imagenet" is torchvision's; "cifar" and "pooled" begin with a 3x3 convolution of stride 1, "cifar" also
            has no pooling.
        channels: of the images.
    """
    block, counts, _ = BLOCKS[depth]
    model: nn.Module = TorchvisionResNet(block, list(counts))
    model.fc = nn.Identity()
    kernel, stride = (7, 2) if stem == "imagenet" else (3, 1)
    model.conv1 = nn.Conv2d(channels, TORCHVISION_WIDTH, kernel, stride, padding=kernel // 2, bias=False)
    if stem == "cifar":
        model.maxpool = nn.Identity()
    return model


FORMATS: dict[str, Callable[[Method, Path], None]] = {
    "safetensors": to_safetensors,
    "onnx": to_onnx,
    "torchvision": to_torchvision,
}
"""Name on the command line -> what writes it."""


class _Features(nn.Module):
    """An encoder whose `forward` is `encode`, as exporters ask."""

    def __init__(self, method: Encodes) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Features of images in [0, 1]."""
        return self.method.encode(images)


def _encoder(method: Method) -> Network:
    """The network whose output the features are; weights of it alone would not give the features of other methods."""
    encoder = getattr(method, "encoder", None)
    if not isinstance(encoder, Network) or not isinstance(method, Encodes):
        raise ExportError(f"{type(method).__name__} has no encoder to export; export a method with an 'encoder'")
    spec = method.spec
    images = torch.rand(4, spec.channels, spec.height, spec.width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, own = method.encode(images), encoder(images)
    if features.shape != own.shape or not torch.allclose(features, own, rtol=1e-4, atol=1e-5):
        raise ExportError(
            f"{type(method).__name__}: its features are not those of its encoder alone, whose weights these would be; "
            "take --to onnx"
        )
    return encoder


def _refuse_others(encoder: Network) -> None:
    name = encoder.config.network
    if not isinstance(encoder, ResNet):
        raise ExportError(f"--to torchvision: the encoder must be a resnet; got {name!r}; take onnx or safetensors")
    config = encoder.config
    depths = [depth for depth, (_, counts, _) in BLOCKS.items() if len(counts) == 4]
    if config.depth not in depths or config.width not in (None, TORCHVISION_WIDTH) or not config.residual:
        raise ExportError(
            f"--to torchvision: the resnet must have a depth of {depths}, width {TORCHVISION_WIDTH} and shortcuts; got "
            f"depth {config.depth}, width {config.width}, residual {config.residual}; take onnx or safetensors"
        )


def _write_weights(folder: Path, weights: dict[str, Tensor]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    (folder / WEIGHTS).write_bytes(save_tensors(tensors))


def _describe(folder: Path, method: Method, form: str, file: str, about: dict[str, Any]) -> None:
    spec = method.spec
    content = {
        "format": form,
        "file": file,
        "sha256": hashlib.sha256((folder / file).read_bytes()).hexdigest(),
        **about,
        "method": type(method).__module__.rpartition(".")[2],
        "encoder": method.config.encoder.model_dump(mode="json"),
        "channels": spec.channels,
        "height": spec.height,
        "width": spec.width,
        "mean": list(spec.mean),
        "std": list(spec.std),
        "features": getattr(method, "feature_dim", None),
    }
    (folder / "encoder.json").write_text(json.dumps(content, indent=2) + "\n")
