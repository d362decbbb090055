"""TorchScript archives, traced, scripted and frozen: the network is the module, and what cannot be one is refused.

The fixtures come with PyTorch's outputs; modules that need PyTorch here are in test_torchscript_parity.py.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from bounded import cost, memory_bound, time_bound

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats.readers.torchscript.syntax import parsed

FOLDER = Path(__file__).parent / "fixtures" / "torchscript"
FILES = sorted(path.name for path in FOLDER.glob("*.pt"))
GOLDEN = np.load(FOLDER / "golden.npz")


def golden(file: str) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
    found = {key.split(":")[1]: GOLDEN[key] for key in GOLDEN.files if key.startswith(file + ":")}
    inputs = {key: value for key, value in found.items() if not key.startswith("y")}
    return inputs, [value for key, value in found.items() if key.startswith("y")]


@pytest.mark.parametrize("file", FILES)
def test_it_gives_the_module_s_outputs(file: str) -> None:
    inputs, outputs = golden(file)
    net = cgru.load(FOLDER / file)
    if file.startswith("spotter"):  # the module takes (B, F, T)
        inputs["x"] = inputs["x"].swapaxes(1, 2)
        assert any("(B, F, T)" in note for note in net.notes)
    y = net(inputs if len(inputs) > 1 else inputs["x"])
    found = list(y.values()) if isinstance(y, Mapping) else [y]
    for ours, theirs in zip(found, outputs, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-6)


def test_its_arrays_are_those_of_the_state_dict() -> None:
    found = cgru.read(FOLDER / "two.scripted.pt")
    assert found["tokens.weight"].shape == (11, 3)
    assert found["read.weight_ih_l0"].shape == (12, 3)
    assert not any("_flat_weights" in name for name in found)
    assert set(cgru.read(FOLDER / "two.traced.pt")) == set(found)


def test_the_arrays_of_a_frozen_module_are_the_constants_of_its_code() -> None:
    found = cgru.read(FOLDER / "spotter.frozen.pt")
    assert all(name.startswith("CONSTANTS.c") for name in found)
    assert (12, 6) in [array.shape for array in found.values()]


def test_layers_may_be_said_instead() -> None:
    tensors = cgru.read(FOLDER / "spotter.traced.pt")
    net = cgru.load(FOLDER / "spotter.traced.pt", layers=["gru", "fc", {"ignore": ["conv.*", "bn.*"]}])
    x = np.random.default_rng(0).normal(size=(2, 5, 6)).astype(np.float32)
    alone = cgru.GRU.from_torch(tensors, prefix="gru.")(x)[0] @ tensors["fc.weight"].T + tensors["fc.bias"]
    np.testing.assert_allclose(net(x), alone, atol=1e-6)


def test_inputs_says_a_shape_and_an_unknown_name_is_refused() -> None:
    file = FOLDER / "loop.scripted.pt"
    (x, y) = (golden(file.name)[0]["x"], golden(file.name)[1][0])
    np.testing.assert_allclose(cgru.load(file, inputs={"x": (None, None, 3)})(x), y, atol=2e-6)
    with pytest.raises(CgruError, match=r"forward\(\) takes x, and no 'z'"):
        cgru.load(file, inputs={"z": 3})
    with pytest.raises(UnsupportedError, match="its weights suggest none"):
        cgru.load(file, inputs={"x": (None, None, 4)})


# ---- archives whose code is another -------------------------------------------------------------------------------

_HEAD = "class Loop(Module):\n  def forward(self: X,\n    x: Tensor) -> Tensor:\n"


def _with_code(body: str, head: str = _HEAD) -> bytes:
    """loop.scripted.pt with another class in it."""
    out = io.BytesIO()
    with zipfile.ZipFile(FOLDER / "loop.scripted.pt") as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            content = source.read(item)
            if b"class Loop(" in content:
                lines = "".join(f"    {line}\n" for line in body.splitlines())
                content = (head + lines).encode()
            target.writestr(zipfile.ZipInfo(item.filename, (1980, 1, 1, 0, 0, 0)), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


_LINEAR = "fc = self.cell\ny = torch.linear(x, self.cell.weight_ih, None)\n"

_TENSOR_IF = "if bool(torch.gt(torch.sum(y), 0)):\n  z = y\nelse:\n  z = x\nreturn z"
_SHARED = "a = [1]\nb = [1]\nfor i in range(60):\n  a = [a, a]\n  b = [b, b]\nz = torch.eq(a, b)\nreturn y"


def _sixty_times(start: str, step: str) -> str:
    return f"{_LINEAR}a = {start}\nfor i in range(60):\n  a = {step}\nreturn y"


#: What is wrong with the body of forward(), and a word of what is said of it.
REFUSED = {
    "a branch on numbers": (_LINEAR + _TENSOR_IF, "hangs on the numbers in a tensor"),
    "a size as a factor": (_LINEAR + "return torch.mul(y, torch.size(x, 1))", "the number of rows or frames"),
    "rows as a factor": (_LINEAR + "return torch.div(y, torch.size(x, 0))", "the number of rows or frames"),
    "a state in the module": (_LINEAR + "self.training = True\nreturn y", "keeps training in the module"),
    "an operator of its own": ("return ops.mine.shuffle(x)", "an operator of its own"),
    "an operator that is not known": (_LINEAR + "return torch.fft_rfft(y)", "cgru does not run this operator"),
    "an exception": ('ops.prim.RaiseException("no", "builtins.ValueError")\nreturn x', "raises no"),
    "a class that is missing": ("return __torch__.a.B.f(x)", "operator of its own"),
    "a constant that is missing": ("return torch.add(x, CONSTANTS.c7)", "a constant c7"),
    "an endless loop": (_LINEAR + "i = 0\nwhile True:\n  i = torch.add(i, 1)\nreturn y", "more steps to follow"),
    "a long loop": (_LINEAR + "for i in range(1000000000):\n  pass\nreturn y", "more steps to follow"),
    "a list that doubles": (_sixty_times("[1]", "torch.add(a, a)"), "too many entries"),
    "a text that doubles": (_sixty_times('"a"', "torch.add(a, a)"), "too many entries"),
    "lists that share": (_LINEAR + _SHARED, "lists three deep"),
    "a number that squares": (_sixty_times("7", "torch.mul(a, a)"), "more than 64 bits"),
    "arguments left out": (_LINEAR + "return torch._convolution(y, y, None)", "_convolution does not take"),
    "a power": (_LINEAR + "a = torch.pow(9, 999999999)\nreturn y", "pow does not take its arguments"),
    "a tensor that fills memory": (_LINEAR + "return torch.add(y, torch.zeros([100000, 100000]))", "of shape"),
    "a range that fills memory": (_LINEAR + "return torch.add(y, torch.arange(0, 100000000000))", "of shape"),
    "a function that calls itself": ("return (self).forward(x, )", "call each other more than"),
    "a format of attributes": (_LINEAR + 'return torch.add(y, torch.format("{0.__class__}", self))', "'{0.__class__}'"),
    "an attribute of Python": ("return self.__class__", "__class__"),
    "no method forward": ("return x", "has no forward"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_by_name_within_bounds(what: str) -> None:
    body, says = REFUSED[what]
    head = _HEAD.replace("forward", "backward") if what.startswith("no method") else _HEAD
    content = _with_code(body, head)
    found = cost(lambda: cgru.load(content), limit=4 * time_bound(len(content)))
    assert found.ended in ("UnsupportedError", "FormatError"), (found.ended, found.message)
    assert says in found.message
    assert found.seconds < time_bound(len(content))
    assert found.grew < memory_bound(len(content))


def test_code_that_is_changed_is_what_runs() -> None:
    """The helper above makes archives that load: what is refused there is refused for its body."""
    net = cgru.load(_with_code(_LINEAR + "return torch.tanh(y)"))
    x = np.random.default_rng(1).normal(size=(2, 4, 3)).astype(np.float32)
    weight = cgru.read(FOLDER / "loop.scripted.pt")["cell.weight_ih"]
    np.testing.assert_allclose(net(x), np.tanh(x @ weight.T), atol=1e-6)


@pytest.mark.parametrize(
    "text",
    [
        "import os\n",
        "open('marker', 'w')\n",
        "def f(x):\n  return x + 1\n",
        "def f(x):\n  return [y for y in x]\n",
        "def f(x):\n  return lambda: x\n",
        "def f(x):\n\treturn x\n",
        "def f(x):\n  return x\n    return x\n",
        "def f(x:\n",
        "def f(x):\n  return " + "(" * 200 + "x" + ")" * 200 + "\n",
        "def f(x):\n  return x" + ".a" * 5000 + "\n",
        "def f(x):\n  return " + "-" * 5000 + "x\n",
        "def f(x):\n  return " + "not " * 5000 + "x\n",
        "def f(x):\n  return 1" + "0" * 5000 + "\n",
        "".join(" " * i + "if x:\n" for i in range(300)),
        "def f(x):\n  return \"" + "a" * 100 + "\n",
        "@property\ndef f(x):\n  pass\n",
        "class A(B):\n  def f(x):\n    yield x\n",
        "\0",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_torchscript_is_not_written_in_is_refused(text: str) -> None:
    with pytest.raises(FormatError, match="code of m"):
        parsed(text, "code of m")


def test_more_words_than_code_has_are_refused() -> None:
    with pytest.raises(FormatError, match="200000 words"):
        parsed("def f(x):\n" + "  y = x\n" * 100_000, "code of m")


def test_a_root_that_is_no_class_of_the_archive_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(FOLDER / "loop.scripted.pt") as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            target.writestr(item.filename, source.read(item).replace(b"c__torch__\n", b"c__touch__\n"))
    with pytest.raises(FormatError, match="expected a module"):
        cgru.load(out.getvalue())


def test_code_that_inflates_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(FOLDER / "loop.scripted.pt") as source, zipfile.ZipFile(out, "w") as target:
        for item in source.infolist():
            target.writestr(item.filename, source.read(item))
        target.writestr("archive/code/__torch__/big.py", b"#" * 3_000_000, zipfile.ZIP_DEFLATED)
        target.writestr("loop/code/__torch__/big.py", b"#" * 3_000_000, zipfile.ZIP_DEFLATED)
    with pytest.raises(FormatError, match="bytes of code"):
        cgru.load(out.getvalue())


def test_an_archive_of_2019_is_refused() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as target:
        for name in ("m/data.pkl", "m/constants.pkl", "m/model.json"):
            target.writestr(name, b"\x80\x02N.")
    with pytest.raises(UnsupportedError, match=r"before PyTorch 1\.4"):
        cgru.load(out.getvalue())
