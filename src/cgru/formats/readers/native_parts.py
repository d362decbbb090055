"""What both versions of the native form share: the text of the specification, and matrices held in fewer bits."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from ...arrays import Float32
from ...errors import CgruError, FormatError
from ...spec.precision import KINDS, LARGEST_SCALE, Stored, scaled
from ..containers.tensorfile import TensorFile

#: What follows the name of an int8 matrix in that of its scales.
SCALE = ".scale"


def put(
    tensors: dict[str, np.ndarray], dtypes: dict[str, str], name: str, held: Float32 | Stored, precision: str
) -> None:
    """Add an array as it is held to the tensors of a file, and what its numbers are called to their types."""
    if not isinstance(held, Stored):
        tensors[name] = held
        return
    tensors[name], dtypes[name] = held.values, KINDS[precision]
    if held.scale is not None:
        tensors[name + SCALE] = held.scale


def take(file: TensorFile, dtypes: Mapping[str, str], tensor: str, precision: str) -> Float32 | Stored:
    """A tensor held in a precision, its scales with it; :class:`FormatError` where it is not held so."""
    expect(tensor, dtypes[tensor], KINDS[precision])
    array = file.tensors[tensor]
    if precision == "float32":
        return array
    return Stored(array, scale_of(file, dtypes, tensor, array) if scaled(precision) else None)


def parse(text: str) -> Any:
    """A specification's JSON: nothing twice, no number of thousands of digits."""

    def refuse(what: str) -> NoReturn:
        raise FormatError(f"the specification {what}")

    def unique(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        return values if len(values) == len(pairs) else refuse("has an object with the same key twice")

    def integer(digits: str) -> int:
        return int(digits) if len(digits) <= 20 else refuse(f"has the number {digits[:20]}…")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_int=integer)
    except CgruError:
        raise
    except RecursionError:
        refuse("nests too deep")
    except ValueError as error:
        refuse(f"is not valid JSON ({error})")


def scale_of(file: TensorFile, dtypes: Mapping[str, str], tensor: str, values: np.ndarray) -> Float32:
    """The scale of each row of an int8 matrix; values and scales are such as :mod:`cgru.spec.precision` makes."""
    name = tensor + SCALE
    if name not in file.tensors:
        raise FormatError(f"the tensor {name[:80]!r} is missing: an int8 matrix has a scale for each row")
    scale = file.tensors[name]
    expect(name, dtypes[name], KINDS["float32"])
    if scale.shape != values.shape[:1]:
        raise FormatError(f"tensor {name[:80]!r} has shape {scale.shape}, expected {values.shape[:1]}")
    if not ((scale >= 0) & (scale <= LARGEST_SCALE)).all():
        bad = scale[~((scale >= 0) & (scale <= LARGEST_SCALE))][0]
        raise FormatError(f"tensor {name[:80]!r} holds the scale {bad:g}; expected 0 to {LARGEST_SCALE:g}")
    if values.size and values.min() < -127:
        raise FormatError(f"tensor {tensor[:80]!r} holds -128; int8 weights go from -127 to 127")
    return scale


def expect(tensor: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise FormatError(f"tensor {tensor[:80]!r} is held as {found}; expected {wanted}")


def plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise CgruError(f"the specification holds a {type(value).__name__}, which JSON cannot")
