"""``cgru.load`` and ``cgru.read``: what a file is, is told by its content; everything else is said plainly."""

from __future__ import annotations

import io
import os
import pickle
import stat
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest

import cgru
from cgru.errors import CgruError, FormatError, UnsupportedError
from cgru.formats import FORMATS, load, read, read_file, sniff
from cgru.formats.containers import safetensors

FIXTURES = Path(__file__).parent / "fixtures"
TORCH = FIXTURES / "torch"
CONTAINERS = FIXTURES / "containers"


def tensors() -> dict[str, np.ndarray]:
    return read(TORCH / "tagger.pt")


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """One network in every container that holds tensors, each under a name that says nothing."""
    made = {name: tmp_path / f"{name}.dat" for name in ("torch", "npz", "safetensors", "cgru")}
    made["torch"].write_bytes((TORCH / "tagger.pt").read_bytes())
    with made["npz"].open("wb") as file:
        np.savez(file, **tensors())  # type: ignore[arg-type]
    safetensors.write(made["safetensors"], tensors())
    load(TORCH / "tagger.pt").save(tmp_path / "net.safetensors")
    (tmp_path / "net.safetensors").rename(made["cgru"])
    return made


# Which format ---------------------------------------------------------------------------------------------


def test_the_content_decides_not_the_name(files: dict[str, Path]) -> None:
    found = {name: sniff(path).title for name, path in files.items()}
    assert found == {"torch": "PyTorch", "npz": "npz", "safetensors": "safetensors", "cgru": "cgru"}


def test_one_network_gives_the_same_bits_from_every_container(files: dict[str, Path]) -> None:
    golden = np.load(TORCH / "golden.npz")
    x, h0 = golden["tagger:x"], golden["tagger:h0"]
    results = {name: load(path).run(x, {"rnn.h": h0})[0].tobytes() for name, path in files.items()}
    assert len(set(results.values())) == 1


def test_bytes_are_read_as_the_file_they_came_from(files: dict[str, Path]) -> None:
    for path in files.values():
        assert str(load(path.read_bytes())) == str(load(path))


def test_read_gives_every_array_by_its_name(files: dict[str, Path]) -> None:
    expected = tensors()
    assert "rnn.weight_hh_l0_reverse" in expected
    for path in files.values():
        found = read(path)
        assert found.keys() == expected.keys()
        for name, array in found.items():
            assert array.dtype == np.float32
            assert np.array_equal(array, expected[name])
            assert not array.flags.writeable


def test_read_file_tells_the_aliases_and_the_metadata(files: dict[str, Path]) -> None:
    assert read_file(TORCH / "tied.pt").aliases == {"head.weight": "embed.weight"}
    assert read_file(files["cgru"]).metadata["format"] == "cgru"


def test_the_keras_layers_are_loaded_by_the_same_door() -> None:
    found = sorted((FIXTURES / "keras").glob("*.keras")) if (FIXTURES / "keras").exists() else []
    if not found:
        pytest.skip("tests/fixtures/keras holds no .keras file")
    assert sniff(found[0]).title == "Keras"
    assert read(found[0])


def test_layers_and_prefix_reach_the_inference(files: dict[str, Path]) -> None:
    net = load(files["npz"], layers=["embed", "rnn", "last_state", {"dense": "head", "activation": "softmax"}])
    assert net(np.zeros((2, 3), np.int64)).sum(axis=-1) == pytest.approx([1, 1], abs=1e-6)
    assert load(files["torch"], prefix="rnn").input_size == 7


def test_layers_are_refused_where_the_file_says_them(files: dict[str, Path]) -> None:
    for options in ({"layers": ["rnn"]}, {"prefix": "rnn"}):
        with pytest.raises(CgruError, match="says its own layers"):
            load(files["cgru"], **options)


def test_backend_is_handed_on() -> None:
    assert load(TORCH / "tagger.pt", backend="reference").backends == ["reference"] * 3
    with pytest.raises(UnsupportedError, match="backend='gpu'"):
        load(TORCH / "tagger.pt", backend="gpu")


def test_layers_that_do_not_fit_together_are_refused_by_the_files_name(files: dict[str, Path]) -> None:
    with pytest.raises(CgruError, match=r"torch\.dat: embed: an embedding .* can only come first"):
        load(files["torch"], layers=["rnn", "embed", "head"])


def test_nan_weights_are_loaded(tmp_path: Path) -> None:
    arrays = {name: np.full_like(array, np.nan) for name, array in tensors().items()}
    safetensors.write(tmp_path / "nan.safetensors", arrays)
    assert np.isnan(load(tmp_path / "nan.safetensors")(np.zeros((1, 2), np.int64))).all()


