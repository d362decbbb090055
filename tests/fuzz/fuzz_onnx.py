"""Fuzz target: whatever the bytes, the ONNX reader returns records, arrays and a graph, or raises a CgruError.

pip install -e '.[fuzz]'
python tests/fuzz/fuzz_onnx.py --seeds corpus
python tests/fuzz/fuzz_onnx.py -max_total_time=180 -rss_limit_mb=1024 -timeout=10 corpus
"""

from __future__ import annotations

import sys
from contextlib import nullcontext, suppress
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from onnx_side import branches, graph, model, node, tensor, value

if __name__ == "__main__":
    import atheris

    instrumented = atheris.instrument_imports(include=["cgru"])
else:
    instrumented = nullcontext()
with instrumented:
    from cgru.errors import CgruError
    from cgru.formats.containers import onnx_file
    from cgru.formats.readers import onnx_network


def seeds() -> dict[str, bytes]:
    """Files that between them hold every kind of record: attributes, subgraphs, functions, numbers in every way."""
    opsets = [{"version": 17}, {"domain": "own", "version": 1}]
    slope = {"name": "alpha", "type": 1, "ref_attr_name": "slope"}
    function = {
        "name": "F", "domain": "own", "input": ["a"], "output": ["b"], "opset_import": opsets, "attribute": ["slope"],
        "node": [node("LeakyRelu", ["a"], ["t"], slope), node("Neg", ["t"], ["b"])],
    }  # fmt: skip
    inner = graph([node("Neg", ["t"], ["r"])], ["r"], [], initializer=[tensor("w")])
    attributes = [
        {"name": "a", "type": 2, "i": -1},
        {"name": "b", "type": 3, "s": b"same"},
        {"name": "c", "type": 7, "ints": [1, -2]},
        {"name": "d", "type": 4, "t": tensor("", [5.0])},
        {"name": "e", "type": 6, "floats": [0.5]},
    ]
    typed = [
        tensor("float", raw_data=None, float_data=[1.0, 2.0]),
        tensor("half", data_type=10, raw_data=bytes(4)),
        tensor("four", dims=[3], data_type=22, raw_data=b"\x87\x01"),
        tensor("text", data_type=8, raw_data=None, string_data=[b"a", b""]),
        tensor("long", data_type=7, raw_data=None, int64_data=[-1, 2**40]),
        tensor("brain", data_type=16, raw_data=bytes(4)),
        tensor("small", data_type=17, raw_data=None, int32_data=[255, 3]),
        tensor("complex", dims=[1], data_type=14),
    ]
    call = node("F", ["x"], ["t"], {"name": "slope", "type": 1, "f": 0.5}, domain="own")
    gru = node("GRU", ["x", "w", "r"], ["", "y"], {"name": "hidden_size", "type": 2, "i": 1})
    return {
        "whole.onnx": model(
            graph([call, node("If", ["t"], ["y"], *branches(inner, inner))]), functions=[function], opset_import=opsets
        ),
        "tensors.onnx": model(
            graph([node("Op", ["x"], ["y"], *attributes)], [value("y", ("B", 3))], initializer=typed)
        ),
        "gru.onnx": model(
            graph(
                [gru],
                [value("y", (1, "B", 1))],
                [value("x", ("T", "B", 2))],
                initializer=[tensor("w", [[[1, 2]] * 3]), tensor("r", [[[3]] * 3])],
            )
        ),
    }


def one_input(data: bytes) -> None:
    """Read ``data``; anything but a CgruError, or arrays that are no arrays, gets out."""
    onnx_file.looks_like(data[:64])
    try:
        found = onnx_file.read(data)
    except CgruError:
        return
    with suppress(CgruError):
        onnx_network.load(data)
    for name, values in found.tensors.items():
        name.encode()
        assert values.dtype.kind in "fiubcO"
        assert values.dtype.isnative
        assert not values.flags.writeable


def main() -> None:
    if sys.argv[1:2] == ["--seeds"]:
        folder = Path(sys.argv[2])
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in seeds().items():
            (folder / name).write_bytes(content)
        return
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
