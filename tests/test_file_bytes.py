"""How a file is opened: every way to name it, and what happens when it changes under the reader."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import cgru
from cgru.errors import CgruError, FormatError
from cgru.formats.containers import file_bytes

FIXTURES = Path(__file__).parent / "fixtures"
FILES = {
    "pt": FIXTURES / "torch" / "tagger.pt",
    "npz": FIXTURES / "golden" / "one.npz",
    "safetensors": FIXTURES / "containers" / "library.safetensors",
    "keras": FIXTURES / "keras" / "gru_after.keras",
    "h5": FIXTURES / "keras" / "gru_after.h5",
}


def big(folder: Path) -> Path:
    """A native network of several pages: a Dense of 256 by 256."""
    path = folder / "net.safetensors"
    cgru.Model([cgru.Dense(np.random.default_rng(1).standard_normal((256, 256)))]).save(path)
    return path


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_every_way_to_give_a_file(path: Path) -> None:
    content, expected = path.read_bytes(), cgru.read(path)
    assert same(cgru.read(str(path)), expected)
    for given in (content, bytearray(content), memoryview(content), memoryview(bytearray(content))):
        assert same(cgru.read(given), expected)
    for stream in (io.BytesIO(content), io.BufferedReader(io.BytesIO(content))):
        assert same(cgru.read(stream), expected)
    with path.open("rb") as file:
        assert same(cgru.read(file), expected)
    with path.open("rb", buffering=0) as file:
        assert same(cgru.read(file), expected)


def test_an_open_file_is_read_from_where_it_stands() -> None:
    content = FILES["pt"].read_bytes()
    file = io.BytesIO(b"header" + content)
    file.seek(6)
    assert same(cgru.read(file), cgru.read(content))


def test_errors_name_an_open_file(tmp_path: Path) -> None:
    path = tmp_path / "broken.pt"
    path.write_bytes(b"nothing")
    with path.open("rb") as file, pytest.raises(FormatError, match=r"broken\.pt: of unknown kind"):
        cgru.load(file)
    with path.open("r") as text, pytest.raises(CgruError, match="open it with mode 'rb'"):
        cgru.load(text)  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="<open file>: "):
        cgru.load(io.BytesIO(b"nothing"))


def test_what_the_caller_does_to_a_buffer_changes_nothing() -> None:
    content = bytearray(FILES["safetensors"].read_bytes())
    found = cgru.read(content)
    before = {name: values.copy() for name, values in found.items()}
    content[:] = b"\xff" * len(content)
    assert same(found, before)


@pytest.mark.parametrize("change", ["truncate", "rewrite"])
def test_a_file_that_changes_after_loading_changes_nothing(change: str, tmp_path: Path) -> None:
    """In a process of its own: a mapped file would end it with SIGBUS."""
    path = big(tmp_path)
    code = f"""
import os, sys, numpy, cgru
path = sys.argv[1]
x = numpy.ones((3, 256), numpy.float32)
expected = cgru.load(path)(x)
net, arrays = cgru.load(path), cgru.read(path)
size = os.path.getsize(path)
if {change!r} == "truncate":
    os.truncate(path, 100)
else:
    with open(path, "r+b") as file:
        file.write(bytes(size))
assert (net(x) == expected).all()
assert all(numpy.isfinite(values).all() and values.any() for values in arrays.values())
"""
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("size", [0, 100, 300_000])
@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_a_file_that_changes_while_it_is_read_is_refused(
    path: Path, size: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    allocate = file_bytes._aligned

    def changing(wanted: int) -> memoryview:
        """Between the look at its size and the reading, another program writes."""
        os.truncate(copy, size)
        return allocate(wanted)

    monkeypatch.setattr(file_bytes, "_aligned", changing)
    for function in (cgru.load, cgru.read):
        copy.write_bytes(path.read_bytes())
        with pytest.raises(FormatError, match=f"{path.name}: changed while it was read"):
            function(copy)


def test_mapping_is_asked_for(tmp_path: Path) -> None:
    path = big(tmp_path)
    mapped, copied = cgru.read(path, mmap=True), cgru.read(path)
    x = np.ones((3, 256), np.float32)
    assert np.array_equal(cgru.load(path, mmap=True)(x), cgru.load(path)(x))
    (name, values), *_ = copied.items()
    before = values.copy()
    with path.open("r+b") as file:
        file.seek(-256 * 256 * 4, os.SEEK_END)
        file.write(np.full(256 * 256, 7, np.float32).tobytes())
    assert np.array_equal(copied[name], before)
    assert (mapped[name] == 7).all()


@pytest.mark.parametrize("name", ["pt", "npz", "keras", "h5"])
def test_other_formats_are_never_mapped(name: str) -> None:
    for function in (cgru.load, cgru.read):
        with pytest.raises(CgruError, match=r"mmap: only \.safetensors files are mapped"):
            function(FILES[name], mmap=True)


def test_only_a_path_can_be_mapped() -> None:
    with pytest.raises(CgruError, match="mmap: only a file given by its path"):
        cgru.load(FILES["safetensors"].read_bytes(), mmap=True)
