"""ONNX' Resize and Upsample: frames repeated or interpolated by a whole factor, feature axes by any.

Source of the coordinates: onnx/docs/Operators.md, Resize.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ...errors import FormatError
from ..containers.onnx_records import Node
from . import onnx_fold as fold
from .onnx_layers import dense
from .onnx_lowering import Lowering, handles
from .onnx_movement import taken
from .onnx_values import TIME, Count, Known, Size, Tensor, Value, divided, whole_numbers

#: Frames of a sequence by which a rule of coordinates is tried.
_TRIED = 9

#: Where a number of the result lies in x: from its place, the sizes of x and of the result, and the scale.
_PLACES: dict[str, Callable[[np.ndarray, int, int, float], np.ndarray]] = {
    "half_pixel": lambda i, n, m, s: (i + 0.5) / s - 0.5,
    "pytorch_half_pixel": lambda i, n, m, s: (i + 0.5) / s - 0.5 if m > 1 else 0.0 * i,
    "half_pixel_symmetric": lambda i, n, m, s: n / 2 * (1 - m / (s * n)) + (i + 0.5) / s - 0.5,
    "asymmetric": lambda i, n, m, s: i / s,
    "align_corners": lambda i, n, m, s: i * (n - 1) / (m - 1) if m > 1 else 0.0 * i,
}
_ROUNDING: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "round_prefer_floor": lambda x: np.ceil(x - 0.5),
    "round_prefer_ceil": lambda x: np.floor(x + 0.5),
    "floor": np.floor,
    "ceil": np.ceil,
}


class _Rule:
    """How a Resize takes numbers along an axis."""

    def __init__(self, low: Lowering, node: Node) -> None:
        given = node.attributes
        old = node.op == "Upsample" or node.version < 11
        self.mode = given.get("mode", "nearest")
        self.coordinates = "asymmetric" if old else given.get("coordinate_transformation_mode", "half_pixel")
        self.rounding = "floor" if old else given.get("nearest_mode", "round_prefer_floor")
        self.mode = "linear" if self.mode == "bilinear" else self.mode
        if self.mode not in ("nearest", "linear") or self.coordinates not in _PLACES:
            raise low.unsupported(node, f"{self.mode} interpolation with coordinates {self.coordinates!r}")
        if self.rounding not in _ROUNDING or given.get("antialias", 0) or given.get("exclude_outside", 0):
            raise low.unsupported(node, "antialiasing, or rounding of an unknown kind")

    def places(self, n: int, m: int, scale: float) -> np.ndarray:
        return _PLACES[self.coordinates](np.arange(m, dtype=np.float64), n, m, scale)

    def nearest(self, n: int, m: int, scale: float) -> np.ndarray:
        # Whole coordinates that a division makes a little less or more of.
        places = np.round(self.places(n, m, scale), 9)
        return np.clip(_ROUNDING[self.rounding](places), 0, n - 1).astype(np.int64)

    def matrix(self, n: int, m: int, scale: float) -> np.ndarray:
        """(n, m): a column for each number of the result."""
        places = np.clip(self.places(n, m, scale), 0, n - 1)
        return np.maximum(0.0, 1 - np.abs(places[None] - np.arange(n)[:, None]))


@handles("Resize", "Upsample")
def _resize(low: Lowering, node: Node, inputs: list[Value | None]) -> Value:
    x = low.tensor(inputs[0], node)
    rule = _Rule(low, node)
    sizes = low.draft.shape(x)
    scales, wanted = _asked(low, node, inputs)
    asked = scales if wanted is None else wanted
    axes = [int(axis) % x.rank for axis in node.attributes.get("axes", range(x.rank))]
    if len(asked) != len(axes):
        raise FormatError(f"{node}: {len(asked)} scales or sizes for {len(axes)} axes")
    if wanted is not None and node.attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise low.unsupported(node, "sizes that keep a ratio")
    for axis, item in zip(axes, asked, strict=True):
        size = sizes[axis]
        if item == (size if wanted is not None else 1):
            continue
        if low.draft.segments(x, axis) == [TIME]:
            x = _over_time(low, node, x, rule, _factor(low, node, size, item, wanted is not None))
            continue
        if not isinstance(size, int) or isinstance(item, Count):
            raise low.unsupported(node, "rows made more or fewer")
        scale = float(item) if wanted is None else item / size
        new = int(np.floor(size * scale + 1e-9)) if wanted is None else int(item)
        if new < 1:
            raise low.unsupported(node, "nothing is left of an axis")
        fold.check_size([new] if rule.mode == "nearest" else [size, new])
        if rule.mode == "nearest":
            x = taken(low, node, x, axis, rule.nearest(size, new, scale).tolist())
        else:
            x = dense(low, node, x, axis, rule.matrix(size, new, scale).astype(np.float32))
    return x


def _asked(low: Lowering, node: Node, inputs: Sequence[Value | None]) -> tuple[list[Any], list[Size] | None]:
    """Scales, or the sizes that are wanted instead."""
    given = [*inputs[1:], None, None, None][:3]
    if node.op == "Upsample" and node.version < 9:
        return [float(item) for item in node.attributes["scales"]], None
    scales, sizes = (given[0], None) if node.op == "Upsample" or node.version < 11 else (given[1], given[2])
    if sizes is not None:
        return [], whole_numbers(sizes, f"{node}: the sizes")
    if isinstance(scales, Known) and scales.is_shape:
        return [item if isinstance(item, Count) else float(item) for item in scales.array.reshape(-1)], None
    return [float(item) for item in low.known(scales, node, "the scales").reshape(-1)], None


def _factor(low: Lowering, node: Node, size: Size, asked: Any, is_size: bool) -> int:
    """How many frames come of one."""
    factor = divided(asked, size) if is_size else asked
    if factor is None or isinstance(factor, Count) or factor != int(factor) or factor < 1:
        raise low.unsupported(node, "frames other than a whole number of times as many")
    return int(factor)


def _over_time(low: Lowering, node: Node, x: Tensor, rule: _Rule, factor: int) -> Tensor:
    if factor == 1:
        return x
    if rule.mode == "nearest":
        fold.check_size([_TRIED, factor])
        for n in (1, 2, _TRIED):
            if not np.array_equal(rule.nearest(n, n * factor, factor), np.arange(n * factor) // factor):
                raise low.unsupported(
                    node, f"frames repeated unevenly ({rule.coordinates}, {rule.rounding}), which hangs on their number"
                )
        return Tensor(low.draft.emit("upsample", x.name, factor=factor), x.axes, x.dtype)
    if rule.coordinates not in ("half_pixel", "pytorch_half_pixel", "asymmetric"):
        raise low.unsupported(node, f"coordinates {rule.coordinates!r}, which hang on the number of frames")
    return _interpolated(low, x, rule, factor)


def _interpolated(low: Lowering, x: Tensor, rule: _Rule, factor: int) -> Tensor:
    """Lines between frames: a transposed convolution with a triangle; the frames at the ends go on beyond them."""
    draft = low.draft
    features = draft.features(x)
    size = int(np.prod(features))
    fold.check_size([size, 3 * factor])
    flat = draft.emit("reshape", x.name, features=(size,)) if features != (size,) else x.name
    padded = draft.emit("pad_time", flat, left=1, right=1, mode="edge")
    # Frame o of the result lies at place(o) of x, and one further with the frame in front.
    offsets = np.arange(-3 * factor, 2 * factor)
    shift = float(rule.places(_TRIED, _TRIED * factor, factor)[0])
    line = np.maximum(0.0, 1 - np.abs(offsets / factor + shift + 1))
    (reached,) = np.nonzero(line)
    first, kernel = int(-offsets[reached[0]]), line[reached[0] : reached[-1] + 1]
    weight = np.repeat(kernel[None, None], size, axis=0).astype(np.float32)
    right = max(0, -(-first // factor) - 2)
    made = draft.emit(
        "conv_transpose", padded, weights={"weight": weight}, units=size, width=len(kernel), stride=factor, dilation=1,
        right=right, groups=size,
    )  # fmt: skip
    made = draft.emit("pad_time", made, left=-first, right=first - factor * (2 + right))
    return Tensor(made if features == (size,) else draft.emit("reshape", made, features=features), x.axes, x.dtype)
