"""Old torch files, whole modules and plain pickles: what PyTorch and numpy wrote, and what was made to harm."""

from __future__ import annotations

import json
import pickle
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from crafted import MEGABYTE, checkpoint, integer, mapping, numbers, refused, storage, stream, tensor, text, write

import cgru
from cgru.cli import commands as cli
from cgru.errors import FormatError, UnsupportedError
from cgru.formats import read_file
from cgru.formats.containers import pickle_file, torch_stream

FOLDER = Path(__file__).parent / "fixtures" / "pickles"
FILES = sorted(path.name for path in FOLDER.iterdir() if path.name != "golden.npz")
MODULES = ["tagger", "chain", "dense", "lstm", "rnn"]


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    with np.load(FOLDER / "golden.npz") as file:
        return dict(file)


def told(golden: dict[str, np.ndarray], file: str) -> dict[str, np.ndarray]:
    """What the script that made ``file`` says it holds."""
    found = {name.partition(":")[2]: array for name, array in golden.items() if name.partition(":")[0] == file}
    return {name: array for name, array in found.items() if name not in ("x", "y")}


@pytest.mark.parametrize("file", FILES)
def test_every_array_is_there_by_its_name(file: str, golden: dict[str, np.ndarray]) -> None:
    found, expected = cgru.read(FOLDER / file), told(golden, file)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert found[name].dtype == values.dtype.newbyteorder("=")
        np.testing.assert_array_equal(found[name], values)
        assert not found[name].flags.writeable


@pytest.mark.parametrize("old", ["", "_old"])
@pytest.mark.parametrize("name", MODULES)
def test_a_whole_module_of_known_classes_runs(name: str, old: str, golden: dict[str, np.ndarray]) -> None:
    file = f"{name}{old}.pt"
    y = cgru.load(FOLDER / file)(golden[f"{file}:x"])
    np.testing.assert_allclose(y, golden[f"{file}:y"], rtol=0, atol=1e-6)


def test_what_a_module_tells_of_its_parts() -> None:
    modules = read_file(FOLDER / "chain.pt").modules
    assert modules[""].cls == "torch.nn.modules.container.Sequential"
    assert modules["2.1"].cls == "torch.nn.modules.activation.Tanh"
    gru = modules["4"].options
    assert (gru["input_size"], gru["hidden_size"], gru["num_layers"], gru["bidirectional"]) == (4, 3, 2, True)


@pytest.mark.parametrize("file", ["squashed.pt", "squashed_old.pt"])
def test_a_module_whose_code_places_an_activation_is_named(file: str, golden: dict[str, np.ndarray]) -> None:
    with pytest.raises(UnsupportedError, match=r"Squashed, whose forward\(\).*act \(torch\.nn\.modules\.act.*ReLU"):
        cgru.load(FOLDER / file)
    net = cgru.load(FOLDER / file, layers=["table", "gru", "head"])
    np.testing.assert_allclose(net(golden[f"{file}:x"]), golden[f"{file}:y"], rtol=0, atol=1e-6)


def test_a_module_within_a_checkpoint_is_entered(golden: dict[str, np.ndarray]) -> None:
    net = cgru.load(FOLDER / "within.pt")
    np.testing.assert_allclose(net(golden["tagger.pt:x"]), golden["tagger.pt:y"], rtol=0, atol=1e-6)


def test_the_formats_are_told_apart() -> None:
    titles = {file: cgru.formats.sniff(FOLDER / file).title for file in FILES}
    assert {title for file, title in titles.items() if file.endswith(".pkl")} == {"pickle"}
    assert {title for file, title in titles.items() if "legacy" in file or "_old" in file} == {"PyTorch before 1.6"}


# Sequentials that torch itself could not run, or that cgru does not


def module(cls: str, options: bytes = b"", parts: tuple[tuple[str, bytes], ...] = (), held: bytes = b"}") -> bytes:
    """The opcodes of a pickled module."""
    state = b"}(" + text("_parameters") + held + text("_buffers") + b"}" + text("_modules") + mapping(*parts)
    where, _, name = cls.rpartition(".")
    return b"c" + where.encode() + b"\n" + name.encode() + b"\n)\x81" + state + options + b"ub"


def linear() -> bytes:
    return module("torch.nn.modules.linear.Linear", held=mapping(("weight", tensor((2, 2), (2, 1)))))


SEQUENTIAL = "torch.nn.modules.container.Sequential"


