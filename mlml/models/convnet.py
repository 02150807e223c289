"""A network of declared layers: convolutions, poolings, transposed convolutions, unpoolings, fully connected ones."""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Float
from torch import Tensor, nn

from mlml import activations
from mlml.config import (
    ActivationConfig,
    ConvolutionLayer,
    DropoutLayer,
    FullyConnectedLayer,
    LayerConfig,
    NetworkConfig,
    NormConfig,
    PlainActivation,
    PlainNorm,
    PoolingLayer,
    ReshapingLayer,
    StackConfig,
    TransposedConvolutionLayer,
    UnpoolingLayer,
)
from mlml.data.dataset import DataSpec
from mlml.layers import arithmetic, norm
from mlml.layers.convolution import Conv2d, ConvTranspose2d, unpool
from mlml.layers.memory import channels_last
from mlml.models._network import Network

Shape = tuple[int, ...]
"""Of what is between two layers: (channels, height, width) of a grid, or (width,) of a vector."""


class ConvNet(Network):
    """The declared layers, one after the other.

    A layer with weights is followed by its norm and its activation. The features are what the last layer makes, their
    mean over the grid if it makes one. A stack whose last grid is as large as the image also tells of every pixel, as
    SegNet does by its unpoolings (Badrinarayanan et al. 2017, arXiv:1511.00561).

    Raises:
        ValueError: a layer does not fit its input, told with the layer, the input's size and the formula; or a norm
            does not fit its layer.
    """

    is_dense = True

    class Config(NetworkConfig):
        """Numbers of the network.

        Attributes:
            activation: of every layer with weights that says no other.
            norm: the same.
        """

        network: Literal["convnet"] = "convnet"
        layers: StackConfig
        activation: ActivationConfig = PlainActivation(name="relu")
        norm: NormConfig = PlainNorm(name="batch")

        @property
        def num_grids(self) -> int:
            return sum(isinstance(layer, ConvolutionLayer | TransposedConvolutionLayer) for layer in self.layers)

    config: Config

    def __init__(self, config: Config, spec: DataSpec) -> None:
        super().__init__(config, spec)
        shape: Shape = (spec.channels, *self.image_size)
        self.layers = nn.ModuleList()
        poolings: list[tuple[_MaxPooling, str, Shape, Shape]] = []  # not undone: layer, place, shapes before and after
        for number, layer in enumerate(config.layers, 1):
            place, before = f"convnet: {_described(number, layer)}", shape
            module: nn.Module
            if isinstance(layer, UnpoolingLayer):
                pooling, pooled_place, unpooled, pooled = poolings.pop()
                if shape != pooled:
                    raise ValueError(
                        f"{place}: its input is {_text(shape)}, but {pooled_place}, which it undoes, has left "
                        f"{_text(pooled)}; make the layers between them keep that shape"
                    )
                pooling.is_undone, shape, module = True, unpooled, _Unpooling()
            else:
                module, shape = _built(layer, config, shape, place)
            if isinstance(module, _MaxPooling):
                poolings.append((module, _described(number, layer), before, shape))
            self.layers.append(module)
        self.output_shape, self.feature_dim = shape, shape[0]

    @property
    def dense_dim(self) -> int:
        """Width of the features of a pixel.

        Raises:
            ValueError: the last layer leaves no grid of the image's size.
        """
        if self.output_shape[1:] != self.image_size:
            raise ValueError(
                f"convnet: layer {len(self.layers)}, the last, must leave a grid of the image's "
                f"{self.image_size[0]}x{self.image_size[1]} pixels to tell of each; it leaves "
                f"{_text(self.output_shape)}; add unpooling or transposed_convolution layers"
            )
        return self.output_shape[0]

    def forward(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        outputs = self._run(images)
        return outputs.mean((2, 3)) if outputs.ndim == 4 else outputs

    def dense(self, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        """Features of every pixel of images in [0, 1].

        Raises:
            ValueError: as `dense_dim`.
        """
        assert self.dense_dim
        return self._run(images)

    def grids(self, images: Float[Tensor, "b c h w"]) -> list[Float[Tensor, "b c_s h_s w_s"]]:
        """What each convolution leaves, transposed ones included, after its activation."""
        outputs: list[Tensor] = []
        self._run(images, outputs)
        kinds = (ConvolutionLayer, TransposedConvolutionLayer)
        layers = zip(self.config.layers, outputs, strict=True)
        return [output for layer, output in layers if isinstance(layer, kinds)]

    def _run(self, images: Tensor, seen: list[Tensor] | None = None) -> Tensor:
        """Output of the last layer; that of every layer is added to `seen`."""
        outputs = channels_last(self.normalize(images))
        undone: list[tuple[Tensor, tuple[int, int]]] = []  # indices of maxima, and the size of the pooled grid
        for layer in self.layers:
            if isinstance(layer, _MaxPooling) and layer.is_undone:
                size = (outputs.shape[2], outputs.shape[3])
                outputs, indices = layer.with_indices(outputs)
                undone.append((indices, size))
            elif isinstance(layer, _Unpooling):
                outputs = unpool(outputs, *undone.pop())
            else:
                outputs = layer(outputs)
            if seen is not None:
                seen.append(outputs)
        return outputs


class _MaxPooling(nn.MaxPool2d):
    """Knows whether a later layer undoes it."""

    is_undone = False

    def with_indices(self, grid: Tensor) -> tuple[Tensor, Tensor]:
        maxima, indices = nn.functional.max_pool2d(grid, self.kernel_size, self.stride, return_indices=True)
        return maxima, indices


class _Unpooling(nn.Module):
    """Marks the place; the network's loop hands over what the pooling has kept."""


def _built(layer: LayerConfig, config: ConvNet.Config, shape: Shape, place: str) -> tuple[nn.Module, Shape]:
    """Return a layer for inputs of some shape, and the shape of its outputs."""
    match layer:
        case ConvolutionLayer():
            numbers = (layer.kernel, layer.stride, layer.padding, layer.dilation)
            size = _size(shape, lambda side: arithmetic.convolution(side, *numbers), place)
            convolution = Conv2d(shape[0], layer.channels, *numbers, bias=_bias(layer, config))
            return _activated(convolution, layer, config, (layer.channels, *size), place)
        case TransposedConvolutionLayer():
            numbers = (layer.kernel, layer.stride, layer.padding, layer.dilation)
            size = _size(shape, lambda side: arithmetic.transposed_convolution(side, *numbers), place)
            transposed = ConvTranspose2d(shape[0], layer.channels, *numbers, bias=_bias(layer, config))
            return _activated(transposed, layer, config, (layer.channels, *size), place)
        case PoolingLayer():
            kernel, stride = layer.kernel, layer.stride or layer.kernel
            size = _size(shape, lambda side: arithmetic.pooling(side, kernel, stride), place)
            kind = _MaxPooling if layer.layer == "max_pooling" else nn.AvgPool2d
            return kind(kernel, stride), (shape[0], *size)
        case ReshapingLayer(layer="global_pooling"):
            return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), shape[:1]
        case ReshapingLayer():
            return nn.Flatten(), (_count(shape),)
        case FullyConnectedLayer():
            linear = nn.Linear(_count(shape), layer.width, bias=_bias(layer, config))
            module, after = _activated(linear, layer, config, (layer.width,), place)
            return nn.Sequential(nn.Flatten(), module), after
        case DropoutLayer():
            return nn.Dropout(layer.prob), shape
    raise AssertionError(layer)


def _activated(
    weighted: nn.Module,
    layer: ConvolutionLayer | TransposedConvolutionLayer | FullyConnectedLayer,
    config: ConvNet.Config,
    shape: Shape,
    place: str,
) -> tuple[nn.Module, Shape]:
    """A layer with weights, then its norm and its activation; `shape` is that of its outputs."""
    chosen = layer.norm or config.norm
    if chosen.name == "instance" and shape[1:] == (1, 1):
        raise ValueError(
            f"{place}: an instance norm needs more than one pixel; got 1x1; give the layer another norm, or prepare "
            "larger images"
        )
    normed = norm.build(chosen, shape[0], len(shape) == 3, place)
    return nn.Sequential(weighted, normed, activations.build(layer.activation or config.activation)), shape


def _bias(layer: ConvolutionLayer | TransposedConvolutionLayer | FullyConnectedLayer, config: ConvNet.Config) -> bool:
    return not norm.has_bias(layer.norm or config.norm)


def _size(shape: Shape, along: Callable[[int], arithmetic.Side], place: str) -> tuple[int, int]:
    """Height and width of what a layer makes of a grid, by its arithmetic along a side."""
    height, width = along(shape[1]), along(shape[2])
    for side in (height, width):
        if side.size < 1:
            raise ValueError(
                f"{place}: its input is {shape[1]}x{shape[2]}, and {side.formula} = {side.size} is less than 1; "
                "lower its kernel, leave out a layer before it that shrinks the grid, or prepare larger images"
            )
    return height.size, width.size


def _described(number: int, layer: LayerConfig) -> str:
    """Such as "layer 3 (max_pooling, kernel 4, stride 4)"."""
    told: list[str] = [layer.layer]
    if isinstance(layer, PoolingLayer):
        told += [f"kernel {layer.kernel}", f"stride {layer.stride or layer.kernel}"]
    if isinstance(layer, ConvolutionLayer | TransposedConvolutionLayer):
        told += [f"kernel {layer.kernel}", f"stride {layer.stride}", f"padding {layer.padding}"]
        told += [f"dilation {layer.dilation}"] if layer.dilation > 1 else []
    return f"layer {number} ({', '.join(told)})"


def _count(shape: Shape) -> int:
    count = 1
    for size in shape:
        count *= size
    return count


def _text(shape: Shape) -> str:
    """Such as "32 channels of 8x8"."""
    return f"{shape[0]} channels of {shape[1]}x{shape[2]}" if len(shape) == 3 else f"a vector of {shape[0]}"
