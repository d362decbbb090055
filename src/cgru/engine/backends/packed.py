"""The packed backend: layers become nodes of one C network over weights in the kernels' own order.

Consecutive layers make one stage, so that a call crosses into C once. The packed weights belong to the layer and
replace its arrays: there is no second copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ...arrays import Float32
from ...forks import Lock
from ...layers import Activation, Dense, Embedding, LastStep, Layer, Masking, Recurrent
from ...layers.recurrent import MERGES
from ...spec.activations import CODES
from ...weights import Weights
from ..state import StateLayout
from .flow import Flow

#: The core's number for each way to merge two directions; a pair is cut from what concatenates them.
_MERGES = {mode: code for code, mode in enumerate(MERGES)} | {None: 0}
packing = Lock()


def unavailable() -> str | None:
    try:
        from . import _packed
    except ImportError as error:
        return f"the C core is not built ({error})"
    _packed.isa_in_use()
    return None


def supports(layer: Layer) -> bool:
    return not isinstance(layer, LastStep)  # which computes nothing


def compile(layers: Sequence[Layer], layout: StateLayout) -> list[PackedStage]:
    return [PackedStage(layers, layout)]


def packed(layer: Layer) -> list[Any]:
    """The packed weights of each of the layer's parts, made at first use; the layer then lets go of its arrays."""
    from . import _packed

    def dense(part: Weights) -> Any:
        held = part.stored()
        return _packed.Matrix(part.precision, held["weight"], cast("Float32 | None", held.get("bias")))

    def scan(part: Weights) -> Any:
        assert isinstance(layer, Recurrent)
        return _packed.Scan(
            part.precision,
            layer.cell.name,
            CODES[layer.activation],
            CODES[layer.recurrent_activation],
            layer.hidden_size,
            layer.emitted_size,
            part.stored(),
        )

    with packing:
        return [part.packed(dense if isinstance(layer, Dense) else scan) for part in layer.weights.values()]


class PackedStage:
    """Consecutive layers as one C network."""

    def __init__(self, layers: Sequence[Layer], layout: StateLayout) -> None:
        from . import _packed

        self.layers = tuple(layers)
        self.collapses = any(isinstance(layer, Recurrent) and not layer.return_sequences for layer in layers)
        last = layers[-1]
        self.splits = isinstance(last, Recurrent) and last.bidirectional and last.merge_mode is None
        self.nodes: list[dict[str, Any]] = []
        width = next((layer.input_size for layer in layers if layer.input_size is not None), None)
        for layer in layers:
            made = _nodes(layer, layout, width)
            self.nodes += made
            width = made[-1]["out"]
        # Activations alone fit any width: that of the data, then.
        self.features = self.nodes[-1]["out"]
        self.net = None if width is None else _packed.Net(self.nodes)
        self.masks = any(isinstance(layer, Masking) or getattr(layer, "mask_zero", False) for layer in layers)
        self._core = _packed

    def run(self, flow: Flow, state: Float32, threads: int, out: Float32 | None = None) -> Flow:
        x = _adjacent(flow.x[:, None] if flow.last else flow.x)
        net, features = self.net, self.features
        if net is None:
            features = x.shape[-1]
            net = self._core.Net([{**node, "in": features, "out": features} for node in self.nodes])
        batch, steps = x.shape[:2]
        shape = (batch, features) if self.collapses else (batch, steps, features)
        if out is None or out.shape != shape or _adjacent(out) is not out or np.may_share_memory(out, x):
            out = np.empty(shape, np.float32)
        mask = None
        if (self.masks or flow.mask is not None) and not self.collapses and not flow.last:
            mask = np.empty((batch, steps), np.bool_)
        net.run(x, out, state, flow.lengths, flow.mask, mask, threads)
        y: Any = out[:, 0] if flow.last else out
        if self.splits:
            half = features // 2
            y = y[..., :half], y[..., half:]
        if self.collapses or flow.last:
            return Flow(y, last=True)
        return Flow(y, flow.lengths, mask)


def _nodes(layer: Layer, layout: StateLayout, width: int | None) -> list[dict[str, Any]]:
    """What the layer is to the C network; ``width`` is the number of features that come in."""
    node: dict[str, Any] = {"kind": layer.kind, "in": width, "out": layer.output_size}
    if isinstance(layer, Embedding):
        return [node | {"table": layer.stored()["weight"], "precision": layer.precision, "mask_zero": layer.mask_zero}]
    if isinstance(layer, Dense):
        return [node | {"matrix": packed(layer)[0], "activation": CODES[layer.activation]}]
    if isinstance(layer, Activation):
        return [node | {"out": width, "activation": CODES[layer.activation]}]
    if isinstance(layer, Masking):
        return [node | {"out": width, "mask_value": layer.mask_value}]
    assert isinstance(layer, Recurrent)
    weights, blocks = packed(layer), layout.of_layer(layer.name)
    nodes = []
    for k in range(layer.num_layers):
        top = k == layer.num_layers - 1
        scans = [
            (weights[i], scan.reverse or layer.go_backwards, blocks[i].offset, blocks[i].aux)
            for i, scan in enumerate(layer.scans())
            if scan.layer == k
        ]
        nodes.append(
            {
                "kind": "recurrent",
                "in": weights[k * layer.directions].input,
                "out": layer.output_size if top else layer.emitted_size * layer.directions,
                "scans": scans,
                "merge": _MERGES[layer.merge_mode] if top else 0,
                "sequences": layer.return_sequences or not top,
                "repeat": not layer.zero_output_for_mask,
                "flipped": layer.go_backwards,
            }
        )
    return nodes


def _adjacent(x: np.ndarray) -> np.ndarray:
    """``x`` itself where features are adjacent and every stride is a whole number of items, else a copy."""
    flags = x.flags
    if flags.aligned and x.dtype.isnative:
        if flags.c_contiguous:
            return x
        features = x.dtype.kind == "f"
        if not any(s % x.itemsize for s in x.strides) and (not features or x.strides[-1] == x.itemsize):
            return x
    return np.array(x, order="C")  # ascontiguousarray would leave unaligned memory as it is
