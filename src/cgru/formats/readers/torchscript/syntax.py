"""The subset of Python that TorchScript is written in: text → a tree, strictly, in time linear in the text.

Source: torch/csrc/jit/serialization/python_print.cpp. Every operator is a call there, so there is no arithmetic to
parse; what is outside the subset is a :class:`FormatError` with its line. Python's own compiler never sees the text.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

from ....errors import FormatError

_MAX_TOKENS = 200_000
#: Brackets within brackets, blocks within blocks, and links of a chain ``a.b.c``.
_MAX_NESTING = 80


# ---- the tree -----------------------------------------------------------------------------------------------------


class Constant(NamedTuple):
    value: bool | int | float | str | None


class Name(NamedTuple):
    id: str


class Attribute(NamedTuple):
    of: Any
    name: str


class Subscript(NamedTuple):
    of: Any
    at: Any


class Apply(NamedTuple):
    """A call."""

    function: Any
    args: list[Any]
    kwargs: dict[str, Any]


class TupleOf(NamedTuple):
    parts: list[Any]


class ListOf(NamedTuple):
    parts: list[Any]


class DictOf(NamedTuple):
    pairs: list[tuple[Any, Any]]


class Negative(NamedTuple):
    of: Any


class Not(NamedTuple):
    of: Any


class Choice(NamedTuple):
    yes: Any
    test: Any
    no: Any


class Assign(NamedTuple):
    target: Any
    value: Any


class Declare(NamedTuple):
    """``name : type`` without a value."""

    target: Any


class If(NamedTuple):
    test: Any
    body: list[Any]
    otherwise: list[Any]


class For(NamedTuple):
    target: Any
    items: Any
    body: list[Any]


class While(NamedTuple):
    test: Any
    body: list[Any]


class With(NamedTuple):
    body: list[Any]


class Return(NamedTuple):
    value: Any


class Alone(NamedTuple):
    """An expression whose value is not kept."""

    value: Any


class Pass(NamedTuple):
    pass


class Parameter(NamedTuple):
    name: str
    type: str
    default: Any


class Def(NamedTuple):
    name: str
    parameters: list[Parameter]
    body: list[Any]


class ClassDef(NamedTuple):
    """``values`` are the attributes that have one in the class, ``fields`` all that are declared, in order."""

    name: str
    base: str
    methods: dict[str, Def]
    values: dict[str, Any]
    fields: list[str]


# ---- tokens -------------------------------------------------------------------------------------------------------

_TOKEN = re.compile(
    r"""[ ]+ | (?P<comment>\#[^\n]*)
    | (?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)? | \.\d+(?:[eE][+-]?\d+)?)
    | (?P<name>[^\W\d]\w*)
    | (?P<string>"(?:[^"\\\n]|\\.)*" | '(?:[^'\\\n]|\\.)*')
    | (?P<mark>->|[()\[\]{},:.=\-])
    """,
    re.X,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)")
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_LINE, _INDENT, _DEDENT, _END = "line", "indent", "dedent", "end"


class _Token(NamedTuple):
    kind: str
    text: str
    line: int


def _tokens(text: str, where: str) -> list[_Token]:
    found: list[_Token] = []
    levels = [0]
    depth = 0
    for number, line in enumerate(text.split("\n"), 1):
        stripped = line.lstrip(" ")
        if not stripped or stripped.startswith("#"):
            continue
        if not depth:
            indent = len(line) - len(stripped)
            if indent > levels[-1]:
                levels.append(indent)
                found.append(_Token(_INDENT, "", number))
            while indent < levels[-1]:
                levels.pop()
                found.append(_Token(_DEDENT, "", number))
            if indent != levels[-1] or len(levels) > _MAX_NESTING:
                raise FormatError(f"{where}, line {number}: its indentation fits no line before")
        at = 0
        while at < len(line):
            match = _TOKEN.match(line, at)
            if match is None:
                raise FormatError(f"{where}, line {number}: {line[at : at + 10]!r} is no TorchScript")
            at = match.end()
            kind = match.lastgroup
            if kind is None or kind == "comment":
                continue
            token = match.group()
            if kind == "mark":
                depth += (token in "([{") - (token in ")]}")
            found.append(_Token(kind, token, number))
        if depth <= 0:
            depth = 0
            found.append(_Token(_LINE, "", number))
        if len(found) > _MAX_TOKENS:
            raise FormatError(f"{where}: its code has more than {_MAX_TOKENS} words")
    found += [_Token(_DEDENT, "", 0)] * (len(levels) - 1)
    found.append(_Token(_END, "", 0))
    return found


# ---- the parser ---------------------------------------------------------------------------------------------------


def parsed(text: str, where: str) -> dict[str, ClassDef | Def]:
    """Classes and functions by name; ``where`` names the text in messages."""
    return _Parser(_tokens(text, where), where).module()


class _Parser:
    def __init__(self, tokens: list[_Token], where: str) -> None:
        self.tokens, self.where, self.at, self.depth = tokens, where, 0, 0

    def fail(self, what: str) -> NoReturn:
        token = self.tokens[self.at]
        found = token.text or f"the end of a {token.kind}"
        raise FormatError(f"{self.where}, line {token.line}: expected {what}, found {found[:40]!r}")

    def peek(self, text: str) -> bool:
        token = self.tokens[self.at]
        return token.text == text and token.kind in ("mark", "name")

    def take(self, text: str) -> bool:
        if self.peek(text):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.take(text):
            self.fail(repr(text))

    def kind(self, kind: str) -> str:
        token = self.tokens[self.at]
        if token.kind != kind:
            self.fail(f"a {kind}")
        self.at += 1
        return token.text

    def end_line(self) -> None:
        self.kind(_LINE)

    # ---- definitions ------------------------------------------------------------------------------------------

    def module(self) -> dict[str, ClassDef | Def]:
        found: dict[str, ClassDef | Def] = {}
        while self.tokens[self.at].kind != _END:
            made: ClassDef | Def = self.class_() if self.peek("class") else self.def_()
            found[made.name] = made
        return found

    def class_(self) -> ClassDef:
        self.expect("class")
        name, base = self.kind("name"), ""
        if self.take("("):
            if not self.peek(")"):
                base = self.type()
            self.expect(")")
        made = ClassDef(name, base, {}, {}, [])
        self.expect(":")
        self.end_line()
        self.kind(_INDENT)
        while self.tokens[self.at].kind != _DEDENT:
            if self.peek("def"):
                method = self.def_()
                made.methods[method.name] = method
            elif self.take("pass"):
                self.end_line()
            else:
                self.field(made)
        self.at += 1
        return made

    def field(self, made: ClassDef) -> None:
        target = self.postfix()
        name = target.id if isinstance(target, Name) else ""
        if self.take(":"):
            self.type()
            made.fields.append(name)
        if self.take("="):
            value = self.expression()
            if name:
                made.values[name] = value
        self.end_line()

    def def_(self) -> Def:
        self.expect("def")
        name = self.kind("name")
        self.expect("(")
        parameters = []
        while not self.take(")"):
            title, kind, default = self.kind("name"), "Tensor", None
            if self.take(":"):
                kind = self.type()
            if self.take("="):
                default = self.expression()
            parameters.append(Parameter(title, kind, default))
            if not self.take(","):
                self.expect(")")
                break
        if self.take("->"):
            self.type()
        return Def(name, parameters, self.block())

    def type(self) -> str:
        """A type, as text: ``Optional[Tuple[Tensor, Tensor]]``."""
        start = self.at
        self.postfix()
        return "".join(token.text for token in self.tokens[start : self.at])

    # ---- statements -------------------------------------------------------------------------------------------

    def block(self) -> list[Any]:
        self.expect(":")
        self.end_line()
        self.kind(_INDENT)
        body = []
        while self.tokens[self.at].kind != _DEDENT:
            body.append(self.statement())
        self.at += 1
        return body

    def statement(self) -> Any:
        if self.take("if"):
            test, body = self.expression(), self.block()
            return If(test, body, self.block() if self.take("else") else [])
        if self.take("for"):
            target = self.expressions(self.postfix)
            self.expect("in")
            return For(target, self.expression(), self.block())
        if self.take("while"):
            return While(self.expression(), self.block())
        if self.take("with"):
            self.expression()
            return With(self.block())
        made = self.simple()
        self.end_line()
        return made

    def simple(self) -> Any:
        if self.take("pass"):
            return Pass()
        if self.take("return"):
            return Return(None if self.tokens[self.at].kind == _LINE else self.expressions(self.expression))
        target = self.expressions(self.expression)
        declared = self.take(":")
        if declared:
            self.type()
        if self.take("="):
            return Assign(target, self.expressions(self.expression))
        return Declare(target) if declared else Alone(target)

    # ---- expressions ------------------------------------------------------------------------------------------

    def expressions(self, one: Callable[[], Any]) -> Any:
        """One, or several with commas between: a tuple."""
        first = one()
        if not self.peek(","):
            return first
        parts = [first]
        while self.take(","):
            if self.tokens[self.at].kind == _LINE or self.peek("=") or self.peek("in"):
                break
            parts.append(one())
        return TupleOf(parts)

    def expression(self) -> Any:
        self.depth += 1
        if self.depth > _MAX_NESTING:
            raise FormatError(f"{self.where}: its code nests more than {_MAX_NESTING} deep")
        made = Not(self.expression()) if self.take("not") else self.postfix()
        if self.take("if"):
            test = self.postfix()
            self.expect("else")
            made = Choice(made, test, self.expression())
        self.depth -= 1
        return made

    def postfix(self) -> Any:
        made = self.atom()
        for _ in range(_MAX_NESTING):
            if self.take("."):
                made = Attribute(made, self.kind("name"))
            elif self.take("["):
                parts = self.until("]")
                made = Subscript(made, parts[0] if len(parts) == 1 else TupleOf(parts))
            elif self.take("("):
                made = self.arguments(made)
            else:
                return made
        raise FormatError(f"{self.where}: a chain of more than {_MAX_NESTING} links in its code")

    def arguments(self, function: Any) -> Apply:
        args: list[Any] = []
        kwargs: dict[str, Any] = {}
        while not self.take(")"):
            ahead = self.tokens[self.at + 1] if self.at + 1 < len(self.tokens) else None
            if self.tokens[self.at].kind == "name" and ahead is not None and ahead.text == "=":
                name = self.kind("name")
                self.expect("=")
                kwargs[name] = self.expression()
            else:
                args.append(self.expression())
            if not self.take(","):
                self.expect(")")
                break
        return Apply(function, args, kwargs)

    def until(self, end: str) -> list[Any]:
        parts = []
        while not self.take(end):
            parts.append(self.expression())
            if not self.take(","):
                self.expect(end)
                break
        return parts

    def atom(self) -> Any:
        token = self.tokens[self.at]
        self.at += 1
        if token.kind == "name":
            return _WORDS.get(token.text) or Name(token.text)
        if token.kind == "number":
            return Constant(self.number(token.text))
        if token.kind == "string":
            return Constant(_ESCAPE.sub(_unescaped, token.text[1:-1]))
        if token.text == "-":
            self.depth += 1
            if self.depth > _MAX_NESTING:
                raise FormatError(f"{self.where}: its code nests more than {_MAX_NESTING} deep")
            made = Negative(self.postfix())
            self.depth -= 1
            return made
        if token.text == "(":
            return self.bracketed()
        if token.text == "[":
            return ListOf(self.until("]"))
        if token.text == "{":
            return self.dictionary()
        self.at -= 1
        self.fail("a value")

    def bracketed(self) -> Any:
        if self.take(")"):
            return TupleOf([])
        first = self.expression()
        if self.take(")"):
            return first
        self.expect(",")
        return TupleOf([first, *self.until(")")])

    def dictionary(self) -> DictOf:
        pairs = []
        while not self.take("}"):
            key = self.expression()
            self.expect(":")
            pairs.append((key, self.expression()))
            if not self.take(","):
                self.expect("}")
                break
        return DictOf(pairs)

    def number(self, text: str) -> int | float:
        if not text.isdecimal():
            return float(text)
        if len(text) > 20:
            self.fail("a whole number of 64 bits")
        return int(text)


#: Boxed, so that None and False are found.
_WORDS = {"True": Constant(True), "False": Constant(False), "None": Constant(None)}


def _unescaped(match: re.Match[str]) -> str:
    found = match.group(1)
    if found[0] == "x" and len(found) == 3:
        return chr(int(found[1:], 16))
    return chr(int(found, 8)) if found[0] in "01234567" else _ESCAPED.get(found, found)
