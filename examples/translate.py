"""Short German sentences in English: an encoder–decoder with attention, trained once by you, searched by cgru.

    pip install torch
    python examples/translate.py "Das ist mir egal." "Es gibt viel zu tun."
    pip install sacrebleu
    python examples/translate.py --test 500       # BLEU and chrF, beside baselines and PyTorch's decoding

The first call reads Debian's dictionary trans-de-en (sentence_pairs.py: installed, fetched by apt-get, or --dictionary)
and trains for some minutes (train_translate.py); weights and pieces of words stay in ~/.cache/cgru-examples. The
dictionary is under the GPL, version 2 or later, and so is what is trained on it: this repository holds neither.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import sentence_pairs
from sentence_pairs import Pair, capitalized, tidy
from subwords import START, STOP, UNKNOWN, Pieces

import cgru

WIDTH, PENALTY, MOST = 5, 1.0, 40


class Texts(NamedTuple):
    """The pieces of both languages' words."""

    german: Pieces
    english: Pieces

    @classmethod
    def load(cls, folder: Path) -> Texts:
        return cls(*(Pieces.load((folder / f"{name}.txt").read_text("utf-8")) for name in cls._fields))

    def ids(self, german: str) -> list[int]:
        return self.german.ids(tidy(german).lower())

    def text(self, german: str, english: Iterable[int]) -> str:
        """What English pieces say, with a capital first where the German is a sentence."""
        said = self.english.text(english)
        return capitalized(said) if german.rstrip("\"' ")[-1:] in tuple(".!?") else said


