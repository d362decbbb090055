"""Every public signature, every parameter, a table of odd values: a result, or a CgruError; no other exception.

The signatures are read from the package, so a new function, method or parameter is walked as soon as it is public; one
with a required parameter of a new name wants a line in ARGUMENTS.
"""

from __future__ import annotations

import contextlib
import inspect
import io
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru
from cgru import CgruError
from cgru.cli.commands import main
from cgru.layers import GENERATED_LAYERS, LAYERS
from cgru.reports import comparison, speed

X = np.random.default_rng(0).standard_normal((2, 3, 4)).astype(np.float32)
HIDDEN = 5


class Contrary:
    """Refuses whatever Python asks of it but its name."""

    def refuse(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no")

    __array__ = __bool__ = __eq__ = __float__ = __fspath__ = __getitem__ = __hash__ = __index__ = __int__ = refuse
    __iter__ = __len__ = refuse


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no")


#: What somebody may pass by mistake, by a name for the message.
ODD: dict[str, Any] = {
    "None": None, "True": True, "zero": 0, "minus one": -1, "one": 1, "seven": 7, "2^31": 2**31, "2^63": 2**63,
    "2^100": 2**100, "10^5000": 10**5000, "half": 0.5, "nan": float("nan"), "inf": float("inf"), "1e300": 1e300,
    "1j": 1j, "empty str": "", "str": "oddly", "str with zero": "a\0b", "surrogate": "\udc80",
    "long str": "o" * 5000, "star": "*", "empty bytes": b"", "bytes": b"\xff\x00", "bytearray": bytearray(3),
    "memoryview": memoryview(b"abc"), "empty list": [], "list": [1], "nested": [[1.0, 2.0], [3.0, 4.0]],
    "ragged": [[1], [1, 2]], "list of str": ["a", "b"], "list of None": [None, None], "list of dict": [{"a": 1}],
    "list of odd": [Unprintable()], "empty tuple": (), "tuple": (1, 2), "pair of arrays": (X, X), "empty dict": {},
    "dict": {"a": 1}, "dict of int": {1: 2}, "dict of None": {"gru": None, "weight_ih_l0": None},
    "dict of str": {"weight_ih_l0": "x"}, "set": {1}, "range": range(3), "generator": lambda: None, "type": int,
    "object": object(), "contrary": Contrary(), "unprintable": Unprintable(), "module": np, "slice": slice(None),
    "ellipsis": ..., "0-d": np.array(1.0), "0-d int": np.array(3), "empty array": np.zeros(0, np.float32),
    "1-d": np.ones(4, np.float32), "2-d": np.ones((3, 4)), "3-d": X, "6-d": np.ones((1,) * 6),
    "no rows": np.zeros((0, 3, 4), np.float32), "no steps": np.zeros((2, 0, 4), np.float32),
    "no features": np.zeros((2, 3, 0), np.float32), "ints": np.ones((2, 3), int),
    "uint64": np.full((2, 3), 2**64 - 1, np.uint64), "negative": np.array([-1, -2]), "bools": np.ones((2, 3), bool),
    "complex": np.ones(3, complex), "objects": np.array([None, {}], object), "strs": np.array(["a", "b"]),
    "dates": np.array(["2020-01-01"], "M8[D]"), "structured": np.zeros(2, "f4,i4"),
    "nans": np.full((2, 3, 4), np.nan), "beyond": np.full((2, 3, 4), 1e300), "masked": np.ma.masked_greater(X, 0),
    "matrix": np.asmatrix(np.ones((2, 2))), "half floats": X.astype(np.float16),
    "read-only": np.broadcast_to(np.float32(1), (2, 3, 4)), "swapped": X.astype(">f4"),
}  # fmt: skip


def weights(gates: int) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "w_ih": rng.standard_normal((gates * HIDDEN, 4)), "w_hh": rng.standard_normal((gates * HIDDEN, HIDDEN)),
        "b_ih": rng.standard_normal(gates * HIDDEN), "b_hh": rng.standard_normal(gates * HIDDEN),
    }  # fmt: skip


