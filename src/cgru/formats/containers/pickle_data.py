"""Pickles read as data: the opcodes are interpreted here, and nothing a file names is imported or called.

A pickle is a program for a small stack machine. Running it with Python's own ``pickle`` would import and call
whatever it names; this machine only builds values. Plain data (numbers, strings, lists, tuples, dicts) comes
out as itself. A class or function becomes a :class:`Global`, which is its name and nothing else, and a call,
an instance or an unknown construction becomes a :class:`Record` that says what the file wanted made from
what. The caller may pass ``calls``, functions of its own for the few globals it understands.
Opcodes: the table in CPython's ``Lib/pickletools.py``.

Time and memory are bounded by :class:`Limits`: nothing is allocated from a declared size before that many
bytes are known to be there, and no value is hashed, compared or walked deeply, so shared structure that
would unfold to exponential size stays as small as the file.
"""

from __future__ import annotations

import codecs
import gc
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn

from ...errors import FormatError
from .pickle_values import Global, Limits, OpaqueKey, Record, describe

Call = Callable[..., Any]
# Python salts the hash of text, so a file cannot make such keys collide; a small integer is its own hash.
_SALTED_KEYS = (str, bytes, bool, type(None), Global)
_MAX_INT_KEY = 1 << 32
# Where files made to run code reach for it. The reader would keep these inert like any other name; refusing
# them on sight only tells the user plainly what kind of file this is.
# fmt: off
_ATTACK_MODULES = frozenset((
    "_ctypes", "bdb", "code", "codeop", "cProfile", "http.client", "importlib", "nt", "pdb", "posix",
    "profile", "pty", "runpy", "shutil", "socket", "sys", "timeit", "urllib.request", "webbrowser",
))
# fmt: on
_ATTACK_PACKAGES = frozenset(("os", "subprocess", "ctypes", "pip"))
_ATTACK_BUILTINS = frozenset(
    ("eval", "exec", "execfile", "compile", "open", "__import__", "breakpoint", "input", "apply")
)


_SET, _FROZENSET = Global("builtins", "set"), Global("builtins", "frozenset")


class _Mark:
    """The stack marker."""


_MARK = _Mark()


def read_pickle(
    data: bytes | memoryview,
    *,
    shown: str,
    calls: Mapping[Global, Call] | None = None,
    persistent: Call | None = None,
    limits: Limits | None = None,
) -> Any:
    """The value of the one pickle in ``data``, with every class and call inert.

    ``calls`` maps a global to a function of the caller's that stands for calling it; ``persistent`` turns a
    persistent id into a value. Both get values from the file and must check them. ``shown`` names the file in
    messages. Raises :class:`FormatError` for anything malformed, over a limit, or made to run code.
    """
    limits = limits or Limits()
    if len(data) > limits.size:
        raise FormatError(f"{shown}: pickle of {len(data)} bytes, more than the {limits.size} that are read")
    machine = _Machine(bytes(data), shown, calls or {}, persistent, limits)
    with _uncollected():
        value = machine.run()
    if machine.at != len(data):
        machine.fail("has bytes after its STOP")
    return value


def read_pickle_at(
    data: memoryview,
    start: int,
    *,
    shown: str,
    calls: Mapping[Global, Call] | None = None,
    persistent: Call | None = None,
    limits: Limits | None = None,
) -> tuple[Any, int]:
    """As :func:`read_pickle`, for a pickle that begins at ``start`` and has more data after it; and where it ends."""
    limits = limits or Limits()
    machine = _Machine(bytes(data[start : start + limits.size]), shown, calls or {}, persistent, limits)
    with _uncollected():
        return machine.run(), start + machine.at


