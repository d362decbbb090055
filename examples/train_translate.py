"""Train the network of examples/translate.py: German to English, a GRU encoder and an attention GRU decoder.

    pip install torch
    python examples/train_translate.py            # about two minutes of one core

examples/translate.py does this by itself the first time. The weights and the pieces of words go into a folder of the
user's, ~/.cache/cgru-examples; they come of a dictionary under the GPL, version 2 or later.

An epoch is of all sentences and a share of the dictionary's words and phrases, of which many more are there and which
teach the words that the sentences lack. The tables of both languages' pieces begin as singular vectors of how often
pieces stand in the same pair, so that training starts from a dictionary. What is kept is the exponential moving average
of the weights.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import sentence_pairs
import torch
from sentence_pairs import Pair, Pairs, uncapitalized
from subwords import PAD, START, Pieces
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

SEED = 1986
GERMAN, ENGLISH = 8000, 2000  # pieces; the work of a step grows with the English ones
EPOCHS = 5
SHARE = 8  # of the words and phrases, an epoch has one in so many
BATCH = 450  # English pieces of a batch, about
RATE, WARM_UP = 3e-3, 200
AVERAGE = 0.995
DROPOUT = 0.15
SMOOTHING = 0.1
MOST_PIECES = 12  # of a text that is trained on, its end included

FEATURES, ENCODER, DECODER = 128, 96, 192


class Translator(nn.Module):
    """German pieces (B, S) → English ones: the decoder attends to the encoder's outputs and to its embeddings.

    Attention as in Luong et al. (2015), "general", without input feeding; the embeddings beside the outputs give a
    word a short way to its translation (as Nguyen and Chiang 2018). The output layer is tied to its table.
    """

    def __init__(self, german: int, english: int) -> None:
        super().__init__()
        self.source = nn.Embedding(german, FEATURES)
        self.encoder = nn.GRU(FEATURES, ENCODER, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(2 * ENCODER, DECODER)
        self.target = nn.Embedding(english, FEATURES)
        self.decoder = nn.GRU(FEATURES, DECODER, batch_first=True)
        self.key = nn.Linear(2 * ENCODER + FEATURES, DECODER, bias=False)
        self.combine = nn.Linear(DECODER + 2 * ENCODER + FEATURES, FEATURES)
        self.bias = nn.Parameter(torch.zeros(english))
        self.drop = nn.Dropout(DROPOUT)

    def begin(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Take tables whose products say which pieces go together, and pass the one on to the other."""
        with torch.no_grad():
            for table, values in ((self.source, source), (self.target, target)):
                table.weight.copy_(values * (2 * FEATURES**-0.5 / values.square().mean().sqrt()))
            self.combine.weight[:, -FEATURES:] = torch.eye(FEATURES)

    def encode(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The memory (B, S, 320) and the decoder's first state (1, B, 192); sources of one length."""
        embedded = self.drop(self.source(source))
        outputs, last = self.encoder(embedded)
        state = torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=1)))
        return torch.cat([self.drop(outputs), embedded], dim=2), state[None]

    def decode(
        self, tokens: torch.Tensor, memory: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, T, V) of the pieces that follow, and the state after them."""
        y, state = self.decoder(self.drop(self.target(tokens)), state)
        y = self.drop(y)
        weights = torch.softmax(y @ self.key(memory).transpose(1, 2), dim=2)
        out = torch.tanh(self.combine(torch.cat([y, weights @ memory], dim=2)))
        return self.drop(out) @ self.target.weight.T + self.bias, state


Ids = tuple[list[int], list[list[int]]]  # a source, and its translations


def in_ids(pairs: Iterable[Pair], german: Pieces, english: Pieces) -> list[Ids]:
    """Pairs in pieces, without those that are long."""
    made = [(german.ids(pair.german.lower()), [english.ids(uncapitalized(way)) for way in pair.english])
            for pair in pairs]  # fmt: skip
    return [(source, short) for source, ways in made
            if len(source) <= MOST_PIECES and (short := [way for way in ways if len(way) <= MOST_PIECES])]


def associations(pairs: list[Ids], german: int, english: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Tables (german, F) and (english, F), the products of whose rows are the pieces' mutual information, about.

    Positive pointwise mutual information of standing in one pair, by its truncated singular value decomposition
    (Levy and Goldberg 2014), less of it where a pair of pieces is rare.
    """
    places, weights = [], []
    for source, ways in pairs:
        for target in ways:
            rows, columns = np.unique(source[:-1]), np.unique(target[:-1])
            places.append((rows[:, None] * english + columns).ravel())
            weights.append(np.full(places[-1].size, 1 / (places[-1].size * len(ways))))
    counts = np.bincount(np.concatenate(places), np.concatenate(weights), german * english).reshape(german, english)
    chance = counts.sum(1, keepdims=True) * counts.sum(0, keepdims=True) / counts.sum()
    told = np.log(np.maximum(counts, 1e-12) / np.maximum(chance, 1e-12)).clip(0) * counts / (counts + 0.5)
    rows, values, columns = torch.svd_lowrank(torch.tensor(told, dtype=torch.float32), FEATURES)
    return rows * values.sqrt(), columns * values.sqrt()


