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


def _reshape(self: np.ndarray, shape: Any = None, size: Any = None) -> np.ndarray:
    return self.reshape([int(n) for n in (size if shape is None else shape)])


def _flatten(self: np.ndarray, start_dim: int = 0, end_dim: int = -1) -> np.ndarray:
    start, end = start_dim % self.ndim, end_dim % self.ndim
    return self.reshape(*self.shape[:start], -1, *self.shape[end + 1 :])


def _expand(self: np.ndarray, size: Any, implicit: bool = False) -> np.ndarray:
    lead = len(size) - self.ndim
    wanted = [self.shape[i - lead] if n == -1 else n for i, n in enumerate(size)]
    return np.broadcast_to(self, _sized(wanted))


def _slice(self: np.ndarray, dim: int = 0, start: Any = None, end: Any = None, step: int = 1) -> np.ndarray:
    return self[(slice(None),) * (dim % self.ndim) + (slice(start, end, step),)]


def _arange(*args: Any, **named: Any) -> np.ndarray:
    ends = [named[key] for key in ("start", "end", "step") if key in named]
    made = np.arange(*args, *ends)
    _sized(made.shape)
    return made.astype(np.float32) if made.dtype.kind == "f" else made


def _raised_cosine(length: int, periodic: bool, alpha: float) -> np.ndarray:
    """α − (1 − α) cos(2πn / N): Hann's window with α = 0.5, Hamming's with 0.54."""
    (size,) = _sized([length])
    angle = 2 * np.pi * np.arange(size) / max(1, size if periodic else size - 1)
    return (alpha - (1 - alpha) * np.cos(angle)).astype(np.float32)


def _sum(self: np.ndarray, dim: Any = None, keepdim: bool = False, **_: Any) -> np.ndarray:
    return np.sum(self, axis=_axes(dim), keepdims=keepdim)


def _mean(self: np.ndarray, dim: Any = None, keepdim: bool = False, **_: Any) -> np.ndarray:
    return np.mean(self, axis=_axes(dim), keepdims=keepdim)


def _norm(self: np.ndarray, ord: float = 2, dim: Any = None, keepdim: bool = False, **_: Any) -> np.ndarray:
    if ord != 2:
        raise ValueError(f"a norm of order {ord}")
    return np.sqrt(np.sum(self * self, axis=_axes(dim), keepdims=keepdim))


def _softmax(self: np.ndarray, dim: int, *_: Any, **__: Any) -> np.ndarray:
    e = np.exp(self - np.max(self, axis=dim, keepdims=True))
    return np.asarray(e / e.sum(axis=dim, keepdims=True))


def _most(self: np.ndarray, dim: Any = None, keepdim: bool = False) -> Any:
    """torch.max: of all numbers, or along an axis, values and places."""
    if dim is None:
        return np.max(self)
    return [np.max(self, axis=dim, keepdims=keepdim), np.argmax(self, axis=dim, keepdims=keepdim)]


def _split(self: np.ndarray, split_size: Any = None, dim: int = 0, split_sizes: Any = None) -> list[np.ndarray]:
    size = split_sizes if split_size is None else split_size
    sizes = size if isinstance(size, list) else [size] * (self.shape[dim] // size)
    return np.split(self, np.cumsum(sizes)[:-1], axis=dim)


def _chunk(self: np.ndarray, chunks: int, dim: int = 0) -> list[np.ndarray]:
    return _split(self, -(-self.shape[dim] // chunks), dim)


def _scaled(other: Any, alpha: Any) -> Any:
    return other if alpha in (None, 1) else np.asarray(other) * alpha


#: Operators by base name → numpy, torch's arguments as they come: by place, or by the names of their schemas.
FOLDS: dict[str, Callable[..., Any]] = {
    "zeros": lambda size, **_: np.zeros(_sized(size), np.float32),
    "ones": lambda size, **_: np.ones(_sized(size), np.float32),
    "full": lambda size, fill_value, **_: np.full(_sized(size), fill_value, np.float32),
    "arange": _arange,
    "hann_window": lambda window_length, periodic=True, **_: _raised_cosine(window_length, periodic, 0.5),
    "hamming_window": lambda window_length, periodic=True, **_: _raised_cosine(window_length, periodic, 0.54),
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
    "abs": lambda self: np.abs(self),
    "pow": lambda self, exponent: np.power(self, exponent),
    "square": lambda self: np.square(self),
    "clamp": lambda self, min=None, max=None: np.clip(self, min, max),
    "clamp_min": lambda self, min: np.maximum(self, min),
    "eq": lambda self, other: np.equal(self, other),
    "ne": lambda self, other: np.not_equal(self, other),
    "lt": lambda self, other: np.less(self, other),
    "le": lambda self, other: np.less_equal(self, other),
    "gt": lambda self, other: np.greater(self, other),
    "ge": lambda self, other: np.greater_equal(self, other),
    "logical_not": lambda self: np.logical_not(self),
    "bitwise_not": lambda self: np.logical_not(self) if self.dtype == bool else np.invert(self),
    "masked_fill": lambda self, mask, value: np.where(mask, np.asarray(value, self.dtype), self),
    "sum": _sum,
    "mean": _mean,
    "linalg_vector_norm": _norm,
    "_weight_norm": _weight_norm,
    "_weight_norm_interface": _weight_norm,
    "embedding": lambda weight, indices, *_, **__: weight[indices],
    "index": lambda self, indices: self[tuple(slice(None) if index is None else index for index in indices)],
    "index_select": lambda self, dim, index: np.take(self, index, axis=dim),
    "linear": lambda input, weight, bias=None: input @ weight.T + (0 if bias is None else bias),
    "addmm": lambda self, mat1, mat2: self + mat1 @ mat2,
    "where": lambda condition, self, other: np.where(condition, self, other),
    "minimum": lambda self, other: np.minimum(self, other),
    "maximum": lambda self, other: np.maximum(self, other),
    "amax": lambda self, dim=None, keepdim=False: np.max(self, axis=_axes(dim), keepdims=keepdim),
    "amin": lambda self, dim=None, keepdim=False: np.min(self, axis=_axes(dim), keepdims=keepdim),
    "softmax": _softmax,
    "max": _most,
    "reciprocal": lambda self: 1 / _float(self),
    "cumsum": lambda self, dim, **_: np.cumsum(self, axis=dim),
    "linspace": lambda start, end, steps, **_: np.linspace(start, end, _sized([steps])[0]).astype(np.float32),
    "relu": lambda self: np.maximum(self, 0),
    "clone": lambda self, **_: np.array(self),
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
    "outer": lambda self, vec2: np.outer(self, vec2),
    "t": lambda self: np.transpose(self),
    "numpy_T": lambda self: np.transpose(self),
    "mT": lambda self: np.swapaxes(self, -1, -2),
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
