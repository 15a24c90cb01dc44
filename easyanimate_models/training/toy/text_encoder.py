"""Teach a small T5 what the words of the captions mean: name shape, colour, background and motion from the text.

Released models use the public T5; only the built-in tiny model brings its own.
"""

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from .shapes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, caption

UNSAID = "unsaid"
QUESTIONS = {
    "shape": list(SHAPES),
    "colour": list(COLOURS),
    "background": [*BACKGROUNDS, UNSAID],
    "motion": [*MOTIONS, UNSAID],
}
Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]


class CaptionReader(nn.Module):
    """A T5 encoder and, for training only, one linear answer per question."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.t5 = T5EncoderModel(config)
        self.answers = nn.ModuleDict({name: nn.Linear(config.d_model, len(v)) for name, v in QUESTIONS.items()})

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        states = self.t5(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {name: answer(pooled) for name, answer in self.answers.items()}


def reader_objective(reader: CaptionReader, tokenize: Tokenize, scenes: list[Scene], batch: int, seed: int):
    """Cross entropy of the four answers. Strange words are mixed in, so that they do no harm later."""

    def objective(step: int) -> tuple[Tensor, dict[str, float]]:
        rng = random.Random(seed * 1_000_003 + step)
        texts, truth = [], []
        for _ in range(batch):
            scene, moving = rng.choice(scenes), rng.random() < 0.8
            text = caption(scene, rng, moving)
            texts.append(text)
            said = {
                "shape": scene.shape,
                "colour": scene.colour,
                "background": scene.background if "background" in text else UNSAID,
                "motion": scene.motion if moving else UNSAID,
            }
            truth.append([QUESTIONS[name].index(said[name]) for name in QUESTIONS])
        ids, mask = _with_strangers(*tokenize(texts), rng)
        answers = reader(ids, mask)
        targets = torch.tensor(truth).unbind(1)
        loss: Any = sum(F.cross_entropy(answers[name], t) for name, t in zip(QUESTIONS, targets, strict=True))
        right = [(answers[n].argmax(1) == t).float().mean() for n, t in zip(QUESTIONS, targets, strict=True)]
        return loss, {"right": float(torch.stack(right).mean())}

    return objective


def _with_strangers(ids: Tensor, mask: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """In half of the rows, a few tokens of other words stand before the caption."""
    rows = []
    for row, keep in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        strangers = rng.randrange(1, 4) if rng.random() < 0.5 else 0
        rows.append([rng.randrange(3, 32000) for _ in range(strangers)] + row[:keep])
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, (torch.arange(length) < torch.tensor([[len(row)] for row in rows])).long()