def test_loading_writes_nothing_and_changes_no_file(files: dict[str, Path]) -> None:
    folder = files["torch"].parent
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    for path in files.values():
        path.chmod(stat.S_IRUSR)
        load(path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_file_may_be_replaced_while_its_network_is_in_use(files: dict[str, Path]) -> None:
    net = load(files["cgru"])
    x = np.array([[1, 2, 3]])
    before = net(x)
    other = files["cgru"].with_name("other.safetensors")
    cgru.Model([cgru.Dense(np.ones((2, 3)))]).save(other)
    other.rename(files["cgru"])
    assert np.array_equal(net(x), before)


# What cannot be loaded ------------------------------------------------------------------------------------


def refused(path: Path | bytes, error: type[CgruError], says: str) -> None:
    shown = "<bytes>" if isinstance(path, bytes) else str(path)
    for function in (load, read):
        with pytest.raises(error) as caught:
            function(path)
        message = str(caught.value)
        assert message.startswith(f"{shown}: ")
        assert says in message
        assert "\n" not in message


def test_a_missing_file(tmp_path: Path) -> None:
    refused(tmp_path / "model.pt", FormatError, "No such file")


def test_a_directory(tmp_path: Path) -> None:
    refused(tmp_path, FormatError, "is a directory")


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "model.pt").touch()
    refused(tmp_path / "model.pt", FormatError, "is empty")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no named pipes")
    os.mkfifo(tmp_path / "model.pt")
    refused(tmp_path / "model.pt", FormatError, "pipe or device")


def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes((TORCH / "tagger.pt").read_bytes())
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read every file")
    refused(path, FormatError, "Permission denied")


def test_a_path_with_a_zero_byte() -> None:
    with pytest.raises(FormatError, match="no zero bytes"):
        load("model\0.pt")


@pytest.mark.parametrize("path", [None, 3, ["model.pt"], np.zeros(3, np.uint8)])
def test_what_is_no_path(path: object) -> None:
    with pytest.raises(CgruError, match="path: expected a path"):
        load(path)  # type: ignore[arg-type]


def test_unknown_content(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"\xff\xfe\xfd\xfc" * 100)
    refused(path, FormatError, "of unknown kind")
    refused(b"x", FormatError, "of unknown kind")


def test_text(tmp_path: Path) -> None:
    refused(b"version https://git-lfs.github.com/spec/v1\noid sha256:0", FormatError, "of unknown kind")


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "nothing")
    refused(path, UnsupportedError, "without a model file")


def test_a_tar_archive(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    with tarfile.open(path, "w") as archive:
        archive.add(TORCH / "tagger.pt", "tagger.pt")
    assert read(path).keys() == tensors().keys()


def test_a_truncated_file_of_every_kind(files: dict[str, Path]) -> None:
    for name, path in files.items():
        content = path.read_bytes()
        for keep in (10, 40, len(content) // 2, len(content) - 1):
            path.write_bytes(content[:keep])
            with pytest.raises(CgruError, match=rf"{name}\.dat: "):
                load(path)


def test_a_bare_scripted_gru_is_that_gru() -> None:
    net, x = cgru.load(CONTAINERS / "torchscript.pt"), np.random.default_rng(3).normal(size=(2, 5, 2)).astype("f4")
    out, h_n = cgru.GRU.from_torch(cgru.read(CONTAINERS / "torchscript.pt"))(x)
    np.testing.assert_array_equal(net(x), out)
    assert h_n.shape == (1, 2, 2)


def test_an_export_without_its_program_gives_its_arrays_alone() -> None:
    assert cgru.read(CONTAINERS / "exported.pt2")["weight"].shape == (1, 2)
    with pytest.raises(FormatError, match=r"exported\.pt2: .*is not valid JSON"):
        cgru.load(CONTAINERS / "exported.pt2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"config": {}}'.encode("utf-16-le"), "is not valid JSON"),
        (b'{"config": "\xff"}', "is not text in UTF-8"),
        (b'{"config": ' + b"9" * 41 + b"}", "holds the number 9999"),
        (b'{"config": ' + b"[" * 101 + b"]" * 101 + b"}", "nests more than 100 levels"),
        (b'{"config": [' + b"{}," * 900_000 + b"{}]}", "holds more values"),
    ],
    ids=["utf-16", "no text", "endless", "deep", "many"],
)
def test_an_export_whose_json_is_not_as_it_should_be_is_refused(content: bytes, message: str) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(CONTAINERS / "exported.pt2") as old, zipfile.ZipFile(made, "w") as new:
        for name in old.namelist():
            new.writestr(name, content if name.endswith("weights_config.json") else old.read(name))
    with pytest.raises(FormatError, match=rf"weights_config\.json:? {message}"):
        cgru.read(made.getvalue())


def test_a_pickle_without_arrays_is_refused() -> None:
    refused(pickle.dumps({"weight": "none"}), FormatError, "a pickle without arrays")


def test_json_without_weights_is_refused() -> None:
    refused(b'{\n  "in_shape": [null, null, 1], "layers": [], "activation": "tanh"}', UnsupportedError, "without")


def test_weights_of_keras_alone_do_not_make_a_network() -> None:
    with pytest.raises(UnsupportedError, match=r"weights\.h5"):
        load(FIXTURES / "keras" / "gru_after.weights.h5")


def test_every_line_of_the_table_is_either_read_or_explained() -> None:
    for entry in FORMATS:
        assert entry.module or entry.instead
        assert all(extension.startswith(".") for extension in entry.extensions)
