"""How large the output of a layer over a grid is; pure arithmetic, the same for height and width.

Notation (Dumoulin & Visin 2016, arXiv:1603.07285): `size` pixels come in; the kernel has `kernel` weights, `dilation`
pixels apart, and so reaches over `extent` = dilation (kernel - 1) + 1 pixels; it moves by `stride`.

Padding of a convolution: "valid" has none; "same" makes ceil(size / stride) outputs, with an odd pixel at the end;
"full" puts extent - 1 on each side, so that the kernel begins and ends with one pixel of the image. A transposed
convolution is the adjoint of the convolution with the same numbers: it makes the size that this would take.
"""

from typing import NamedTuple


class Side(NamedTuple):
    """The size of one side of an output.

    Attributes:
        size: in pixels; below 1 the layer cannot be.
        formula: how it comes about, with the numbers in their places.
    """

    size: int
    formula: str


def extent(kernel: int, dilation: int = 1) -> int:
    """Pixels that a kernel reaches over."""
    return dilation * (kernel - 1) + 1


def convolution(size: int, kernel: int, stride: int = 1, padding: str = "valid", dilation: int = 1) -> Side:
    """Outputs of a convolution; relationships 1 to 6 and, with dilation, 15 of the paper."""
    reach = extent(kernel, dilation)
    if padding == "same":
        return Side(-(-size // stride), f"ceil({size} / {stride})")
    if padding == "full":
        total = 2 * (reach - 1)
        return Side((size + total - reach) // stride + 1, f"floor(({size} + {total} - {reach}) / {stride}) + 1")
    return Side((size - reach) // stride + 1, f"floor(({size} - {reach}) / {stride}) + 1")


def pooling(size: int, kernel: int, stride: int) -> Side:
    """Outputs of a pooling without padding; what is left over at the end is not pooled."""
    return convolution(size, kernel, stride)


def transposed_convolution(size: int, kernel: int, stride: int = 1, padding: str = "valid", dilation: int = 1) -> Side:
    """Outputs of a transposed convolution; relationships 8 to 13 of the paper."""
    reach = extent(kernel, dilation)
    if padding == "same":
        return Side(size * stride, f"{size} * {stride}")
    if padding == "full":
        return Side((size - 1) * stride + 2 - reach, f"({size} - 1) * {stride} + 2 - {reach}")
    return Side((size - 1) * stride + reach, f"({size} - 1) * {stride} + {reach}")


def convolution_padding(
    size: int, kernel: int, stride: int = 1, padding: str = "valid", dilation: int = 1
) -> tuple[int, int]:
    """Pixels of 0 that a convolution puts before and after a side."""
    reach = extent(kernel, dilation)
    if padding == "same":
        outputs = convolution(size, kernel, stride, padding, dilation).size
        total = max((outputs - 1) * stride + reach - size, 0)
        return total // 2, total - total // 2
    return (reach - 1, reach - 1) if padding == "full" else (0, 0)


def transposed_cut(kernel: int, stride: int = 1, padding: str = "valid", dilation: int = 1) -> tuple[int, int]:
    """Pixels that a transposed convolution cuts from both ends of the uncut output, and those left to cut at its end.

    Where the stride is larger than the extent, the second is negative: pixels that no weight reaches are added.
    """
    reach = extent(kernel, dilation)
    if padding == "same":
        total = max(reach - stride, 0)
        return total // 2, total % 2 if total else min(reach - stride, 0)
    return (reach - 1, 0) if padding == "full" else (0, 0)
