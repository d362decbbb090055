"""TorchScript's operators on plain values: numbers, words, lists, tuples. None of them sees a number of a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ....errors import UnsupportedError
from .values import DoesNotFit

#: Entries that a list or text may have, and the largest whole number there is.
_MOST = 100_000
_LARGEST = 1 << 63


def _len(value: Any) -> int:
    return len(value)


def _same(a: Any, b: Any, depth: int = 0) -> bool:
    """Equality of lists within lists, two deep: a file could make deeper ones unfold."""
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        if depth > 1:
            raise UnsupportedError("a comparison of lists three deep")
        return len(a) == len(b) and all(_same(x, y, depth + 1) for x, y in zip(a, b, strict=True))
    if isinstance(a, dict) or isinstance(b, dict):
        raise UnsupportedError("a comparison of dictionaries")
    return bool(a == b)


def _append(items: list[Any], value: Any) -> list[Any]:
    items.append(value)
    return items


def _extend(items: list[Any], more: Sequence[Any]) -> None:
    items.extend(more)


def _insert(items: list[Any], at: int, value: Any) -> None:
    items.insert(at, value)


def _set_item(items: Any, at: Any, value: Any) -> Any:
    items[at] = value
    return items


def _slice(items: Any, start: Any = None, end: Any = None, step: int = 1) -> Any:
    return items[slice(start, end, step)]


def _range_length(low: int, high: int, step: int) -> int:
    return len(range(low, high, step))


def _derive(index: int, start: int, step: int) -> int:
    return start + index * step


def _format(text: str, *values: Any) -> str:
    # Never str.format: what stands in braces of a file's text is an expression to it.
    parts = text.split("{}")
    shown = [str(value)[:100] for value in values]
    return "".join(part + (shown[i] if i < len(shown) and i < len(parts) - 1 else "") for i, part in enumerate(parts))


def _multiplied(a: Any, b: Any) -> Any:
    for items, count in ((a, b), (b, a)):
        if isinstance(items, (str, list, tuple)) and len(items) * max(int(count), 0) > _MOST:
            raise UnsupportedError("a list of too many entries")
    return a * b


def _power(a: Any, b: Any) -> Any:
    if abs(a) > 1 << 31 or abs(b) > 64:
        return float(a) ** float(b)
    return a**b


def _unwrapped(value: Any) -> Any:
    if value is None:
        raise DoesNotFit("None where a value is expected")
    return value


#: Operator → what it does with plain values.
PLAIN: dict[str, Callable[..., Any]] = {
    "eq": _same,
    "ne": lambda a, b: not _same(a, b),
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
    "__not__": lambda a: not a,
    "__and__": lambda a, b: a & b,
    "__or__": lambda a, b: a | b,
    "__is__": lambda a, b: a is b,
    "__isnot__": lambda a, b: a is not b,
    "__contains__": lambda items, value: value in items if isinstance(items, (str, dict)) else any(
        _same(item, value) for item in items
    ),
    "__getitem__": lambda items, at: items[at],
    "__range_length": _range_length,
    "__derive_index": _derive,
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": _multiplied,
    "div": lambda a, b: a / b,
    "floordiv": lambda a, b: a // b,
    "floor_divide": lambda a, b: a // b,
    "remainder": lambda a, b: a % b,
    "neg": lambda a: -a,
    "abs": abs,
    "pow": _power,
    "sqrt": math.sqrt,
    "exp": math.exp,
    "log": math.log,
    "floor": math.floor,
    "ceil": math.ceil,
    "round": round,
    "min": lambda *values: min(*values),
    "max": lambda *values: max(*values),
    "sum": sum,
    "all": all,
    "any": any,
    "len": _len,
    "list": list,
    "tuple": tuple,
    "append": _append,
    "extend": _extend,
    "insert": _insert,
    "pop": lambda items, at=-1: items.pop(at),
    "clear": lambda items: items.clear(),
    "copy": lambda items: items.copy(),
    "reverse": lambda items: items.reverse(),
    "select": lambda items, at: items[at],
    "slice": _slice,
    "_set_item": _set_item,
    "keys": lambda items: list(items),
    "values": lambda items: list(items.values()),
    "items": lambda items: [tuple(item) for item in items.items()],
    "get": lambda items, key, default=None: items.get(key, default),
    "format": _format,
    "join": lambda text, parts: text.join(parts),
    "startswith": lambda text, head: text.startswith(head),
    "endswith": lambda text, tail: text.endswith(tail),
    "lower": lambda text: text.lower(),
    "upper": lambda text: text.upper(),
    "str": lambda value: str(value)[:_MOST],
    "unchecked_unwrap_optional": _unwrapped,
    "_unwrap_optional": _unwrapped,
    "warn": lambda *_, **__: None,
    "Int": int,
    "Float": float,
    "Bool": bool,
    "ScalarImplicit": lambda value: value,
}


def apply(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
    """The operator on plain values; :class:`UnsupportedError` where it is none that is known."""
    handler = PLAIN.get(name)
    if handler is None:
        raise UnsupportedError(f"torch.{name[:60]} of plain values, which cgru does not follow")
    if name in ("str", "format") and any(isinstance(value, (list, dict, tuple)) for value in args):
        args = [value if not isinstance(value, (list, dict, tuple)) else "…" for value in args]
    found = handler(*args, **kwargs)
    if isinstance(found, (str, list, tuple, dict)) and len(found) > _MOST:
        raise UnsupportedError("a list of too many entries")
    if type(found) is int and abs(found) > _LARGEST:
        raise UnsupportedError("a whole number of more than 64 bits")
    return found
