"""Short German sentences, phrases and words in English: what Ding's dictionary in Debian's package trans-de-en has.

A line of the dictionary is ``German :: English``. Entries that belong together are parted by ``|`` on both sides, ways
to say the same by ``;``, words that change together by ``/`` (er/sie geht, he/she goes), and ``{…}``, ``[…]``, ``<…>``,
``/…/`` and ``(…)`` are remarks. It is under the GPL, version 2 or later, so neither its text nor what is trained on it
is a part of this repository.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

PACKAGE = "trans-de-en"
INSTALLED = Path("/usr/share/trans/de-en")
LONGEST = 10  # words of a sentence to train on, on either side
SHORT = 7  # words of the German of a sentence that is held out
FAMILIAR = 3  # times that the English sentences have each word of an entry to train on
ONE_IN = 20  # of the dictionary's lines, one in so many is held out

_REMARKS = re.compile(r"\{[^}]*\}|\[[^]]*\]|<[^>]*>|\([^)]*\)|(?<!\S)/[^/]*/(?!\S)")
_ODD = re.compile(r"[^\w\s.,!?:'\"-]|[\d_]|\.\.")
_SENTENCE = re.compile(r"[A-ZÄÖÜ\"'].*\w[.!?]['\"]?")
_QUOTES = str.maketrans("’‘“”„", "''\"\"\"")
_SPACES = re.compile(r"\s+([.,!?:])")
_WORD = re.compile(r"\w+")
_SHORTENED = {"jdn.": "jemanden", "jdm.": "jemandem", "jds.": "jemandes", "jd.": "jemand", "etw.": "etwas",
              "sb.": "somebody", "sb.'s": "somebody's", "sth.": "something"}  # fmt: skip


class Pair(NamedTuple):
    """What is said in German, and the ways in which the dictionary says it in English."""

    german: str
    english: tuple[str, ...]


class Pairs(NamedTuple):
    """``sentences`` and ``entries`` (words, phrases) to train on; ``held_out``: sentences that are not among them."""

    sentences: list[Pair]
    entries: list[Pair]
    held_out: list[Pair]


def cache() -> Path:
    """The folder of what the examples fetch and train, made where it is not there."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cgru-examples"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def dictionary(path: str | None = None) -> str:
    """The dictionary's text: of a file (text or .deb), of the installed package, or of one that apt-get downloads."""
    if path is not None:
        return _text(Path(path))
    if INSTALLED.is_file():
        return _text(INSTALLED)
    fetched = sorted(cache().glob(f"{PACKAGE}_*.deb"))
    if not fetched and shutil.which("apt-get"):
        print(f"fetching {PACKAGE} (6 MB) with apt-get download into {cache()}", flush=True)
        subprocess.run(["apt-get", "-qq", "download", PACKAGE], cwd=cache(), check=False)
        fetched = sorted(cache().glob(f"{PACKAGE}_*.deb"))
    if not fetched:
        raise SystemExit(
            f"the dictionary is not here: install it (apt-get install {PACKAGE}), or name the package, or the text "
            f"in it by --dictionary (https://packages.debian.org/{PACKAGE})"
        )
    return _text(fetched[-1])


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
        text = (_member(data) if data.startswith(b"!<arch>\n") else data).decode("utf-8")
    except OSError as error:
        raise SystemExit(f"{path}: {error.strerror or error}") from error
    except (LookupError, ValueError, tarfile.TarError) as error:
        raise SystemExit(f"{path}: it is no package {PACKAGE} ({error})") from error
    if " :: " not in text:
        raise SystemExit(f"{path}: expected lines 'German :: English', found none")
    return text


def _member(package: bytes) -> bytes:
    """The dictionary in a .deb: an ar archive, in which data.tar.xz holds the files."""
    at = 8
    while at + 60 <= len(package):
        name, size = package[at : at + 16].decode("ascii").strip(" /"), int(package[at + 48 : at + 58])
        if name.startswith("data.tar"):
            with tarfile.open(fileobj=io.BytesIO(package[at + 60 : at + 60 + size])) as files:
                found = files.extractfile(f".{INSTALLED}")
                assert found is not None
                return found.read()
        at += 60 + size + size % 2
    raise LookupError("no data.tar in it")


