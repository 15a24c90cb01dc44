"""Training of a small T5 on captions: it classifies shape, colour, background and motion by the text.

Released models use the public T5; only the built-in tiny model brings its own.
"""

import random
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import T5Config, T5EncoderModel

from ..learner import Metrics, Objective
from .shapes import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, Scene, caption

UNNAMED = "unnamed"
CLASSES = {
    "shape": list(SHAPES),
    "colour": list(COLOURS),
    "background": [*BACKGROUNDS, UNNAMED],
    "motion": [*MOTIONS, UNNAMED],
}
Tokenize = Callable[[list[str]], tuple[Tensor, Tensor]]


class CaptionClassifier(nn.Module):
    """A T5 encoder and, for training only, a linear head per attribute of a scene."""

    def __init__(self, config: T5Config):
        super().__init__()
        self.t5 = T5EncoderModel(config)
        self.heads = nn.ModuleDict({name: nn.Linear(config.d_model, len(v)) for name, v in CLASSES.items()})

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        states = self.t5(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = (states * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {name: head(pooled) for name, head in self.heads.items()}


def caption_objective(
    classifier: CaptionClassifier, tokenize: Tokenize, scenes: list[Scene], batch: int, seed: int
) -> Objective:
    """Cross entropy of the four attributes. Other words are mixed in, so that they do no harm later."""

    def objective(step: int) -> tuple[Tensor, Metrics]:
        rng = random.Random(seed * 1_000_003 + step)
        texts, truth = [], []
        for _ in range(batch):
            scene, moving = rng.choice(scenes), rng.random() < 0.8
            text = caption(scene, rng, moving)
            texts.append(text)
            named = {
                "shape": scene.shape,
                "colour": scene.colour,
                "background": scene.background if "background" in text else UNNAMED,
                "motion": scene.motion if moving else UNNAMED,
            }
            truth.append([CLASSES[name].index(named[name]) for name in CLASSES])
        ids, mask = _with_random_tokens(*tokenize(texts), rng)
        logits = classifier(ids, mask)
        targets = torch.tensor(truth).unbind(1)
        loss: Any = sum(F.cross_entropy(logits[name], t) for name, t in zip(CLASSES, targets, strict=True))
        correct = [(logits[n].argmax(1) == t).float().mean() for n, t in zip(CLASSES, targets, strict=True)]
        return loss, {"accuracy": float(torch.stack(correct).mean())}

    return objective


def _with_random_tokens(ids: Tensor, mask: Tensor, rng: random.Random) -> tuple[Tensor, Tensor]:
    """In half of the rows, a few tokens of other words stand before the caption."""
    rows = []
    for row, keep in zip(ids.tolist(), mask.sum(1).tolist(), strict=True):
        count = rng.randrange(1, 4) if rng.random() < 0.5 else 0
        rows.append([rng.randrange(3, 32000) for _ in range(count)] + row[:keep])
    length = max(map(len, rows))
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    return ids, (torch.arange(length) < torch.tensor([[len(row)] for row in rows])).long()
