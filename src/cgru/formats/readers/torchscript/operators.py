"""The operators that a TorchScript module calls: on tensors they become calls of the program, by their shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ....errors import CgruError, UnsupportedError
from ..aten.program import Call, Ref
from . import plain, shapes
from .values import DoesNotFit, Object, Operator, Tensor, Word

if TYPE_CHECKING:
    from .evaluator import Evaluator

#: torch's numbers of its types → the kind of a tensor.
_TYPES = {0: "i", 1: "i", 2: "i", 3: "i", 4: "i", 5: "f", 6: "f", 7: "f", 11: "b"}
#: Operators that make a new tensor of no other.
_MAKERS = frozenset(("zeros", "ones", "full", "empty", "arange", "rand", "randn", "scalar_tensor",
                     "hann_window", "hamming_window"))  # fmt: skip


def applied(self: Evaluator, op: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """What the operator gives. Raises :class:`DoesNotFit` for arguments that are none of its own."""
    try:
        return _applied(self, op, args, kwargs)
    except CgruError:
        raise
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise DoesNotFit(f"{self.where()}: {op.name[:60]} does not take its arguments ({error!r:.80})") from None


def _applied(self: Evaluator, op: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if op.space == "builtin":
        return _builtin(self, op.name, args)
    if op.space.startswith("class "):
        return _of_class(self, op, args)
    if op.space not in ("torch", "ops.prim", "ops.aten") and not op.space.startswith("torch."):
        raise UnsupportedError(f"{op.space}.{op.name} is an operator of its own, which cgru does not run")
    asked = _ASKED.get(op.name)
    if asked is not None and (found := asked(self, args, kwargs)) is not NotImplemented:
        return found
    given = [*args, *kwargs.values()]
    if any(_holds_tensor(value) for value in given) or (op.name in _MAKERS and op.space != "ops.prim"):
        if op.name in plain.PLAIN and not any(_reads_tensor(value, op.name) for value in args[:1]):
            return _plain(self, op, args, kwargs)
        return _emitted(self, op, args, kwargs)
    return _plain(self, op, args, kwargs)


def _plain(self: Evaluator, op: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    lengths = sum(len(value) for value in args if isinstance(value, (list, tuple, str, dict)))
    self.budget.spend(lengths // 20)
    return plain.apply(op.name, args, kwargs)


def _builtin(self: Evaluator, name: str, args: list[Any]) -> Any:
    if name == "getattr":
        return self.attribute(args[0], str(args[1]))
    if name == "range":
        return range(*(int(self.number(value)) for value in args))
    value = self.number(args[0])
    if not isinstance(value, (bool, int, float, str)):
        raise UnsupportedError(f"{self.where()} makes a number of something that is none")
    if isinstance(value, str) and name != "str":
        raise UnsupportedError(f"{self.where()} makes a number of a text")
    return BUILTINS[name](value)


def _of_class(self: Evaluator, op: Operator, args: list[Any]) -> Any:
    if op.name == "__new__":
        return Object(op.space.removeprefix("class "), "", {}, own=False)
    raise UnsupportedError(f"{op.name} of a class")


def _emitted(self: Evaluator, op: Operator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A call of the program and its results."""
    self.budget.spend(20)
    tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    if tensors and all(value.number is not None for value in tensors) and op.name in _FOLDED:
        number = _plain(self, op, [self.number(value) for value in args], {})
        return Tensor("", (), "f" if isinstance(number, float) else "i", number)
    name, args, kwargs = _as_exported(op.name, args, kwargs)
    try:
        found = shapes.shapes(name, args, kwargs)
    except DoesNotFit as error:
        raise DoesNotFit(f"{self.where()}: {error}") from None
    module = self.module
    line = f"TorchScript: {self.where()}"
    place = f"v{len(self.calls)}"
    given, named = tuple(map(_argument, args)), {key: _argument(value) for key, value in kwargs.items()}
    kind = _kind(name, tensors, kwargs)
    if not isinstance(found, list):
        self.calls.append(Call(place, name, given, named, found, module, line))
        return Tensor(place, found, kind, maker=name)
    self.calls.append(Call(place, name, given, named, None, module, line))
    parts = []
    for i, shape in enumerate(found):
        part = f"v{len(self.calls)}"
        self.calls.append(Call(part, "getitem", (Ref(place), i), {}, shape, module, line))
        parts.append(Tensor(part, shape, kind))
    return parts if name in ("unbind", "split", "split_with_sizes", "chunk") else tuple(parts)


def _kind(name: str, tensors: Sequence[Tensor], kwargs: Mapping[str, Any]) -> str:
    base = name.removesuffix("_")
    if base in shapes.TRUTH or base in shapes.WHOLE:
        return "b" if base in shapes.TRUTH else "i"
    said = kwargs.get("dtype")
    if isinstance(said, int):
        return _TYPES.get(said, "f")
    if name == "arange":
        return "i"
    if name == "embedding" or not tensors:
        return "f"
    return "f" if any(value.kind == "f" for value in tensors) else tensors[0].kind


# ---- what is asked of tensors -------------------------------------------------------------------------------------


def _tensor_first(args: Sequence[Any]) -> bool:
    return bool(args) and isinstance(args[0], Tensor)


