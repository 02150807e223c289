"""The idx format of MNIST and its relatives (yann.lecun.com/exdb/mnist, "the IDX file format"), plain or gzipped.

Layout: two zero bytes, a type code, the number of dimensions, the dimensions as big-endian 32-bit integers, the
values row by row, big-endian.
"""

import gzip
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlml.data.dataset import DataError

_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> NDArray[Any]:
    """Read an idx file, decompressed on the way if its name ends in ".gz".

    Raises:
        DataError: the file is broken, or is no idx file.
    """
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); get the file again") from None
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _TYPES:
        raise DataError(
            f"{path}: must be an idx file, but begins with {content[:4].hex(' ') or 'nothing'}; get it again"
        )
    start = 4 + 4 * content[3]
    shape = tuple(int(extent) for extent in np.frombuffer(content[4:start].ljust(start - 4, b"\0"), ">u4"))
    dtype = np.dtype(_TYPES[content[2]])
    expected = start + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if len(content) != expected:
        raise DataError(f"{path}: must hold {expected} bytes by its header {shape}; got {len(content)}; get it again")
    return np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
