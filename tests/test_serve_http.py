"""Whole sequences over HTTP, health, metrics, limits, TLS and the token, and what a bad request is answered."""

from __future__ import annotations

import io
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
import urllib.request
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise
from served import Served, hello, outputs, served
from websockets.exceptions import InvalidStatus

import cgru
from cgru import CgruError
from cgru.serve import Address, Server, Settings
from cgru.serve.guard import Rate

NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(NET, capacity=4, body=1 << 20, name="denoiser") as running:
        yield running


def npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


# ---- sequences -----------------------------------------------------------------------------------------------------


def test_json(server: Served) -> None:
    x = noise((2, 9, 6), 0)
    status, _, body = server.ask("POST", "/v1/run", {"x": x.tolist(), "lengths": [9, 4]}, JSON)
    assert status == 200
    assert np.array_equal(np.array(json.loads(body)["y"], np.float32), NET(x, [9, 4]))
    status, _, body = server.ask("POST", "/v1/run", {"x": x[0].tolist()}, JSON)
    assert np.array_equal(np.array(json.loads(body)["y"], np.float32), NET(x[0]))


def test_json_has_no_nan() -> None:
    x = noise((3, 6), 0)
    x[1] = 1e38
    x[2] = 3e38
    head = cgru.Dense(np.full((3, 20), 3e38, np.float32), np.zeros(3, np.float32))
    net = cgru.Model([build(Kind(6, 20), 1, "packed").layers[0], head])
    with served(net) as running:
        status, _, body = running.ask("POST", "/v1/run", {"x": x.tolist()}, JSON)
    assert status == 200
    found = np.array(json.loads(body)["y"], np.float64)  # null becomes NaN
    y = net(x)
    assert not np.isfinite(y).all()
    assert np.array_equal(np.isfinite(found), np.isfinite(y))


def test_npy_and_csv(server: Served) -> None:
    x = noise((2, 9, 6), 0)
    status, headers, body = server.ask("POST", "/v1/run", npy(x), {"Content-Type": "application/x-npy"})
    assert (status, headers["content-type"]) == (200, "application/x-npy")
    assert np.array_equal(np.load(io.BytesIO(body)), NET(x))
    rows = "\n".join(",".join(f"{v:.9g}" for v in row) for row in x[0])
    status, _, body = server.ask("POST", "/v1/run", rows, {"Accept": "text/csv", "Content-Type": "text/csv"})
    assert np.array_equal(np.loadtxt(io.BytesIO(body), np.float32, delimiter=","), NET(x[0]))


def test_wav() -> None:
    net = build(Kind(1, 8, head=1), 1, "packed")
    sound = np.random.default_rng(0).integers(-20000, 20000, 800).astype("<i2")
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(sound.tobytes())
    with served(net) as running:
        wanted = {"Content-Type": "audio/wav", "Accept": "audio/wav"}
        status, headers, body = running.ask("POST", "/v1/run", buffer.getvalue(), wanted)
    assert (status, headers["content-type"]) == (200, "audio/wav")
    assert struct.unpack_from("<I", body, 24) == (16000,)
    at = body.index(b"data") + 8
    expected = net((sound / 32768).astype(np.float32)[:, None])
    assert np.array_equal(np.frombuffer(body[at:], "<f4"), expected[:, 0])


# ---- thirty kinds of bad request -----------------------------------------------------------------------------------


def v2(**change: Any) -> dict[str, Any]:
    """A good V2 request, but for what is changed in its input."""
    return {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 6], "data": [0.0] * 6} | change]}