def recurrent(kind: type[Any]) -> Any:
    given = weights(len(kind.GATES))
    if kind is cgru.MinGRU:
        given["w_hh"] = given["b_hh"] = None
    return kind.from_arrays(**given)


def dense(inputs: int = HIDDEN, outputs: int = 4) -> cgru.Dense:
    return cgru.Dense(np.ones((outputs, inputs)), np.ones(outputs))


GRU = recurrent(cgru.GRU)
NET = cgru.Model([GRU, dense()])
IDS = cgru.Model([cgru.Embedding(np.ones((6, 4))), GRU])
BLAS = cgru.Model([GRU], backend="reference")
SPEAKER = cgru.Model([cgru.Embedding(np.ones((6, 4))), GRU, dense(outputs=6)])


def opened(net: cgru.Model) -> Any:
    pool = net.pool(3)
    pool.sid = pool.open()  # type: ignore[attr-defined]
    return pool


#: Objects whose public methods are walked, made anew for each call.
OBJECTS: dict[str, Callable[[], Any]] = {
    "Model": lambda: NET,
    "Model of ids": lambda: IDS,
    "State": lambda: NET.run(X)[1],
    "Stream": lambda: NET.stream(2),
    "Stream of one": lambda: NET.stream(),
    "Stream of ids": lambda: IDS.stream(),
    "Stream of the reference": lambda: BLAS.stream(),
    "Pool": lambda: opened(NET),
    "Pool of ids": lambda: opened(IDS),
    "Pool of the reference": lambda: opened(BLAS),
    "Comparison": lambda: cgru.compare(NET, NET, X),
    "Config": cgru.show_config,
    **{kind.__name__: partial(recurrent, kind) for kind in LAYERS.values() if hasattr(kind, "GATES")},
    "Dense": dense,
    "Embedding": lambda: cgru.Embedding(np.ones((6, 4))),
    "Activation": lambda: cgru.Activation("relu"),
    "Masking": cgru.Masking,
}

#: Classes whose constructors and class methods are walked.
CLASSES = {name: getattr(cgru, name) for name in sorted({*cgru.__all__, *GENERATED_LAYERS})}
CLASSES = {
    name: value
    for name, value in CLASSES.items()
    if inspect.isclass(value) and not issubclass(value, BaseException) and name not in ("Comparison", "Difference")
}

#: Parts between the layers of the package that are public by name, but no caller's: what files and backends use.
INNER = {"from_parts", "holding", "renamed", "scans", "state_blocks", "place", "layout", "options"}


