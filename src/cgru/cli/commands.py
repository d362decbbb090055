"""The command line: one function a command.

Exit status 0; 1 where a comparison found more difference than was allowed; 2 with one line on standard error.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np

from .. import __version__
from ..engine.model import Model
from ..engine.verification import TOLERANCE
from ..errors import CgruError, UnsupportedError, shortened
from ..json_numbers import nested
from ..spec.precision import PRECISIONS
from ..threads import resolve
from . import files as cli_files
from . import opening, running
from .files import PIPE


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status."""
    debug = "--debug" in (sys.argv[1:] if arguments is None else arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A terminal that knows no arrows gets question marks, not an error.
        sys.stdout.reconfigure(errors="replace")
    try:
        options = _parser().parse_args(arguments)
        status = options.command(options)
        if sys.stdout is not None:
            sys.stdout.flush()
        return status or 0
    except BrokenPipeError:
        # Whoever read the output has had enough; Python must not complain when it closes stdout again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        print(f"cgru: {shortened(_explain(error))}", file=sys.stderr)
        return 2


def info(options: argparse.Namespace) -> None:
    """What a file holds: layers, sizes, parameters, weights that are not finite, and what other cells would cost."""
    from ..formats import sniff
    from ..reports import plot
    from ..reports.cell_costs import costs, table

    if options.plot is not None:
        plot.require_matplotlib()
    if options.suggest:
        _suggest(options)
        return
    try:
        net = opening.load(options)
    except CgruError as error:
        asked = (options.plot, options.entry, *opening.said(options).values())
        if any(value is not None for value in asked):
            raise
        _tensors(options, error)
        return
    if options.plot is not None:
        from ..reports.drawing import network_figure

        plot.save(network_figure(net), options.plot)
    kind, file_bytes = sniff(options.file).title, os.path.getsize(options.file)
    bad = _not_finite(net)
    if options.json:
        told = {"file": options.file, "kind": kind, "file_bytes": file_bytes} | _described(net)
        told |= {"not_finite": bad, "cells": [vars(cost) for cost in costs(net.layers)]}
        _print_json(told | ({} if options.plot is None else {"plot": options.plot}) | _graph(options, kind))
        return
    print(f"{options.file}: {kind}, {file_bytes:,} bytes")
    _print_graph(options, kind)
    print(net)
    if found := costs(net.layers):
        print("\nthe recurrent layers of these sizes as another cell:")
        print(table(found))
    for name, count in bad.items():
        print(f"warning: {name} has {count:,} weights that are NaN or infinite")


def _not_finite(net: Model) -> dict[str, int]:
    """How many weights of each array are NaN or infinite, where any is."""
    counts = {
        f"{layer.name}.{name}": int(np.size(array) - np.count_nonzero(np.isfinite(array)))
        for layer in net.layers
        for name, array in layer.arrays().items()
    }
    return {name: count for name, count in counts.items() if count}


def _described(net: Model) -> dict[str, Any]:
    """A network's sizes and layers, for a program to read."""
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "sizes": layer.describe(),
            "parameters": layer.parameters,
            "precision": layer.precision,
            "backend": backend,
            "options": layer.options(),
        }
        for layer, backend in zip(net.layers, net.backends, strict=True)
    ]
    return {
        "input_size": net.input_size,
        "output_size": net.output_size,
        "takes_ids": net.takes_ids,
        "parameters": net.parameters,
        "nbytes": net.nbytes,
        "precision": net.precision,
        "layers": layers,
        "entries": _entries(net),
        "notes": net.notes,
    }


def _entries(net: Model) -> dict[str, Any] | None:
    """What the networks of a file of several take and give; None of a file of one."""
    from ..engine.entries import Entries

    if not isinstance(net, Entries):
        return None
    return {
        name: {
            "inputs": {given: model.graph.inputs[given].describe() for given in model.input_names},
            "outputs": {given: model.graph.values[given].describe() for given in model.graph.outputs},
            "layers": [layer.name for layer in model.layers],
        }
        for name, model in net.entries.items()
    }