def network(tensors: Mapping[str, Any]) -> cgru.Model:
    """The two graphs of the trained module (train_translate.Translator), by the names of its tensors."""
    table, bias = tensors["target.weight"], tensors["bias"]
    units = tensors["decoder.weight_hh_l0"].shape[1]
    e = cgru.Graph()
    source = e.input(name="source", dtype="int64")
    embedded = e.layer(cgru.Embedding(tensors["source.weight"]), source)
    encoder = cgru.GRU.from_torch(tensors, "encoder.", return_sequences=True)
    outputs = e.layer(encoder, embedded, mask=e.mask_of_input(source))
    ends = [e.last_state(f"{encoder.name}.l0{way}", size=e.values[outputs].size // 2) for way in ("", ".reverse")]
    bridge = cgru.Dense(tensors["bridge.weight"], tensors["bridge.bias"], activation="tanh")
    memory = e.concat(outputs, embedded)
    e.output(memory=memory, state=e.layer(bridge, e.concat(*ends)))

    d = cgru.Graph()
    piece = d.input(name="piece", dtype="int64")
    state = d.input(units, name="state", time=False)
    memory = d.input(e.values[memory].size, name="memory", time="memory")
    y = d.layer(cgru.GRU.from_torch(tensors, "decoder."), d.layer(cgru.Embedding(table), piece), state)
    key = d.dense(memory, units=units, weights={"weight": tensors["key.weight"]})
    context = d.attend(y, key, memory, d.mask_of_input(memory), memory=True)
    combine = cgru.Dense(tensors["combine.weight"], tensors["combine.bias"], activation="tanh").renamed("combine")
    made = d.layer(combine, d.concat(y, context))
    d.output(d.layer(cgru.Dense(table, bias).renamed("out"), made))
    return cgru.Model({"encode": e, "decode": d})


def translated(net: cgru.Model, texts: Texts, sentences: Sequence[str]) -> list[list[int]]:
    """The pieces of each sentence's translation: a beam of five, scores divided by a power of the length."""
    sources = [texts.ids(sentence) for sentence in sentences]
    lengths = [len(source) for source in sources]
    ids = np.zeros((len(sources), max(lengths)), np.int64)
    for row, source in zip(ids, sources, strict=True):
        row[: len(source)] = source
    found = cgru.beam(net, ids, lengths=lengths, start=START, stop=STOP, max_steps=MOST, width=WIDTH,
                      length_penalty=PENALTY, penalty="power")  # fmt: skip
    return [tokens.tolist() for tokens in found.tokens]


def by_torch(model: Any, source: list[int]) -> list[tuple[float, list[int]]]:
    """The same search with the PyTorch module, all beams of a sentence as one batch: (score, pieces), best first."""
    import torch

    with torch.no_grad():
        memory, state = model.encode(torch.tensor([source]))
        totals, paths = [0.0], [[START]]
        done: list[tuple[float, list[int]]] = []
        for step in range(1, MOST + 1):
            last = torch.tensor([[path[-1]] for path in paths])
            logits, after = model.decode(last, memory.expand(len(paths), -1, -1), state)
            log = torch.log_softmax(logits[:, 0].double(), 1) + torch.tensor(totals, dtype=torch.float64)[:, None]
            best = torch.topk(log.flatten(), WIDTH - len(done))
            kept, totals, grown = [], [], []
            for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True):
                row, token = divmod(place, log.shape[1])
                if token == STOP or step == MOST:
                    path = paths[row][1:] if token == STOP else [*paths[row][1:], token]
                    done.append((score / step**PENALTY, path))
                else:
                    kept.append(row)
                    totals.append(score)
                    grown.append([*paths[row], token])
            if not grown:
                break
            paths, state = grown, after[:, kept].contiguous()
    return sorted(done, key=lambda one: -one[0])


class Nearest:
    """The training sentence that is most like another, by the rare words that both have (cosine of tf · idf)."""

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = list(pairs)
        places: defaultdict[str, list[tuple[int, int]]] = defaultdict(list)
        for i, pair in enumerate(self.pairs):
            for word, times in Counter(_words(pair.german)).items():
                places[word].append((i, times))
        self.places = {word: np.array(found) for word, found in places.items()}
        norms = np.zeros(len(self.pairs))
        for word, found in self.places.items():
            norms[found[:, 0]] += (found[:, 1] * self._weight(word)) ** 2
        self.norms = np.sqrt(norms)

    def _weight(self, word: str) -> float:
        return math.log(len(self.pairs) / len(self.places[word])) + 1

    def translation(self, sentence: str) -> str:
        scores = np.zeros(len(self.pairs))
        for word, times in Counter(_words(sentence)).items():
            if word in self.places:
                found = self.places[word]
                scores[found[:, 0]] += times * found[:, 1] * self._weight(word) ** 2
        return self.pairs[int(np.argmax(scores / self.norms))].english[0]


def _words(text: str) -> list[str]:
    return "".join(c if c.isalnum() else f" {c} " for c in text.lower()).split()


def test(net: cgru.Model, model: Any, texts: Texts, pairs: sentence_pairs.Pairs, count: int) -> None:
    """BLEU and chrF of held-out sentences, and that cgru translates them as PyTorch does but where two tie."""
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError:
        raise SystemExit("--test needs sacrebleu: pip install sacrebleu") from None
    some = pairs.held_out[:count]
    german = [pair.german for pair in some]
    found = translated(net, texts, german)
    peers = [by_torch(model, texts.ids(sentence)) for sentence in german]
    ties = 0
    for sentence, tokens, peer in zip(german, found, peers, strict=True):
        if tokens != peer[0][1]:
            ties += 1
            mine = next((score for score, path in peer if path == tokens), -math.inf)
            if peer[0][0] - mine > 1e-5:
                raise SystemExit(
                    f"{sentence}: another translation than PyTorch's: {texts.text(sentence, tokens)!r} "
                    f"and {texts.text(sentence, peer[0][1])!r}"
                )
    nearest, wider = Nearest(pairs.sentences), Nearest(pairs.sentences + pairs.entries)
    most = max(len(pair.english) for pair in some)
    references = [[pair.english[min(i, len(pair.english) - 1)] for pair in some] for i in range(most)]
    print(f"{len(some)} held-out sentences; {ties} differ between cgru and PyTorch (ties)")
    for name, said in (
        ("cgru", [texts.text(*both) for both in zip(german, found, strict=True)]),
        ("PyTorch", [texts.text(one, peer[0][1]) for one, peer in zip(german, peers, strict=True)]),
        ("nearest training sentence", [nearest.translation(one) for one in german]),
        ("nearest, entries included", [wider.translation(one) for one in german]),
        ("the German itself", german),
    ):
        bleu, chrf = (metric.corpus_score(said, references).score for metric in (BLEU(), CHRF()))
        print(f"{name:26} BLEU {bleu:5.2f}  chrF {chrf:5.2f}")
    for pair, tokens in list(zip(some, found, strict=True))[:10]:
        print(f"  {pair.german}  →  {texts.text(pair.german, tokens)}  ({pair.english[0]})")


def trained(folder: Path, dictionary: str | None) -> None:
    """Train, where that has not been done."""
    if (folder / "translate.pt").is_file():
        return
    try:
        import train_translate
    except ModuleNotFoundError as error:
        raise SystemExit(f"there are no weights in {folder} yet, and training needs {error.name}: "
                         f"pip install {error.name}") from None  # fmt: skip
    print(f"training, which is done once; the weights go into {folder}", file=sys.stderr)
    train_translate.train(sentence_pairs.read(sentence_pairs.dictionary(dictionary)), folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", nargs="*")
    parser.add_argument("--dictionary", metavar="FILE", help=f"Debian's package {sentence_pairs.PACKAGE}, or its text")
    parser.add_argument("--folder", type=Path, default=None, help="of weights and pieces")
    parser.add_argument("--test", type=int, default=0, metavar="N", help="N held-out sentences, beside PyTorch")
    options = parser.parse_args()
    folder = options.folder or sentence_pairs.cache() / "translate-de-en"
    trained(folder, options.dictionary)
    net = network(cgru.read(folder / "translate.pt"))
    texts = Texts.load(folder)
    sentences = [sentence for sentence in options.sentences if sentence.strip()]
    for sentence in sentences:
        if UNKNOWN in texts.ids(sentence):
            unknown = texts.german.unknown(tidy(sentence).lower())
            print(f"{sentence}: training knew no {', '.join(unknown)}", file=sys.stderr)
    for sentence, tokens in zip(sentences, translated(net, texts, sentences) if sentences else (), strict=True):
        print(texts.text(sentence, tokens))
    if options.test:
        import torch
        from train_translate import Translator

        model = Translator(*map(len, texts))
        model.load_state_dict(torch.load(folder / "translate.pt"))
        pairs = sentence_pairs.read(sentence_pairs.dictionary(options.dictionary))
        test(net, model.eval(), texts, pairs, options.test)


if __name__ == "__main__":
    main()