def batches(pairs: list[Ids], rng: np.random.Generator) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of sources of equal length with one of their translations each, of near lengths, in random order."""
    drawn = [(source, ways[rng.integers(len(ways))]) for source, ways in pairs]
    order = sorted(range(len(drawn)), key=lambda i: (len(drawn[i][0]), len(drawn[i][1]) + rng.random() * 2))
    made = []
    at = 0
    while at < len(order):
        length = len(drawn[order[at]][0])
        most = BATCH // len(drawn[order[at]][1])
        some = [drawn[i] for i in order[at : at + most] if len(drawn[i][0]) == length]
        at += len(some)
        longest = max(len(target) for _, target in some)
        made.append((torch.tensor([source for source, _ in some]),
                     torch.tensor([target + [PAD] * (longest - len(target)) for _, target in some])))
    return [made[i] for i in rng.permutation(len(made))]


def loss_of(model: Translator, source: torch.Tensor, target: torch.Tensor, smoothing: float) -> torch.Tensor:
    """Mean cross-entropy of the pieces of a batch, each after those before it."""
    given = torch.cat([torch.full((len(target), 1), START), target[:, :-1]], dim=1)
    memory, state = model.encode(source)
    logits, _ = model.decode(given, memory, state)
    return nn.functional.cross_entropy(
        logits.flatten(0, 1), target.flatten(), ignore_index=PAD, label_smoothing=smoothing
    )


class Bar:
    """How far training is, on one line of standard error."""

    def __init__(self, total: int) -> None:
        self.total, self.done, self.began, self.shown = max(total, 1), 0, time.monotonic(), -1.0

    def step(self, pairs: int, text: str) -> None:
        self.done = min(self.done + pairs, self.total)
        now = time.monotonic() - self.began
        if now - self.shown < (1 if sys.stderr.isatty() else 30) and self.done < self.total:
            return
        self.shown = now
        left = now / self.done * (self.total - self.done)
        full = 30 * self.done // self.total
        line = f"[{'#' * full}{'.' * (30 - full)}] {text}, {int(left // 60)}:{int(left % 60):02d} left"
        end = "\n" if self.done == self.total else "" if sys.stderr.isatty() else "\n"
        print(f"\r{line:78}", end=end, file=sys.stderr, flush=True)


@contextmanager
def _subnormals_flushed() -> Iterator[None]:
    """Numbers so small that they slow processors down are zero; behind it arithmetic is as it was."""
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@_subnormals_flushed()
def train(pairs: Pairs, folder: Path, epochs: int = EPOCHS) -> None:
    """Learn pieces and weights, and write them into the folder: german.txt, english.txt and translate.pt."""
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    both = pairs.sentences + pairs.entries
    german = Pieces.learned((pair.german.lower() for pair in both), GERMAN)
    english = Pieces.learned((uncapitalized(way) for pair in both for way in pair.english), ENGLISH)
    folder.mkdir(parents=True, exist_ok=True)
    part = folder / "translate.pt.part"
    (folder / "german.txt").write_text(german.dump(), "utf-8")
    (folder / "english.txt").write_text(english.dump(), "utf-8")
    sentences, entries, held_out = (in_ids(some, german, english) for some in pairs)
    entries = [entries[i] for i in rng.permutation(len(entries))]
    model = Translator(len(german), len(english))
    model.begin(*associations(sentences + entries, len(german), len(english)))
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE))
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / WARM_UP, (WARM_UP / (step + 1)) ** 0.5)
    )
    bar = Bar(epochs * (len(sentences) + len(entries) // SHARE))
    for epoch in range(epochs):
        model.train()
        mean, count = 0.0, 0
        for source, target in batches(sentences + entries[epoch % SHARE :: SHARE], rng):
            loss = loss_of(model, source, target, SMOOTHING)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            average.update_parameters(model)
            mean, count = mean + loss.item(), count + 1
            bar.step(len(source), f"epoch {epoch + 1} of {epochs}, loss {mean / count:.3f}")
        kept = average.module.eval()
        with torch.no_grad():
            found = [float(loss_of(kept, *batch, 0.0)) for batch in batches(held_out, np.random.default_rng(0))]
        said = f"held out {np.mean(found):.3f}, " if found else ""
        print(f"\nepoch {epoch + 1}: {said}{time.process_time():.0f} s of processor time", file=sys.stderr, flush=True)
        torch.save(kept.state_dict(), part)
    part.replace(folder / "translate.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--dictionary", metavar="FILE", help=f"Debian's package {sentence_pairs.PACKAGE}, or its text")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("-o", metavar="FOLDER", default=str(sentence_pairs.cache() / "translate-de-en"))
    o = parser.parse_args()
    torch.set_num_threads(o.threads)
    train(sentence_pairs.read(sentence_pairs.dictionary(o.dictionary)), Path(o.o), o.epochs)
