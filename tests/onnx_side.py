"""ONNX files for the tests: built field by field, so that they can be wrong, and records written back as a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from cgru.formats.containers.onnx_records import Graph, Node, OnnxModel
from cgru.formats.containers.onnx_schema import SCHEMA
from cgru.formats.containers.protobuf_write import encode

Fields = dict[str, Any]


def tensor(name: str, values: Any = (1.0, 2.0), **changes: Any) -> Fields:
    """A TensorProto of float32 with raw data; ``changes`` replace its fields, None takes one away."""
    array = np.asarray(values, np.float32)
    fields = {"name": name, "dims": array.shape, "data_type": 1, "raw_data": array.tobytes(), **changes}
    return {key: value for key, value in fields.items() if value is not None}


def value(name: str, shape: Sequence[int | str] = (2,), elem_type: int = 1) -> Fields:
    dims = [{"dim_param": size} if isinstance(size, str) else {"dim_value": size} for size in shape]
    return {"name": name, "type": {"tensor_type": {"elem_type": elem_type, "shape": {"dim": dims}}}}


def node(op: str, inputs: Sequence[str], outputs: Sequence[str], *attributes: Fields, **more: Any) -> Fields:
    return {"op_type": op, "input": inputs, "output": outputs, "attribute": attributes, **more}


def branches(then: Fields, otherwise: Fields) -> list[Fields]:
    """The attributes of an If."""
    return [{"name": name, "type": 5, "g": item} for name, item in (("then_branch", then), ("else_branch", otherwise))]


def graph(
    nodes: Sequence[Fields], outputs: Sequence[Any] = ("y",), inputs: Sequence[Any] = ("x",), **more: Any
) -> Fields:
    """A GraphProto; a plain name among the inputs and outputs is a float32 value of two numbers."""
    infos = [[value(item) if isinstance(item, str) else item for item in group] for group in (inputs, outputs)]
    return {"node": nodes, "name": "g", "input": infos[0], "output": infos[1], **more}


def model(graph_: Fields | None, **changes: Any) -> bytes:
    fields = {"ir_version": 8, "producer_name": "test", "opset_import": [{"version": 17}], "graph": graph_, **changes}
    return encode("ModelProto", {key: item for key, item in fields.items() if item is not None}, SCHEMA)


# Networks by hand, and what ONNX Runtime makes of them -------------------------------------------------------------


RNG = np.random.default_rng(17)


def arr(*shape: int) -> np.ndarray:
    return (RNG.standard_normal(shape) * 0.4).astype(np.float32)


def weights(**arrays: Any) -> list[Any]:
    made = []
    for name, array in arrays.items():
        array = np.asarray(array)
        code = {"f": 1, "i": 7, "b": 9}[array.dtype.kind]
        array = array.astype({1: np.float32, 7: np.int64, 9: bool}[code])
        made.append(tensor(name, data_type=code, dims=array.shape, raw_data=array.tobytes()))
    return made


def attribute(name: str, item: Any) -> dict[str, Any]:
    if isinstance(item, str):
        return {"name": name, "type": 3, "s": item.encode()}
    if isinstance(item, float):
        return {"name": name, "type": 1, "f": item}
    return {"name": name, "type": 2, "i": item} if isinstance(item, int) else {"name": name, "type": 7, "ints": item}


def ran(runtime: Any, source: Any, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = runtime.SessionOptions()
    options.log_severity_level = 4
    source = source if isinstance(source, bytes) else str(source)
    return runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"]).run(None, feeds)


# Records back as a model of the onnx package, which ONNX Runtime runs ------------------------------------------------


def as_onnx(records: OnnxModel, opsets: Mapping[str, int] | None = None) -> Any:
    import onnx

    return onnx.helper.make_model(
        _graph(records.graph),
        opset_imports=[onnx.helper.make_opsetid(*item) for item in (opsets or records.opsets).items()],
        ir_version=max(records.ir_version, 4),
    )


def _graph(graph: Graph) -> Any:
    import onnx

    return onnx.helper.make_graph(
        [_node(item) for item in graph.nodes],
        graph.name or "g",
        [_value(info) for info in graph.inputs],
        [_value(info) for info in graph.outputs],
        [onnx.numpy_helper.from_array(array, name) for name, array in graph.initializers.items()],
    )


def _value(info: Any) -> Any:
    import onnx

    known = info.dtype and info.dtype not in ("sequence", "optional", "map", "sparse")
    code = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(info.dtype)) if known else 0
    return onnx.helper.make_tensor_value_info(info.name, code, info.shape)


def _node(item: Node) -> Any:
    import onnx

    made = onnx.helper.make_node(item.op, item.inputs, item.outputs, item.name, domain=item.domain)
    for name, attribute in item.attributes.items():
        if isinstance(attribute, Graph):
            attribute = _graph(attribute)
        elif isinstance(attribute, np.ndarray):
            attribute = onnx.numpy_helper.from_array(attribute)
        if isinstance(attribute, tuple) and not attribute:
            made.attribute.append(onnx.helper.make_attribute(name, attribute, attr_type=onnx.AttributeProto.INTS))
        else:
            made.attribute.append(onnx.helper.make_attribute(name, attribute))
    return made
