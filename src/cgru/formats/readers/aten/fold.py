"""Operators on arrays that are known before the network runs: reparametrised weights, zero states, position tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

#: Numbers that one folded array may have.
LARGEST = 1 << 26


def _sized(sizes: Any) -> tuple[int, ...]:
    shape = tuple(int(n) for n in sizes)
    if any(n < 0 for n in shape) or int(np.prod(shape, dtype=object)) > LARGEST:
        raise ValueError(f"a constant of shape {shape}")
    return shape


def _float(value: Any) -> np.ndarray:
    array = np.asarray(value)
    return array if array.dtype.kind == "f" else array.astype(np.float32)


def _axes(dim: Any) -> tuple[int, ...] | None:
    return None if dim is None else (dim,) if isinstance(dim, int) else tuple(dim) or None


def _weight_norm(v: np.ndarray, g: np.ndarray, dim: int = 0) -> np.ndarray:
    """v · g / ‖v‖, the norm over all axes but ``dim`` (Salimans and Kingma 2016); over all where dim is −1."""
    over = None if dim == -1 else tuple(axis for axis in range(v.ndim) if axis != dim % v.ndim)
    norm = np.sqrt(np.sum(np.square(v.astype(np.float64)), axis=over, keepdims=True))
    return np.asarray(v * (g / norm), v.dtype)


def _reshape(x: np.ndarray, shape: Any) -> np.ndarray:
    return x.reshape([int(n) for n in shape])


def _flatten(x: np.ndarray, start: int = 0, end: int = -1) -> np.ndarray:
    start, end = start % x.ndim, end % x.ndim
    return x.reshape(*x.shape[:start], -1, *x.shape[end + 1 :])


def _expand(x: np.ndarray, shape: Any) -> np.ndarray:
    lead = len(shape) - x.ndim
    wanted = [x.shape[i - lead] if n == -1 else n for i, n in enumerate(shape)]
    return np.broadcast_to(x, _sized(wanted))


def _slice(x: np.ndarray, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> np.ndarray:
    return x[(slice(None),) * (dim % x.ndim) + (slice(start, end, step),)]


def _arange(*args: Any, **_: Any) -> np.ndarray:
    made = np.arange(*args)
    _sized(made.shape)
    return made.astype(np.float32) if made.dtype.kind == "f" else made


def _sum(x: np.ndarray, dim: Any = None, keepdim: bool = False, **_: Any) -> np.ndarray:
    return np.sum(x, axis=_axes(dim), keepdims=keepdim)


def _mean(x: np.ndarray, dim: Any = None, keepdim: bool = False, **_: Any) -> np.ndarray:
    return np.mean(x, axis=_axes(dim), keepdims=keepdim)


def _norm(x: np.ndarray, ord: float = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> np.ndarray:
    if ord != 2:
        raise ValueError(f"a norm of order {ord}")
    return np.sqrt(np.sum(x * x, axis=_axes(dim), keepdims=keepdim))


def _split(x: np.ndarray, size: Any, dim: int = 0) -> list[np.ndarray]:
    sizes = size if isinstance(size, list) else [size] * (x.shape[dim] // size)
    return np.split(x, np.cumsum(sizes)[:-1], axis=dim)


def _chunk(x: np.ndarray, chunks: int, dim: int = 0) -> list[np.ndarray]:
    return _split(x, -(-x.shape[dim] // chunks), dim)


def _scaled(other: Any, alpha: Any) -> Any:
    return other if alpha in (None, 1) else np.asarray(other) * alpha


#: Operators by base name → numpy, torch's arguments as they come.
FOLDS: dict[str, Callable[..., Any]] = {
    "zeros": lambda size, **_: np.zeros(_sized(size), np.float32),
    "ones": lambda size, **_: np.ones(_sized(size), np.float32),
    "full": lambda size, fill_value, **_: np.full(_sized(size), fill_value, np.float32),
    "arange": _arange,
    "scalar_tensor": lambda s, **_: np.asarray(s, np.float32),
    "add": lambda self, other, alpha=None: np.asarray(self + _scaled(other, alpha)),
    "sub": lambda self, other, alpha=None: np.asarray(self - _scaled(other, alpha)),
    "rsub": lambda self, other, alpha=None: np.asarray(other - _scaled(self, alpha)),
    "mul": lambda self, other: np.asarray(self * other),
    "div": lambda self, other: np.asarray(_float(self) / other),
    "neg": lambda self: -self,
    "exp": lambda self: np.exp(_float(self)),
    "log": lambda self: np.log(_float(self)),
    "sqrt": lambda self: np.sqrt(_float(self)),
    "rsqrt": lambda self: 1 / np.sqrt(_float(self)),
    "sin": lambda self: np.sin(_float(self)),
    "cos": lambda self: np.cos(_float(self)),
    "tanh": lambda self: np.tanh(_float(self)),
    "sigmoid": lambda self: 1 / (1 + np.exp(-_float(self))),
    "softplus": lambda self: np.logaddexp(0, _float(self)),
    "abs": np.abs,
    "pow": lambda self, exponent: np.power(self, exponent),
    "square": np.square,
    "clamp": lambda self, min=None, max=None: np.clip(self, min, max),
    "clamp_min": lambda self, min: np.maximum(self, min),
    "sum": _sum,
    "mean": _mean,
    "linalg_vector_norm": _norm,
    "_weight_norm": _weight_norm,
    "_weight_norm_interface": _weight_norm,
    "linear": lambda input, weight, bias=None: input @ weight.T + (0 if bias is None else bias),
    "addmm": lambda self, mat1, mat2: self + mat1 @ mat2,
    "relu": lambda self: np.maximum(self, 0),
    "clone": np.array,
    "chunk": _chunk,
    "split": _split,
    "zeros_like": lambda self, **_: np.zeros(np.shape(self), np.float32),
    "ones_like": lambda self, **_: np.ones(np.shape(self), np.float32),
    "new_zeros": lambda self, size, **_: np.zeros(_sized(size), np.float32),
    "mv": lambda self, vec: self @ vec,
    "mm": lambda self, mat2: self @ mat2,
    "matmul": lambda self, other: self @ other,
    "vdot": lambda self, other: np.asarray(self @ other),
    "dot": lambda self, tensor: np.asarray(self @ tensor),
    "outer": np.outer,
    "t": np.transpose,
    "transpose": lambda self, dim0, dim1: np.swapaxes(self, dim0, dim1),
    "permute": lambda self, dims: np.transpose(self, dims),
    "reshape": _reshape,
    "view": _reshape,
    "_unsafe_view": _reshape,
    "flatten": _flatten,
    "unsqueeze": lambda self, dim: np.expand_dims(self, dim),
    "squeeze": lambda self, dim=None: np.squeeze(self, _axes(dim)),
    "expand": _expand,
    "repeat": lambda self, repeats: np.tile(self, _sized(repeats)),
    "select": lambda self, dim, index: np.take(self, index, axis=dim),
    "slice": _slice,
    "cat": lambda tensors, dim=0: np.concatenate(tensors, dim),
    "stack": lambda tensors, dim=0: np.stack(tensors, dim),
    "tril": lambda self, diagonal=0: np.tril(self, diagonal),
    "triu": lambda self, diagonal=0: np.triu(self, diagonal),
    "flip": lambda self, dims: np.flip(self, tuple(dims)),
}
