"""The table of operations, one module a family. A new operation is in the table by being in one of them."""

from . import (
    axes,
    carried,
    elementwise,
    embedding,
    inner,
    joins,
    linear,
    pointwise,
    pooling,
    recurrent,
    recurrent_rows,
    shapes,
    stacking,
    window,
)

__all__ = [
    "axes",
    "carried",
    "elementwise",
    "embedding",
    "inner",
    "joins",
    "linear",
    "pointwise",
    "pooling",
    "recurrent",
    "recurrent_rows",
    "shapes",
    "stacking",
    "window",
]
