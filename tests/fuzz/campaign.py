"""A campaign of mutated files over every format, under the bounds, in forked children.

    PYTHONPATH=tests python tests/fuzz/campaign.py --files 1000000          # and --first N to go on where one ended
    PYTHONPATH=tests python tests/fuzz/campaign.py --files 20000 --seconds 40
    PYTHONPATH=tests python tests/fuzz/campaign.py --only keras --show native/int8.safetensors 17
    PYTHONPATH=tests python tests/fuzz/campaign.py --files 100000 --corpus  # writes down one case of every outcome

Case ``number`` mutates seed ``number % seeds``, so two runs of one checkout see the same files. Each file is loaded
from memory; a network is run beside the reference backend; a child that crashes or hangs is replaced, and its file
named. The exit status is 1 where a promise was broken. What the promises are stands in outcomes.py.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import resource
import signal
import struct
import sys
import time
import traceback
import warnings
from collections import Counter

from bounded import MEGABYTE, time_bound
from mutations import Case, Edit, edited, edits_of
from outcomes import measured, outcome, watch_audit_events
from seeds import CORPUS, seeds

import cgru
from cgru import formats

#: Files that one child reads before the next takes over with fresh memory.
BATCH = 500
#: Bytes that a case of the corpus may put into a file.
MAX_EDIT = 2000
#: A file that a child has not ended after this many times its bound hangs.
PATIENCE = 4


class Memory:
    """The peak of this process since :meth:`reset`."""

    def reset(self) -> None:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
        self._before = self._now("VmRSS")

    def peak(self) -> int:
        return self._now("VmHWM") - self._before

    def _now(self, field: str) -> int:
        with open("/proc/self/status") as file:
            return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field))


def run(files: list[tuple[str, bytes]], first: int, count: int, until: float) -> tuple[Counter[str], list[str], int]:
    """Cases ``first`` to ``first + count``: how often each outcome was, what broke, and how many were read."""
    outcomes: Counter[str] = Counter()
    broken: list[str] = []
    number = first
    while number < first + count and time.monotonic() < until:
        number, died = _child(files, number, min(first + count, number + BATCH), outcomes, broken, until)
        if died:
            broken.append(f"{_name(files, number)}: {died}")
            outcomes[died] += 1
            number += 1
    return outcomes, broken, number - first


def _name(files: list[tuple[str, bytes]], number: int) -> str:
    return f"{files[number % len(files)][0]} {number}"


def _case(files: list[tuple[str, bytes]], number: int) -> tuple[bytes, Case]:
    name, content = files[number % len(files)]
    return content, edits_of(content, name, number)


def _child(
    files: list[tuple[str, bytes]], start: int, end: int, outcomes: Counter[str], broken: list[str], until: float
) -> tuple[int, str]:
    """One child over cases ``start`` to ``end``; the next case, and how the child died if it did."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        status = 1
        try:
            _read_files(files, start, end, writer, until)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    os.close(writer)
    number = start
    with os.fdopen(reader, "rb") as pipe:
        while head := pipe.read(4):
            came_to, said = json.loads(pipe.read(struct.unpack("<I", head)[0]))
            outcomes[came_to] += 1
            broken += [f"{_name(files, number)}: {what}" for what in said]
            number += 1
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        return number, "hangs" if name in ("SIGXCPU", "SIGALRM") else f"crashes with {name}"
    if status:
        raise RuntimeError(f"the child that read {_name(files, number)} failed by itself; its traceback is above")
    return number, ""


def _read_files(files: list[tuple[str, bytes]], start: int, end: int, pipe: int, until: float) -> None:
    watch_audit_events()
    memory = Memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # A warning shows its line, for which Python opens the module that it is in.
    warnings.simplefilter("ignore")
    for number in range(start, end):
        if time.monotonic() > until:
            return
        content = edited(*_case(files, number))
        limit = PATIENCE * time_bound(len(content))
        used = time.process_time()
        resource.setrlimit(resource.RLIMIT_CPU, (int(used + limit) + 1, resource.RLIM_INFINITY))
        signal.alarm(int(limit) * 20 + 1)
        told = json.dumps(measured(content, memory)).encode()
        os.write(pipe, struct.pack("<I", len(told)) + told)