def base(where: str, owner: Any, name: str) -> Any:
    """A right argument for a required parameter."""
    kind = owner if inspect.isclass(owner) else type(owner)
    gates = len(getattr(kind, "GATES", "abc"))
    given = weights(gates)
    torch = {f"{stem.replace('w_', 'weight_').replace('b_', 'bias_')}_l0": array for stem, array in given.items()}
    if kind is cgru.MinGRU:
        torch = {key: value for key, value in torch.items() if "hh" not in key}
    ids = " of ids" in where
    table: dict[str, Any] = {
        "x": X[0, :1] if "Pool" in where else X[:, 0] if where == "Stream.step" else X[0, 0] if ".step" in where else X,
        "chunk": X if where.startswith("Stream.") else X[0],
        "arrays": torch,
        "tensors": torch,
        "mean": np.zeros(4),
        "variance": np.ones(4),
        "weight": np.ones({"Conv1d": (3, 4, 2), "LayerNorm": 4, "RMSNorm": 4}.get(kind.__name__, (3, 4))),
        "depthwise": np.ones((4, 1, 2)),
        "pointwise": np.ones((3, 4, 1)),
        "weights": [given["w_ih"].T, given["w_hh"].T] if gates > 1 else [],
        "matrices": {gate: np.ones((HIDDEN, HIDDEN + 4)) for gate in getattr(kind, "GATES", ())},
        "w_ih": given["w_ih"],
        "activation": "relu",
        "layer": "relu",
        "kernel": np.ones((4 + HIDDEN, 4 * HIDDEN)),
        "gate_kernel": np.ones((4 + HIDDEN, 2 * HIDDEN)),
        "gate_bias": np.ones(2 * HIDDEN),
        "candidate_kernel": np.ones((4 + HIDDEN, HIDDEN)),
        "candidate_bias": np.ones(HIDDEN),
        "name": "x",
        "layers": [GRU, dense()],
        "layout": NET._layout,
        "data": NET._layout.zeros(2),
        "batch": 2,
        "capacity": 3,
        "precision": "int8",
        "path": "net.safetensors",
        "net": SPEAKER if where in ("greedy", "beam", "sample") else NET,
        "dataset": list(X),
        "other": NET,
        "y": NET(X),
        "module": torch,
        "model": object(),
        "sid": getattr(owner, "sid", 1),
        "sids": [getattr(owner, "sid", 1)],
        "blob": b"",
        "start": 0,
        "max_steps": 2,
        "k": 2,
        "history": X,
        "steps": 2,
        "scores": X,
        "tokens": np.array([1]),
    }
    if ids:
        table["x"] = {"Pool": np.array([2]), "Stream": np.array([2])}.get(where.split()[0], np.ones((2, 3), int))
        table["chunk"] = np.array([1, 2])
    assert name in table, f"{where}: a required parameter {name!r}; give ARGUMENTS a right value for it"
    return table[name]


def given_back(value: Any) -> Any:
    return value


def public(value: Any) -> Iterator[str]:
    for name in dir(value):
        if (not name.startswith("_") or name == "__call__") and name not in INNER:
            static = inspect.getattr_static(value, name)
            if not isinstance(static, property) and callable(getattr(value, name)):
                yield name


def signatures() -> Iterator[tuple[str, Callable[[], Any], str]]:
    """For each public call: where it is, what makes the object it belongs to, and its name there."""
    for name in cgru.__all__:
        if inspect.isfunction(getattr(cgru, name)):
            yield name, lambda: cgru, name
    for name, cls in CLASSES.items():
        yield f"{name}()", partial(given_back, cls), ""
        for method in public(cls):
            if isinstance(inspect.getattr_static(cls, method), (classmethod, staticmethod)):
                yield f"{name}.{method}", partial(given_back, cls), method
    for name, make in OBJECTS.items():
        value = make()
        for method in public(value):
            if not isinstance(inspect.getattr_static(value, method), (classmethod, staticmethod)):
                yield f"{name}.{method}", make, method


CALLS = {where: (make, name) for where, make, name in signatures()}


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names of files are looked for, and written, in a directory of its own, and nothing is timed for long."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(comparison, "SECONDS", 0.0)
    monkeypatch.setattr(speed, "SECONDS", 0.0)
    NET.save("net.safetensors")


def attempt(call: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException | None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            call(*args, **kwargs)
        except CgruError as error:
            return None if 0 < len(str(error)) <= 2000 else AssertionError(f"a message of {len(str(error))} characters")
        except BaseException as error:
            return error
    return None


@pytest.mark.parametrize("where", CALLS)
def test_odd_values(where: str) -> None:
    make, name = CALLS[where]

    def target() -> tuple[Any, Any]:
        owner = make()
        return owner, getattr(owner, name) if name else owner

    owner, call = target()
    parameters = {
        key: each
        for key, each in inspect.signature(call).parameters.items()
        if each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL)
    }
    if "options" in inspect.signature(call).parameters:  # the constructor's, which it hands on
        given = () if where.endswith("()") else ("bidirectional", "num_layers")  # they follow from the arrays
        every = inspect.signature(cgru.layers.Recurrent.__init__).parameters
        parameters |= {key: each for key, each in every.items() if each.kind is each.KEYWORD_ONLY and key not in given}
    required = [key for key, each in parameters.items() if each.default is each.empty]
    failures = []
    for parameter in parameters:
        for title, value in ODD.items():
            owner, call = target()
            arguments = {key: base(where, owner, key) for key in required} | {parameter: value}
            error = attempt(call, **arguments)
            if error is not None:
                failures.append(f"{parameter}={title}: {type(error).__name__}: {str(error)[:100]}")
    assert not failures, f"{where}: {len(failures)} others than CgruError\n" + "\n".join(failures)