INFER = "/v2/models/denoiser/infer"
BAD: list[tuple[str, str, str, Any, dict[str, str], int, str]] = [
    ("no route", "GET", "/nothing", None, {}, 404, "no such route"),
    ("wrong method", "GET", "/v1/run", None, {}, 405, "no such route"),
    ("handshake without upgrade", "GET", "/v1/stream", None, {}, 404, "no such route"),
    ("empty body", "POST", "/v1/run", b"", {}, 400, "is empty"),
    ("broken JSON", "POST", "/v1/run", b'{"x": [1, 2', JSON, 400, "expected a JSON object"),
    ("JSON without x", "POST", "/v1/run", {"y": 1}, JSON, 400, "expected a JSON object"),
    ("JSON with more", "POST", "/v1/run", {"x": [[0.0] * 6], "mask": []}, JSON, 400, "expected a JSON object"),
    ("deep JSON", "POST", "/v1/run", b'{"x":' + b"[" * 100_000, JSON, 400, "expected a JSON object"),
    ("NaN in JSON", "POST", "/v1/run", b'{"x": [[NaN, 0, 0, 0, 0, 0]]}', JSON, 400, "expected a JSON object"),
    ("ragged JSON", "POST", "/v1/run", {"x": [[0.0] * 6, [0.0] * 5]}, JSON, 400, "all rows alike"),
    ("words in JSON", "POST", "/v1/run", {"x": [["a"] * 6]}, JSON, 400, "expected numbers"),
    ("wrong features", "POST", "/v1/run", {"x": [[0.0] * 5]}, JSON, 400, "takes 6 features"),
    ("wrong axes", "POST", "/v1/run", {"x": [0.0] * 6}, JSON, 400, "axes"),
    ("lengths too long", "POST", "/v1/run", {"x": [[[0.0] * 6]], "lengths": [2]}, JSON, 400, "lengths: 2"),
    ("damaged npy", "POST", "/v1/run", npy(noise((4, 6), 0))[:-3], {}, 400, "no readable .npy"),
    ("pickled npy", "POST", "/v1/run", npy(np.array([{}], object)), {}, 400, "no readable .npy"),
    ("integers in npy", "POST", "/v1/run", npy(np.ones((4, 6), int)), {}, 400, "floating-point"),
    ("damaged wav", "POST", "/v1/run", b"RIFF1234WAVEfmt ", {}, 400, "no WAVE audio"),
    ("bytes of no kind", "POST", "/v1/run", bytes(range(256)), {}, 400, "neither .npy"),
    ("body too large", "POST", "/v1/run", bytes((1 << 20) + 1), {}, 413, "at most 1048576 bytes"),
    ("V2: no JSON", "POST", INFER, b"\x00", JSON, 400, "no valid JSON"),
    ("V2: a list", "POST", INFER, b"[]", JSON, 400, "must be a JSON object"),
    ("V2: no inputs", "POST", INFER, {}, JSON, 400, "inputs: expected a list"),
    ("V2: unknown model", "POST", "/v2/models/other/infer", v2(), JSON, 404, "no model is named 'other'"),
    ("V2: unknown version", "POST", "/v2/models/denoiser/versions/7/infer", v2(), JSON, 404, "no version '7'"),
    ("V2: unknown input", "POST", INFER, v2(name="z"), JSON, 400, "expected x"),
    ("V2: input twice", "POST", INFER, {"inputs": v2()["inputs"] * 2}, JSON, 400, "stands twice"),
    ("V2: datatype", "POST", INFER, v2(datatype="BYTES"), JSON, 400, "as datatype"),
    ("V2: integers", "POST", INFER, v2(datatype="INT64", data=[0] * 6), JSON, 400, "expected FP32"),
    ("V2: shape", "POST", INFER, v2(shape=[2, 6]), JSON, 400, "has 12 numbers, found 6"),
    ("V2: huge shape", "POST", INFER, v2(shape=[1 << 60, 6]), JSON, 400, "whole numbers"),
    ("V2: negative shape", "POST", INFER, v2(shape=[-1, 6]), JSON, 400, "whole numbers"),
    ("V2: words", "POST", INFER, v2(data=["a"] * 6), JSON, 400, "numbers that FP32 holds"),
    ("V2: no data", "POST", INFER, {"inputs": [{"name": "x"}]}, JSON, 400, "neither data nor"),
    ("V2: output", "POST", INFER, v2() | {"outputs": [{"name": "h"}]}, JSON, 400, "no output is named 'h'"),
    ("V2: binary size", "POST", INFER, v2(parameters={"binary_data_size": 99}), JSON, 400, "0 bytes are left"),
    ("V2: header", "POST", INFER, v2(), JSON | {"Inference-Header-Content-Length": "9999"}, 400, "expected 1 to"),
    ("V2: sequence", "POST", INFER, v2() | {"parameters": {"sequence_id": 7}}, JSON, 400, "is not open"),
    ("V2: parameters", "POST", INFER, v2() | {"parameters": 7}, JSON, 400, "parameters: expected an object"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status", "words"), [one[1:] for one in BAD], ids=[one[0] for one in BAD]
)
def test_a_bad_request_is_answered_in_words(
    server: Served, method: str, path: str, body: Any, headers: dict[str, str], status: int, words: str
) -> None:
    found, told, answer = server.ask(method, path, body, headers)
    assert (found, told["content-type"]) == (status, "application/json"), answer
    assert words in json.loads(answer)["error"]
    assert server.ask("POST", "/v1/run", {"x": [[0.0] * 6]}, JSON)[0] == 200, "the server goes on"


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        b"POST /v1/run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\n" * 50,
        bytes(4096),
    ],
)
def test_what_is_no_http_at_all_harms_nobody(server: Served, sent: bytes) -> None:
    with server.socket() as connection:
        connection.settimeout(1)
        try:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            answer = connection.recv(4096)
        except OSError:
            answer = b""
        assert answer == b"" or answer.startswith(b"HTTP/1.1 4"), answer
    assert server.ask("GET", "/healthz")[0] == 200


