"""What a graph hands from one step to the next, as states that the network carries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ...errors import UnsupportedError
from ..containers.onnx_records import shortened
from .onnx_lowering import Lowering
from .onnx_values import BATCH, Atom, Known, Tensor, Value


def carried(low: Lowering, like: Tensor, axes: Sequence[tuple[Atom, ...]], sizes: Sequence[int], name: str) -> Tensor:
    """A state of these ONNX axes and feature sizes as a step begins: zeros at first. ``like`` has its steps."""
    return Tensor(low.draft.emit("carried", like.name, features=tuple(sizes) or (1,), name=name), tuple(axes))


def carry(low: Lowering, what: str, name: str, value: Value, source: Tensor, like: Tensor) -> str:
    """``value`` written to the state ``source``, which the next step begins with; ``what`` names it in messages."""
    features = low.draft.type(source.name).features
    if isinstance(value, Known):
        if value.is_shape or value.open:
            raise UnsupportedError(f"the state {shortened(what)} becomes constant")
        array = np.broadcast_to(value.array.reshape(features), features)
        made = low.draft.emit("expand_time", low.draft.constant(array), like.name)
        return low.draft.emit("carry", made, source.name, name=name)
    if low.draft.shape(value) != low.draft.shape(source):
        raise UnsupportedError(
            f"the state {shortened(what)} has shape {low.draft.shape(value)} at the end of a step, "
            f"{low.draft.shape(source)} at its beginning"
        )
    groups = [tuple(atom for atom in atoms if isinstance(atom, int)) for atoms in value.axes if BATCH not in atoms]
    made = low.draft.arranged(value, groups or [()])
    if low.draft.type(made).clock is None:
        made = low.draft.emit("expand_time", made, like.name)
    return low.draft.emit("carry", made, source.name, name=name)
