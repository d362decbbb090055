"""The Open Inference Protocol by an existing client: every call of tritonclient that it has, over HTTP and gRPC."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import Kind, build, noise
from served import Served, served

from cgru.serve import v2
from cgru.serve.v2.grpc_server import messages

pytest.importorskip("tritonclient.http", reason="tritonclient is not installed (cgru[test-serve])")
pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed (cgru[test-serve])")

import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http
from tritonclient.grpc import service_pb2
from tritonclient.utils import InferenceServerException

# tritonclient's HTTP client closes itself once more when it is collected, from whichever thread that happens in.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
NET = build(Kind(6, 20, layers=2, head=3), 1, "packed")


@pytest.fixture(scope="module")
def server() -> Iterator[Served]:
    with served(NET, capacity=4, name="denoiser") as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Served) -> Iterator[tuple[Any, Any]]:
    module = {"http": triton_http, "grpc": triton_grpc}[request.param]
    port = server.port if request.param == "http" else server.grpc_port
    with module.InferenceServerClient(f"127.0.0.1:{port}") as made:
        yield made, module


def tensor(module: Any, name: str, array: np.ndarray, datatype: str = "FP32") -> Any:
    made = module.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array)
    return made


def test_health(client: tuple[Any, Any]) -> None:
    made, module = client
    assert made.is_server_live()
    assert made.is_server_ready()
    assert made.is_model_ready("denoiser")
    assert made.is_model_ready("denoiser", "1")
    # Over HTTP an unknown model is not ready; over gRPC it is an error.
    if module is triton_http:
        assert not made.is_model_ready("other")
    else:
        with pytest.raises(InferenceServerException, match="no model is named 'other'"):
            made.is_model_ready("other")


def test_metadata(client: tuple[Any, Any]) -> None:
    made, module = client
    options = {"as_json": True} if module is triton_grpc else {}
    told = made.get_server_metadata(**options)
    assert (told["name"], told["extensions"]) == ("cgru", ["binary_tensor_data", "sequence"])
    told = made.get_model_metadata("denoiser", **options)
    assert (told["name"], told["versions"], told["platform"]) == ("denoiser", ["1"], "cgru")
    found = [(one["name"], one["datatype"], [int(n) for n in one["shape"]]) for one in told["inputs"] + told["outputs"]]
    assert found == [("x", "FP32", [-1, -1, 6]), ("y", "FP32", [-1, -1, 3])]


@pytest.mark.parametrize("shape", [(2, 9, 6), (9, 6)])
def test_infer(client: tuple[Any, Any], shape: tuple[int, ...]) -> None:
    made, module = client
    x = noise(shape, 0)
    found = made.infer("denoiser", [tensor(module, "x", x)], request_id="seven")
    assert np.array_equal(found.as_numpy("y"), NET(x))
    answer = found.get_response()
    assert (answer["id"] if module is triton_http else answer.id) == "seven"


def test_infer_with_lengths_and_an_output_by_name(client: tuple[Any, Any]) -> None:
    made, module = client
    x, lengths = noise((2, 9, 6), 0), np.array([9, 4])
    found = made.infer(
        "denoiser",
        [tensor(module, "x", x), tensor(module, "lengths", lengths, "INT64")],
        model_version="1",
        outputs=[module.InferRequestedOutput("y")],
    )
    assert np.array_equal(found.as_numpy("y"), NET(x, lengths))


@pytest.mark.parametrize("binary", [True, False])
def test_infer_over_http_as_json_and_as_bytes(server: Served, binary: bool) -> None:
    x = noise((2, 9, 6), 0)
    with triton_http.InferenceServerClient(f"127.0.0.1:{server.port}") as made:
        given = triton_http.InferInput("x", list(x.shape), "FP32")
        given.set_data_from_numpy(x, binary_data=binary)
        found = made.infer("denoiser", [given], outputs=[triton_http.InferRequestedOutput("y", binary_data=binary)])
        assert np.array_equal(found.as_numpy("y"), NET(x))


def test_infer_async(client: tuple[Any, Any]) -> None:
    made, module = client
    x = noise((2, 9, 6), 0)
    if module is triton_http:
        found = made.async_infer("denoiser", [tensor(module, "x", x)]).get_result()
    else:
        import queue

        answers: queue.Queue[Any] = queue.Queue()
        given = [tensor(module, "x", x)]
        made.async_infer("denoiser", given, callback=lambda result, error: answers.put((result, error)))
        found, error = answers.get(timeout=30)
        assert error is None
    assert np.array_equal(found.as_numpy("y"), NET(x))


def test_a_sequence_is_a_stream(client: tuple[Any, Any], server: Served) -> None:
    made, module = client
    x = noise((10, 6), 0)
    parts = []
    for begin, end in ((0, 1), (1, 6), (6, 10)):
        given = [tensor(module, "x", x[None, begin:end])]
        found = made.infer(
            "denoiser", given, sequence_id=42, sequence_start=begin == 0, sequence_end=end == 10
        ).as_numpy("y")
        assert found.shape == (1, end - begin, 3)
        parts.append(found[0])
    assert np.array_equal(np.concatenate(parts), NET.stream().feed(x))
    server.until(lambda: len(server.service.pool) == 0)
    with pytest.raises(InferenceServerException, match="sequence 42 is not open"):
        made.infer("denoiser", [tensor(module, "x", x)], sequence_id=42)


def test_sequences_take_places_and_give_them_back() -> None:
    x = noise((2, 6), 0)
    with served(NET, capacity=1, idle=1.0) as running:
        with triton_http.InferenceServerClient(f"127.0.0.1:{running.port}") as made:
            made.infer("model", [tensor(triton_http, "x", x)], sequence_id="a", sequence_start=True)
            with pytest.raises(InferenceServerException, match="all 1 streams are open"):
                made.infer("model", [tensor(triton_http, "x", x)], sequence_id="b", sequence_start=True)
        running.until(lambda: len(running.service.pool) == 0)  # nobody has asked for a second


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "z"}, "expected x"),
        ({"array": noise((2, 5), 0)}, "takes 6 features"),
        ({"array": np.ones((2, 6), np.int64), "datatype": "INT64"}, "expected FP32"),
        ({"array": np.array([[b"a"]], object), "datatype": "BYTES"}, "as datatype"),
        ({"model": "other"}, "no model is named 'other'"),
        ({"version": "9"}, "no version '9'"),
        ({"output": "h"}, "no output is named 'h'"),
    ],
)
def test_what_it_says_of_bad_requests(client: tuple[Any, Any], change: dict[str, Any], words: str) -> None:
    made, module = client
    array = change.get("array", noise((2, 6), 0))
    given = tensor(module, change.get("name", "x"), array, change.get("datatype", "FP32"))
    outputs = [module.InferRequestedOutput(change["output"])] if "output" in change else None
    with pytest.raises(InferenceServerException, match=words):
        made.infer(change.get("model", "denoiser"), [given], model_version=change.get("version", ""), outputs=outputs)


def test_grpc_contents_in_numbers_instead_of_bytes(server: Served) -> None:
    import grpc

    x = noise((2, 6), 0)
    request = service_pb2.ModelInferRequest(model_name="denoiser")
    given = request.inputs.add(name="x", datatype="FP32", shape=x.shape)
    given.contents.fp32_contents.extend(x.ravel().tolist())
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=service_pb2.ModelInferRequest.SerializeToString,
            response_deserializer=service_pb2.ModelInferResponse.FromString,
        )
        answer = call(request, timeout=30)
        assert np.array_equal(np.frombuffer(answer.raw_output_contents[0], "<f4").reshape(2, 3), NET(x))
        request.raw_input_contents.append(x.tobytes())
        with pytest.raises(grpc.RpcError, match="contents beside raw_input_contents"):
            call(request, timeout=30)
        garbage = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError):
            garbage(b"\xff" * 40, timeout=30)


def test_the_token_over_grpc() -> None:
    with (
        served(NET, token="s3cret") as running,
        triton_grpc.InferenceServerClient(f"127.0.0.1:{running.grpc_port}") as made,
    ):
        assert made.is_server_live()
        with pytest.raises(InferenceServerException, match="Bearer"):
            made.get_server_metadata()
        assert made.get_server_metadata(headers={"authorization": "Bearer s3cret"}).name == "cgru"


def test_the_compiled_form_is_that_of_the_source(tmp_path: Path) -> None:
    """What tools/compile_protos.py would make now is what lies there."""
    protoc = pytest.importorskip("grpc_tools.protoc", reason="grpcio-tools is not installed (cgru[test-serve])")
    from google.protobuf.descriptor_pb2 import FileDescriptorSet

    folder = Path(v2.__file__).parent
    made = tmp_path / "made.binpb"
    assert protoc.main(["", f"-I{folder}", f"--descriptor_set_out={made}", str(folder / "open_inference.proto")]) == 0
    there = FileDescriptorSet.FromString((folder / "open_inference.binpb").read_bytes())
    assert FileDescriptorSet.FromString(made.read_bytes()) == there


def test_the_messages_are_those_of_the_protocol() -> None:
    """Names, numbers and types against the descriptors that tritonclient brings; its server has more methods."""

    def fields(descriptor: Any, seen: frozenset[str] = frozenset()) -> dict[str, Any]:
        return {
            field.name: (
                field.number,
                field.type,
                field.is_repeated if hasattr(field, "is_repeated") else field.label == field.LABEL_REPEATED,
                fields(field.message_type, seen | {descriptor.full_name})
                if field.message_type is not None and field.message_type.full_name not in seen
                else None,
            )
            for field in descriptor.fields
        }

    ours = messages()
    assert len(ours) == 14
    for name, made in ours.items():
        assert fields(made.DESCRIPTOR) == fields(getattr(service_pb2, name).DESCRIPTOR), name
