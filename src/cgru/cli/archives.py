"""``cgru run`` over many files, and over columns of Parquet and Arrow."""

from __future__ import annotations

import argparse
import glob
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import CgruError
from ..threads import resolve
from .files import FORMATS, PIPE

if TYPE_CHECKING:
    from ..engine.model import Model

_TABLES = (".parquet", ".arrow")


def add_options(sub: argparse.ArgumentParser) -> None:
    """What ``cgru run`` takes beside the options of one file."""
    help_jobs = "batches at a time, over many files or rows, or auto: every core (1)"
    sub.add_argument("--jobs", type=_jobs, default=1, metavar="N", help=help_jobs)
    sub.add_argument("--strict", action="store_true", help="stop at the first file or row that is bad")
    sub.add_argument("--format", choices=FORMATS, help="of the files written into the folder OUT/ (npy)")
    sub.add_argument("--column", help="which column of a .parquet or .arrow file holds the sequences")
    sub.add_argument("--output-column", metavar="NAME", help="what the outputs' column is called (y)")


def is_archive(options: argparse.Namespace) -> bool:
    """Whether the inputs are many files, or rows of a table."""
    inputs, output = options.input, options.output
    return (
        len(inputs) > 1
        or inputs[0].endswith(_TABLES)
        or output.endswith(("/", os.sep))
        or (output != PIPE and os.path.isdir(output))
        or (inputs[0] != PIPE and glob.has_magic(inputs[0]) and not os.path.exists(inputs[0]))
    )


def check_single(options: argparse.Namespace) -> None:
    """Refuse what a single file leaves no meaning: which column to read, and the format of files in a folder."""
    _check_left_away(options, ("column", "output_column"), "a .parquet or .arrow file")
    _check_left_away(options, ("format",), "a folder of outputs (-o OUT/); a single one goes by its name's ending")


def _check_left_away(options: argparse.Namespace, names: Sequence[str], of: str) -> None:
    for name in names:
        if getattr(options, name) is not None:
            raise CgruError(f"--{name.replace('_', '-')} belongs to {of}; leave it away")


def run(net: Model, options: argparse.Namespace) -> int:
    """Status 0, or 1 where something was left out."""
    jobs = resolve(options.jobs)
    if options.stream or options.json:
        raise CgruError("--stream and --json belong to a run over a single file; leave them away")
    if options.output == PIPE:
        raise CgruError("many sequences are written to a folder or a table; name one with -o (OUT/, OUT.parquet)")
    if options.input[0].endswith(_TABLES):
        if len(options.input) > 1 or not options.output.endswith(_TABLES):
            raise CgruError("one table makes one table: cgru run FILE in.parquet -o out.parquet")
        _check_left_away(options, ("format",), "a folder of outputs (-o OUT/)")
        from ..archive.columns import run_table

        tally = run_table(
            net, options.input[0], options.output, column=options.column, output=options.output_column or "y",
            jobs=jobs, strict=options.strict, complain=_complain,
        )  # fmt: skip
    else:
        from ..archive.folders import expand, run_files

        if os.path.splitext(options.output)[1].removeprefix(".") in FORMATS and not os.path.isdir(options.output):
            raise CgruError(f"{options.output}: many files make many files; give a folder, as in -o out/")
        _check_left_away(options, ("column", "output_column"), "a .parquet or .arrow file")
        tally = run_files(
            net, expand(options.input), options.output, kind=options.format or "npy", jobs=jobs,
            strict=options.strict, complain=_complain,
        )  # fmt: skip
    print(f"{options.output}: {tally}")
    return 1 if tally.bad else 0


def _complain(said: str) -> None:
    print(f"cgru: {' '.join(said.split())}", file=sys.stderr)


def _jobs(text: str) -> int | str:
    if text == "auto" or (text.isascii() and text.isdigit() and int(text) >= 1):
        return text if text == "auto" else int(text)
    raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, or auto, found {text!r}")
