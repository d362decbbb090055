"""What a pickle read as data holds beside plain values: names, keys and records of what was to be built; its bounds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """Bounds of one pickle; the defaults hold for checkpoints with a million values beside the weights.

    ``values`` counts what takes memory of its own: lists, dicts, tuples, records, names and memoised values.
    """

    size: int = 64 << 20
    opcodes: int = 4_000_000
    values: int = 2_000_000
    marks: int = 1_000
    name: int = 512

    @classmethod
    def of_file(cls, size: int) -> Limits:
        """The bounds for a pickle that takes ``size`` bytes of its file, fewer than its own where it is compressed."""
        return cls(opcodes=min(cls.opcodes, 1_000_000 + size), values=min(cls.values, 400_000 + size // 6))


@dataclass(frozen=True, slots=True)
class Global:
    """A class or function by name only. It is never looked up."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


class Record:
    """Something the file wanted built: ``cls`` called with ``args``, then changed by ``state`` and ``items``.

    Inert: compared and hashed by identity, and nothing in it runs.
    """

    __slots__ = ("args", "cls", "elements", "items", "state")

    def __init__(self, cls: object, args: object) -> None:
        self.cls = cls
        self.args = args
        self.state: object = None
        # Lists once there is something in them: a file may hold a million records without.
        self.items: Sequence[tuple[object, object]] = ()
        self.elements: Sequence[object] = ()

    def add_items(self, pairs: Iterable[tuple[object, object]]) -> None:
        if not isinstance(self.items, list):
            self.items = []
        self.items.extend(pairs)

    def add_elements(self, values: Sequence[object]) -> None:
        if not isinstance(self.elements, list):
            self.elements = list(self.elements)
        self.elements.extend(values)

    def __repr__(self) -> str:
        return f"<record of {describe(self)}>"


class OpaqueKey:
    """A dict key that is no plain scalar: kept apart by identity, because hashing it may take forever."""

    __slots__ = ("value",)

    def __init__(self, value: object) -> None:
        self.value = value


def describe(value: object) -> str:
    """A short name for ``value`` in messages: the global it was made from, or its type."""
    for _ in range(8):
        if isinstance(value, Global):
            return str(value)
        if not isinstance(value, Record):
            break
        # object.__reduce_ex__(1) writes copyreg._reconstructor(cls, base, state): the class is its argument.
        reconstructs = isinstance(value.cls, Global) and value.cls.module in ("copyreg", "copy_reg")
        value = value.args[0] if reconstructs and isinstance(value.args, tuple) and value.args else value.cls
    return type(value).__name__