@pytest.mark.parametrize(
    ("part", "says"),
    [
        (module("torch.nn.modules.conv.Conv1d"), r"1 is a torch\.nn\.modules\.conv\.Conv1d, which cgru does not run"),
        (module("evil.Layer"), r"1 is a evil\.Layer"),
        (module("torch.nn.modules.activation.Softmax", text("dim") + b"K\x01"), "dim=1; cgru runs dim=-1"),
        (module("torch.nn.modules.activation.ELU", text("alpha") + b"K\x02"), "alpha=2"),
    ],
)
def test_a_sequential_with_a_part_that_is_not_known(part: bytes, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, checkpoint(module(SEQUENTIAL, parts=(("0", linear()), ("1", part), ("2", linear())))))
    with refused(path, says, UnsupportedError):
        cgru.load(path)


def test_a_module_that_contains_itself(tmp_path: Path) -> None:
    program = b"c__main__\nA\n)\x81q\x07}(" + text("_parameters") + mapping(("w", tensor())) + text("_modules")
    path = write(tmp_path, checkpoint(program + mapping(("me", b"h\x07")) + b"ub"))
    with refused(path, "contains itself", FormatError):
        cgru.load(path)


def test_an_embedding_that_changes_while_it_runs(tmp_path: Path) -> None:
    held = mapping(("weight", tensor((2, 2), (2, 1))))
    program = module("torch.nn.modules.sparse.Embedding", text("max_norm") + b"K\x01", held=held)
    path = write(tmp_path, checkpoint(program))
    with refused(path, "max_norm", UnsupportedError):
        cgru.load(path)


# Streams of before 1.6, damaged and hostile

MAGIC = b"\x8a\x0a" + bytes.fromhex("6cfc9c46f9206aa85019")
WEIGHTS = mapping(("w", tensor((2, 2), (2, 1))))


def test_the_builder_makes_a_readable_stream() -> None:
    np.testing.assert_array_equal(torch_stream.read(stream(WEIGHTS)).tensors["w"], [[0, 1], [2, 3]])


@pytest.mark.parametrize("protocol", range(1, 6))
def test_a_truncated_stream(protocol: int, tmp_path: Path) -> None:
    content = (FOLDER / f"legacy{protocol}.pt").read_bytes()
    for length in range(30, len(content), 41):
        path = write(tmp_path, content[:length])
        with refused(path, error=FormatError):
            torch_stream.read(path)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (stream(WEIGHTS) + b"\0", "1 bytes after its storages"),
        (stream(WEIGHTS, [("0", 5, bytes(16))]), "0' has 5 elements where 4"),
        (stream(WEIGHTS, [("0", 4, bytes(12))]), "ends early"),
        (stream(WEIGHTS, [("0", -1, bytes(16))]), "has -1 elements"),
        (stream(WEIGHTS, [("0", 2**62, bytes(16))]), "elements where 4"),
        (stream(WEIGHTS, []), "has no storage '0'"),
        (stream(WEIGHTS, keys=b"](" + text("0") + text("0") + b"e"), "lists it twice"),
        (stream(WEIGHTS, keys=b"](" + text("9") + b"e"), "lists the storage '9'"),
        (stream(WEIGHTS, keys=b"](K\x01e"), "lists the storage 1"),
        (stream(WEIGHTS, keys=text("0")), "are no list"),
        (stream(WEIGHTS, begin=[b"K\x01", b"M\xe9\x03", b"}"]), "does not begin"),
        (stream(WEIGHTS, begin=[MAGIC, b"K\x01", b"}"]), "does not begin"),
        (stream(WEIGHTS, begin=[MAGIC, b"M\xe9\x03", b"}"]), "byte order"),
    ],
)
def test_a_damaged_stream(content: bytes, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, content)
    with refused(path, says, FormatError):
        torch_stream.read(path)


def test_one_storage_under_two_types(tmp_path: Path) -> None:
    both = mapping(("w", tensor()), ("v", tensor(held=storage(kind="IntStorage"))))
    path = write(tmp_path, stream(both))
    with refused(path, "as two different things", FormatError):
        torch_stream.read(path)


def test_a_storage_of_unknown_width(tmp_path: Path) -> None:
    path = write(tmp_path, stream(mapping(("w", tensor(held=storage(kind="QInt8Storage"))))))
    with refused(path, "size is not known", FormatError):
        torch_stream.read(path)


def test_a_first_pickle_that_never_ends(tmp_path: Path) -> None:
    path = write(tmp_path, stream(WEIGHTS, begin=[MAGIC, b"N0" * 4000]))
    with refused(path, error=FormatError, peak=MEGABYTE):
        torch_stream.read(path)


