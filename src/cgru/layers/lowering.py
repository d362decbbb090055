"""Layers become nodes: a stack one scan a layer and direction, with joins between; masks are values like others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import CgruError, UnsupportedError
from .base import Layer
from .convolution import Conv1d
from .feedforward import Activation, Dense, Embedding, LastStep, Masking
from .normalization import BatchNorm, LayerNorm, RMSNorm
from .recurrent import MERGES, Recurrent
from .separable import SeparableConv1d

if TYPE_CHECKING:
    from ..builder import Graph


def lower(g: Graph, layer: Layer, inputs: Sequence[str], mask: str) -> Any:
    """Add the layer's nodes to the graph; the name of its result, or a pair of them."""
    x = inputs[0]
    if isinstance(layer, Recurrent):
        return _recurrent(g, layer, x, mask, inputs[1:])
    if isinstance(layer, Embedding):
        y = g.node("embedding", x, name=layer.name, weights=layer.weights[""], **layer.op_options())
        if layer.mask_zero:
            mask = _both(g, g.node("mask_of", x, name=f"{layer.name}.mask", layer=layer.name), mask)
    elif isinstance(layer, Masking):
        seen = g.node("mask_of", x, name=f"{layer.name}.mask", layer=layer.name, value=layer.mask_value)
        y = g.node("apply_mask", x, seen, name=layer.name)
        mask = _both(g, seen, mask)
    elif isinstance(layer, Dense):
        y = g.node("dense", x, name=layer.name, weights=layer.weights[""], **layer.op_options())
    elif isinstance(layer, LastStep):
        return g.node("pool_whole", x, name=layer.name, kind="last")
    elif isinstance(layer, BatchNorm):
        held = layer.arrays()
        y = g.node("scale_shift", x, name=layer.name, weights={"scale": held["gain"], "shift": held["shift"]})
    elif isinstance(layer, (LayerNorm, RMSNorm)):
        y = g.node("layer_norm", x, name=layer.name, weights=layer.weights[""], **layer.op_options())
    elif isinstance(layer, Conv1d):
        return _convolution(g, layer, x)
    elif isinstance(layer, Activation):
        y = g.node("activation", x, name=layer.name, activation=layer.activation)
    else:
        raise UnsupportedError(f"{layer.name}: a layer of kind {layer.kind} has no operations")
    if mask and g.values[y].clock is not None:
        g.masks[y] = mask
    return y


def _convolution(g: Graph, layer: Conv1d, x: str) -> str:
    """Its padding is a node of its own where it depends on the length, or reaches further than the kernel."""
    left, right = layer.pads or (0, 0)
    if layer.pads is None:
        x = g.node("pad_same", x, name=f"{layer.name}.padded", layer=layer.name, span=layer.span, stride=layer.stride)
    elif max(left, right) >= layer.span:
        x = g.node("pad_time", x, name=f"{layer.name}.padded", layer=layer.name, left=left, right=right)
        left = right = 0
    separable = isinstance(layer, SeparableConv1d)
    first, weights = (f"{layer.name}.depthwise", "_depthwise") if separable else (layer.name, "")
    options = layer.op_options() | {"left": left, "right": right}
    y = g.node("conv1d", x, name=first, layer=layer.name, weights=layer.weights[weights], **options)
    if not separable:
        return y
    last: dict[str, Any] = {"units": layer.output_size, "width": 1, "activation": layer.activation}
    return g.node("conv1d", y, name=layer.name, weights=layer.weights["_pointwise"], **last)


def _both(g: Graph, seen: str, mask: str) -> str:
    return g.node("mask_and", seen, mask, name=f"{seen}_and") if mask else seen


def _recurrent(g: Graph, layer: Recurrent, x: str, mask: str, given: Sequence[str]) -> Any:
    ends: list[str] = []
    scans = list(layer.scans())
    carried = layer.cell.state
    if given and len(given) != len(scans) * len(carried):
        raise CgruError(
            f"{layer.name}: expected {len(scans) * len(carried)} initial states, {' and '.join(carried)} of each layer "
            f"and direction in torch's order, found {len(given)}"
        )
    for k in range(layer.num_layers):
        top = k == layer.num_layers - 1
        ends, lasts = [], []
        for i, scan in enumerate(scans):
            if scan.layer != k:
                continue
            only = top and layer.num_layers == layer.directions == 1 and layer.return_sequences
            name = layer.name if only else f"{layer.name}.{scan.label}"
            begin = given[i * len(carried) : (i + 1) * len(carried)]
            y = g.node(
                "scan",
                x,
                *([mask, *begin] if begin else [mask] if mask else []),
                name=name,
                layer=layer.name,
                weights=layer.weights[scan.suffix],
                cell=layer.cell.name,
                units=layer.hidden_size,
                emitted=layer.emitted_size if layer.emitted_size != layer.hidden_size else 0,
                activation=layer.activation,
                recurrent_activation=layer.recurrent_activation,
                reverse=scan.reverse or layer.go_backwards,
                flip=layer.go_backwards and layer.return_sequences,
                repeat=not layer.zero_output_for_mask,
            )
            ends.append(y)
            if top and not layer.return_sequences:
                lasts.append(
                    g.node(
                        "last_state",
                        y,
                        *([mask] if mask else []),
                        name=layer.name if layer.directions == 1 else f"{y}.last",
                        layer=layer.name,
                        array=layer.cell.state[0],
                        size=layer.emitted_size,
                        as_output=True,
                    )
                )
        if lasts:
            ends = lasts
        if not top and len(ends) > 1:
            x = g.node("concat", *ends, name=f"{layer.name}.l{k}.join", layer=layer.name)
        elif not top:
            x = ends[0]
    if layer.directions == 1:
        result: Any = ends[0]
    elif layer.merge_mode is None:
        result = tuple(ends)
    else:
        result = g.node(MERGES[layer.merge_mode], *ends, name=layer.name)
    if mask and layer.return_sequences and isinstance(result, str):
        g.masks[result] = mask
    return result
