"""The file of a command, and what a caller says of it that the file does not."""

from __future__ import annotations

import argparse
import json
import math
from typing import TYPE_CHECKING, Any

from ..errors import CgruError, UnsupportedError

if TYPE_CHECKING:
    from ..engine.model import Model

_HELP_INPUTS = (
    "of an ONNX or TorchScript file: the value of an input that stays the same, sr=16000 or k=[1,2], "
    "or the shape of one that is left open, x=?,?,40; may be repeated"
)
_HELP_STATE = "of an ONNX file: the input that is this output of the step before, h=hn; may be repeated"
_HELP_ENTRY = "of a file that holds several networks, such as an encoder and its decoder: which of them, by its name"
_HELP_TIME = "of an ONNX file: which axis of the input is time, 1 or x=1; frame for a graph of one step"


def add_options(sub: argparse.ArgumentParser, count: str | None = None) -> None:
    """FILE and the options that say how it is read."""
    help_layers = "the layers in order, where names and shapes do not tell: rnn,last,fc or a JSON list"
    help_file = "a trained network: .pt .pth .safetensors .keras .h5 .npz .onnx"
    sub.add_argument("file", metavar="FILE", nargs=count, help=help_file)
    sub.add_argument("--layers", type=_layers, help=help_layers)
    sub.add_argument("--prefix", help="use only the tensors whose names begin with this part")
    sub.add_argument("--inputs", type=_input, action="append", metavar="NAME=VALUE", help=_HELP_INPUTS)
    sub.add_argument("--state", type=_pair, action="append", metavar="IN=OUT", help=_HELP_STATE)
    sub.add_argument("--entry", metavar="NAME", help=_HELP_ENTRY)
    sub.add_argument("--time-axis", type=_time_axis, action="append", metavar="AXIS", help=_HELP_TIME)


def said(options: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the file, as :func:`cgru.load` takes it."""
    axes = options.time_axis or []
    mapping = {name: axis for name, axis in axes if name is not None}
    plain = [axis for name, axis in axes if name is None]
    return {
        "layers": options.layers,
        "prefix": options.prefix,
        "inputs": dict(options.inputs) if options.inputs else None,
        "state": dict(options.state) if options.state else None,
        "time_axis": mapping or (plain[-1] if plain else None),
    }


def load(options: argparse.Namespace) -> Model:
    """What the command's file holds: a network, or of several the one that is asked for, or all of them."""
    from .. import load

    return entry(load(options.file, **said(options)), options.file, options.entry)


def load_one(options: argparse.Namespace) -> Model:
    """The network in the command's file; :class:`CgruError` where there are several and none is asked for."""
    return single(load(options), options.file)


def entry(net: Model, file: str, name: str | None) -> Model:
    """The entry of that name, or without a name the network as it is."""
    from ..engine.entries import Entries

    if name is None:
        return net
    if not isinstance(net, Entries):
        raise CgruError(f"--entry {name}: {file} holds one network, which has no name; leave --entry away")
    if name not in net:
        raise CgruError(f"--entry {name}: {file} has no such entry; there are {', '.join(net.entries)}")
    return net[name]


def single(net: Model, file: str) -> Model:
    """``net``, where it is one network; a :class:`CgruError` that says what to add where it is several."""
    from ..engine.entries import Entries

    if isinstance(net, Entries):
        first = next(iter(net.entries))
        raise CgruError(
            f"{file} holds the networks {', '.join(net.entries)}, of which one runs at a time: say --entry {first}; an "
            "encoder and its decoder together run in Python (cgru.greedy, cgru.beam)"
        )
    return net


def one_input(net: Model, file: str, why: str) -> None:
    """Raise :class:`UnsupportedError`, which says ``why``, where the network takes several inputs."""
    if len(net.input_names) > 1:
        raise UnsupportedError(f"{file}: takes the inputs {', '.join(net.input_names)}; {why}")


def _layers(text: str) -> str | list[Any]:
    """What ``cgru.load`` takes: names with commas between, or a list written as JSON."""
    if not text.lstrip().startswith("["):
        return text
    try:
        return json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"no valid JSON list ({error})") from error


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name or not value:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, found {text!r}")
    return name, value


def _input(text: str) -> tuple[str, Any]:
    """A number or a JSON list is the input's value; sizes with commas between, ? for open ones, are its shape."""
    name, value = _pair(text)
    if "?" in value:
        sizes = [size.strip() for size in value.strip("() ").split(",")]
        if all(size == "?" or (size.isascii() and size.isdigit()) for size in sizes):
            return name, tuple(None if size == "?" else int(size) for size in sizes)
        raise argparse.ArgumentTypeError(f"expected a shape such as ?,?,40, found {value!r}")
    try:
        made = json.loads(value)
    except ValueError:
        made = None
    if isinstance(made, (int, float, list)) and not (isinstance(made, float) and math.isnan(made)):
        return name, made
    raise argparse.ArgumentTypeError(f"expected a number, a JSON list, or a shape such as ?,?,40, found {value!r}")


def _time_axis(text: str) -> tuple[str | None, int | str]:
    name, equals, axis = text.rpartition("=")
    if axis == "frame" and not equals:
        return None, axis
    if not axis.removeprefix("-").isdigit() or not axis.isascii() or (equals and not name):
        raise argparse.ArgumentTypeError(f"expected an axis such as 1, x=1, or frame, found {text!r}")
    return (name if equals else None), int(axis)
