"""What does it cost to have a library there: on disk, to import, and in a process that runs one network once?

    python bench/install_size.py                                   all in this environment
    python bench/install_size.py --cgru PYTHON --peers PYTHON      cgru, as a wheel installs it, apart from the others
    python bench/install_size.py --wheels dist downloads           sizes of the wheels found there too

Every process is a new one and they take turns, so that a busy neighbour meets all of them. The network is one GRU
layer, H=128, I=10, on one sequence of T=100: cgru loads its own file, PyTorch a state_dict into nn.GRU, ONNX Runtime
and OpenVINO the same ONNX model, LiteRT a model of one step, which is all it has. `numpy` does nothing but
`import numpy` and is what the last columns are against. Linux only: resident memory is the kernel's own count.

wheel and installed are in MB (10⁶ bytes), the latter with everything the library requires except numpy, compiled
bytecode left out. import: time beyond `import numpy`, and resident memory beyond it. cold process: from start to
end, and its peak resident memory. Times are medians, with the smallest in brackets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

PREPARE = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
from cells import Cell, make_tensors
cell = Cell(1, 100, 10, 128)
tensors = make_tensors(cell)
"""
PREPARED = {
    "cgru": """
import cgru
cgru.Model([cgru.GRU.from_torch(tensors)]).save("gru.safetensors")
""",
    "torch": """
import torch
torch.save({name: torch.from_numpy(array) for name, array in tensors.items()}, "gru.pt")
""",
    "onnxruntime": """
from runners import onnx_model
open("gru.onnx", "wb").write(onnx_model.build(cell, tensors, "after"))
""",
    "litert": """
from runners.run_litert import _model
open("step.tflite", "wb").write(_model(Cell(1, 1, 10, 128), tensors, False, "step"))
""",
}
PREPARED["openvino"] = PREPARED["onnxruntime"]

#: The whole of a cold process.
COLD = {
    "numpy": "import numpy",
    "cgru": """
import numpy as np
import cgru
y = cgru.load("gru.safetensors")(np.zeros((100, 10), np.float32))
assert y.shape == (100, 128)
""",
    "torch": """
import numpy as np
import torch
gru = torch.nn.GRU(10, 128, batch_first=True)
gru.load_state_dict(torch.load("gru.pt", weights_only=True))
with torch.inference_mode():
    y = gru(torch.from_numpy(np.zeros((1, 100, 10), np.float32)))[0].numpy()
assert y.shape == (1, 100, 128)
""",
    "onnxruntime": """
import numpy as np
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = 1
session = ort.InferenceSession("gru.onnx", options, providers=["CPUExecutionProvider"])
y = session.run(None, {"x": np.zeros((100, 1, 10), np.float32), "h0": np.zeros((1, 1, 128), np.float32)})[0]
assert y.shape[0] == 100
""",
    "openvino": """
import numpy as np
import openvino as ov
net = ov.Core().compile_model("gru.onnx", "CPU", {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"})
y = net([np.zeros((100, 1, 10), np.float32), np.zeros((1, 1, 128), np.float32)])[0]
assert y.shape[0] == 100
""",
    "litert": """
import numpy as np
from ai_edge_litert.interpreter import Interpreter
net = Interpreter("step.tflite", num_threads=1)
net.allocate_tensors()
x, h = (entry["index"] for entry in net.get_input_details())
(out,) = (entry["index"] for entry in net.get_output_details())
state = np.zeros((1, 128), np.float32)
for _ in range(100):
    net.set_tensor(x, np.zeros((1, 10), np.float32))
    net.set_tensor(h, state)
    net.invoke()
    state = net.get_tensor(out)
assert state.shape == (1, 128)
""",
}
TITLES = {
    "numpy": ("numpy alone", "numpy", "numpy"),
    "cgru": ("cgru", "cgru", "cgru"),
    "torch": ("PyTorch", "torch", "torch"),
    "onnxruntime": ("ONNX Runtime", "onnxruntime", "onnxruntime"),
    "openvino": ("OpenVINO", "openvino", "openvino"),
    "litert": ("LiteRT", "ai_edge_litert.interpreter", "ai-edge-litert"),
}

#: Milliseconds and MB that an import takes beyond numpy's, and what it brought along.
IMPORT = """
import json, sys, time
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 1e6
import numpy
names, before, start = set(sys.modules), resident(), time.perf_counter()
import MODULE
taken, after = time.perf_counter() - start, resident()
new = {name.partition(".")[0] for name in set(sys.modules) - names} - set(sys.stdlib_module_names)
tops = sorted(name for name in new if not name.startswith(("_", "cython")))
print(json.dumps([taken * 1e3, after - before, tops]))
"""

#: Bytes on disk of a distribution and of all it requires but numpy.
INSTALLED = """
import importlib.metadata as metadata, json, re, sys
def required(name, seen):
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return seen
    key = re.sub("[-_.]+", "-", name).lower()
    if key in seen or key == "numpy":
        return seen
    files = [file for file in found.files or [] if file.suffix != ".pyc"]
    seen[key] = sum(path.stat().st_size for path in (file.locate() for file in files) if path.is_file())
    for line in found.requires or []:
        if "extra ==" not in line:
            required(re.match(r"[\\w.-]+", line)[0], seen)
    return seen
print(json.dumps([metadata.version(sys.argv[1]), required(sys.argv[1], {})]))
"""