def _graph(options: argparse.Namespace, kind: str) -> dict[str, Any]:
    """What an ONNX file says of its graph, whether or not that runs; nothing of other files."""
    if kind != "ONNX":
        return {}
    from ..formats.readers.onnx_summary import summary

    return {"graph": summary(options.file)}


def _print_graph(options: argparse.Namespace, kind: str) -> None:
    for found in _graph(options, kind).values():
        from ..formats.readers.onnx_summary import lines

        print(lines(found))


def _suggest(options: argparse.Namespace) -> None:
    """``layers=`` to paste, tried here; a plausible one, since a file of tensors does not hold forward()."""
    from .. import load
    from ..formats import read_file
    from ..formats.readers.torch_layers import suggestion

    others = (options.plot, options.entry, *(said for key, said in opening.said(options).items() if key != "prefix"))
    if any(value is not None for value in others):
        raise CgruError("--suggest goes with --prefix and --json alone; leave the other options away")
    try:
        load(options.file, prefix=options.prefix)
    except UnsupportedError as error:
        said = suggestion(read_file(options.file), options.prefix)
        if not said:
            raise UnsupportedError(f"{error}; no layers= can be suggested") from None
        net = load(options.file, layers=said, prefix=options.prefix)
        more = f", prefix={options.prefix!r}" if options.prefix is not None else ""
        if options.json:
            _print_json({"file": options.file, "layers": said, "prefix": options.prefix})
            return
        print(f"cgru.load({options.file!r}, layers={said!r}{more})")
        print(f"# {' → '.join(layer.name for layer in net.layers)}: plausible by sizes and order; activations between")
        print("# layers are not in the file: put them in, and compare with the trained network by check=(x, y)")
        return
    if options.json:
        _print_json({"file": options.file, "layers": None, "prefix": options.prefix})
        return
    more = f", prefix={options.prefix!r}" if options.prefix is not None else ""
    print(f"cgru.load({options.file!r}{more}) opens as it is")


def _tensors(options: argparse.Namespace, why: CgruError) -> None:
    """What a file holds that is read but is no network as it is; ``why`` says what is missing.

    A file that cannot even be read is refused for what made it no network.
    """
    from ..formats import read_file, sniff
    from ..reports import contents

    try:
        file = read_file(options.file)
    except CgruError:
        raise why from None
    found = contents.rows(file.tensors)
    kind = sniff(options.file).title
    reason = str(why).removeprefix(f"{options.file}: ")
    if options.json:
        more = _graph(options, kind)
        _print_json({"file": options.file, "kind": kind, "tensors": found, "not_run": reason} | more)
        return
    print(f"{options.file}: {kind}, {len(found):,} tensors")
    _print_graph(options, kind)
    print(contents.table(found))
    for name, text in file.metadata.items():
        print(f"{name}: {shortened(' '.join(text.split()))[:200]}")
    print(f"not run as it is: {reason}")


def run(options: argparse.Namespace) -> int:
    """Run a network over the sequences of a file, of many files, or of a column of a table."""
    from ..formats.readers.naming import error_prefix
    from . import archives

    threads = resolve(options.threads)
    net = opening.load_one(options)
    if archives.is_archive(options):
        return archives.run(net, options)
    archives.check_single(options)
    options.input = options.input[0]
    given = cli_files.read_for(options.input, net)
    kind = cli_files.output_kind(options.output, given)
    start = time.perf_counter()
    with error_prefix("standard input" if options.input == PIPE else options.input):
        y = running.stream(net, given) if options.stream else running.rows(net, given, threads)
    seconds = time.perf_counter() - start
    if options.output != PIPE or not options.json:
        cli_files.write_output(options.output, y, kind, given.rate)
    if options.json:
        summary: dict[str, Any] = {
            "file": options.file,
            "input": options.input,
            "input_shape": running.each(given.x, np.shape),
            "output_shapes": running.each(y if isinstance(y, (dict, tuple)) else (y,), np.shape),
            "seconds": seconds,
        }
        if options.output == PIPE:
            summary["y"] = running.each(y if isinstance(y, (dict, tuple)) else (y,), nested)
        else:
            summary["output"] = options.output
        _print_json(summary)
    return 0