# ---- limits --------------------------------------------------------------------------------------------------------


def test_a_body_that_lies_about_its_size(server: Served) -> None:
    """No Content-Length: chunks are counted as they come, and the rest is not read."""
    with server.socket() as connection:
        connection.sendall(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
        try:
            for _ in range(64):
                connection.sendall(chunk)
        except OSError:
            pass  # closed on us, as it may be
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 413")


def test_a_request_that_does_not_arrive() -> None:
    with served(NET, idle=1.0) as running, running.socket() as slow:
        slow.sendall(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
        assert running.ask("GET", "/healthz")[0] == 200
        assert slow.recv(4096).startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_in_the_middle_is_no_error(server: Served, caplog: pytest.LogCaptureFixture) -> None:
    left = server.service.metrics.requests.labels("/v1/run", "499")
    before = left._value.get()  # the server is the module's: other tests' clients leave as well
    with server.socket() as leaving:
        leaving.sendall(b"POST /v1/run HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
    server.until(lambda: left._value.get() > before)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_more_requests_than_may_wait() -> None:
    """One job at a time: while it runs the next is told to come again, and streams go on as if nothing were."""
    go, entered = threading.Event(), threading.Event()

    class Held:
        def __getattr__(self, name: str) -> Any:
            return getattr(NET, name)

        def __call__(self, *given: Any) -> Any:
            entered.set()
            assert go.wait(30)
            return NET(*given)

    with served(Held(), jobs=1) as running:  # type: ignore[arg-type]
        first = threading.Thread(target=running.ask, args=("POST", "/v1/run", {"x": [[0.0] * 6]}, JSON))
        first.start()
        assert entered.wait(30)
        status, headers, body = running.ask("POST", "/v1/run", {"x": [[0.0] * 6]}, JSON)
        assert (status, headers["retry-after"]) == (503, "1")
        assert "1 requests are waiting" in json.loads(body)["error"]
        x = noise((5, 6), 0)
        with running.stream() as ws:
            hello(ws)
            ws.send(x.tobytes())
            assert np.array_equal(outputs(ws, 5, 3), NET.stream().feed(x))
        go.set()
        first.join(30)


def test_requests_a_second_of_an_address() -> None:
    with served(NET, request_rate=3.0) as running:
        found = [running.ask("GET", "/v1/model") for _ in range(4)]
        assert [status for status, _, _ in found] == [200, 200, 200, 429]
        assert found[3][1]["retry-after"] == "1"


def test_the_rate_counts_each_address_and_forgives_with_time() -> None:
    now = [0.0]
    rate = Rate(2.0, lambda: now[0])
    assert [rate.wait("a"), rate.wait("a")] == [0, 0]
    assert rate.wait("a") == pytest.approx(0.5)
    assert rate.wait("b") == 0
    now[0] = 0.5
    assert rate.wait("a") == 0
    assert rate.wait("a") > 0


def test_the_token() -> None:
    with served(NET, token="s3cret") as running:
        assert running.ask("GET", "/v1/model")[0] == 401
        assert running.ask("GET", "/metrics")[0] == 401
        assert running.ask("POST", INFER, v2(), JSON)[0] == 401
        wrong = {"Authorization": "Bearer s3cre"}
        status, headers, _ = running.ask("GET", "/v1/model", None, wrong)
        assert (status, headers["www-authenticate"]) == (401, "Bearer")
        assert running.ask("GET", "/v1/model", None, {"Authorization": "Bearer s3cret"})[0] == 200
        for probe in ("/healthz", "/readyz", "/v2/health/live", "/v2/health/ready", "/"):
            assert running.ask("GET", probe)[0] == 200
        with pytest.raises(InvalidStatus) as refused, running.stream():
            pass
        assert refused.value.response.status_code == 401
        with running.stream(additional_headers={"Authorization": "Bearer s3cret"}) as ws:
            hello(ws)
        with running.stream(subprotocols=["cgru", "bearer.s3cret"]) as ws:  # as a browser must
            assert ws.subprotocol == "cgru"
            hello(ws)


def test_pages_of_other_sites() -> None:
    """What a browser would send for a page that is not the server's own."""
    with served(NET, origins=("https://friend.example",)) as running:
        own = f"http://127.0.0.1:{running.port}"
        expected = {own: 200, "https://friend.example": 200, "https://evil.example": 403, "null": 403}
        for origin, status in expected.items():
            assert running.ask("POST", "/v1/run", {"x": [[0.0] * 6]}, JSON | {"Origin": origin})[0] == status
        with pytest.raises(InvalidStatus) as refused, running.stream(origin="https://evil.example"):
            pass
        assert refused.value.response.status_code == 403
        with running.stream(origin=own) as ws:
            hello(ws)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({"token": ""}, "token: it is empty"),
        ({"token": "a b"}, "token: expected printable ASCII"),
        ({"capacity": 0}, "capacity: expected a number above 0, found 0"),
        ({"tick": -1.0}, "tick: expected a number of at least 0"),
        ({"idle": float("nan")}, "idle: expected a number above 0"),
    ],
)
def test_limits_that_make_no_sense(limits: dict[str, Any], words: str) -> None:
    with pytest.raises(CgruError, match=words):
        Settings(**limits)


# ---- health and metrics --------------------------------------------------------------------------------------------


def test_health_and_readiness(server: Served) -> None:
    assert json.loads(server.ask("GET", "/healthz")[2]) == {"live": True}
    assert json.loads(server.ask("GET", "/readyz")[2]) == {"ready": True}
    server.service.closing = True
    try:
        assert server.ask("GET", "/readyz")[0] == server.ask("GET", "/v2/health/ready")[0] == 503
        assert server.ask("GET", "/healthz")[0] == 200
        assert server.ask("POST", "/v1/run", {"x": [[0.0] * 6]}, JSON)[0] == 503
    finally:
        server.service.closing = False


def test_what_is_served(server: Served) -> None:
    found = json.loads(server.ask("GET", "/v1/model")[2])
    assert (found["name"], found["input_size"], found["output_size"], found["streams"]) == ("denoiser", 6, 3, True)


def test_metrics_count_what_was_done() -> None:
    from prometheus_client.parser import text_string_to_metric_families

    with served(NET, capacity=5) as running:
        with running.stream() as ws:
            hello(ws)
            for k in range(7):
                ws.send(noise((1, 6), k).tobytes())
                outputs(ws, 1, 3)
            text = running.ask("GET", "/metrics")[2].decode()
        running.until(lambda: running.service._places == 0)
        running.ask("POST", "/v1/run", b"?", {})
        after = running.ask("GET", "/metrics")[2].decode()

    def samples(text: str) -> dict[tuple[str, str], float]:
        return {
            (sample.name, sample.labels.get("le") or sample.labels.get("status") or sample.labels.get("reason") or ""):
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }  # fmt: skip

    found = samples(text)
    assert found["cgru_step_latency_seconds_count", ""] == found["cgru_step_latency_seconds_bucket", "+Inf"] == 7
    assert 0 < found["cgru_step_latency_seconds_sum", ""] < 30
    bounds = [value for (name, _), value in found.items() if name == "cgru_round_streams_bucket"]
    assert bounds == sorted(bounds)
    assert found["cgru_round_streams_bucket", "1"] == 7
    assert (found["cgru_streams_open", ""], found["cgru_streams_capacity", ""]) == (1, 5)
    found = samples(after)
    assert found["cgru_streams_open", ""] == 0
    assert found["cgru_requests_total", "400"] == 1
    assert found["cgru_streams_ended_total", "closed"] == 1


# ---- other clients and TLS -----------------------------------------------------------------------------------------


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(server: Served, tmp_path: Path) -> None:
    x = noise((7, 6), 0)
    np.save(tmp_path / "x.npy", x)
    at = f"http://127.0.0.1:{server.port}/v1/run"
    command = ["curl", "-sS", "--fail", "--data-binary", f"@{tmp_path / 'x.npy'}", "-o", str(tmp_path / "y.npy"), at]
    subprocess.run(command, check=True, timeout=60)
    assert np.array_equal(np.load(tmp_path / "y.npy"), NET(x))


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_tls(tmp_path: Path) -> None:
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=tmp_path, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    address = Address(port=0, grpc_port=0, certificate=tmp_path / "cert.pem", key=tmp_path / "key.pem")
    trust = ssl.create_default_context(cafile=str(tmp_path / "cert.pem"))
    with served(NET, address=address) as running:
        url = f"https://127.0.0.1:{running.port}/readyz"
        with urllib.request.urlopen(url, context=trust, timeout=30) as answer:
            assert json.load(answer) == {"ready": True}
        with running.stream(ssl=trust, secure=True) as ws:
            hello(ws)
    with pytest.raises(CgruError, match="a certificate and its key"):
        Server(NET, Settings(), Address(port=0, certificate=tmp_path / "cert.pem"))
    with pytest.raises(CgruError, match="no such file"):
        Server(NET, Settings(), Address(port=0, certificate=tmp_path / "cert.pem", key=tmp_path / "gone.pem"))


def test_the_command(tmp_path: Path) -> None:
    """``cgru serve`` from a file to the end by SIGTERM."""
    NET.save(tmp_path / "tiny.safetensors")
    command = [sys.executable, "-m", "cgru", "serve", str(tmp_path / "tiny.safetensors"), "--port", "0"]
    command += ["--grpc-port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert "1000 streams on http://127.0.0.1:" in line
        assert ", gRPC on port " in line
        port = int(line.split("127.0.0.1:")[1].split(",")[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/v2/models/tiny", timeout=30) as answer:
            assert json.load(answer)["inputs"][0]["shape"] == [-1, -1, 6]
        process.terminate()
        _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
    finally:
        process.kill()
        process.communicate()


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    NET.save(tmp_path / "tiny.safetensors")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [sys.executable, "-m", "cgru", "serve", str(tmp_path / "tiny.safetensors")]
        done = subprocess.run(
            [*command, "--port", str(taken.getsockname()[1])], capture_output=True, text=True, timeout=60
        )
    assert done.returncode == 2
    assert "cannot be opened" in done.stderr


def test_whole_sequences_are_less_urgent_than_streams() -> None:
    """A long request beside a stream: steps go on while it runs."""
    net = build(Kind(64, 256, layers=2), 1, "packed")
    with served(net) as running, running.stream() as ws:
        hello(ws)
        long = npy(noise((16, 400, 64), 0))
        asking = threading.Thread(target=running.ask, args=("POST", "/v1/run", long, {}))
        asking.start()
        steps, begun = 0, time.monotonic()
        while asking.is_alive() and time.monotonic() - begun < 30:
            ws.send(noise((1, 64), 0).tobytes())
            outputs(ws, 1, 256)
            steps += 1
        asking.join(60)
        assert steps > 5
