"""The command line as a shell sees it: status, standard output, one line of complaint."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shlex
import subprocess
import sys
import wave
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cgru
from cgru.cli import commands as cli
from cgru.cli import files as cli_files
from cgru.cli import running
from cgru.reports import speed

CGRU = [sys.executable, "-m", "cgru"]


def call(*arguments: object, data: bytes | None = None, **options: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*CGRU, *map(str, arguments)], input=data, capture_output=True, timeout=60, check=False, **options
    )


def succeed(*arguments: object, data: bytes | None = None) -> bytes:
    done = call(*arguments, data=data)
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def complain(capfd: pytest.CaptureFixture[str], *arguments: object, data: bytes = b"") -> str:
    """The one line of a call that fails: status 2, nothing on standard output. Runs in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
        try:
            status: object = cli.main([str(argument) for argument in arguments])
        except SystemExit as left:
            status = left.code
    out, err = capfd.readouterr()
    assert (status, out) == (2, "")
    assert err.startswith("cgru: ")
    assert err.count("\n") == 1
    return err


def network(inputs: int, outputs: int, **options: Any) -> cgru.Model:
    rng = np.random.default_rng(7)
    h = 6
    arrays = [rng.normal(0, 0.4, shape).astype("f4") for shape in ((3 * h, inputs), (3 * h, h), (3 * h,), (3 * h,))]
    dense = cgru.Dense(rng.normal(size=(outputs, h)).astype("f4"), rng.normal(size=outputs).astype("f4"))
    return cgru.Model([cgru.GRU.from_arrays(*arrays, **options), dense])


@pytest.fixture(scope="module")
def net() -> cgru.Model:
    return network(3, 2)


@pytest.fixture(scope="module")
def file(net: cgru.Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "net.safetensors"
    net.save(path)
    return path


@pytest.fixture(scope="module")
def audio_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli") / "audio.safetensors"
    network(1, 1).save(path)
    return path


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).standard_normal((9, 3)).astype("f4")


def test_info_shows_layers_sizes_and_kind(net: cgru.Model, file: Path) -> None:
    text = succeed("info", file).decode()
    assert str(net) in text
    assert text.startswith(f"{file}: cgru, {os.path.getsize(file):,} bytes\n")
    assert "warning" not in text


def test_info_as_json(net: cgru.Model, file: Path) -> None:
    found = json.loads(succeed("info", file, "--json"))
    assert (found["input_size"], found["output_size"], found["parameters"]) == (3, 2, net.parameters)
    assert [layer["kind"] for layer in found["layers"]] == ["gru", "dense"]
    assert found["layers"][0]["options"]["reset"] == "after"
    assert found["not_finite"] == {}


def test_info_says_which_weights_are_not_finite(tmp_path: Path) -> None:
    weight = np.ones((2, 3), np.float32)
    weight[0, 1], weight[1, 2] = np.nan, np.inf
    cgru.Model([cgru.Dense(weight)]).save(tmp_path / "nan.safetensors")
    assert "warning: dense.weight has 2 weights that are NaN" in succeed("info", tmp_path / "nan.safetensors").decode()
    found = json.loads(succeed("info", tmp_path / "nan.safetensors", "--json"))
    assert found["not_finite"] == {"dense.weight": 2}


def test_layers_and_prefix_reach_the_loader(tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    tensors = {f"{net}.fc.weight": rng.standard_normal((2, 3)).astype("f4") for net in ("encoder", "decoder")}
    np.savez(tmp_path / "two.npz", **tensors)  # type: ignore[arg-type]
    np.save(tmp_path / "x.npy", x)
    options = ("--prefix", "encoder", "--layers", '[{"dense": "fc"}, "relu"]')
    text = succeed("run", tmp_path / "two.npz", tmp_path / "x.npy", *options, "-o", tmp_path / "y.npy")
    assert text == b""
    expected = np.maximum(x @ tensors["encoder.fc.weight"].T, 0)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), expected, rtol=0, atol=1e-6)
    assert "decoder.fc.weight" in complain(capfd, "run", tmp_path / "two.npz", tmp_path / "x.npy")
    assert "decoder.fc.weight  2×3" in succeed("info", tmp_path / "two.npz").decode()