@contextmanager
def _uncollected() -> Iterator[None]:
    """No garbage collection meanwhile.

    A million new values, none of them garbage, set off looks through everything that the process holds: two million
    sets took 4.3 s of processor time beside PyTorch and Keras, 2.05 alone and 1.06 uncollected.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Machine:
    """The stack machine: one method per opcode, named after it in pickletools' lower case."""

    def __init__(
        self, data: bytes, shown: str, calls: Mapping[Global, Call], persistent: Call | None, limits: Limits
    ) -> None:
        self.data = data
        self.at = 0
        self.shown = shown
        self.calls = calls
        self.persistent_load = persistent
        self.limits = limits
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.marks = 0
        self.values = 0

    def run(self) -> Any:
        data, operations = self.data, _OPERATIONS
        for _ in range(self.limits.opcodes):
            if self.at >= len(data):
                self.fail("ends without its STOP: truncated")
            code = data[self.at]
            self.at += 1
            if code == _STOP:
                return self.finish()
            operation = operations.get(code)
            if operation is None:
                self.fail(f"uses opcode {code:#04x}, which no model file needs")
            operation(self)
        self.fail(f"has more than {self.limits.opcodes} opcodes")

    def finish(self) -> Any:
        value = self.pop()
        if self.stack:
            self.fail("leaves values behind")
        return value

    def fail(self, what: str) -> NoReturn:
        raise FormatError(f"{self.shown}: the pickle {what} (at byte {self.at}); it is damaged or hostile")

    # Reading from the data

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.data):
            self.fail(f"declares {count} bytes where {len(self.data) - self.at} are left")
        piece = self.data[self.at : end]
        self.at = end
        return piece

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def line(self) -> str:
        return self.text(self.raw_line(self.limits.name))

    def raw_line(self, longest: int) -> bytes:
        end = self.data.find(b"\n", self.at, self.at + longest + 1)
        if end < 0:
            self.fail(f"has a line that does not end within {longest} characters")
        piece = self.take(end - self.at)
        self.at += 1
        return piece

    def text(self, raw: bytes) -> str:
        try:
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError:
            self.fail("holds text that is not UTF-8")

    # The stack

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            self.fail("takes a value from an empty stack")
        return self.stack.pop()

    def made(self, value: Any) -> Any:
        """``value``, counted: it takes memory of its own."""
        self.values += 1
        if self.values > self.limits.values:
            self.fail(f"makes more than {self.limits.values} values, far more than its size warrants")
        return value

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            self.fail("looks at an empty stack")
        return self.stack[-1]

    def pop_to_mark(self) -> list[Any]:
        stack = self.stack
        if not self.marks:
            self.fail("has no mark where it needs one")
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
        values = stack[at + 1 :]
        del stack[at:]
        self.marks -= 1
        return values

    def remember(self, index: int) -> None:
        if not 0 <= index <= _MAX_INT_KEY:
            self.fail(f"memoises a value under {index}, which is out of range")
        self.memo[index] = self.made(self.top())

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.fail(f"refers to memo {index}, which was never set")
        self.push(self.memo[index])

    # Building

    def call(self, function: object, args: object) -> Any:
        known = self.calls.get(function) if isinstance(function, Global) else None
        if known is not None:
            if not isinstance(args, tuple):
                self.fail(f"calls {function} with something that is not a tuple")
            if not fits(known, args):
                self.fail(f"calls {function} with {len(args)} arguments")
            return self.made(known(*args))
        return self.made(Record(function, args))

    def global_(self, module: object, name: object) -> Global:
        if not (isinstance(module, str) and isinstance(name, str)):
            self.fail("names a class by something that is not text")
        if max(len(module), len(name)) > self.limits.name or not (module + name).isprintable():
            self.fail("names a class by a malformed name")
        builtin = module in ("builtins", "__builtin__") and name.partition(".")[0] in _ATTACK_BUILTINS
        if builtin or module in _ATTACK_MODULES or module.partition(".")[0] in _ATTACK_PACKAGES:
            raise FormatError(
                f"{self.shown}: names {module}.{name}, which no model needs: the file was made to run code. "
                "Nothing was run; do not open it with torch.load or pickle"
            )
        return self.made(Global(module, name))

    def add_items(self, flat: list[Any]) -> None:
        target = self.top()
        if len(flat) % 2:
            self.fail("sets an item without a value")
        pairs = zip(flat[::2], flat[1::2], strict=True)
        if type(target) is dict:
            for key, value in pairs:
                target[key if _is_plain_key(key) else OpaqueKey(key)] = value
        elif isinstance(target, Record):
            target.add_items(pairs)
        else:
            self.fail(f"sets items of a {describe(target)}")

    def add_elements(self, values: list[Any]) -> None:
        target = self.top()
        if type(target) is list:
            target.extend(values)
        elif isinstance(target, Record):
            target.add_elements(values)
        else:
            self.fail(f"appends to a {describe(target)}")

    # Opcodes

    def mark(self) -> None:
        self.marks += 1
        if self.marks > self.limits.marks:
            self.fail(f"nests more than {self.limits.marks} deep")
        self.push(_MARK)

    def pop_one(self) -> None:
        if self.stack and self.stack[-1] is _MARK:
            self.pop_to_mark()
        else:
            self.pop()

    def pop_mark(self) -> None:
        self.pop_to_mark()

    def proto(self) -> None:
        version = self.number(1)
        if version > 5:
            self.fail(f"has protocol {version}; 0 to 5 are known")

    def frame(self) -> None:
        length = self.number(8)
        if length > len(self.data) - self.at:
            self.fail(f"declares a frame of {length} bytes where {len(self.data) - self.at} are left")

    def int_line(self) -> None:
        text = self.line()
        if text in ("00", "01"):
            self.push(text == "01")
        else:
            self.push(self.decimal(text))

    def decimal(self, text: str) -> int:
        digits = text.removesuffix("L")
        body = digits.removeprefix("-")
        if not (body.isascii() and body.isdigit()):
            self.fail("has a malformed number")
        return int(digits)

    def float_line(self) -> None:
        text = self.line()
        try:
            self.push(float(text))
        except ValueError:
            self.fail("has a malformed number")

    def long(self, width: int) -> None:
        length = self.number(width)
        if length > self.limits.name:
            self.fail(f"has an integer of {length} bytes")
        self.push(int.from_bytes(self.take(length), "little", signed=True))

    def string_line(self) -> None:
        """Python 2's ``repr`` of its str, which may be bytes."""
        raw = self.raw_line(len(self.data))
        if len(raw) < 2 or raw[:1] not in (b"'", b'"') or raw[-1:] != raw[:1]:
            self.fail("has a string without quotes")
        try:
            self.push(codecs.escape_decode(raw[1:-1])[0].decode("latin-1"))
        except ValueError:
            self.fail("has a string with a malformed escape")

    def unicode_line(self) -> None:
        try:
            self.push(self.raw_line(len(self.data)).decode("raw-unicode-escape"))
        except UnicodeDecodeError:
            self.fail("has a text with a malformed escape")

    def dup(self) -> None:
        self.push(self.top())

    def append(self) -> None:
        value = self.pop()
        self.add_elements([value])

    def setitem(self) -> None:
        value = self.pop()
        key = self.pop()
        self.add_items([key, value])

    def dict_(self) -> None:
        flat = self.pop_to_mark()
        self.push(self.made({}))
        self.add_items(flat)

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(self.made(tuple(reversed(values))))

    def set_(self) -> None:
        self.push(self.made(Record(_SET, ())))

    def frozenset_(self) -> None:
        record = self.made(Record(_FROZENSET, ()))
        record.elements = self.pop_to_mark()
        self.push(record)

    def global_lines(self) -> None:
        module = self.line()
        self.push(self.global_(module, self.line()))

    def stack_global(self) -> None:
        name = self.pop()
        self.push(self.global_(self.pop(), name))

    def reduce(self) -> None:
        args = self.pop()
        self.push(self.call(self.pop(), args))

    def newobj(self) -> None:
        args = self.pop()
        self.push(self.made(Record(self.pop(), args)))

    def newobj_ex(self) -> None:
        kwargs = self.pop()
        args = self.pop()
        self.push(self.made(Record(self.pop(), (args, kwargs))))

    def inst(self) -> None:
        module = self.line()
        cls = self.global_(module, self.line())
        self.push(self.made(Record(cls, tuple(self.pop_to_mark()))))

    def obj(self) -> None:
        values = self.pop_to_mark()
        if not values:
            self.fail("builds an object of no class")
        self.push(self.made(Record(values[0], tuple(values[1:]))))

    def build(self) -> None:
        state = self.pop()
        target = self.top()
        if isinstance(target, Record):
            target.state = state
        elif target is None or isinstance(target, (Global, int, float, str, bytes, tuple)):
            self.fail(f"sets the state of a {describe(target)}")
        # An OrderedDict (here a dict) carries `_metadata`, a Parameter its Python attributes: not weights.

    def persid_line(self) -> None:
        self.push(self.load_persistent(self.line()))

    def persid(self) -> None:
        self.push(self.load_persistent(self.pop()))

    def load_persistent(self, identifier: object) -> Any:
        if self.persistent_load is None:
            self.fail("refers to data outside itself")
        return self.persistent_load(identifier)

    def extension(self) -> NoReturn:
        self.fail("uses copyreg extension codes, whose meaning lies outside the file")

    def buffer(self) -> NoReturn:
        self.fail("refers to out-of-band buffers, which a file cannot hold")


