"""How English words are said, from their letters: an encoder–decoder with attention, searched by cgru.

    python examples/phonemes.py recurrent spectrogram        # by phonemes.pt, which train_phonemes.py wrote
    python examples/phonemes.py --test 500                   # phoneme error rates, beside PyTorch's decoding

The words of `--test` are of the part of the dictionary that training never saw; PyTorch decodes them with the same
weights, greedily and with the same beam, and every word must come out alike, but where two candidates tie within 1e-6.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import cgru

LETTERS = "abcdefghijklmnopqrstuvwxyz'"  # ids from 1 on
PHONEMES = [
    "AA", "AE", "AH", "AO", "AW", "AY", "B", "CH", "D", "DH", "EH", "ER", "EY", "F", "G", "HH", "IH", "IY", "JH", "K",
    "L", "M", "N", "NG", "OW", "OY", "P", "R", "S", "SH", "T", "TH", "UH", "UW", "V", "W", "Y", "Z", "ZH",
]  # ids from 2 on; fmt: skip
START, STOP, MOST = 0, 1, 25


def network(tensors: Mapping[str, Any]) -> cgru.Model:
    """The two graphs of the trained module, by the names of its tensors."""
    units = tensors["key.weight"].shape[0]
    e = cgru.Graph()
    letters = e.input(name="letters", dtype="int64")
    encoder = cgru.GRU.from_torch(tensors, "encoder.", return_sequences=True)
    x = e.layer(cgru.Embedding(tensors["letters.weight"]), letters)
    mask = e.mask_of_input(letters)
    both = e.layer(encoder, x, mask=mask)
    ends = [e.last_state(f"{encoder.name}.l0{way}", size=units // 2) for way in ("", ".reverse")]
    bridge = cgru.Dense(tensors["bridge.weight"], tensors["bridge.bias"], activation="tanh")
    e.output(memory=both, h0=e.layer(bridge, e.concat(*ends)))

    d = cgru.Graph()
    phoneme = d.input(name="phoneme", dtype="int64")
    h0 = d.input(units, name="h0", time=False)
    memory = d.input(units, name="memory", time="memory")
    decoder = cgru.GRU.from_torch(tensors, "decoder.").renamed("decoder")
    y = d.layer(decoder, d.layer(cgru.Embedding(tensors["phonemes.weight"]), phoneme), h0)
    key = d.dense(memory, units=units, weights={"weight": tensors["key.weight"]})
    seen = d.mask_of_input(memory)
    context = d.attend(y, key, memory, seen, memory=True)
    combine = cgru.Dense(tensors["combine.weight"], tensors["combine.bias"], activation="tanh").renamed("combine")
    out = cgru.Dense(tensors["out.weight"], tensors["out.bias"]).renamed("out")
    d.output(d.layer(out, d.layer(combine, d.concat(y, context))), d.attend_weights(y, key, seen, limit=64))
    return cgru.Model({"encode": e, "decode": d})


def spelled(words: list[str]) -> tuple[np.ndarray, list[int]]:
    """Letters (B, S) and the length of every word."""
    lengths = [len(word) for word in words]
    ids = np.zeros((len(words), max(lengths)), np.int64)
    for row, word in zip(ids, words, strict=True):
        row[: len(word)] = [LETTERS.index(letter) + 1 for letter in word]
    return ids, lengths


def distance(a: list[int], b: list[int]) -> int:
    """Insertions, deletions and substitutions from one to the other (Levenshtein)."""
    before = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        now = [i]
        for j, y in enumerate(b, 1):
            now.append(min(before[j] + 1, now[-1] + 1, before[j - 1] + (x != y)))
        before = now
    return before[-1]


def by_torch(model: Any, word: str, width: int) -> list[tuple[float, list[int]]]:
    """Beam search as it is written down, with the PyTorch module: (score, phonemes) of all it completes, best first."""
    import torch

    with torch.no_grad():
        memory, state = model.encode(torch.tensor(spelled([word])[0]))
        beams: list[Any] = [(0.0, [], state)]
        done: list[tuple[float, list[int]]] = []
        for step in range(MOST):
            grown = []
            for total, path, at in beams:
                logits, after = model.decode(torch.tensor([[path[-1] if path else START]]), memory, at)
                log = torch.log_softmax(logits[0, 0].double(), 0).tolist()
                grown += [(total + log[v], [*path, v], after) for v in range(len(log))]
            grown.sort(key=lambda beam: -beam[0])
            beams = []
            for total, path, after in grown[: width - len(done)]:
                if path[-1] == STOP or step + 1 == MOST:
                    done.append((total, path[:-1] if path[-1] == STOP else path))
                else:
                    beams.append((total, path, after))
            if not beams:
                break
    return sorted(done, key=lambda one: -one[0])


def compare(net: cgru.Model, model: Any, known: Mapping[str, list[int]]) -> None:
    """Phoneme error rates of greedy and of a beam of five, by cgru and by PyTorch, and the words that differ."""
    words = list(known)
    ids, lengths = spelled(words)
    phonemes = sum(map(len, known.values()))
    for width in (1, 5):
        found = cgru.beam(net, ids, lengths=lengths, start=START, stop=STOP, max_steps=MOST, width=width)
        peers = [by_torch(model, word, width) for word in words]
        unlike = 0
        for tokens, score, peer in zip(*found, peers, strict=True):
            if tokens.tolist() != peer[0][1]:
                unlike += 1
                # PyTorch's own score of what cgru found, where its beam has it, against its best.
                mine = next((s for s, path in peer if path == tokens.tolist()), score)
                if abs(mine - peer[0][0]) > 1e-5:
                    raise SystemExit(f"another result than PyTorch's: {tokens.tolist()} and {peer[0][1]}")
        errors = [sum(distance(list(row), known[word]) for row, word in zip(rows, words, strict=True))
                  for rows in (found.tokens, [peer[0][1] for peer in peers])]
        rates = [100 * count / phonemes for count in errors]
        print(f"width {width}: phoneme error rate {rates[0]:.2f} % by cgru, {rates[1]:.2f} % by PyTorch, "
              f"{unlike} of {len(words)} words differ (ties)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--weights", default=str(Path(__file__).with_name("phonemes.pt")))
    parser.add_argument("--test", type=int, default=0, metavar="N", help="N words of the test part, beside PyTorch")
    options = parser.parse_args()
    net = network(cgru.read(options.weights))
    if options.words:
        ids, lengths = spelled([word.lower() for word in options.words])
        found = cgru.beam(net, ids, lengths=lengths, start=START, stop=STOP, max_steps=MOST, width=5)
        for word, tokens in zip(options.words, found.tokens, strict=True):
            print(word, " ".join(PHONEMES[i - 2] for i in tokens))
    if options.test:
        import torch
        import train_phonemes as training

        model = training.Speller()
        model.load_state_dict(torch.load(options.weights))
        known = {word: [PHONEMES.index(p) + 2 for p in phones]
                 for word, phones in training.dictionary().items() if training.is_test(word)}
        compare(net, model.eval(), dict(list(known.items())[: options.test]))


if __name__ == "__main__":
    main()
