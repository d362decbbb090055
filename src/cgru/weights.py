"""The weights of a network: arrays beside the graph, held once in whatever form runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self

import numpy as np

from .arrays import Float32, own
from .errors import CgruError
from .spec.precision import Stored, check, reduce, widen


class Packed(Protocol):
    """Weights in the kernels' own order; the only copy once it exists."""

    @property
    def nbytes(self) -> int: ...

    def stored(self) -> dict[str, Float32 | Stored]: ...


class Weights:
    """The arrays of one node, by canonical name; several nodes and models may share them.

    Immutable to everybody outside: packing changes what they are held as, never what they are. ``matrices`` names the
    arrays that reduced precision holds smaller; ``precision`` says which they are in.
    """

    __slots__ = ("_form", "_held", "_packed", "matrices", "parameters", "precision", "shapes")

    def __init__(
        self, arrays: Mapping[str, Float32 | Stored], matrices: frozenset[str] | set[str], precision: str = "float32"
    ) -> None:
        self._held: dict[str, Float32 | Stored] | None = dict(arrays)
        self._packed: Packed | None = None
        self._form: tuple[Any, ...] = ()
        # A vector stays float32 whatever its name is: a scale for each row needs rows.
        self.matrices = frozenset(key for key in frozenset(matrices) & arrays.keys() if len(shape_of(arrays[key])) > 1)
        self.precision = precision
        self.shapes = {key: shape_of(array) for key, array in arrays.items()}
        self.parameters = sum(int(np.prod(shape)) for shape in self.shapes.values())

    def stored(self) -> dict[str, Float32 | Stored]:
        """The arrays as they are held (rebuilt from the packed form where that is the only copy)."""
        held = self._held  # read once: another thread may be packing
        if held is not None:
            return dict(held)
        assert self._packed is not None
        return self._packed.stored()

    def arrays(self) -> dict[str, Float32]:
        """The arrays as float32, whatever they are held as."""
        return {
            key: widen(array, self.precision) if isinstance(array, Stored) else array
            for key, array in self.stored().items()
        }

    @property
    def nbytes(self) -> int:
        """Bytes they take in memory as they are held now."""
        held = self._held
        if held is None:
            assert self._packed is not None
            return self._packed.nbytes
        return sum(array.nbytes for array in held.values())

    def reduced(self, precision: str, where: str, suffix: str = "") -> Weights:
        """The same with matrices in another precision; itself where they are in that one already.

        Raises :class:`~cgru.CgruError` where they are reduced already or hold numbers that the precision cannot.
        """
        if check(precision, f"{where}: precision") == self.precision:
            return self
        if self.precision != "float32":
            raise CgruError(f"{where}: its weights are {self.precision} already; quantize the float32 network instead")
        made = {
            key: _reduced(array, precision, f"{where}: {key}{suffix}") if key in self.matrices else array
            for key, array in self.arrays().items()
        }
        return Weights(made, self.matrices, precision)

    def packed(self, pack: Callable[[Self], Packed], form: tuple[Any, ...] = ()) -> Packed:
        """The packed form, made by ``pack`` at first use; the arrays are let go then. The caller holds the lock.

        ``form`` says what the packed form depends on beside the arrays. Nodes that share arrays and want another form
        get one of their own.
        """
        if self._packed is None:
            self._packed, self._form = pack(self), form
            self._held = None
        return self._packed if self._form == form else pack(self)


def shape_of(array: Float32 | Stored) -> tuple[int, ...]:
    return array.values.shape if isinstance(array, Stored) else array.shape


def _reduced(array: Float32, precision: str, where: str) -> Stored:
    """A matrix of any number of axes, each of its first axis' entries a row."""
    flat = reduce(array.reshape(array.shape[0], -1), precision, where)
    return flat if array.ndim == 2 else Stored(flat.values.reshape(array.shape), flat.scale)


#: The weights of a network by key.
Store = Mapping[str, Weights]


def weights_from(arrays: Mapping[str, Any], infos: Mapping[str, Any], where: str) -> Weights:
    """Weights of arrays a caller gives, cast and checked to be of the shapes wanted; None counts as absent."""
    from .spec.graph import check_shapes

    made = {
        key: own(value, f"{where}: {key}", len(infos[key].shape) if key in infos else tuple(range(9)))
        for key, value in arrays.items()
        if value is not None
    }
    check_shapes(infos, {key: array.shape for key, array in made.items()}, where)
    return Weights(made, {key for key, info in infos.items() if info.matrix})
