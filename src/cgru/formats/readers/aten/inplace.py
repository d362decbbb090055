"""A traced program without writes in place: each becomes a call that gives a new value, which later calls read.

What a write changes elsewhere, through another name of the same memory, is refused where somebody reads it afterwards.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ....errors import UnsupportedError
from .program import Call, Program, Ref, refs

#: Operators whose result may show the memory of their first argument.
VIEWS = frozenset(
    ("alias", "chunk", "contiguous", "detach", "diagonal", "expand", "expand_as", "flatten", "movedim", "narrow",
     "permute", "reshape", "select", "slice", "split", "split_with_sizes", "squeeze", "swapaxes", "t", "transpose",
     "unbind", "unflatten", "unsqueeze", "view", "view_as", "to", "getitem", "mT", "numpy_T", "float", "type_as")
)  # fmt: skip


class _Part(NamedTuple):
    """A view that shows some of another name's memory: the call that takes it."""

    source: str
    call: Call


def functional(program: Program) -> Program:
    """The same program without calls that write in place; :class:`UnsupportedError` names one that cannot go."""
    if not any(_writes(call) for call in program.calls):
        return program
    return _Pass(program).run()


def _writes(call: Call) -> bool:
    return call.base.endswith("_") and not call.base.endswith("__") and bool(call.args or call.kwargs)


class _Pass:
    def __init__(self, program: Program) -> None:
        self.program = program
        #: What a name stands for by now.
        self.now: dict[str, str] = {}
        #: The name whose memory a name shows, itself where it has its own.
        self.root: dict[str, str] = {}
        self.parts: dict[str, _Part] = {}
        #: What a write gave → the view that it wrote into.
        self.written_into: dict[str, str] = {}
        self.used_at: dict[str, list[int]] = {}
        for i, call in enumerate(program.calls):
            for name in refs([*call.args, *call.kwargs.values()]):
                self.used_at.setdefault(name, []).append(i)
        for _, value in program.outputs:
            for name in refs(value):
                self.used_at.setdefault(name, []).append(len(program.calls))

    def run(self) -> Program:
        made: list[Call] = []
        for i, call in enumerate(self.program.calls):
            if _writes(call):
                made += self._written(i, call)
                continue
            renamed = self._renamed(call)
            made.append(renamed)
            if call.base in VIEWS:
                (source, *_) = [*refs([*call.args, *call.kwargs.values()]), ""]
                self.root[call.name] = self.root.get(source, source)
                self.parts[call.name] = _Part(source, call)
        outputs = [(title, self._current(value)) for title, value in self.program.outputs]
        return self.program._replace(calls=made, outputs=outputs)

    def _current(self, value: Any) -> Any:
        if isinstance(value, Ref):
            return Ref(self.now.get(value.name, value.name))
        if isinstance(value, (list, tuple)):
            return [self._current(part) for part in value]
        return value

    def _renamed(self, call: Call) -> Call:
        kwargs = {key: self._current(value) for key, value in call.kwargs.items()}
        return call._replace(args=tuple(self._current(value) for value in call.args), kwargs=kwargs)

    def _written(self, i: int, call: Call) -> list[Call]:
        (target, *_) = refs([call.args[0]] if call.args else [call.kwargs.get("self"), call.kwargs.get("input")])
        root = self.root.get(target, target)
        if root in self.program.constants and (call.name in self.used_at or self._seen(root, i)):
            title = self.program.titles.get(root, root)
            raise UnsupportedError(f"{call}: it writes into {title}, which would differ at the next call")
        chain = self._chain(target)
        family = {name for name, base in self.root.items() if base == root} | {root}
        others = [
            name for name in family - {target, call.name} if self._seen(name, i) and not self._apart(name, target)
        ]
        made = [_plain(self._renamed(call))]
        self.root[call.name], self.written_into[call.name] = root, target
        if not others:
            self.now[target] = call.name
            return made
        # What the view was taken of is read again: it becomes a new value with this part written into it.
        if others != [root] or chain is None or self._seen(target, i) or self._seen(call.name, i):
            raise UnsupportedError(f"{call}: it changes in place what is read elsewhere; write it without")
        whole = Call(
            f"{call.name} into {root}", "written", (Ref(self.now.get(root, root)), Ref(call.name), chain), {}, None,
            call.module, call.line,
        )  # fmt: skip
        self.now[root] = whole.name
        return [*made, whole]

    def _seen(self, name: str, after: int) -> bool:
        return any(place > after for place in self.used_at.get(name, ()))

    def _apart(self, name: str, other: str) -> bool:
        """Whether two views show different parts of one split."""
        ours, theirs = self._piece(name), self._piece(other)
        return ours is not None and theirs is not None and ours[0] == theirs[0] and ours[1] != theirs[1]

    def _piece(self, name: str) -> tuple[str, Any] | None:
        """The call that splits and the number of the piece, of which a name shows a view."""
        while name in self.parts or name in self.written_into:
            if name not in self.parts:
                name = self.written_into[name]
                continue
            source, call = self.parts[name]
            if call.base == "getitem":
                return source, _argument(call, 1, "index", None)
            name = source
        return None

    def _chain(self, name: str) -> list[list[Any]] | None:
        """The slices and selections, the last first, by which a name shows part of its root; None for other views."""
        found: list[list[Any]] = []
        while name in self.parts:
            source, call = self.parts[name]
            if call.base not in ("select", "slice"):
                return None
            dim = _argument(call, 1, "dim", 0)
            if call.base == "select":
                found.append(["select", dim, _argument(call, 2, "index", 0)])
            else:
                ends = (_argument(call, 2, "start", None), _argument(call, 3, "end", None))
                found.append(["slice", dim, *ends, _argument(call, 4, "step", 1)])
            name = source
        return found


def _argument(call: Call, position: int, name: str, default: Any) -> Any:
    return call.args[position] if position < len(call.args) else call.kwargs.get(name, default)


def _plain(call: Call) -> Call:
    """The call that gives what a write leaves behind."""
    base, _, overload = call.op.partition(".")
    if base == "copy_":
        return call._replace(op="copy", args=(_argument(call, 1, "src", None),), kwargs={})
    if base in ("fill_", "zero_"):
        value = 0 if base == "zero_" else _argument(call, 1, "value", 0)
        return call._replace(op="filled", args=(value,), kwargs={})
    return call._replace(op=f"{base[:-1]}.{overload}" if overload else base[:-1])
