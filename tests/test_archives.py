"""A model file inside an archive, folders of arrays, and a SavedModel: opened, or refused by name and within bounds."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bounded import assert_bounded, cost, time_bound
from crafted import MEGABYTE, refused, stream, write, zipped

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError

FIXTURES = Path(__file__).parent / "fixtures"
MODEL = FIXTURES / "torch" / "tagger.pt"
KINDS = {
    "pt": MODEL,
    "old": FIXTURES / "pickles" / "legacy2.pt",
    "npz": FIXTURES / "containers" / "stored.npz",
    "safetensors": FIXTURES / "containers" / "library.safetensors",
    "h5": FIXTURES / "keras" / "gru_after.h5",
    "keras": FIXTURES / "keras" / "gru_after.keras",
    "pkl": FIXTURES / "pickles" / "arrays4.pkl",
}


def tarred(files: dict[str, bytes], form: int = tarfile.USTAR_FORMAT, mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("path", KINDS.values(), ids=KINDS)
def test_the_one_model_in_an_archive(path: Path) -> None:
    content, expected = path.read_bytes(), cgru.read(path)
    files = {"README.md": b"hello", f"export/{path.name}": content, f"export/._{path.name}": b"junk"}
    for form in (tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        assert same(cgru.read(tarred(files, form)), expected)
        assert same(cgru.read(tarred({"a" * 90 + "/" + "b" * 70 + path.name: content}, form)), expected)
    assert same(cgru.read(tarred(files, mode="w:gz")), expected)
    assert same(cgru.read(gzip.compress(content)), expected)
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        assert same(cgru.read(zipped(list(files.items()), method)), expected)


def test_a_network_in_an_archive_runs(tmp_path: Path) -> None:
    path = write(tmp_path, tarred({"m.pt": MODEL.read_bytes()}, mode="w:gz"), "model.pth.tar")
    x = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(cgru.load(path)(x), cgru.load(MODEL)(x))


TWO = {"a.pt": MODEL.read_bytes(), "b/c.npz": b"x", "d.txt": b"y"}
NONE = {"a.txt": b"x", "b/config.json": b"{}"}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (tarred(TWO), r"2 model files, a\.pt, b/c\.npz; take the one that is meant"),
        (tarred(TWO, mode="w:gz"), r"2 model files, a\.pt, b/c\.npz"),
        (zipped(list(TWO.items())), r"2 model files, a\.pt, b/c\.npz"),
        (tarred(NONE), r"without a model file.*holds a\.txt, b/config\.json"),
        (zipped(list(NONE.items())), r"without a model file.*holds a\.txt, b/config\.json"),
        (tarred({f"{i}.pt": b"" for i in range(2000)}), r"2000 model files.*and 1,\d+ more"),
        (tarred(dict.fromkeys(("sys_info", "pickle", "tensors", "storages"), b"x")), r"before 0\.1\.10"),
    ],
)
def test_archives_that_leave_a_choice_are_named(content: bytes, says: str, tmp_path: Path) -> None:
    path = write(tmp_path, content, "archive")
    with refused(path, says, UnsupportedError):
        cgru.load(path)


def test_a_link_in_a_tar_is_no_file(tmp_path: Path) -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        entry = tarfile.TarInfo("model.pt")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(MODEL)
        archive.addfile(entry)
    path = write(tmp_path, out.getvalue(), "archive.tar")
    with refused(path, "without a model file", UnsupportedError):
        cgru.load(path)


def test_truncated_archives(tmp_path: Path) -> None:
    for content in (tarred({"m.pt": MODEL.read_bytes()}), tarred({"m.pt": MODEL.read_bytes()}, mode="w:gz")):
        for length in range(20, len(content) - 12_000 if content[:2] != b"\x1f\x8b" else len(content), 97):
            path = write(tmp_path, content[:length], "cut.tar")
            with refused(path):
                cgru.read(path)


@pytest.mark.parametrize(
    ("at", "change", "says"),
    [
        (124, b"zzzzzzzzzzz", "header at byte 0 is damaged"),
        (0, b"other", "header at byte 0 is damaged"),
        (148, b"000000\0 ", "header at byte 0 is damaged"),
    ],
)
def test_a_damaged_tar(at: int, change: bytes, says: str, tmp_path: Path) -> None:
    content = bytearray(tarred({"m.pt": MODEL.read_bytes()}))
    content[at : at + len(change)] = change
    path = write(tmp_path, bytes(content), "damaged.tar")
    with refused(path, says, FormatError):
        cgru.read(path)


def test_two_members_of_one_name(tmp_path: Path) -> None:
    one = tarred({"m.pt": MODEL.read_bytes()})
    end = one.rstrip(b"\0")
    body = one[: -(-len(end) // 512) * 512]
    path = write(tmp_path, body + one, "twice.tar")
    with refused(path, "two tar members named 'm.pt'", FormatError):
        cgru.read(path)


def test_gzip_bombs(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress(bytes(40 * MEGABYTE)), "bomb.gz")
    with refused(path, "out of proportion", FormatError, peak=40 * MEGABYTE):
        cgru.read(path)
    path = write(tmp_path, gzip.compress(MODEL.read_bytes()) + b"tail", "tail.gz")
    with refused(path, "goes on after its end", FormatError):
        cgru.read(path)


@pytest.mark.parametrize("wrap", [gzip.compress, lambda inner: zipped([("m.npz", inner)], zipfile.ZIP_DEFLATED)])
def test_a_bomb_within_an_archive(wrap, tmp_path: Path) -> None:
    """Each layer alone is within proportion; together they are not."""
    header = io.BytesIO()
    np.lib.format.write_array(header, np.zeros(10 * MEGABYTE, np.float32))
    inner = zipped([(f"{i}.npy", header.getvalue()) for i in range(12)], zipfile.ZIP_DEFLATED)
    path = write(tmp_path, wrap(inner), "bomb")
    assert len(path.read_bytes()) * 100 < 12 * 40 * MEGABYTE
    with refused(path, "zip bomb", FormatError, peak=120 * MEGABYTE):
        cgru.read(path)


@pytest.mark.parametrize("make", [lambda program: b"\x80\x04" + program + b".", stream])
def test_a_pickle_bomb_within_gzip(make) -> None:
    content = gzip.compress(make(b"}" * 3_900_000))
    found = cost(lambda: cgru.read(content), limit=10)
    if found.seconds > time_bound(len(content)):
        found = cost(lambda: cgru.read(content), limit=10)
    assert found.ended == "FormatError"
    assert_bounded(found, len(content))


def test_a_large_header_within_gzip(tmp_path: Path) -> None:
    header = b'{"a":[' + b"{}," * 5_000_000 + b"0]}"
    path = write(tmp_path, gzip.compress(len(header).to_bytes(8, "little") + header), "header.gz")
    with refused(path, "declares a header of 15000009 bytes", FormatError, peak=64 * MEGABYTE):
        cgru.read(path)


# Folders


def test_a_folder_of_arrays(tmp_path: Path) -> None:
    arrays = {name: np.random.default_rng(1).standard_normal(shape) for name, shape in (("b.w", (2, 3)), ("a", (4,)))}
    for name, values in arrays.items():
        np.save(tmp_path / f"{name}.npy", values)
    (tmp_path / "notes.txt").write_text("fine")
    assert same(cgru.read(tmp_path), {"a": arrays["a"], "b.w": arrays["b.w"]})
    assert same(cgru.read(str(tmp_path)), {"a": arrays["a"], "b.w": arrays["b.w"]})


def test_a_network_in_a_folder_of_arrays(tmp_path: Path) -> None:
    for name, values in cgru.read(MODEL).items():
        np.save(tmp_path / f"{name}.npy", values)
    names = list(dict.fromkeys(name.partition(".")[0] for name in cgru.read(MODEL)))
    net = cgru.load(tmp_path, layers=names)
    x = np.array([[1, 2, 3]])
    np.testing.assert_array_equal(net(x), cgru.load(MODEL, layers=names)(x))


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.npy", b"nothing", "does not begin as a .npy"),
        ("a.npy", b"", "does not begin as a .npy"),
        ("a.txt", b"x", "a folder of .npy files"),
    ],
)
def test_a_folder_that_is_none(name: str, content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=says):
        cgru.read(tmp_path)


def test_a_saved_model_is_recognised(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\x08\x01")
    (tmp_path / "variables").mkdir()
    for function in (cgru.load, cgru.read):
        with pytest.raises(UnsupportedError, match=r"a TensorFlow SavedModel.*save\('model\.keras'\).*np\.savez"):
            function(tmp_path)


def test_archives_and_folders_are_never_mapped(tmp_path: Path) -> None:
    path = write(tmp_path, gzip.compress((FIXTURES / "containers" / "library.safetensors").read_bytes()), "m.gz")
    with pytest.raises(CgruError, match=r"mmap|unknown kind"):
        cgru.read(path, mmap=True)
