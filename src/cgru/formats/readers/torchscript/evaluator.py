"""Follows forward() of a TorchScript module: its code as a tree, its tensors by their shapes alone.

Numbers, lists and branches on them are worked out as the code says; an operator on a tensor becomes a call of the
program. A branch on what a tensor holds cannot be followed, and is refused. Every step counts against a budget.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ....errors import FormatError, UnsupportedError
from ...containers.pickle_values import Record, describe
from ...containers.torch_script import Script, attributes_of
from ...containers.torch_tensors import Tensor as Described
from ..aten.program import Call
from . import operators, syntax
from .source import Source
from .values import (
    ClassName,
    DoesNotFit,
    Function,
    Method,
    Named,
    Object,
    Operator,
    Tensor,
    Uninitialized,
    Word,
)

_DEEPEST = 60
_ROOTS = ("torch", "ops", "__torch__")
_INSIDE = "in a TorchScript module"


class Budget:
    """Steps that are left for one file."""

    def __init__(self, steps: int) -> None:
        self.left = steps

    def spend(self, steps: int = 1) -> None:
        self.left -= steps
        if self.left < 0:
            raise UnsupportedError("its forward() takes more steps to follow than cgru goes")


class _Return(Exception):
    def __init__(self, value: Any) -> None:
        self.value = value


class Evaluator:
    """One run of one module on inputs of given shapes; ``calls`` and ``constants`` fill with the program."""

    def __init__(self, script: Script, source: Source, budget: Budget) -> None:
        self.script, self.source, self.budget = script, source, budget
        self.calls: list[Call] = []
        self.constants: dict[str, np.ndarray] = {}
        self.titles: dict[str, str] = {}
        self.was_training = False
        self._objects: dict[int, Any] = {}
        #: Parameters, buffers and constants by their titles.
        self.tensors: dict[str, Tensor] = {}
        self._frames: list[tuple[str, str]] = []
        self.root = self._value(script.root, "")

    # ---- the archive's values -------------------------------------------------------------------------------------

    def _value(self, value: Any, path: str) -> Any:
        """What stands in the archive's tree, once however often it is referred to."""
        if isinstance(value, Described):
            return self.tensor(self.script.names[id(value)])
        if isinstance(value, (bool, int, float, str, type(None))):
            return value
        known = self._objects.get(id(value))
        if known is not None:
            return known
        self.budget.spend()
        attributes = attributes_of(value)
        if attributes is not None:
            found: Any = Object(describe(value), path, attributes)
        elif isinstance(value, list):
            found = [self._value(part, f"{path}.{i}") for i, part in enumerate(value)]
        elif isinstance(value, tuple):
            found = tuple(self._value(part, f"{path}.{i}") for i, part in enumerate(value))
        elif isinstance(value, dict):
            found = {key: self._value(part, f"{path}.{key}") for key, part in value.items()}
        elif isinstance(value, Record):
            found = Word(describe(value))
        else:
            raise UnsupportedError(f"{path}: a {type(value).__name__} {_INSIDE}")
        self._objects[id(value)] = found
        return found

    def tensor(self, title: str, array: np.ndarray | None = None) -> Tensor:
        """A parameter, buffer or constant as a value of the program."""
        if title not in self.tensors:
            array = self.script.tensors[title] if array is None else array
            name = f"p_{len(self.tensors)}_{title}"
            self.constants[name], self.titles[name] = array, title
            number = array.item() if array.shape == () and array.dtype.kind in "if" else None
            kind = {"f": "f", "b": "b"}.get(array.dtype.kind, "i")
            self.tensors[title] = Tensor(name, array.shape, kind, number)
        return self.tensors[title]

    # ---- calls ----------------------------------------------------------------------------------------------------

    def forward(self) -> Method:
        assert isinstance(self.root, Object)
        return self.method(self.root, "forward")

    def run(self, given: Mapping[str, Any]) -> Any:
        """What forward() returns for these arguments."""
        return self.call(self.forward(), (), given)

    def method(self, of: Object, name: str) -> Method:
        code = self.source.klass(of.cls).methods
        # A method that is compiled for several types has a number behind it; the first is the one on tensors.
        found = code.get(name) or code.get(f"{name}__0")
        if found is None:
            raise UnsupportedError(f"{of.cls} has no {name}() in the archive")
        return Method(of, found, name)

    def call(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        if isinstance(function, Operator):
            return operators.applied(self, function, list(args), dict(kwargs))
        if isinstance(function, ClassName):
            return self._made(function.name, args, kwargs)
        if not isinstance(function, (Function, Method)):
            raise UnsupportedError("it calls something that is no function")
        if len(self._frames) >= _DEEPEST:
            raise UnsupportedError(f"its functions call each other more than {_DEEPEST} deep")
        given = [function.of, *args] if isinstance(function, Method) else list(args)
        names = self._bound(function.code, given, dict(kwargs))
        before = self._frames[-1][0] if self._frames else ""
        path = function.of.path if isinstance(function, Method) else before
        self._frames.append((path, function.name))
        try:
            self._block(function.code.body, names)
        except _Return as done:
            return done.value
        finally:
            self._frames.pop()
        return None

    def _bound(self, code: syntax.Def, args: list[Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        if len(args) > len(code.parameters):
            raise DoesNotFit(f"{code.name}() takes {len(code.parameters)} arguments, and is given {len(args)}")
        names = {parameter.name: value for parameter, value in zip(code.parameters, args, strict=False)}
        for parameter in code.parameters[len(args) :]:
            if parameter.name in kwargs:
                names[parameter.name] = kwargs.pop(parameter.name)
            elif parameter.default is not None:
                names[parameter.name] = self._of(parameter.default, {})
            elif parameter.type.startswith("Optional["):
                names[parameter.name] = None
            else:
                raise DoesNotFit(f"{code.name}() needs {parameter.name}")
        if kwargs:
            raise DoesNotFit(f"{code.name}() takes no {next(iter(kwargs))}")
        return names

    def _made(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        cls = self.source.klass(name)
        if cls.base == "NamedTuple":
            return Named(tuple(cls.fields), (*args, *(kwargs[field] for field in cls.fields[len(args) :])))
        made = Object(name, "", {}, own=False)
        if "__init__" in cls.methods:
            self.call(self.method(made, "__init__"), args, kwargs)
        return made

    # ---- statements -----------------------------------------------------------------------------------------------

    def _block(self, body: Sequence[Any], names: dict[str, Any]) -> None:
        for statement in body:
            self.budget.spend()
            _STATEMENTS[type(statement)](self, statement, names)

    def _assign(self, node: syntax.Assign, names: dict[str, Any]) -> None:
        self._put(node.target, self._of(node.value, names), names)

    def _put(self, target: Any, value: Any, names: dict[str, Any]) -> None:
        if isinstance(target, syntax.Name):
            names[target.id] = value
        elif isinstance(target, syntax.TupleOf):
            parts = list(value.values) if isinstance(value, Named) else value
            if isinstance(value, Tensor) and value.shape is None:
                raise UnsupportedError(f"{self.where()}: torch.{value.maker}: cgru does not run this operator")
            if not isinstance(parts, (list, tuple)) or len(parts) != len(target.parts):
                found = f"{len(parts)} values" if isinstance(parts, (list, tuple)) else "one value"
                raise DoesNotFit(f"{found} where {len(target.parts)} are taken")
            for part, one in zip(target.parts, parts, strict=True):
                self._put(part, one, names)
        elif isinstance(target, syntax.Attribute):
            self._set(self._of(target.of, names), target.name, value)
        else:
            raise FormatError("its code puts a value where TorchScript puts none")

    def _set(self, of: Any, name: str, value: Any) -> None:
        if not isinstance(of, Object):
            raise UnsupportedError(f"it sets {name} of something that is no module")
        if of.own:
            raise UnsupportedError(
                f"{self.where()} keeps {name} in the module from one call to the next; write forward() so that it "
                "takes its state as an input and gives it as an output, or export the part without"
            )
        of.attributes[name] = value

    def _if(self, node: syntax.If, names: dict[str, Any]) -> None:
        self._block(node.body if self._truth(self._of(node.test, names)) else node.otherwise, names)

    def _for(self, node: syntax.For, names: dict[str, Any]) -> None:
        items = self._of(node.items, names)
        if isinstance(items, int):
            items = range(items)
        if not isinstance(items, (list, tuple, range)):
            raise UnsupportedError("a loop over something that is no list")
        for item in items:
            self.budget.spend()
            self._put(node.target, item, names)
            self._block(node.body, names)

    def _while(self, node: syntax.While, names: dict[str, Any]) -> None:
        while self._truth(self._of(node.test, names)):
            self.budget.spend()
            self._block(node.body, names)

    def _return(self, node: syntax.Return, names: dict[str, Any]) -> None:
        raise _Return(None if node.value is None else self._of(node.value, names))

    def _with(self, node: syntax.With, names: dict[str, Any]) -> None:
        # no_grad and its like: what is inside computes the same.
        self._block(node.body, names)

    def _alone(self, node: syntax.Alone, names: dict[str, Any]) -> None:
        self._of(node.value, names)

    def _truth(self, value: Any) -> bool:
        value = self.number(value)
        if not isinstance(value, (bool, int, float)):
            raise UnsupportedError(f"{self.where()} branches on something that is no number")
        return bool(value)

    # ---- expressions ----------------------------------------------------------------------------------------------

    def _of(self, node: Any, names: Mapping[str, Any]) -> Any:
        self.budget.spend()
        return _EXPRESSIONS[type(node)](self, node, names)

    def _constant(self, node: syntax.Constant, names: Mapping[str, Any]) -> Any:
        return node.value

    def _name(self, node: syntax.Name, names: Mapping[str, Any]) -> Any:
        if node.id in names:
            return names[node.id]
        if node.id in _ROOTS or node.id == "CONSTANTS":
            return Operator("", node.id)
        if node.id in ("inf", "infj"):
            return float("inf")
        if node.id == "nan":
            return float("nan")
        if node.id in operators.BUILTINS:
            return Operator("builtin", node.id)
        return Word(node.id)  # a type: Tensor, int, List

    def _attribute(self, node: syntax.Attribute, names: Mapping[str, Any]) -> Any:
        return self.attribute(self._of(node.of, names), node.name)

    def attribute(self, of: Any, name: str) -> Any:
        if isinstance(of, Object):
            return self._attribute_of(of, name)
        if isinstance(of, Named):
            if name in of.fields:
                return of.values[of.fields.index(name)]
            raise FormatError(f"a tuple has no {name[:60]}")
        if isinstance(of, Operator):
            if (of.space, of.name) == ("", "CONSTANTS"):
                return self._numbered(name)
            space = f"{of.space}.{of.name}" if of.space else of.name
            if space.split(".")[0] == "__torch__":
                return self._global(f"{space}.{name}")
            return Operator(space, name)
        if isinstance(of, ClassName):
            return Operator("class " + of.name, name)
        if isinstance(of, Word):
            return Word(f"{of.text}.{name}"[:200])
        raise UnsupportedError(f"{name[:60]} of something that has no attributes")

    def _attribute_of(self, of: Object, name: str) -> Any:
        if name == "training":
            self.was_training = self.was_training or of.attributes.get(name) is True
            return False
        if name in of.attributes:
            value = of.attributes[name]
            return self._value(value, f"{of.path}.{name}".lstrip(".")) if of.own else value
        cls = self.source.klass(of.cls)
        if name in cls.values:
            return self._of(cls.values[name], {})
        return self.method(of, name)

    def _numbered(self, name: str) -> Tensor:
        if not name[1:].isdecimal() or int(name[1:]) >= len(self.script.constants):
            raise FormatError(f"its code names a constant {name[:40]}, which the archive does not hold")
        return self.tensor(f"CONSTANTS.{name}", self.script.constants[int(name[1:])])

    def _global(self, name: str) -> Any:
        """A path below ``__torch__``: a package on the way, a class, or a function."""
        try:
            found = self.source.find(name)
        except UnsupportedError:
            return Operator(*name.rsplit(".", 1))
        return ClassName(name) if isinstance(found, syntax.ClassDef) else Function(name, found)

    def _call(self, node: syntax.Apply, names: Mapping[str, Any]) -> Any:
        word = node.function.id if isinstance(node.function, syntax.Name) else ""
        if word in ("annotate", "unchecked_cast", "uninitialized"):
            # The type in front is no value.
            return Uninitialized() if word == "uninitialized" or not node.args else self._of(node.args[-1], names)
        if word == "isinstance" and len(node.args) == 2:
            return self._is_a(self._of(node.args[0], names), node.args[1])
        function = self._of(node.function, names)
        args = [self._of(arg, names) for arg in node.args]
        return self.call(function, args, {name: self._of(value, names) for name, value in node.kwargs.items()})

    def _is_a(self, value: Any, kinds: Any) -> bool:
        known = {"Tensor": Tensor, "int": int, "float": float, "bool": bool, "str": str, "List": list, "Tuple": tuple}
        said = kinds.parts if isinstance(kinds, (syntax.TupleOf, syntax.ListOf)) else [kinds]
        names = [kind.of if isinstance(kind, syntax.Subscript) else kind for kind in said]
        types = [known.get(kind.id) for kind in names if isinstance(kind, syntax.Name)]
        if len(types) != len(names) or None in types:
            raise UnsupportedError(f"{self.where()} asks for the type of a value")
        return any(isinstance(value, kind) for kind in types if kind is not None)

    def _tuple(self, node: syntax.TupleOf, names: Mapping[str, Any]) -> Any:
        return tuple(self._of(part, names) for part in node.parts)

    def _list(self, node: syntax.ListOf, names: Mapping[str, Any]) -> Any:
        return [self._of(part, names) for part in node.parts]

    def _dict(self, node: syntax.DictOf, names: Mapping[str, Any]) -> Any:
        made = {}
        for key, value in node.pairs:
            found = self._of(key, names)
            if not isinstance(found, (str, int, float, bool)):
                raise UnsupportedError("a dictionary whose keys are no words or numbers")
            made[found] = self._of(value, names)
        return made

    def _subscript(self, node: syntax.Subscript, names: Mapping[str, Any]) -> Any:
        of = self._of(node.of, names)
        if isinstance(of, Word):
            return of  # List[Tensor], a type
        at = self.number(self._of(node.at, names))
        items = of.values if isinstance(of, Named) else of
        if not isinstance(items, (list, tuple, dict, str)):
            raise UnsupportedError("an entry of something that is no list")
        try:
            return items[at]
        except (IndexError, KeyError, TypeError):
            raise DoesNotFit(f"entry {str(at)[:40]} of {len(items)}") from None

    def _negative(self, node: syntax.Negative, names: Mapping[str, Any]) -> Any:
        value = self.number(self._of(node.of, names))
        if not isinstance(value, (int, float)):
            raise FormatError("its code has a minus before something that is no number")
        return -value

    def _not(self, node: syntax.Not, names: Mapping[str, Any]) -> Any:
        return not self._truth(self._of(node.of, names))

    def _choice(self, node: syntax.Choice, names: Mapping[str, Any]) -> Any:
        return self._of(node.yes if self._truth(self._of(node.test, names)) else node.no, names)

    # ---- what operators need --------------------------------------------------------------------------------------

    def where(self) -> str:
        path, name = self._frames[-1] if self._frames else ("", "forward")
        return f"{path}.{name}()" if path else f"{name}()"

    @property
    def module(self) -> str:
        """The path of the module whose method is being followed."""
        return self._frames[-1][0] if self._frames else ""

    def number(self, value: Any) -> Any:
        """A plain value; the number of a tensor where it is known to come of sizes."""
        if isinstance(value, Tensor):
            if value.number is None:
                raise UnsupportedError(f"what {self.where()} does hangs on the numbers in a tensor")
            return value.number
        if isinstance(value, Uninitialized):
            raise FormatError("its code reads a value that was never set")
        return value


_STATEMENTS: dict[type, Callable[[Evaluator, Any, dict[str, Any]], None]] = {
    syntax.Assign: Evaluator._assign, syntax.Declare: lambda self, node, names: None, syntax.If: Evaluator._if,
    syntax.For: Evaluator._for, syntax.While: Evaluator._while, syntax.Return: Evaluator._return,
    syntax.Alone: Evaluator._alone, syntax.Pass: lambda self, node, names: None, syntax.With: Evaluator._with,
}  # fmt: skip
_EXPRESSIONS: dict[type, Callable[[Evaluator, Any, Mapping[str, Any]], Any]] = {
    syntax.Constant: Evaluator._constant, syntax.Name: Evaluator._name, syntax.Attribute: Evaluator._attribute,
    syntax.Apply: Evaluator._call, syntax.TupleOf: Evaluator._tuple, syntax.ListOf: Evaluator._list,
    syntax.DictOf: Evaluator._dict, syntax.Subscript: Evaluator._subscript, syntax.Negative: Evaluator._negative,
    syntax.Not: Evaluator._not, syntax.Choice: Evaluator._choice,
}  # fmt: skip
