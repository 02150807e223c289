"""The layers that the network `convnet` is declared of, and what of a stack of them is wrong whatever the data."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, PositiveInt

from mlml.config.declared import BelowOne, Declared
from mlml.config.layers import ActivationConfig, NormConfig

Padding = Literal["same", "valid", "full"]


class _Weighted(Declared):
    """A layer with weights, then a norm and an activation: the network's, or its own."""

    norm: NormConfig | None = None
    activation: ActivationConfig | None = None


class ConvolutionLayer(_Weighted):
    """Convolution; `same` makes ceil(size / stride) outputs, `full` pads by the kernel's extent less 1 on each side."""

    layer: Literal["convolution"]
    channels: PositiveInt
    kernel: PositiveInt = 3
    stride: PositiveInt = 1
    padding: Padding = "same"
    dilation: PositiveInt = 1


class TransposedConvolutionLayer(_Weighted):
    """The adjoint of the convolution with the same numbers (Zeiler et al. 2010); `same` makes size * stride outputs."""

    layer: Literal["transposed_convolution"]
    channels: PositiveInt
    kernel: PositiveInt = 2
    stride: PositiveInt = 2
    padding: Padding = "same"
    dilation: PositiveInt = 1


class PoolingLayer(Declared):
    """Maximum or mean over windows that lie within the grid whole; the stride is the kernel's side where it is null."""

    layer: Literal["max_pooling", "average_pooling"]
    kernel: PositiveInt = 2
    stride: PositiveInt | None = None


class UnpoolingLayer(Declared):
    """Undoes the last max pooling that is not yet undone: values go where its maxima were, all else is 0.

    Badrinarayanan et al. 2017 (SegNet), arXiv:1511.00561.
    """

    layer: Literal["unpooling"]


class ReshapingLayer(Declared):
    """A grid to a vector: the mean of each channel (Lin et al. 2014, arXiv:1312.4400), or all its numbers in a row."""

    layer: Literal["global_pooling", "flatten"]


class FullyConnectedLayer(_Weighted):
    """A linear map of a vector; a grid is flattened before."""

    layer: Literal["fully_connected"]
    width: PositiveInt


class DropoutLayer(Declared):
    """Dropout of single numbers (Srivastava et al. 2014)."""

    layer: Literal["dropout"]
    prob: BelowOne = 0.5


LayerConfig = Annotated[
    ConvolutionLayer
    | TransposedConvolutionLayer
    | PoolingLayer
    | UnpoolingLayer
    | ReshapingLayer
    | FullyConnectedLayer
    | DropoutLayer,
    Field(discriminator="layer"),
]
"""Field type of one layer of a stack."""


def _consistent(layers: tuple[LayerConfig, ...]) -> tuple[LayerConfig, ...]:
    """Refuse a layer over a grid after a vector, and an unpooling that cannot undo a pooling."""
    vector_by = ""
    poolings: list[tuple[int, int, int]] = []  # number, kernel and stride of those not undone
    for number, layer in enumerate(layers, 1):
        place = f"layer {number} ({layer.layer})"
        if isinstance(layer, FullyConnectedLayer | ReshapingLayer):
            if vector_by and isinstance(layer, ReshapingLayer):
                raise ValueError(f"{place}: needs a grid, but {vector_by} leaves a vector; leave one of the two out")
            vector_by = vector_by or f"layer {number} ({layer.layer})"
        elif vector_by and not isinstance(layer, DropoutLayer):
            raise ValueError(f"{place}: needs a grid, but {vector_by} leaves a vector; put it before that layer")
        if isinstance(layer, PoolingLayer) and layer.layer == "max_pooling":
            poolings.append((number, layer.kernel, layer.stride or layer.kernel))
        if isinstance(layer, UnpoolingLayer):
            if not poolings:
                raise ValueError(f"{place}: no max_pooling before it is left to be undone; add one or leave it out")
            pooled, kernel, stride = poolings.pop()
            if kernel > stride:
                raise ValueError(
                    f"{place}: the windows of layer {pooled} (max_pooling, kernel {kernel}, stride {stride}) overlap, "
                    f"so two of its maxima may be one pixel; give that layer a stride of at least {kernel}"
                )
    return layers


StackConfig = Annotated[tuple[LayerConfig, ...], Field(min_length=1), AfterValidator(_consistent)]
"""Field type of a stack of layers."""
