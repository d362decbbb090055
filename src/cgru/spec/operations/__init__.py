"""The table of operations, one module a family. A new operation is in the table by being in one of them."""

from . import elementwise, embedding, joins, linear, pooling, recurrent, shapes, window

__all__ = ["elementwise", "embedding", "joins", "linear", "pooling", "recurrent", "shapes", "window"]