# ---- the command line -----------------------------------------------------------------------------------------------

COMMANDS = {
    "info": ["FILE"], "run": ["FILE", "INPUT"], "convert": ["FILE", "out.safetensors"],
    "compare": ["FILE", "FILE", "INPUT"], "gates": ["FILE", "INPUT"], "bench": ["FILE"], "config": [],
    "verify": ["FILE", "io.npz"],
}  # fmt: skip
WORDS = [
    "", "-", "--", "-1", "0", "1e999", "9" * 50, "oddly", "net.safetensors", "x.npy", "missing.npy", ".", "/",
    "o" * 5000, "--json", "--threads", "--threads=0", "--threads=many", "--row=99", "--row=x",
    "--layers=[", "--layers=[1]", "--layers=a,b", "--prefix=x", "--precision=int3", "--layer=x", "--layer=x=int8",
    "--streams=0", "--nothing", "-o", "-o=", "-o/no/such.npy", "-o=x.xyz", "--stream", "--check=x",
]  # fmt: skip


@pytest.mark.parametrize("command", [*COMMANDS, "", "nothing", "--version"])
def test_the_command_line(command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command with a word too many, and with each of its words exchanged: one line says why."""
    np.save("x.npy", X)
    np.savez("io.npz", x=X, y=NET(X))
    right = [{"FILE": "net.safetensors", "INPUT": "x.npy"}.get(word, word) for word in COMMANDS.get(command, [])]
    lines = [[command, *right, word] for word in WORDS]
    lines += [[command, *right[:at], word, *right[at + 1 :]] for word in WORDS for at in range(len(right))]
    for line in lines:
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"1,2\n")))
        with contextlib.suppress(SystemExit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.redirect_stdout(io.TextIOWrapper(io.BytesIO(), "utf-8")):
                assert main(line) in (0, 1, 2), line
        said = capsys.readouterr().err
        assert "Traceback" not in said, line
        assert "Error: " not in said, (line, said)  # a kind of error before the message is one that nobody foresaw
        assert len(said) <= 2300, line


# ---- errors that are something else as well -------------------------------------------------------------------------


def test_errors_have_the_kinds_that_python_has_for_them() -> None:
    for call in (lambda: cgru.load("no.pt"), lambda: cgru.read("no.pt"), lambda: NET.save("no/net.safetensors")):
        with pytest.raises(FileNotFoundError, match=r"no.*No such file") as caught:
            call()
        assert isinstance(caught.value, cgru.FormatError)
    wrong: Any = cgru.load
    for other in (lambda: wrong(3), lambda: NET.stream(wrong), lambda: cgru.Dense(X[0], name=wrong)):
        with pytest.raises(TypeError) as refused:
            other()
        assert isinstance(refused.value, CgruError)
    with pytest.raises(MemoryError) as large:
        NET.stream(2**62)
    assert isinstance(large.value, CgruError)


def test_the_traceback_of_a_missing_file_is_short_and_single() -> None:
    code = "import cgru\ncgru.load('no.pt')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.count("Traceback") == 1
    assert len(done.stderr.splitlines()) <= 12
    assert done.stderr.splitlines()[-1].endswith("no.pt: cannot be read: No such file or directory")