# Plain pickles, damaged and hostile


def array(
    shape: tuple[int, ...] = (2,), code: bytes = text("f4"), data: bytes = b"C\x08" + bytes(8), order: bytes = text("<")
) -> bytes:
    """The opcodes of a pickled array."""
    dtype = b"cnumpy\ndtype\n(" + code + b"\x89\x88tR(K\x03" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    made = b"cnumpy._core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tC\x01btR"
    return made + b"(K\x01" + numbers(shape) + dtype + b"\x89" + data + b"tb"


def plain(program: bytes) -> bytes:
    return b"\x80\x04" + program + b"."


def test_the_builder_makes_a_readable_array() -> None:
    assert pickle.loads(plain(array())).tolist() == [0, 0]
    np.testing.assert_array_equal(pickle_file.read(plain(mapping(("a", array())))).tensors["a"], [0, 0])
    np.testing.assert_array_equal(pickle_file.read(plain(array())).tensors["array"], [0, 0])


@pytest.mark.parametrize(
    ("program", "says"),
    [
        (array((3,)), r"of shape \[3\], has 8 bytes"),
        (array((2**61, 2**61)), "does not fit"),
        (array((0, 2**61)), "does not fit"),
        (array((-2,)), "malformed shape"),
        (array((1,) * 40), "malformed shape"),
        (array(data=b"N"), "no bytes"),
        (array(data=text("\u20ac" * 8)), "text where its bytes"),
        (array((8,), text("b1"), b"C\x08\0\1\2\0\0\0\0\0"), "boolean but holds"),
        (array(code=text("U2")), "a pickle without arrays"),
        (b"}", "a pickle without arrays"),
        (mapping(("\x1b[2J", array())), "no usable name"),
        (b"}q\x00(" + text("me") + b"h\x00" + text("a") + array() + b"u", "contains itself"),
        (mapping(("a.b", array()), ("a", mapping(("b", array())))), "two arrays are named 'a.b'"),
    ],
)
def test_a_pickle_that_is_not_what_it_says(program: bytes, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, plain(program), "hostile.pkl")
    with refused(path, says, FormatError):
        pickle_file.read(path)


def test_complex_numbers_in_a_pickle(tmp_path: Path) -> None:
    path = write(tmp_path, plain(array((1,), text("c8"))), "hostile.pkl")
    with refused(path, "dtype '<c8'", UnsupportedError):
        pickle_file.read(path)


def test_python_2_text_that_is_bytes() -> None:
    """Protocol 0 of Python 2 writes an array's bytes as a quoted string with escapes."""
    data = b"S'\\x00\\x00\\x80?\\x00\\x00\\x00@'\n"
    found = pickle_file.read(plain(mapping(("a", array(data=data))))).tensors
    np.testing.assert_array_equal(found["a"], np.frombuffer(struct.pack("<2f", 1, 2), "<f4"))
    for bad in (b"S'\\x0'\n", b"S'\n", b"Sx\n", b"V\\u12\n"):
        with pytest.raises(FormatError, match=r"malformed|quotes"):
            pickle_file.read(plain(bad))


def test_one_dict_of_arrays_doubled_thirty_times(tmp_path: Path) -> None:
    program = mapping(("a", array())) + b"q\x00"
    for level in range(30):
        below = b"h" + bytes([level])
        program += b"0" + mapping(("a", below), ("b", below)) + b"q" + bytes([level + 1])
    path = write(tmp_path, plain(program), "hostile.pkl")
    with refused(path, "more than|nests", FormatError, peak=64 * MEGABYTE):
        pickle_file.read(path)


def test_integers_of_every_width() -> None:
    assert pickle_file.read(plain(mapping(("a", array()), ("n", integer(5))))).tensors.keys() == {"a"}


def test_info_lists_what_is_read_but_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    path = str(FOLDER / "squashed.pt")
    assert cli.main(["info", path]) == 0
    text = capsys.readouterr().out
    assert re.search(r"^gru\.weight_hh_l0 +12×4 +float32 +GRU of 4$", text, re.MULTILINE)
    assert re.search(r"^head\.weight +2×4 +float32 +Linear without bias, or Embedding$", text, re.MULTILINE)
    assert "not run as it is: holds a whole __main__.Squashed" in text
    assert cli.main(["info", path, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in found["tensors"]] == list(cgru.read(path))
    assert found["tensors"][0]["shape"] == [7, 3]
    assert cli.main(["info", str(FOLDER / "arrays4.pkl")]) == 0
    assert "network.layers.0.weights" in capsys.readouterr().out
