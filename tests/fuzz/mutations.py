"""Mutated files: case ``number`` of a seed is the same file wherever and whenever it is made.

A case is a list of edits of the seed, or of one member of a zip with its checksums made right again, so that what
lies behind a checksum is reached: bytes anywhere, or one change of the structure (:mod:`structures`). Edits can be
written down (:func:`edits_of`) and played back (:func:`edited`), which is how the corpus keeps cases that outlive a
change of this module.
"""

from __future__ import annotations

import io
import random
import zipfile
from collections.abc import Sequence
from typing import NamedTuple

import structures

#: What headers, pickles and JSON are made of: edges of number formats, opcodes, words the readers look for.
TOKENS = (
    *(bytes(n) for n in (1, 2, 4, 8)),
    *(b"\xff" * n for n in (1, 2, 4, 8)),
    b"\x7f", b"\x80", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\x01", b"\x00\x01", b"\x10\x00\x00\x00",
    b"0", b"1", b"-1", b"9", b"99999999999999999999", b"1e9", b"null", b"true", b"[]", b"{}", b"[", b"]", b"{", b"}",
    b'""', b'"', b",", b":", b"0x7f", b"\n", b" ", b"\\u0000", b"\xf0\x9f\x98\x80",
    b"(", b")", b".", b"t", b"R", b"Q", b"s", b"u", b"e", b"a", b"b", b"N", b"]", b"}", b"2", b"0", b"\x85", b"\x86",
    b"\x87", b"\x8f", b"\x90", b"\x91", b"\x94", b"\x93", b"K\x00", b"K\xff", b"M\xff\xff", b"J\xff\xff\xff\xff",
    b"h\x00", b"h\x01", b"q\x00", b"q\x01", b"cos\nsystem\n", b"cbuiltins\neval\n", b"ctorch\nDoubleStorage\n",
    b"F32", b"F64", b"I64", b"BF16", b"BOOL", b"<f4", b"|O", b">f8", b"GRU", b"LSTM", b"Dense", b"Lambda",
    b"FloatStorage", b"ByteStorage", b"_rebuild_tensor_v2", b"weight_ih_l0", b"weight_hh_l0", b"bias_ih_l0", b"weight",
    b"kernel", b"recurrent_kernel", b"bias", b"units", b"reset_after", b"return_sequences", b"layers", b"options",
    b"float16", b"int8", b"precision", b"GCOL", b"TREE", b"SNOD", b"OHDR", b"FRHP",
)  # fmt: skip


class Edit(NamedTuple):
    """``removed`` bytes at ``at`` replaced by ``inserted``."""

    at: int
    removed: int
    inserted: bytes


class Case(NamedTuple):
    """The edits of one file: of its member ``member`` where that is not empty, and then of nothing else."""

    member: str
    edits: tuple[Edit, ...]


def edits_of(content: bytes, seed: str, number: int) -> Case:
    """Case ``number`` of the seed ``content``, whose name is ``seed``."""
    rng = random.Random(f"{seed} {number}")
    member = ""
    body = content
    if content[:2] == b"PK" and rng.random() < 0.75:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            member = rng.choice(archive.namelist())
            body = archive.read(member)
    edits: list[Edit] = []
    if rng.random() < 0.4 and (made := structures.changed(rng, body)) is not None:
        return Case(member, (_between(body, made),))
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4, 8))):
        edits.append(_edit(rng, body))
        body = _applied(body, edits[-1:])
    return Case(member, tuple(edits))


def edited(content: bytes, case: Case) -> bytes:
    """The file that ``case`` makes of the seed ``content``."""
    if not case.member:
        return _applied(content, case.edits)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as archive, zipfile.ZipFile(out, "w") as changed:
        for name in archive.namelist():
            body = archive.read(name)
            # Without a date of its own a member gets the time of day, and the file differs from one second to the next.
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            changed.writestr(entry, _applied(body, case.edits) if name == case.member else body)
    return out.getvalue()


def _applied(body: bytes, edits: Sequence[Edit]) -> bytes:
    changed = bytearray(body)
    for at, removed, inserted in edits:
        changed[at : at + removed] = inserted
    return bytes(changed)


def _between(body: bytes, made: bytes) -> Edit:
    """The edit that makes ``made`` of ``body``."""
    begin = _same(body, made)
    end = _same(body[begin:][::-1], made[begin:][::-1])
    return Edit(begin, len(body) - end - begin, made[begin : len(made) - end])


def _same(a: bytes, b: bytes) -> int:
    """How many bytes both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _edit(rng: random.Random, body: bytes) -> Edit:
    size = len(body)
    # Most of a file is weights; what says something stands at its beginning or its end, and gets half of the edits.
    near = min(size, rng.choice((64, 512, 4096, size, size, size)) or 1)
    at = rng.randrange(near + 1) if rng.random() < 0.7 else max(0, size - rng.randrange(near + 1))
    other, span = rng.randrange(size + 1), 1 + min(rng.randrange(64), rng.randrange(64))
    kind = rng.randrange(8)
    if kind == 0:
        return Edit(at, 1, bytes([(body[at] if at < size else 0) ^ 1 << rng.randrange(8)]))
    if kind == 1:
        return Edit(at, 1, bytes([rng.randrange(256)]))
    if kind == 2:
        token = rng.choice(TOKENS)
        return Edit(at, len(token), token)
    if kind == 3:
        return Edit(at, 0, rng.choice(TOKENS))
    if kind == 4:
        return Edit(at, span, b"")
    if kind == 5:
        return Edit(at, 0, body[other : other + span])
    if kind == 6:
        piece = body[other : other + span]
        return Edit(at, len(piece), piece)
    # A piece many times over, or everything from here on gone.
    return Edit(at, 0, body[at : at + span] * rng.choice((2, 20, 200))) if rng.random() < 0.7 else Edit(at, size, b"")
