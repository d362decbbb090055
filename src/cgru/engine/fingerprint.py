"""What tells a network from another: a digest of its layers, sizes and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from ..spec.precision import Stored

if TYPE_CHECKING:
    from ..layers import Layer


def fingerprint(layers: Iterable[Layer]) -> bytes:
    """Sixteen bytes that another network, in layers, sizes or weights, does not share.

    A network that was saved and loaded has the same, on any machine and backend.
    """
    digest = hashlib.blake2b(digest_size=16)
    for layer in layers:
        digest.update(repr((layer.kind, layer.name, sorted(layer.options().items()))).encode())
        if layer.precision != "float32":
            digest.update(layer.precision.encode())
        for name, held in sorted(layer.stored().items()):
            for array in held if isinstance(held, Stored) else (held,):
                if array is not None:
                    digest.update(repr((name, array.shape, array.dtype.str)).encode())
                    digest.update(np.ascontiguousarray(array).data)
    return digest.digest()