def read(text: str, one_in: int = ONE_IN, familiar: int = FAMILIAR) -> Pairs:
    """The pairs of a dictionary. A line's sentences are held out by its checksum; a sentence is on one side only.

    Of the other entries those are kept that the English sentences have the words for: what is foreign to them would
    take training's time.
    """
    sentences: dict[str, dict[str, None]] = {}
    entries: dict[str, dict[str, None]] = {}
    held: dict[str, dict[str, None]] = {}
    for line in text.splitlines():
        away = zlib.crc32(line.encode()) % one_in == 0
        for german, english in _entries(line):
            kinds = {_is_sentence(words) for words in (*german, *english)}
            if len(kinds) != 1:
                continue
            into = entries if not kinds.pop() else held if away else sentences
            for words in german:
                into.setdefault(words, {}).update(dict.fromkeys(english))
    away_too = {_bare(german) for german in held}
    kept = [pair for pair in _pairs(sentences, LONGEST) if _bare(pair.german) not in away_too]
    times = Counter(word for pair in kept for way in pair.english for word in _WORD.findall(way.lower()))
    known = {word for word, count in times.items() if count >= familiar}
    return Pairs(
        kept,
        [pair for pair in _pairs(entries, LONGEST, known) if _bare(pair.german) not in away_too],
        [pair for pair in _pairs(held, LONGEST) if len(pair.german.split()) <= SHORT],
    )


def _is_sentence(text: str) -> bool:
    return text[-1] in ".!?'\"" and " " in text and bool(_SENTENCE.fullmatch(text))


def _entries(line: str) -> Iterator[tuple[list[str], list[str]]]:
    """The ways to say each entry of a line, German and English."""
    sides = line.split(" :: ")
    if line.startswith("#") or len(sides) != 2:
        return
    german, english = (_REMARKS.sub("", side).split("|") for side in sides)
    if len(german) == len(english):
        for both in zip(german, english, strict=True):
            for ways in zip(*map(_choices, both), strict=False):
                if all(ways):
                    yield ways


def _choices(entry: str) -> list[list[str]]:
    """The ways of an entry, with the first of the words that a slash parts (er/sie geht), with the second, …"""
    if "/" not in entry:
        return [_ways(entry.split(";"))]
    parts = [[part.split("/") for part in way.split()] for way in entry.split(";")]
    most = max(len(words) for way in parts for words in way)
    return [_ways([" ".join(words[min(i, len(words) - 1)] for words in way) for way in parts]) for i in range(most)]


def _ways(texts: list[str]) -> list[str]:
    """Texts with shortened words in full, without those that have numbers or signs."""
    tidied = [tidy(" ".join([_SHORTENED.get(word, word) for word in text.split()])) for text in texts]
    return [text for text in tidied if text and not _ODD.search(text)]


def tidy(text: str) -> str:
    """One kind of quotation marks, single spaces, none before a comma."""
    return " ".join(_SPACES.sub(r"\1", text.translate(_QUOTES)).split())


def uncapitalized(text: str) -> str:
    """A sentence as the network reads and writes it: its first letter small, but of the English I."""
    return text if text[:2] in ("I ", "I'") else text[:1].lower() + text[1:]


def capitalized(text: str) -> str:
    """A sentence with a capital first."""
    return text[:1].upper() + text[1:]


def _bare(text: str) -> str:
    """The letters alone: sentences that differ in no more than capitals and punctuation are the same."""
    return "".join(filter(str.isalpha, text.lower()))


def _pairs(found: dict[str, dict[str, None]], longest: int, known: set[str] | None = None) -> list[Pair]:
    """Those of no more words than ``longest``; given ``known`` words, the four shortest ways that have no others."""
    pairs = []
    for german, ways in found.items():
        english = [way for way in ways if len(way.split()) <= longest]
        if known is not None:
            english = [way for way in english if known.issuperset(_WORD.findall(way.lower()))]
            english = sorted(english, key=lambda way: len(way.split()))[:4]
        if english and len(german.split()) <= longest:
            pairs.append(Pair(german, tuple(english)))
    return pairs
