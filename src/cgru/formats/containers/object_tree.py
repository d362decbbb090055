"""The values of a pickle by name: dicts, lists and objects walked to the leaves that are wanted.

Names join keys, positions and attributes with dots. What a value holds is looked at once however often it is referred
to, and the walk is bounded, so that shared or cyclic structure cannot unfold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...errors import FormatError
from .messages import brief
from .pickle_values import OpaqueKey, Record

MAX_LEAVES = 100_000
MAX_VISITS = 500_000
MAX_LETTERS = 10_000_000
MAX_DEPTH = 32
MAX_NAME = 1024


class ObjectTree:
    """One pickle's value while its leaves are being named. A format says what its leaves and branches are."""

    #: What is named, in the words of messages.
    wanted = "arrays"

    def __init__(self, shown: str) -> None:
        self.shown = shown
        self._parts: dict[int, list[tuple[object, object]]] = {}

    def is_leaf(self, value: object) -> bool:
        raise NotImplementedError

    def members(self, value: object) -> Iterable[tuple[object, object]] | None:
        """What ``value`` holds by key, position or attribute; None where it is no branch."""
        if isinstance(value, dict):
            return value.items()
        return enumerate(value) if isinstance(value, (list, tuple)) else None

    def enter(self, name: str, value: object) -> bool:
        """Whether to walk the branch ``value``, which is met under ``name``."""
        return True

    def passed(self, name: str, value: Record, parent: object) -> None:
        """A record that is neither leaf nor branch stands at ``name`` of ``parent``."""

    def flatten(self, root: object) -> dict[str, object]:
        """Every leaf below ``root`` by its joined name."""
        found: dict[str, object] = {}
        visits = letters = 0
        stack: list[Iterator[tuple[str, object]]] = [self._children("", root)]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            name, value = entry
            visits += 1
            letters += len(name)
            if visits > MAX_VISITS or letters > MAX_LETTERS or len(found) > MAX_LEAVES:
                raise FormatError(f"{self.shown}: holds more than {MAX_LEAVES} {self.wanted}, or nests to that many")
            if self.is_leaf(value):
                if name in found:
                    raise FormatError(
                        f"{self.shown}: two {self.wanted} are named {brief(name)} once nested names are joined"
                    )
                found[name] = value
            elif self.members(value) is not None:
                if len(stack) >= MAX_DEPTH:
                    raise FormatError(
                        f"{self.shown}: nests more than {MAX_DEPTH} deep at {name[:80]!r}, or contains itself"
                    )
                stack.append(self._children(name, value))
        return found

    def _children(self, prefix: str, value: object) -> Iterator[tuple[str, object]]:
        if not self.enter(prefix, value):
            return
        for key, item in self.parts(value):
            if isinstance(key, OpaqueKey) or not isinstance(key, (str, int)) or not str(key).isprintable():
                if self.is_leaf(item):
                    raise FormatError(f"{self.shown}: one of the {self.wanted} below {prefix!r} has no usable name")
                continue
            name = f"{prefix}.{key}" if prefix else str(key)
            if len(name) > MAX_NAME:
                raise FormatError(f"{self.shown}: a name of more than {MAX_NAME} characters: {name[:80]!r}…")
            if isinstance(item, Record) and not self.is_leaf(item) and self.members(item) is None:
                self.passed(name, item, value)
            yield name, item

    def parts(self, value: object) -> list[tuple[object, object]]:
        """What of ``value`` may be a leaf or hold one."""
        found = self._parts.get(id(value))
        if found is None:
            held = self.members(value) or ()
            found = [(key, item) for key, item in held if self.is_leaf(item) or isinstance(item, _NODES)]
            self._parts[id(value)] = found
        return found


_NODES = (dict, list, tuple, Record)
