"""What tells a network from another: a digest of its layers, sizes and weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Float32
from ..spec.precision import Stored

if TYPE_CHECKING:
    from ..layers import Layer
    from ..spec.graph import Graph
    from ..weights import Store


def fingerprint(layers: Iterable[Layer]) -> bytes:
    """Sixteen bytes that another network, in layers, sizes or weights, does not share.

    A network that was saved and loaded has the same, on any machine and backend.
    """
    from hashlib import blake2b  # four milliseconds that a first output need not take

    digest = blake2b(digest_size=16)
    for layer in layers:
        digest.update(repr((layer.kind, layer.name, sorted(layer.options().items()))).encode())
        _update(digest, layer.precision, layer.stored())
    return digest.digest()


def graph_fingerprint(graph: Graph, store: Store) -> bytes:
    """The same of a graph and its weights."""
    import json
    from hashlib import blake2b

    digest = blake2b(json.dumps(graph.to_json()).encode(), digest_size=16)
    for key, weights in store.items():
        digest.update(key.encode())
        _update(digest, weights.precision, weights.stored())
    return digest.digest()


def _update(digest: Any, precision: str, stored: Mapping[str, Float32 | Stored]) -> None:
    if precision != "float32":
        digest.update(precision.encode())
    for name, held in sorted(stored.items()):
        for array in held if isinstance(held, Stored) else (held,):
            if array is not None:
                digest.update(repr((name, array.shape, array.dtype.str)).encode())
                digest.update(np.ascontiguousarray(array).data)
