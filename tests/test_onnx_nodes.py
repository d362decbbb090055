"""ONNX' own conformance tests, one operator each: right, or refused with a reason; none wrong, none crashing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx_axes
import onnx_side
import pytest
from onnx_wire import tensor

import cgru
from cgru.errors import CgruError, UnsupportedError
from cgru.formats.containers.onnx_file import read_model
from cgru.formats.readers.onnx_network import Network, network

PUBLISHED = Path(__file__).resolve().parents[2] / "shared" / "models" / "onnx_node"

RECURRENT = ("GRU", "LSTM", "RNN")
#: Operators all of whose tests run, but for those of LEFT_OUT.
# fmt: off
RUN = (
    "Abs", "Add", "AveragePool", "BatchNormalization", "Celu", "Ceil", "Clip", "Concat", "Conv", "ConvTranspose",
    "Cos", "Div", "Dropout", "Elu", "Erf", "Exp", "Expand", "Flatten", "Floor", "Gather", "Gelu", "Gemm",
    "GlobalAveragePool", "GlobalMaxPool", "Greater", "GreaterOrEqual", "GroupNormalization", "HardSigmoid",
    "HardSwish", "Identity", "InstanceNormalization", "LayerNormalization", "LeakyRelu", "Less", "LessOrEqual",
    "Log", "LogSoftmax", "LpNormalization", "MatMul", "Max", "MaxPool", "Mean", "Min", "Mish", "Mul", "Neg", "PRelu",
    "Pow",
    "RMSNormalization", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape", "Round", "Selu",
    "Sigmoid", "Sign", "Sin", "Slice", "Softmax", "Softplus", "Softsign", "Split", "Sqrt", "Squeeze", "Sub", "Sum",
    "Swish", "Tanh", "ThresholdedRelu", "Tile", "Transpose", "Unsqueeze", "Where",
)
# fmt: on
#: Tests that ask for something a network has no use for, or cgru refuses by design.
LEFT_OUT = {
    "test_averagepool_2d_ceil": "ceil_mode of averages",
    "test_averagepool_2d_ceil_last_window_starts_on_pad": "ceil_mode of averages",
    "test_averagepool_2d_dilations": "ceil_mode of averages",
    "test_averagepool_3d_dilations_large_count_include_pad_is_0_ceil_mode_is_True": "ceil_mode of averages",
    "test_averagepool_3d_dilations_large_count_include_pad_is_1_ceil_mode_is_True": "ceil_mode of averages",
    "test_averagepool_3d_dilations_small": "ceil_mode of averages",
    "test_batchnorm_epsilon_training_mode": "training",
    "test_batchnorm_example_training_mode": "training",
    "test_convtranspose_output_shape": "an output_shape beyond the kernels' reach",
    "test_dropout_default_mask": "the mask of a dropout",
    "test_matmul_1d_3d": "a vector that is computed",
    "test_maxpool_with_argmax_2d_precomputed_pads": "indices",
    "test_maxpool_with_argmax_2d_precomputed_strides": "indices",
    "test_reshape_reordered_all_dims": "steps become features",
    "test_reshape_reordered_last_dims": "steps become features",
}


def tried(content: bytes, arrays: dict[str, np.ndarray], free: list[str]) -> tuple[Network, bool]:
    """The first reading that can be lowered: as it is, with each axis as time, and as one frame."""
    model = read_model(content)
    fixed = {name: array for name, array in arrays.items() if name not in free}
    problem: CgruError | None = None
    for axis in (None, *range(arrays[free[0]].ndim), "frame"):
        try:
            return network(model, inputs=fixed, time_axis=axis), axis == "frame"
        except CgruError as error:
            problem = error
    assert problem is not None
    raise problem


@pytest.fixture(scope="module")
def cases() -> list[Any]:
    pytest.importorskip("onnx", reason="onnx is not installed")
    import warnings

    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return [
            case for case in collect_testcases(None) if case.model and not case.name.endswith(("_expanded", "_ver18"))
        ]


def outcome(case: Any) -> str:
    """ "run" if it gives what ONNX says; "refused" if a CgruError says why not; "" for what is no network."""
    content, (given, wanted) = case.model.SerializeToString(), case.data_sets[0]
    names = [info.name for info in case.model.graph.input]
    if not all(isinstance(array, np.ndarray) for array in (*given, *wanted)) or not wanted:
        return ""
    arrays = dict(zip(names, given, strict=True))
    floats = [
        name for name, array in arrays.items() if array.dtype in (np.float32, np.float64, np.float16) and array.ndim
    ]
    if not floats or 0 in arrays[floats[0]].shape:
        return ""
    alike = [name for name in floats if arrays[name].shape == arrays[floats[0]].shape]
    problem = ""
    for free in (alike, floats[:1]):
        try:
            made, frame = tried(content, arrays, free)
        except UnsupportedError as error:
            problem = str(error)
            continue
        outputs = {info.name: array for info, array in zip(case.model.graph.output, wanted, strict=True)}
        found = onnx_axes.run(made, arrays, {name: array.shape for name, array in outputs.items()}, frame=frame)
        for name, array in outputs.items():
            near = 5e-3 if array.dtype == np.float16 else 1e-5
            array = array.astype(np.float32)
            np.testing.assert_allclose(found[name], array, rtol=10 * near, atol=near, err_msg=case.name)
        return "run"
    assert len(problem) > 20
    return "refused"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_official_tests_of_each_operator(cases: list[Any]) -> None:
    counts: dict[str, Counter[str]] = {}
    refused = []
    for case in cases:
        (op, *_) = {node.op_type for node in case.model.graph.node}
        if len(case.model.graph.node) != 1 or op not in (*RUN, *RECURRENT):
            continue
        if found := outcome(case):
            counts.setdefault(op, Counter())[found] += 1
            refused += [case.name] if found == "refused" else []
    assert counts.keys() >= {*RUN, *RECURRENT}
    assert sorted(refused) == sorted(LEFT_OUT)
    assert sum(count["run"] for count in counts.values()) > 340


@pytest.mark.parametrize("op", ["NonZero", "TopK", "Unique", "DFT", "RoiAlign", "Attention", "NoSuchOperator"])
def test_operators_that_are_not_run_are_named(op: str) -> None:
    content = onnx_side.model(
        onnx_side.graph([onnx_side.node(op, ["x"], ["y"], name="here")], ["y"], [onnx_side.value("x", ("b", "t", 3))])
    )
    with pytest.raises(UnsupportedError, match=f"'here' \\({op}\\): cgru does not run"):
        cgru.load(content)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published models are not here (../shared/models)")
@pytest.mark.parametrize("name", sorted(path.name for path in PUBLISHED.glob("*")) if PUBLISHED.is_dir() else [])
def test_published_recurrence(name: str) -> None:
    """X and sequence_lens are the network's input and lengths, the rest is fixed; rows and time are found."""
    folder = PUBLISHED / name
    model = read_model(folder / "model.onnx")
    data = folder / "test_data_set_0"
    # An input without a name in the graph is left out of the files too.
    inputs = dict(tensor(data / f"input_{i}.pb") for i in range(len(list(data.glob("input_*.pb")))))
    arrays = {info.name: array for info, array in zip(model.graph.inputs, inputs.values(), strict=True)}
    lengths = arrays.pop("sequence_lens", None)
    made = network(model, inputs={name: array for name, array in arrays.items() if name != "X"})
    net = cgru.Model(made.graph)
    found = net(onnx_axes.given(made, "X", arrays["X"]), lengths=lengths)
    found = found if isinstance(found, dict) else {made.graph.outputs[0]: found}
    for i, info in enumerate(model.graph.outputs):
        _, wanted = tensor(data / f"output_{i}.pb")
        got = onnx_axes.in_onnx_axes(made, info.name, found[info.name], wanted.shape)
        np.testing.assert_allclose(got, wanted, rtol=0, atol=2e-6)