def fits(function: Call, args: tuple[Any, ...]) -> bool:
    """Whether a plain Python function takes this many positional arguments."""
    code = function.__code__
    most = code.co_argcount
    least = most - len(function.__defaults__ or ())
    return least <= len(args) <= most


def _is_plain_key(key: object) -> bool:
    return isinstance(key, _SALTED_KEYS) or (type(key) is int and abs(key) <= _MAX_INT_KEY)


def _constant(value: Any) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(value)


def _sized(width: int, as_text: bool) -> Callable[[_Machine], None]:
    def operation(machine: _Machine) -> None:
        raw = machine.take(machine.number(width))
        machine.push(machine.text(raw) if as_text else raw)

    return operation


def _latin(width: int) -> Callable[[_Machine], None]:
    """Python 2's str: text in every file met, so decoded as such."""
    return lambda machine: machine.push(machine.take(machine.number(width)).decode("latin-1"))


_STOP = ord(".")
_OPERATIONS: dict[int, Callable[[_Machine], None]] = {
    ord("("): _Machine.mark,
    ord("0"): _Machine.pop_one,
    ord("1"): _Machine.pop_mark,
    ord("2"): _Machine.dup,
    0x80: _Machine.proto,
    0x95: _Machine.frame,
    # Scalars
    ord("N"): _constant(None),
    0x88: _constant(True),
    0x89: _constant(False),
    ord("I"): _Machine.int_line,
    ord("L"): lambda machine: machine.push(machine.decimal(machine.line())),
    ord("F"): _Machine.float_line,
    ord("J"): lambda machine: machine.push(int.from_bytes(machine.take(4), "little", signed=True)),
    ord("K"): lambda machine: machine.push(machine.number(1)),
    ord("M"): lambda machine: machine.push(machine.number(2)),
    0x8A: lambda machine: machine.long(1),
    0x8B: lambda machine: machine.long(4),
    ord("G"): lambda machine: machine.push(struct.unpack(">d", machine.take(8))[0]),
    # Text and bytes
    ord("S"): _Machine.string_line,
    ord("V"): _Machine.unicode_line,
    ord("U"): _latin(1),
    ord("T"): _latin(4),
    0x8C: _sized(1, as_text=True),
    ord("X"): _sized(4, as_text=True),
    0x8D: _sized(8, as_text=True),
    ord("C"): _sized(1, as_text=False),
    ord("B"): _sized(4, as_text=False),
    0x8E: _sized(8, as_text=False),
    0x96: _sized(8, as_text=False),
    # Containers
    ord(")"): _constant(()),
    0x85: lambda machine: machine.tuple_of(1),
    0x86: lambda machine: machine.tuple_of(2),
    0x87: lambda machine: machine.tuple_of(3),
    ord("t"): lambda machine: machine.push(machine.made(tuple(machine.pop_to_mark()))),
    ord("]"): lambda machine: machine.push(machine.made([])),
    ord("l"): lambda machine: machine.push(machine.made(machine.pop_to_mark())),
    ord("a"): _Machine.append,
    ord("e"): lambda machine: machine.add_elements(machine.pop_to_mark()),
    ord("}"): lambda machine: machine.push(machine.made({})),
    ord("d"): _Machine.dict_,
    ord("s"): _Machine.setitem,
    ord("u"): lambda machine: machine.add_items(machine.pop_to_mark()),
    0x8F: _Machine.set_,
    0x90: lambda machine: machine.add_elements(machine.pop_to_mark()),
    0x91: _Machine.frozenset_,
    # Memo
    ord("p"): lambda machine: machine.remember(machine.decimal(machine.line())),
    ord("q"): lambda machine: machine.remember(machine.number(1)),
    ord("r"): lambda machine: machine.remember(machine.number(4)),
    0x94: lambda machine: machine.remember(len(machine.memo)),
    ord("g"): lambda machine: machine.recall(machine.decimal(machine.line())),
    ord("h"): lambda machine: machine.recall(machine.number(1)),
    ord("j"): lambda machine: machine.recall(machine.number(4)),
    # Classes and calls: inert
    ord("c"): _Machine.global_lines,
    0x93: _Machine.stack_global,
    ord("R"): _Machine.reduce,
    0x81: _Machine.newobj,
    0x92: _Machine.newobj_ex,
    ord("i"): _Machine.inst,
    ord("o"): _Machine.obj,
    ord("b"): _Machine.build,
    ord("P"): _Machine.persid_line,
    ord("Q"): _Machine.persid,
    # Refused
    0x82: _Machine.extension,
    0x83: _Machine.extension,
    0x84: _Machine.extension,
    0x97: _Machine.buffer,
    0x98: _Machine.buffer,
}