def bench(options: argparse.Namespace) -> None:
    """How fast a network runs on this machine; without FILE, the demo's forecaster."""
    from ..reports import speed

    threads = resolve(options.threads)
    if options.file is None:
        options.file = os.path.join(os.path.dirname(os.path.dirname(__file__)), "demo", "co2_gru.pt")
    net = opening.load_one(options)
    opening.one_input(net, options.file, "what a measurement runs on is made up, of networks of one input")
    found = speed.measure(net, streams=options.streams, threads=threads)
    if options.json:
        rows = [{**vars(line), "steps_per_second": line.steps_per_second} for line in found]
        told = {"file": options.file, "precision": net.precision, "backends": net.backends, "threads": threads}
        _print_json(told | {"speed": rows})
        return
    runs_on = ", ".join(sorted(set(net.backends)))
    print(f"{os.path.basename(options.file)}: {net.parameters:,} parameters, {net.precision}, {runs_on}")
    print(speed.table(found))


def convert(options: argparse.Namespace) -> None:
    """Write a network in the native form, in reduced precision if wanted."""
    if not options.output.endswith((".safetensors", ".onnx")):
        raise UnsupportedError(f"{options.output}: networks are written as .safetensors or .onnx; give such a name")
    if os.path.exists(options.output) and os.path.samefile(options.file, options.output):
        raise CgruError(f"{options.output}: is the file to convert, which would be lost; give another name")
    net = opening.load(options)
    if options.output.endswith(".onnx"):
        net = opening.single(net, options.file)  # an ONNX file holds one graph
    if options.precision or options.layer:
        net = net.quantize(options.precision or {}, dict(options.layer or ()))
    net.save(options.output)
    print(f"{options.output}: {os.path.getsize(options.output):,} bytes")


def verify(options: argparse.Namespace) -> int:
    """Whether a network gives the outputs that were saved of the trained one; status 1 where it does not."""
    from ..engine import verification
    from ..formats.readers.naming import error_prefix

    net = opening.load_one(options)
    given, y = cli_files.read_checked(options.io, net)
    with error_prefix("standard input" if options.io == PIPE else options.io):
        found = verification.measure(net, given.x, y, given.lengths, given.mask, threads=resolve(options.threads))
    within = found.within(options.tolerance)
    if options.json:
        numbers = {key: value if math.isfinite(value) else None for key, value in vars(found).items()}
        _print_json({"file": options.file, "io": options.io, "tolerance": options.tolerance, "ok": within} | numbers)
    elif within:
        print(f"{options.file}: the outputs agree: {found}")
    else:
        print(f"{options.file}: the outputs differ: {verification.beyond(found, options.tolerance)}")
    return 0 if within else 1


def compare(options: argparse.Namespace) -> int:
    """How far one network is from another of the same layers on a file's sequences, and how fast each is."""
    from ..formats import load, sniff
    from ..reports.comparison import compare as measured

    threads = resolve(options.threads)
    nets = []
    for file in (options.file, options.other):
        # What is said of the files is said to those that take it: the other may say it all itself.
        kind, told = sniff(file), opening.said(options)
        takes = (*kind.options, *(() if kind.builder and not kind.by_layers else ("layers", "prefix")))
        net = load(file, **{key: value for key, value in told.items() if key in takes})
        nets.append(opening.single(opening.entry(net, file, options.entry), file))
    given = cli_files.read_for(options.input, nets[0])
    found = measured(nets[0], nets[1], given.x, given.lengths, given.mask, threads=threads)
    if options.json:
        report = found.to_dict()
        report["first"]["file"], report["second"]["file"] = options.file, options.other
        _print_json({"input": options.input} | report)
    else:
        print(found)
    return 0 if options.tolerance is None or found.output.relative_rms <= options.tolerance else 1