@pytest.mark.parametrize("kind", ["npy", "npz", "csv"])
def test_run_reads_and_writes(kind: str, net: cgru.Model, file: Path, x: np.ndarray, tmp_path: Path) -> None:
    source, target = tmp_path / f"x.{kind}", tmp_path / f"y.{kind}"
    if kind == "npy":
        np.save(source, x)
    elif kind == "npz":
        np.savez(source, x=x)
    else:
        source.write_text("a,b,c\n" + "".join(",".join(map(repr, row)) + "\n" for row in x.tolist()))
    assert succeed("run", file, source, "-o", target, "--threads", "1") == b""
    y: Any = np.loadtxt(target, delimiter=",") if kind == "csv" else np.load(target)
    np.testing.assert_allclose(y["y"] if kind == "npz" else y, net(x), rtol=0, atol=1e-6)


def test_npz_carries_lengths_and_mask(net: cgru.Model, file: Path, tmp_path: Path) -> None:
    x = np.random.default_rng(1).standard_normal((3, 5, 3)).astype("f4")
    lengths, mask = np.array([5, 0, 2]), np.array([[1, 0, 1, 1, 0]] * 3, bool)
    np.savez(tmp_path / "lengths.npz", x=x, lengths=lengths)
    np.savez(tmp_path / "mask.npz", x=x, mask=mask)
    succeed("run", file, tmp_path / "lengths.npz", "-o", tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), net(x, lengths))
    succeed("run", file, tmp_path / "mask.npz", "-o", tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), net(x, mask=mask))


def test_npy_through_a_pipe(net: cgru.Model, file: Path, x: np.ndarray) -> None:
    stream = io.BytesIO()
    np.save(stream, np.stack([x, -x]))
    y = np.load(io.BytesIO(succeed("run", file, "-", data=stream.getvalue())))
    assert np.array_equal(y, net(np.stack([x, -x])))


def test_csv_through_a_pipe(net: cgru.Model, file: Path, x: np.ndarray) -> None:
    text = "\n".join(",".join(map(repr, row)) for row in x.tolist())
    y = np.loadtxt(io.BytesIO(succeed("run", file, "-", data=text.encode())), delimiter=",")
    # Nine digits say which float32 it is.
    assert np.array_equal(y.astype("f4"), net(x))


