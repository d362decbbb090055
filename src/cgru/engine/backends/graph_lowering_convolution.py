"""Lowerings of convolutions and pooling, over time and over the inner axes of a frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, cast

import numpy as np

from ...arrays import Float32
from ...spec.activations import CODES
from ...spec.graph import Node
from ...spec.precision import Stored
from ...spec.values import Value
from ...weights import Weights
from .graph_lowering import Context, first, lowers, weights_of
from .packed import packing

#: A convolution over inner axes with so few places in a frame, and so many units in a group at least, is a product with
#: a packed matrix: vectors of units rather than of places, and weights multiplied as the precision holds them.
_FEW_PLACES, _MANY_UNITS = 8, 16


class PackedConv:
    """The packed weight of a convolution: for each group a matrix (units, numbers of a window), as a window lies.

    That is by channel, frame and kernel, or with ``by_frame`` the channels of each frame side by side.
    """

    def __init__(self, part: Weights, groups: int, by_frame: bool) -> None:
        from . import _packed

        held = part.stored()
        weight, bias = held["weight"], cast("Float32 | None", held.get("bias"))
        self.shape, self.by_frame = part.shapes["weight"], by_frame
        rows = self.shape[0] // groups
        self.biased = bias is not None
        self.matrices = []
        for g in range(groups):
            part_rows = slice(g * rows, (g + 1) * rows)
            window, own = self._windows(weight, part_rows), None if bias is None else bias[part_rows].copy()
            self.matrices.append(_packed.Matrix(part.precision, window, own))

    def _windows(self, weight: Any, rows: slice) -> Any:
        """(units, channels, …) → (units, numbers of a window)."""
        if isinstance(weight, Stored):
            scale = None if weight.scale is None else weight.scale[rows].copy()
            return Stored(self._windows(weight.values, rows), scale)
        part = weight[rows]
        part = part.transpose(0, 2, 1) if self.by_frame else part
        return np.ascontiguousarray(part).reshape(len(part), -1)

    @property
    def nbytes(self) -> int:
        return sum(matrix.nbytes for matrix in self.matrices)

    def stored(self) -> dict[str, Any]:
        """The arrays it was made of."""
        parts = [matrix.stored() for matrix in self.matrices]
        weights = [part["weight"] for part in parts]
        values = np.concatenate([w.values if isinstance(w, Stored) else w for w in weights])
        if self.by_frame:
            _, channels, width = self.shape
            values = values.reshape(-1, width, channels).transpose(0, 2, 1)
        values = np.ascontiguousarray(values).reshape(self.shape)
        if isinstance(weights[0], Stored):
            scales = [w.scale for w in weights if isinstance(w, Stored) and w.scale is not None]
            scale = np.concatenate(scales) if scales else None
            made: dict[str, Any] = {"weight": Stored(values, scale)}
        else:
            made = {"weight": values}
        if self.biased:
            made["bias"] = np.concatenate([part["bias"] for part in parts])
        return made


def _matrices(c: Context, by_frame: bool) -> list[Any]:
    groups = c.node.options["groups"]
    assert c.weights is not None
    with packing:
        packed = c.weights.packed(lambda part: PackedConv(part, groups, by_frame), ("convolution", groups, by_frame))
    return cast(PackedConv, packed).matrices


@lowers("conv1d")
def _conv1d(c: Context) -> dict[str, Any]:
    options, channels = c.node.options, first(c).features[0]
    activation = CODES[options["activation"]]
    width, dilation, groups = options["width"], options["dilation"], options["groups"]
    if groups == channels == options["units"]:
        held = weights_of(c)
        kernel = np.ascontiguousarray(held["weight"][:, 0, :].T)
        return {
            "op": "depthwise",
            "vectors": [kernel, held.get("bias")],
            "numbers": [width, dilation],
            "activation": activation,
        }
    return {"matrices": _matrices(c, True), "numbers": [width, dilation, channels], "activation": activation}


# ---- inner axes ------------------------------------------------------------------------------------------------------


def _plane(options: Mapping[str, Any], given: Value, made: Value) -> dict[str, Any]:
    """The inner axes of a convolution as two: sizes, kernel, strides, dilations and padding."""
    axes = len(options["kernel"])
    front = 2 - axes

    def both(values: Sequence[int], missing: int) -> list[int]:
        return [missing] * front + list(values or (missing,) * axes)

    return {
        "size": both(given.features[1:], 1) + both(made.features[1:], 1),
        "stride": both(options["kernel"], 1) + both(options["strides"], 1),
        "stride_b": both(options["dilations"], 1) + both(options["pads"][:axes], 0),
    }


def _flat_enough(node: Node, result: Value, inputs: list[Value | None]) -> bool:
    return len(node.options["kernel"]) <= 2 and node.options.get("activation") != "softmax"


@lowers("conv_inner", "conv2d", "conv_transpose", "conv_transpose_inner", where=_flat_enough)
def _conv(c: Context) -> dict[str, Any]:
    """Where places are many their weights are widened to float32: each is read once for all places, so that reading
    fewer bytes gains nothing, and a product in integers would need the channels side by side."""
    options, value = c.node.options, first(c)
    sizes = [value.features[0], options["units"], options["groups"]]
    sizes += [options.get("width", 1), options.get("dilation", 1)]
    made = {"numbers": sizes, "activation": CODES[options["activation"]], **_plane(options, value, c.result)}
    few = prod(c.result.features[1:]) <= _FEW_PLACES and options["units"] // options["groups"] >= _MANY_UNITS
    if few and c.node.op in ("conv_inner", "conv2d"):
        return made | {"op": f"{c.node.op}_product", "matrices": _matrices(c, False)}
    held = weights_of(c)
    return made | {"vectors": [held["weight"], held.get("bias")]}


@lowers("pool_inner", where=_flat_enough)
def _pool_inner(c: Context) -> dict[str, Any]:
    options, value = c.node.options, first(c)
    kind = {"max": 0, "average": 1}[options["kind"]]
    counted = int(options["count_padding"])
    return {"kind": kind, "numbers": [value.features[0]], "flag": counted, **_plane(options, value, c.result)}


@lowers("stack_frames")
def _stack_frames(c: Context) -> dict[str, Any]:
    return {"numbers": [c.node.options["width"], c.node.options["dilation"]]}
