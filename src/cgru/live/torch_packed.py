"""Packed sequences while a module is traced: torch.export cannot follow them, as their sizes hang on the lengths.

What torch.nn.utils.rnn packs stays as long as the longest row may be, and its batch_sizes, which forward() hands from
one of torch's functions to the next, are an object that knows them. Nothing of torch is changed: a mode of the thread
sees what is called.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

_OPERATORS = {
    "pack": "(Tensor x, Tensor lengths, bool batch_first) -> Tensor",
    "packed": "(Tensor x) -> Tensor",
    "padded": "(Tensor x, float value) -> Tensor",
}


@cache
def _operators() -> Any:
    """Operators of torch by which a program says what was packed; they compute nothing that is used."""
    torch: Any = sys.modules["torch"]
    library = torch.library.Library("cgru", "FRAGMENT")

    def pack(x: Any, lengths: Any, batch_first: bool) -> Any:
        return (x.transpose(0, 1) if batch_first else x).reshape(-1, x.shape[-1]).clone()

    for name, schema in _OPERATORS.items():
        library.define(name + schema)
    library.impl("pack", pack, "CompositeExplicitAutograd")
    library.impl("packed", lambda x: x.clone(), "CompositeExplicitAutograd")
    library.impl("padded", lambda x, value: x.clone(), "CompositeExplicitAutograd")
    return library


class _Sizes:
    """The batch_sizes of a packed sequence of ``rows`` rows and at most ``steps`` steps; torch's own call back."""

    def __init__(self, rows: int, steps: int, lengths: Any) -> None:
        self.rows, self.steps, self.lengths = rows, steps, lengths
        self.device = lengths.device

    def __getitem__(self, step: int) -> int:
        return self.rows

    def size(self, axis: int = 0) -> int:
        return self.steps

    def __len__(self) -> int:
        return self.steps

    def cpu(self) -> _Sizes:
        return self

    def to(self, *_: Any, **__: Any) -> _Sizes:
        return self

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _called(function, args, kwargs or {})


def _called(function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What torch's functions of packed sequences give."""
    torch: Any = sys.modules["torch"]
    own, name = torch.ops.cgru, getattr(function, "__name__", "")
    if name == "_pad_packed_sequence":
        data, sizes, batch_first, value, steps = args
        if steps != sizes.steps:
            raise NotImplementedError("pad_packed_sequence to another total_length than the traced input has")
        x = own.padded(data.reshape(steps, sizes.rows, -1), float(value))
        return (x.transpose(0, 1) if batch_first else x), sizes.lengths
    if name in ("gru", "lstm", "rnn_tanh", "rnn_relu") and len(args) == 9:
        data, sizes, hx, weights, biased, layers, dropout, train, both = args
        x = own.packed(data.reshape(sizes.steps, sizes.rows, -1))
        y, *states = function(x, hx, weights, biased, layers, dropout, train, both, False)
        return (y.reshape(sizes.steps * sizes.rows, -1), *states)
    raise NotImplementedError(f"{name or function} of a packed sequence")


def following(torch: Any) -> Any:
    """A context in which packing traces."""
    _operators()

    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if getattr(function, "__name__", "") == "_pack_padded_sequence":
                x, lengths, batch_first = args
                rows, steps = x.shape[:2] if batch_first else (x.shape[1], x.shape[0])
                return torch.ops.cgru.pack(x, lengths, bool(batch_first)), _Sizes(rows, steps, lengths)
            if any(isinstance(value, _Sizes) for value in args):
                return _called(function, args, kwargs)
            return function(*args, **kwargs)

    return Mode()