def cold(python: str, code: str, folder: Path) -> tuple[float, float]:
    """Milliseconds from start to end of a process, and its peak resident MB."""
    start = time.perf_counter()
    process = subprocess.Popen([python, "-c", code], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    _, status, usage = os.wait4(process.pid, 0)
    taken = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.stderr is not None
    with process.stderr as said:
        if process.returncode:
            raise SystemExit(said.read().decode())
    return taken * 1e3, usage.ru_maxrss * 1024 / 1e6


def ask(python: str, code: str, *arguments: str, folder: Path) -> Any:
    done = subprocess.run([python, "-c", code, *arguments], cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return json.loads(done.stdout or "null")


def wheel_size(folders: list[Path], distribution: str, version: str) -> float | None:
    """MB of the largest wheel of that version."""
    stem = re.compile(re.escape(distribution.replace("-", "_")) + "-" + re.escape(version) + "-.*whl$")
    sizes = [file.stat().st_size / 1e6 for folder in folders for file in folder.glob("*.whl") if stem.match(file.name)]
    return max(sizes, default=None)


def middle(values: list[float]) -> dict[str, float]:
    quarters = statistics.quantiles(values, n=4)
    return {"median": statistics.median(values), "least": min(values), "iqr": quarters[2] - quarters[0]}


def measure(pythons: dict[str, str], rounds: int, wheels: list[Path], folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, python in pythons.items():
        _, module, distribution = TITLES[name]
        try:
            if name != "numpy":
                ask(python, PREPARE + PREPARED[name], str(HERE), folder=folder)
            cold(python, COLD[name], folder)  # untimed: fills the caches
            version, installed = ask(python, INSTALLED, distribution, folder=folder)
        except RuntimeError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
            continue
        found[name] = {
            "version": version,
            "wheel_mb": wheel_size(wheels, distribution, version),
            "installed_mb": {key: size / 1e6 for key, size in installed.items()},
            "brings": ask(python, IMPORT.replace("MODULE", module), folder=folder)[2],
        }
    times: dict[str, list[list[float]]] = {name: [[], [], [], []] for name in found}
    names = list(found)
    for turn in range(rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            imported = ask(pythons[name], IMPORT.replace("MODULE", TITLES[name][1]), folder=folder)
            one = (*cold(pythons[name], COLD[name], folder), *imported[:2])
            for values, value in zip(times[name], one, strict=True):
                values.append(value)
    keys = ("cold_ms", "cold_peak_mb", "import_ms", "import_mb")
    for name, lists in times.items():
        found[name] |= {key: middle(values) for key, values in zip(keys, lists, strict=True)}
    return found


def table(found: dict[str, Any]) -> str:
    bare = found["numpy"]
    lines = [
        "| | wheel | installed | import | resident | cold process | of numpy's | peak | above numpy's |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in found.items():
        wheel = "" if row["wheel_mb"] is None else f"{row['wheel_mb']:.3g} MB"
        installed, beyond = "", ["", ""]
        if name != "numpy":
            installed = f"{sum(row['installed_mb'].values()):.3g} MB"
            import_ms = row["import_ms"]
            beyond[0] = f"{import_ms['median']:.0f} ms ({import_ms['least']:.0f})"
            beyond[1] = f"{row['import_mb']['median']:.1f} MB"
        wall, peak = row["cold_ms"], row["cold_peak_mb"]["median"]
        ratio = f"{wall['median'] / bare['cold_ms']['median']:.2f} ({wall['least'] / bare['cold_ms']['least']:.2f})"
        above = f"{peak - bare['cold_peak_mb']['median']:.1f} MB"
        title = f"{TITLES[name][0]} {row['version']}"
        cells = [title, wheel, installed, *beyond, f"{wall['median']:.0f} ms ({wall['least']:.0f})", ratio]
        lines.append("| " + " | ".join([*cells, f"{peak:.1f} MB", above]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cgru", default=sys.executable, metavar="PYTHON", help="has cgru and numpy")
    parser.add_argument("--peers", default=sys.executable, metavar="PYTHON", help="has the other libraries")
    parser.add_argument("--only", nargs="+", choices=list(TITLES), default=list(TITLES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--wheels", nargs="+", type=Path, default=[], metavar="FOLDER")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    pythons = {
        name: shutil.which(options.cgru if name in ("numpy", "cgru") else options.peers) or options.peers
        for name in ["numpy", *(name for name in TITLES if name in options.only and name != "numpy")]
    }
    with tempfile.TemporaryDirectory() as scratch:
        found = measure(pythons, max(2, options.rounds), options.wheels, Path(scratch))
    print(table(found))
    for name, row in found.items():
        if row["brings"] and name != "numpy":
            print(f"{TITLES[name][0]} imports: {', '.join(row['brings'])}")
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