def _size(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    if not _tensor_first(args):
        return NotImplemented
    sizes = args[0].sizes
    if len(args) == 1:
        return list(sizes)
    if not -len(sizes) <= args[1] < len(sizes):
        raise DoesNotFit(f"axis {args[1]} of {len(sizes)}")
    return sizes[args[1]]


def _rank(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return len(args[0].sizes) if _tensor_first(args) else NotImplemented


def _count(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return int(np.prod(args[0].sizes, dtype=object)) if _tensor_first(args) else NotImplemented


def _length(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0].sizes[0] if _tensor_first(args) else NotImplemented


def _dtype(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return {"f": 6, "i": 4, "b": 11}[args[0].kind] if _tensor_first(args) else NotImplemented


def _is_float(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0].kind == "f" if _tensor_first(args) else NotImplemented


def _to_tensor(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A size as a tensor: its number stays known."""
    value = self.number(args[0])
    if isinstance(value, (bool, int, float)):
        return Tensor("", (), "f" if isinstance(value, float) else "i", value)
    array = np.asarray(value)
    if array.dtype.kind not in "fib" or array.size > 100_000:
        raise UnsupportedError(f"{self.where()} makes a tensor of something that is no list of numbers")
    return self.tensor(f"list {len(self.tensors)}", array.astype(np.float32) if array.dtype.kind == "f" else array)


def _raised(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    text = " ".join(str(args[0]).split())[:160] if args else ""
    raise DoesNotFit(f"{self.where()} raises {text or 'an error'}")


def _item(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return self.number(args[0])


def _packed(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    raise UnsupportedError(
        f"{self.where()} packs sequences of different lengths; cgru takes lengths= instead: script or trace the module "
        "without packing"
    )


def _identity(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return args[0] if _tensor_first(args) else NotImplemented


def _type_of_device(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return "cpu" if args and isinstance(args[0], Word) else NotImplemented


def _is(self: Evaluator, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return (args[0] is None) == (args[1] is None) and args[0] is args[1]


_ASKED: dict[str, Callable[[Evaluator, list[Any], dict[str, Any]], Any]] = {
    "size": _size, "dim": _rank, "ndimension": _rank, "numel": _count, "len": _length, "dtype": _dtype,
    "is_floating_point": _is_float, "NumToTensor": _to_tensor, "tensor": _to_tensor, "as_tensor": _to_tensor,
    "RaiseException": _raised, "item": _item, "IntImplicit": _item, "FloatImplicit": _item, "ScalarImplicit": _item,
    "data": _identity, "detach": _identity, "requires_grad_": _identity, "cpu": _identity,
    "__is__": _is, "__isnot__": lambda self, args, kwargs: not _is(self, args, kwargs),
    "device": lambda self, args, kwargs: Word("cpu"), "layout": lambda self, args, kwargs: None,
    "is_nested": lambda self, args, kwargs: False, "type": _type_of_device,
    "is_cuda": lambda self, args, kwargs: False, "requires_grad": lambda self, args, kwargs: False,
    "is_grad_enabled": lambda self, args, kwargs: False, "is_autocast_enabled": lambda self, args, kwargs: False,
    "_pack_padded_sequence": _packed, "_pad_packed_sequence": _packed,
    "shape": _size, "warnings": lambda self, args, kwargs: None,
}  # fmt: skip
BUILTINS: dict[str, Callable[..., Any]] = {
    "int": int, "float": float, "bool": bool, "str": lambda value: str(value)[:100], "range": range,
    "getattr": getattr,
}  # fmt: skip
#: Arithmetic on tensors that are numbers of sizes.
_FOLDED = frozenset(("add", "sub", "mul", "div", "floor_divide", "floordiv", "remainder", "neg", "pow", "abs", "sqrt"))


def _holds_tensor(value: Any, depth: int = 0) -> bool:
    if isinstance(value, (list, tuple)) and depth < 2:
        return any(_holds_tensor(part, depth + 1) for part in value)
    return isinstance(value, Tensor)


def _reads_tensor(value: Any, name: str) -> bool:
    """Whether the first argument makes it an operator on tensors: append and its like only pass them on."""
    if isinstance(value, Tensor):
        return True
    return name not in ("append", "extend", "insert", "pop", "__getitem__", "_set_item", "slice", "select", "list",
                        "clear", "copy", "reverse", "len", "values", "items", "get", "add", "keys") and _holds_tensor(value)  # fmt: skip  # noqa: E501


def _argument(value: Any) -> Any:
    """What stands in a call of the program."""
    if isinstance(value, Tensor):
        return value.number if not value.name else value.ref
    if isinstance(value, (list, tuple)):
        return [_argument(part) for part in value]
    if isinstance(value, Word):
        return value.text
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    raise UnsupportedError("an operator on something that is neither tensor nor number")


def _as_exported(name: str, args: list[Any], kwargs: dict[str, Any]) -> tuple[str, list[Any], dict[str, Any]]:
    """The operators that only tracing leaves, as their public twins."""
    if name == "_convolution":
        x, weight, bias, stride, padding, dilation, transposed, extra, groups = args[:9]
        axes = len(shapes.shape_of(weight)) - 2
        if transposed:
            return f"conv_transpose{axes}d", [x, weight, bias, stride, padding, extra, groups, dilation], {}
        return f"conv{axes}d", [x, weight, bias, stride, padding, dilation, groups], {}
    if name == "feature_dropout":
        return "dropout", args, kwargs
    if name in ("var", "std") and len(args) > 1:
        # (x, dim, unbiased, keepdim), or (x, unbiased) over everything.
        dims, corrected = (None, args[1]) if isinstance(args[1], bool) else (args[1], (*args, True)[2])
        keep = {"keepdim": args[3]} if len(args) > 3 else {}
        return name, [args[0], dims], {"correction": int(corrected), **keep, **kwargs}
    if name in ("unsafe_chunk", "unsafe_split"):
        return name.removeprefix("unsafe_"), args, kwargs
    if name in ("reshape_as", "view_as"):
        return "reshape", [args[0], list(args[1].sizes)], {}
    return name, args, kwargs