def gates(options: argparse.Namespace) -> None:
    """Draw what the gates of a layer did over one sequence."""
    from ..reports import plot

    plot.require_matplotlib()
    net = opening.load_one(options)
    opening.one_input(net, options.file, "gates are drawn of one input; net.gates gives those of any in Python")
    given = cli_files.read_input(options.input, ids=net.takes_ids, features=net.input_size)
    x, mask = given.x, given.mask
    if x.ndim == (2 if net.takes_ids else 3):
        if not 0 <= options.row < len(x):
            raise CgruError(f"--row {options.row}: {options.input} has rows 0 to {len(x) - 1}")
        end = x.shape[1] if given.lengths is None else int(given.lengths[options.row])
        x = x[options.row, :end]
        mask = None if mask is None else mask[options.row, :end]
    elif options.row:
        raise CgruError(f"--row {options.row}: {options.input} holds one sequence; leave --row away")
    found = net.gates(x, mask=mask)
    name = next(iter(found), None) if options.layer is None else options.layer
    if name not in found:
        known = ", ".join(found) or "none"
        raise CgruError(f"--layer {name}: no such recurrent layer and direction; there are {known}")
    title = f"{os.path.basename(options.file)}: {name} over {os.path.basename(options.input)}"
    plot.save(plot.gates_figure(found[name], x, title=title), options.output)
    half = plot.half_life(found[name]["z"])
    print(f"{options.output}: {name}, {x.shape[0]:,} steps; median half-life of a unit {np.median(half):.3g} steps")


def serve(options: argparse.Namespace) -> None:
    """Serve a network: streams over WebSockets, sequences over HTTP, KServe's V2 protocol (needs cgru[serve])."""
    from . import serving

    serving.serve(opening.load_one(options), options)


def demo(options: argparse.Namespace) -> None:
    """Forecast a real measured series with a trained network that comes with cgru."""
    from ..demo import run as run_demo

    run_demo(plot=options.plot, json=options.json)


def config(options: argparse.Namespace) -> None:
    """The instruction sets and backends of this installation."""
    from ..reports.config import show_config

    found = show_config()
    if options.json:
        _print_json(found.to_dict())
    else:
        print(found)


# ---- pieces -----------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    print(json.dumps(value, ensure_ascii=False, allow_nan=False))