def test_csv_of_token_ids(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    table = np.arange(12, dtype="f4").reshape(4, 3)
    cgru.Model([cgru.Embedding(table)]).save(tmp_path / "ids.safetensors")
    y = np.loadtxt(io.BytesIO(succeed("run", tmp_path / "ids.safetensors", "-", data=b"2,0,3\n")), delimiter=",")
    assert np.array_equal(y, table[[2, 0, 3]])
    assert "whole number" in complain(capfd, "run", tmp_path / "ids.safetensors", "-", data=b"2,0.5,3\n")


def test_run_as_json(net: cgru.Model, file: Path, x: np.ndarray, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    found = json.loads(succeed("run", file, tmp_path / "x.npy", "--json"))
    assert (found["input_shape"], found["output_shapes"]) == ([9, 3], [[9, 2]])
    assert np.array_equal(np.array(found["y"][0], "f4"), net(x))
    found = json.loads(succeed("run", file, tmp_path / "x.npy", "--json", "-o", tmp_path / "y.npy"))
    assert found["output"] == str(tmp_path / "y.npy")
    assert np.array_equal(np.load(tmp_path / "y.npy"), net(x))


def test_json_writes_null_for_what_is_no_number(file: Path, x: np.ndarray, tmp_path: Path) -> None:
    x[4, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    y = json.loads(succeed("run", file, tmp_path / "x.npy", "--json"))["y"][0]
    assert None not in y[3]
    assert y[4] == [None, None]


def test_many_rows_run_in_parts(net: cgru.Model, file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rows = 2 * running.ROWS + 3
    x = np.random.default_rng(2).standard_normal((rows, 4, 3)).astype("f4")
    lengths = np.arange(rows) % 5
    np.savez(tmp_path / "x.npz", x=x, lengths=lengths)
    succeed("run", file, tmp_path / "x.npz", "-o", tmp_path / "y.npy")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), net(x, lengths), rtol=0, atol=1e-6)
    np.savez(tmp_path / "x.npz", x=x, lengths=lengths[:-1])
    assert "lengths" in complain(capfd, "run", file, tmp_path / "x.npz", "-o", tmp_path / "y.npy")


def test_both_directions_unmerged_need_npz(tmp_path: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(4)
    w_ih, w_hh = (list(rng.normal(0, 0.4, shape).astype("f4")) for shape in ((2, 12, 3), (2, 12, 4)))
    both = cgru.Model([cgru.GRU.from_arrays(w_ih, w_hh, bidirectional=True, merge_mode=None)])
    both.save(tmp_path / "both.safetensors")
    np.save(tmp_path / "x.npy", x)
    assert ".npz" in complain(capfd, "run", tmp_path / "both.safetensors", tmp_path / "x.npy")
    succeed("run", tmp_path / "both.safetensors", tmp_path / "x.npy", "-o", tmp_path / "y.npz")
    found, expected = np.load(tmp_path / "y.npz"), both(x)
    assert all(np.array_equal(found[f"y_{i}"], part) for i, part in enumerate(expected))


# ---- audio ------------------------------------------------------------------------------------------------


def wav(samples: np.ndarray, width: int, rate: int = 16000) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(samples.shape[1])
        file.setsampwidth(width)
        file.setframerate(rate)
        file.writeframes(samples.tobytes())
    return stream.getvalue()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("channels", [1, 2])
def test_wav_samples(width: int, channels: int, tmp_path: Path) -> None:
    bits = 8 * width
    integers = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (11, channels))
    integers[0], integers[1] = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    stored = (integers + 128).astype("u1") if width == 1 else integers.astype("<i4")
    samples = stored if width == 1 else np.ascontiguousarray(stored).view("u1").reshape(11, channels, 4)[..., :width]
    (tmp_path / "x.wav").write_bytes(wav(samples, width, 44100))
    found = cli_files.read_input(str(tmp_path / "x.wav"), ids=False, features=channels)
    assert found.rate == 44100
    assert found.x.shape == (11, channels)
    np.testing.assert_allclose(found.x, integers / 2.0 ** (bits - 1), rtol=0, atol=2**-24)


def test_wav_in_and_out(audio_file: Path, tmp_path: Path) -> None:
    samples = (np.sin(np.arange(400) / 9) * 20000).astype("<i2")[:, None]
    (tmp_path / "x.wav").write_bytes(wav(samples, 2))
    succeed("run", audio_file, tmp_path / "x.wav", "-o", tmp_path / "y.wav")
    found = cli_files.read_input(str(tmp_path / "y.wav"), ids=False, features=1)
    assert found.rate == 16000
    assert np.array_equal(found.x, cgru.load(audio_file)((samples / 32768).astype("f4")))


def test_wav_needs_a_rate(audio_file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros(5, "f4"))
    assert "sampling rate" in complain(capfd, "run", audio_file, tmp_path / "x.npy", "-o", tmp_path / "y.wav")


# ---- what is wrong is said in one line --------------------------------------------------------------------

ONE = np.array([[0.5, 1, 2]], "f4")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "standard input: is empty"),
        (b"a,b,c\n", "no numbers"),
        (b"1,2,3\n1,2\n", "line 2 has 2 columns"),
        (b"1,2,3\n1,,3\n", "line 2, column 2: expected a number, found ''"),
        (b"\xff\xfe\x00\x01", "comma-separated"),
        (b"1,2,3,4\n", "3 features"),
        (npy(ONE)[:-3], "no readable .npy"),
        (npy(ONE)[:20], "no readable .npy"),
        (npy(np.array([{}])), "no readable .npy"),
        (npy(np.zeros((1, 2, 3, 4), "f4")), "axes"),
        (npy(np.array([[1, 2, 3]])), "float32"),
        (b"PK\x03\x04" + bytes(40), "standard input"),
        (b"RIFF\0\0\0\0WAVE", "no WAVE audio"),
        (b"RIFF\0\0\0\0WAVEfmt \x10\0\0\0" + bytes(16) + b"data\0\0\0\0", "WAVE format 0"),
    ],
)
def test_input_that_cannot_be_used(data: bytes, expected: str, file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert expected in complain(capfd, "run", file, "-", data=data)


def test_npz_with_unknown_arrays(file: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    np.savez(tmp_path / "x.npz", a=ONE, b=ONE)
    assert "found a, b" in complain(capfd, "run", file, tmp_path / "x.npz")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "COMMAND"),
        (["dance"], "dance"),
        (["info"], "FILE"),
        (["info", "nowhere.pt"], "nowhere.pt"),
        (["run", "NET", "nowhere.npy"], "nowhere.npy: No such file"),
        (["run", "NET", "x.npy", "--threads", "0"], "'0'"),
        (["run", "NET", "x.npy", "--threads", "99999999999"], "cgru: threads: expected at most"),
        (["run", "NET", "narrow.npy"], "narrow.npy: x: the network takes"),
        (["run", "NET", "x.npy", "-o", "y.dat"], "y.dat"),
        (["run", "NET", "x.npy", "-o", "nowhere/y.npy"], "nowhere/y.npy: No such file"),
        (["convert", "NET", "out.pt"], "out.pt"),
        (["convert", "NET", "nowhere/out.safetensors"], "nowhere/out.safetensors"),
        (["convert", "NET", "out.safetensors", "--precision", "int4"], "--precision"),
        (["convert", "NET", "out.safetensors", "--layer", "gru"], "expected NAME=PRECISION, found 'gru'"),
        (["convert", "NET", "out.safetensors", "--layer", "gru=int4"], "gru: 'int4' is no precision"),
        (["convert", "NET", "out.safetensors", "--layer", "rnn=int8"], "there are gru, dense"),
        (["compare", "NET", "NET", "nowhere.npy"], "nowhere.npy"),
        (["compare", "NET", "nowhere.pt", "x.npy"], "nowhere.pt"),
        (["info", "NET", "--layers", "rnn"], "layers="),
        (["info", "NET", "--entry", "encode"], "holds one network"),
        (["info", "NET", "--suggest", "--entry", "encode"], "--suggest goes with --prefix and --json alone"),
        (["run", "NET", "x.npy", "--column", "id"], "--column belongs to a .parquet or .arrow file"),
        (["run", "NET", "x.npy", "--output-column", "y"], "--output-column belongs to"),
        (["run", "NET", "x.npy", "-o", "y.npy", "--format", "csv"], "--format belongs to a folder of outputs"),
        (["verify", "NET", "x.npy"], "x.npy: expected x and y (with lengths or mask, if any), found no .npz"),
        (["info", "NET", "--layers", "[rnn"], "JSON"),
    ],
)
def test_what_a_user_gets_wrong(
    arguments: list[str],
    expected: str,
    file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("x.npy", ONE)
    np.save("narrow.npy", ONE[..., :1])
    line = complain(capfd, *(str(file) if argument == "NET" else argument for argument in arguments))
    assert expected in line
    assert sorted(os.listdir()) == ["narrow.npy", "x.npy"]


def test_a_traceback_only_when_asked_for() -> None:
    for arguments in (["--debug", "info", "nowhere.pt"], ["info", "nowhere.pt", "--debug"]):
        done = call(*arguments)
        assert done.returncode != 0
        assert b"Traceback" in done.stderr
    done = call("info", "nowhere.pt")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode().startswith("cgru: nowhere.pt: ")
    assert done.stderr.count(b"\n") == 1


def test_an_error_of_cgru_itself_is_one_line_too(
    file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fall(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("first line\nsecond line")

    monkeypatch.setattr(cgru, "load", fall)
    assert "RuntimeError: first line second line" in complain(capfd, "info", file)


@pytest.mark.skipif(os.name != "posix", reason="the shell of this system closes no streams")
def test_closed_streams(file: Path, tmp_path: Path) -> None:
    """A program may be started without standard input or output; only one that wants it must complain."""
    np.save(tmp_path / "x.npy", ONE)

    def without(redirection: str, *arguments: str) -> tuple[int, str]:
        command = shlex.join([*CGRU, *arguments]) + redirection
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.returncode, done.stderr

    assert without(" <&-", "run", str(file), "-") == (2, "cgru: standard input is closed; name a file instead of -\n")
    assert without(" >&-", "run", str(file), "x.npy") == (2, "cgru: standard output is closed; name a file with -o\n")
    assert without(" <&- >&-", "run", str(file), "x.npy", "-o", "y.npy") == (0, "")
    assert (tmp_path / "y.npy").exists()


def test_an_interrupt(file: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cgru, "load", interrupt)
    assert complain(capfd, "info", file) == "cgru: interrupted\n"


def test_a_reader_that_has_had_enough(file: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((8, 50000, 3), "f4"))  # more than any pipe holds
    with subprocess.Popen(
        [*CGRU, "run", file, tmp_path / "x.npy"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(60) == 0


# ---- the rest ---------------------------------------------------------------------------------------------


def test_convert_keeps_the_bits(tmp_path: Path, net: cgru.Model, file: Path, x: np.ndarray) -> None:
    text = succeed("convert", file, tmp_path / "copy.safetensors").decode()
    assert re.fullmatch(r".*copy\.safetensors: [\d,]+ bytes\n", text)
    assert np.array_equal(cgru.load(tmp_path / "copy.safetensors")(x), net(x))


def test_convert_never_replaces_what_it_converts(
    tmp_path: Path, net: cgru.Model, capfd: pytest.CaptureFixture[str]
) -> None:
    path, other = tmp_path / "net.safetensors", tmp_path / "link.safetensors"
    net.save(path)
    before = path.read_bytes()
    other.symlink_to(path)
    for name in (path, other, tmp_path / "." / "net.safetensors"):
        line = complain(capfd, "convert", path, name, "--precision", "int8")
        assert "is the file to convert, which would be lost; give another name" in line
    assert path.read_bytes() == before


def test_a_row_of_one_sequence_is_refused(
    tmp_path: Path, file: Path, x: np.ndarray, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    np.save(tmp_path / "x.npy", x)
    line = complain(capfd, "gates", file, tmp_path / "x.npy", "-o", tmp_path / "g.png", "--row", "99")
    assert "--row 99" in line
    assert "holds one sequence; leave --row away" in line
    np.save(tmp_path / "x.npy", np.stack([x, x]))
    assert "rows 0 to 1" in complain(capfd, "gates", file, tmp_path / "x.npy", "-o", tmp_path / "g.png", "--row", "99")
    assert not (tmp_path / "g.png").exists()


def test_convert_reduces_precision(tmp_path: Path, net: cgru.Model, file: Path, x: np.ndarray) -> None:
    small = tmp_path / "small.safetensors"
    succeed("convert", file, small, "--precision", "int8")
    assert np.array_equal(cgru.load(small)(x), net.quantize("int8")(x))
    succeed("convert", file, small, "--precision", "bf16", "--layer", "dense=int8x16")
    assert [layer.precision for layer in cgru.load(small).layers] == ["bf16", "int8x16"]
    succeed("convert", file, small, "--layer", "dense=fp16", "--layer", "gru=int8")
    assert [layer.precision for layer in cgru.load(small).layers] == ["int8", "fp16"]
    assert "int8, fp16" in succeed("info", small).decode()
    found = json.loads(succeed("info", small, "--json"))
    assert found["precision"] == "int8, fp16"
    assert [layer["precision"] for layer in found["layers"]] == ["int8", "fp16"]


def test_an_unnamed_layer_keeps_its_precision(tmp_path: Path, file: Path) -> None:
    succeed("convert", file, tmp_path / "small.safetensors", "--layer", "gru=int8")
    assert [layer.precision for layer in cgru.load(tmp_path / "small.safetensors").layers] == ["int8", "float32"]


def test_compare_prints_and_gives_json(tmp_path: Path, net: cgru.Model, file: Path, x: np.ndarray) -> None:
    small, given = tmp_path / "small.safetensors", tmp_path / "x.npy"
    net.quantize("int8").save(small)
    np.save(given, x)
    text = succeed("compare", file, small, given).decode()
    assert re.search(r"^dense +[\d.e-]+ +[\d.e-]+ +[\d.e-]+$", text, re.MULTILINE)
    assert "second, int8" in text
    found = json.loads(succeed("compare", file, small, given, "--json"))
    expected = np.abs(net(x) - net.quantize("int8")(x)).max()
    assert found["output"]["max_abs"] == pytest.approx(expected)
    assert (found["first"]["file"], found["second"]["file"]) == (str(file), str(small))
    assert (found["first"]["precision"], found["second"]["precision"]) == ("float32", "int8")
    assert found["second"]["microseconds"] > 0


def test_compare_takes_foreign_files_and_lengths(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(5)
    tensors: dict[str, Any] = {"a.fc.weight": rng.standard_normal((2, 3)).astype("f4")}
    np.savez(tmp_path / "net.npz", **tensors)
    x = rng.standard_normal((2, 5, 3)).astype("f4")
    np.savez(tmp_path / "x.npz", x=x, lengths=[5, 2])
    options = ("--prefix", "a", "--layers", '[{"dense": "fc"}]')
    succeed("convert", tmp_path / "net.npz", tmp_path / "small.safetensors", *options, "--precision", "bf16")
    files = (tmp_path / "net.npz", tmp_path / "small.safetensors", tmp_path / "x.npz")
    found = json.loads(succeed("compare", *files, *options, "--json"))
    full, reduced = cgru.load(files[0], prefix="a", layers=[{"dense": "fc"}]), cgru.load(files[1])
    apart = np.abs(full(x) - reduced(x))
    assert found["output"]["mean_abs"] == pytest.approx(np.concatenate([apart[0], apart[1, :2]]).mean())
    cgru.Model([cgru.Dense(np.ones((2, 4)))]).save(tmp_path / "other.safetensors")
    text = complain(capfd, "compare", *files[:1], tmp_path / "other.safetensors", files[2], *options)
    assert "layer 0 of the networks differs" in text


def test_demo_passes_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    from cgru import demo

    seen: list[dict[str, Any]] = []
    monkeypatch.setattr(demo, "run", lambda **options: seen.append(options))
    assert cli.main(["demo"]) == cli.main(["demo", "--plot", "a.png", "--json"]) == 0
    assert seen == [{"plot": None, "json": False}, {"plot": "a.png", "json": True}]


def test_config_and_version() -> None:
    found = json.loads(succeed("config", "--json"))
    assert found["version"] == cgru.__version__
    assert set(found["backends"]) == {"packed", "blas", "reference"}
    assert found["backends"]["reference"] is None
    assert str(cgru.show_config()) == succeed("config").decode().rstrip("\n")
    assert succeed("--version").decode() == f"cgru {cgru.__version__}\n"


def test_config_finds_scipy_without_importing_it() -> None:
    code = "import sys, cgru; cgru.show_config(); print('scipy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"False\n"


def test_the_bar_is_for_terminals_and_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(running.time, "monotonic", lambda: float(next(clock)))
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal, os.fdopen(ours, "rb", buffering=0) as screen:
        monkeypatch.setattr(sys, "stderr", terminal)
        assert list(running.progress("abcd")) == ["a", "b", "c", "d"]
        drawn = screen.read(1000).decode()
    assert "50 %" in drawn
    assert " 0 %" not in drawn, "drawn before two seconds had passed"
    monkeypatch.setattr(sys, "stderr", plain := io.StringIO())
    assert list(running.progress("abcd")) == ["a", "b", "c", "d"]
    assert plain.getvalue() == ""


# ---- streams and speed --------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(9, 4), (3, 9, 4)])
def test_run_as_a_stream_gives_the_same_bits(tmp_path: Path, shape: tuple[int, ...]) -> None:
    net = network(4, 2)
    net.save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", np.random.default_rng(3).normal(size=shape).astype("f4"))
    for name, extra in (("whole.npy", ()), ("stream.npy", ("--stream",))):
        succeed("run", tmp_path / "net.safetensors", tmp_path / "x.npy", "-o", tmp_path / name, *extra)
    np.testing.assert_array_equal(np.load(tmp_path / "stream.npy"), np.load(tmp_path / "whole.npy"))


def test_run_as_a_stream_gives_the_last_output_alone(tmp_path: Path) -> None:
    gru = network(4, 2).layers[0]
    last = cgru.GRU(gru.arrays(), return_sequences=False)
    cgru.Model([last]).save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", np.random.default_rng(3).normal(size=(3, 9, 4)).astype("f4"))
    succeed("run", tmp_path / "net.safetensors", tmp_path / "x.npy", "--stream", "-o", tmp_path / "y.npy")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), last(np.load(tmp_path / "x.npy"))[0])


def test_a_network_that_cannot_stream_says_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    w, r = np.ones((2, 6, 4), "f4"), np.ones((2, 6, 2), "f4")
    cgru.Model([cgru.GRU.from_arrays(w, r, bidirectional=True)]).save(tmp_path / "net.safetensors")
    np.save(tmp_path / "x.npy", np.ones((5, 4), "f4"))
    line = complain(capfd, "run", tmp_path / "net.safetensors", tmp_path / "x.npy", "--stream")
    assert "gru: it reads its input in both directions" in line


def test_bench_tells_the_speed_of_steps_sequences_and_pools(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    network(4, 2).save(tmp_path / "net.safetensors")
    monkeypatch.setattr(speed, "SECONDS", 0.01)
    assert cli.main(["bench", str(tmp_path / "net.safetensors"), "--streams", "7", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    lines = {line["what"]: line for line in found["speed"]}
    assert list(lines) == [
        "one step of one stream",
        "1 sequence of 100 steps",
        "8 sequences of 100 steps",
        "64 sequences of 100 steps",
        "a round of a pool of 7",
        "the same, stream by stream",
    ]
    for line in lines.values():
        assert line["microseconds"] > 0
        assert line["steps_per_second"] == pytest.approx(line["row_steps"] / line["microseconds"] * 1e6)
    assert lines["64 sequences of 100 steps"]["row_steps"] == 6400
    assert cli.main(["bench"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("co2_gru.pt: 4,890 parameters")
    assert "one step of one stream" in text


@pytest.mark.parametrize("count", ["0", "-3", "many", "1.5", "1000000"])
def test_bench_wants_a_number_of_streams(count: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert "--streams" in complain(capfd, "bench", f"--streams={count}")