def warm(files: list[tuple[str, bytes]]) -> None:
    """Every module and every seed once, so that what is imported late is there before imports are forbidden."""
    for module in pkgutil.walk_packages(formats.__path__, "cgru.formats."):
        importlib.import_module(module.name)
    b"x".decode("cp437")  # the names in old zips, whose codec is imported when it is first used
    for _, content in files:
        outcome(content)


def collect(files: list[tuple[str, bytes]], first: int, count: int) -> list[dict[str, object]]:
    """One case of every outcome: the shortest, so that the corpus stays small."""
    found: dict[str, tuple[int, dict[str, object]]] = {}
    for number in range(first, first + count):
        content, case = _case(files, number)
        name = files[number % len(files)][0]
        came_to, _ = outcome(edited(content, case))
        key = f"{name.rpartition('.')[2]} {came_to}"
        size = sum(len(edit.inserted) for edit in case.edits) + 8 * len(case.edits)
        if size <= MAX_EDIT and (key not in found or size < found[key][0]):
            edits = [[edit.at, edit.removed, edit.inserted.hex()] for edit in case.edits]
            found[key] = size, {"seed": name, "member": case.member, "edits": edits, "outcome": came_to}
    return [entry for _, (_, entry) in sorted(found.items())]


def corpus() -> list[tuple[str, Case, str]]:
    """The committed cases: the seed's name, the edits, and what the file came to when the case was written down."""
    cases = []
    for line in CORPUS.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        edits = tuple(Edit(at, removed, bytes.fromhex(inserted)) for at, removed, inserted in entry["edits"])
        cases.append((entry["seed"], Case(entry["member"], edits), entry["outcome"]))
    return cases


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000, help="how many mutated files (default: 10,000)")
    parser.add_argument("--first", type=int, default=0, help="the number of the first case")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after this long")
    parser.add_argument("--only", default="", help="seeds whose name contains this alone")
    parser.add_argument("--show", nargs=2, metavar=("SEED", "NUMBER"), help="what one case comes to")
    parser.add_argument("--corpus", action="store_true", help="write one case of every outcome to the corpus")
    options = parser.parse_args()
    files = [(name, content) for name, content in seeds().items() if options.only in name]
    if options.show:
        content = dict(files)[options.show[0]]
        made = edited(content, edits_of(content, options.show[0], int(options.show[1])))
        sys.stdout.flush()
        print(outcome(made))
        print(cgru.load(made))
        return 0
    if options.corpus:
        entries = collect(files, options.first, options.files)
        CORPUS.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
        print(f"{CORPUS.name}: {len(entries)} cases")
        return 0
    warm(files)
    begin = time.monotonic()
    total: Counter[str] = Counter()
    every: list[str] = []
    done = 0
    step = 20_000
    while done < options.files:
        count = min(step, options.files - done)
        found, broken, read = run(files, options.first + done, count, begin + options.seconds)
        total += found
        every += broken
        done += read
        for line in broken[:20]:
            print(f"BROKEN {line}", flush=True)
        spent = time.monotonic() - begin
        print(f"{done:,} files, {total['loaded']:,} loaded, {len(every)} broken, {spent:.0f} s", flush=True)
        if read < count:
            break
    print(f"{len(files)} seeds, {done:,} files, {total['loaded']:,} loaded and run, {len(total)} outcomes, ", end="")
    print(f"{len(every)} broken promises, {time.monotonic() - begin:.0f} s, peak {_peak()} MB")
    return 1 if every else 0


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 // MEGABYTE


if __name__ == "__main__":
    sys.exit(main())