def _explain(error: BaseException) -> str:
    """An error in one line."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename is not None else error.strerror
    text = " ".join(str(error).split())
    if isinstance(error, CgruError):
        return text
    if isinstance(error, MemoryError):
        return f"not enough memory ({text})" if text else "not enough memory"
    if isinstance(error, ImportError):
        return text
    return f"unexpected {type(error).__name__}: {text} (--debug shows where)"


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        self.exit(2, f"cgru: {shortened(message)} (see {self.prog} --help)\n")


def _threads(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, or auto, found {text!r}")
    return int(text)


def _tolerance(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a relative difference such as 1e-4, found {text!r}")
    return value


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 100000")
    return int(text)


def _layer_precision(text: str) -> tuple[str, str]:
    name, equals, precision = text.rpartition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=PRECISION, found {text!r}")
    return name, precision


def _parser() -> _Parser:
    from . import archives, serving

    parser = _Parser(prog="cgru", description="Run trained GRU, LSTM and RNN networks on a CPU.")
    parser.add_argument("--version", action="version", version=f"cgru {__version__}")
    parser.add_argument("--debug", action="store_true", help="show a traceback when something fails")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, command: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=command.__doc__, description=command.__doc__)
        sub.set_defaults(command=command)
        sub.add_argument("--debug", action="store_true", help=argparse.SUPPRESS)
        return sub

    sub = add("info", info)
    opening.add_options(sub)
    sub.add_argument("--json", action="store_true", help="print JSON")
    sub.add_argument("--plot", metavar="OUT", help="draw the network: .png, .svg or .pdf (needs matplotlib)")
    sub.add_argument("--suggest", action="store_true", help="print the layers= to paste, where tensors do not say them")

    sub = add("run", run)
    opening.add_options(sub)
    help_input = ".npy .npz .csv .wav, or - for standard input; many of them, 'data/*.wav', or a .parquet or .arrow"
    sub.add_argument("input", metavar="INPUT", nargs="+", help=help_input)
    help_output = ".npy .npz .csv .wav (default: standard output); a folder for many files; a .parquet or .arrow"
    sub.add_argument("-o", "--output", metavar="OUT", default=PIPE, help=help_output)
    sub.add_argument("--stream", action="store_true", help="go step by step through a stream")
    sub.add_argument("--threads", type=_threads, help="how many threads, or auto (default 1)")
    sub.add_argument("--json", action="store_true", help="print shapes and time as JSON, and y without -o")
    archives.add_options(sub)

    sub = add("convert", convert)
    opening.add_options(sub)
    sub.add_argument("output", metavar="OUT", help="a .safetensors file in cgru's native form, or an .onnx file")

    of_all = "of the weights of every layer: int8, int8x16, bf16, fp16"
    sub.add_argument("--precision", choices=PRECISIONS, help=of_all, metavar="PRECISION")
    of_one = "of the layer named, whatever --precision says; may be repeated"
    sub.add_argument("--layer", type=_layer_precision, action="append", metavar="NAME=PRECISION", help=of_one)

    sub = add("verify", verify)
    opening.add_options(sub)
    sub.add_argument("io", metavar="IO.npz", help="x and the trained network's y for it: np.savez('io.npz', x=x, y=y)")
    help_verified = "the relative difference allowed, of the RMS and of the largest (default: 1e-4)"
    sub.add_argument("--tolerance", type=_tolerance, metavar="T", default=TOLERANCE, help=help_verified)
    sub.add_argument("--threads", type=_threads, help="how many threads, or auto (default 1)")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add("compare", compare)
    opening.add_options(sub)
    sub.add_argument("other", metavar="OTHER", help="another with the same layers, such as one in reduced precision")
    sub.add_argument("input", metavar="INPUT", help=".npy .npz .csv .wav, or - for standard input")
    help_compared = "end with status 1 where the relative RMS error at the end is larger"
    sub.add_argument("--tolerance", type=_tolerance, metavar="T", help=help_compared)
    sub.add_argument("--threads", type=_threads, help="how many threads, or auto (default 1)")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add("gates", gates)
    opening.add_options(sub)
    sub.add_argument("input", metavar="INPUT", help=".npy .npz .csv .wav, or - for standard input")
    sub.add_argument("-o", "--output", metavar="OUT.png", default="gates.png", help="the picture (default: gates.png)")
    sub.add_argument("--layer", help="which layer and direction, such as gru.l0.reverse (default: the first)")
    sub.add_argument("--row", type=int, default=0, help="which sequence of a batch (default: 0)")

    sub = add("bench", bench)
    opening.add_options(sub, "?")
    sub.add_argument("--streams", type=_count, metavar="N", help="also a pool of N streams, beside them one by one")
    sub.add_argument("--threads", type=_threads, help="how many threads, or auto (default 1)")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add("serve", serve)
    opening.add_options(sub)
    serving.add_options(sub)

    sub = add("demo", demo)
    sub.add_argument("--plot", metavar="OUT.png", help="draw the forecast too (needs matplotlib)")
    sub.add_argument("--json", action="store_true", help="print JSON")

    sub = add("config", config)
    sub.add_argument("--json", action="store_true", help="print JSON")
    return parser
