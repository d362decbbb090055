"""A network in Ray's object store: one read-only copy a node, whatever the number of workers."""

from __future__ import annotations

from typing import Any

import numpy as np
import ray

from .. import load
from ..engine.model import Model
from ..errors import ArgumentTypeError
from ..formats.readers import native


def ship(net: Model) -> ray.ObjectRef:
    """Put ``net`` into the object store, in its native form; :class:`Predictor` and :func:`streams` take the reference.

    Every worker of a node reads the same memory. What it then holds of its own are the weights in the order of the
    kernels (``net.nbytes``), which belong to the processor it runs on.
    """
    if not isinstance(net, Model):
        raise ArgumentTypeError(f"net: expected a cgru.Model, found {type(net).__name__}")
    return ray.put(np.frombuffer(native.to_bytes(net), np.uint8))


def received(net: Any) -> Model:
    """The network of :func:`ship`'s reference, or of what Ray has made of it on the way."""
    if isinstance(net, ray.ObjectRef):
        net = ray.get(net)
    if isinstance(net, np.ndarray):
        return load(memoryview(net.data))
    if isinstance(net, Model):
        return net
    raise ArgumentTypeError(f"net: expected a cgru.Model or what cgru.ray.ship gave, found {type(net).__name__}")
