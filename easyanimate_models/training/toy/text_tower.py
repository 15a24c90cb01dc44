"""Training of a small Qwen2 text tower on captions: where a phrase ends, it says which object that was about.

Released models use the public Qwen2-VL; only the built-in model brings its own. It has the public vocabulary but knows
few words of it: the embeddings of all others are zero.
"""

import random
from dataclasses import replace

import comfy.ops
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...host import OwnSums
from ...text_encoders.qwen2_vl import AFTER, BEFORE, LAYER, PADDING, TOKENS, Qwen2VLText, Qwen2VLTokenizer
from ..initialize import reset_parameters
from ..learner import Metrics, Objective
from .scenes import (
    BACKGROUNDS,
    CAMERAS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Caption,
    Thing,
    beginnings,
    describe,
    draw_scene,
    wordings,
)

WORDS = 151669  # that the public tokenizer may give
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 24,
    "intermediate_size": 64,
    "num_hidden_layers": 3,  # the last of which nobody reads
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}
PUNCTUATION = (",", ".")
UNKNOWN, IGNORED = 0, -100  # the row of all unknown words; no target
UNNAMED = "unnamed"
STRANGE_WORDS = 0.3  # how often unknown words stand before a caption
CLASSES = {
    "colour": list(COLOURS),
    "shape": list(SHAPES),
    "motion": [*MOTIONS, UNNAMED],
    "background": [*BACKGROUNDS, UNNAMED],
    "camera": list(CAMERAS),
}


class Vocabulary:
    """The tokens of all captions and of the chat template, out of the public vocabulary."""

    def __init__(self) -> None:
        self.tokenizer = Qwen2VLTokenizer()
        words = [f" {word}" for text in wordings() for word in text.replace(",", "").split()]
        first = [form for text in beginnings() for form in (text.split()[0], text.split()[0].capitalize())]
        known = {token for text in (BEFORE, AFTER, *PUNCTUATION, *words, *first) for token in self._ids(text)}
        self.tokens = torch.tensor(sorted(known | {PADDING}))
        self.rows = torch.full((WORDS,), UNKNOWN)
        self.rows[self.tokens] = 1 + torch.arange(len(self.tokens))

    @property
    def size(self) -> int:
        """Rows of a short vocabulary: the known tokens, and one for all others."""
        return 1 + len(self.tokens)

    def __call__(self, texts: list[str], length: int = TOKENS) -> tuple[Tensor, Tensor]:
        """Rows of the short vocabulary and their mask, `[B, length]`, as the text encoder would read them."""
        rows = [[token for token, *_ in self.tokenizer.tokenize_with_weights(text)[0]][:length] for text in texts]
        ids = torch.tensor(rows)
        return self.rows[ids], (ids != PADDING).long()

    def position(self, text: str, end: int | None = None) -> int:
        """Where the token lies that ends before letter `end`; without it, the first one behind the text."""
        return self.tokenizer.before + len(self._ids(text[:end])) - (end is not None)

    def whole(self, rows: Tensor) -> Tensor:
        """Embeddings of the public vocabulary from those of the short one: zero where unknown."""
        embeddings = rows.new_zeros(WORDS, rows.shape[1])
        embeddings[self.tokens] = rows[1:]
        return embeddings

    def short(self, embeddings: Tensor) -> Tensor:
        """Embeddings of the short vocabulary from those of the public one, as `whole` makes them."""
        return torch.cat([embeddings.new_zeros(1, embeddings.shape[1]), embeddings[self.tokens]])

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer.tokenizer(text)["input_ids"]


def new_tower(vocabulary: Vocabulary) -> Qwen2VLText:
    """A tower of the short vocabulary with random weights."""
    sizes = {**SIZES, "vocab_size": vocabulary.size}
    tower = reset_parameters(Qwen2VLText(sizes, torch.float32, None, comfy.ops.disable_weight_init))
    for name, parameter in tower.named_parameters():
        if parameter.ndim == 1:
            nn.init.constant_(parameter, float(name.endswith("weight")))
    embeddings = tower.model.embed_tokens
    nn.init.normal_(embeddings.weight, std=0.5)
    embeddings.padding_idx = UNKNOWN  # it gets no gradient
    with torch.no_grad():
        embeddings.weight[UNKNOWN] = 0
    return tower


def encode(tower: Qwen2VLText, ids: Tensor, mask: Tensor) -> Tensor:
    """The text `[B, L, C]` as the transformer gets it."""
    with OwnSums():
        return tower(ids, mask, intermediate_output=LAYER, final_layer_norm_intermediate=False)[1]


class CaptionReader(nn.Module):
    """A tower and, for training only, a linear head per attribute."""

    def __init__(self, tower: Qwen2VLText):
        super().__init__()
        self.tower = tower
        self.heads = nn.ModuleDict({name: nn.Linear(SIZES["hidden_size"], len(v)) for name, v in CLASSES.items()})

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        states = encode(self.tower, ids, mask)
        return {name: head(states) for name, head in self.heads.items()}


def reading_objective(
    reader: CaptionReader, vocabulary: Vocabulary, things: list[Thing], batch: int, seed: int
) -> Objective:
    """Cross entropy of an object's attributes at the end of its phrase, of the rest at the end of the caption."""

    def objective(step: int) -> tuple[Tensor, Metrics]:
        rng = random.Random(seed * 1_000_003 + step)
        captions = [_strange(describe(draw_scene(things, rng), rng, rng.random() < 0.8), rng) for _ in range(batch)]
        ids, mask = vocabulary([caption.text for caption in captions])
        length = int(mask.sum(1).max())
        wanted = targets(captions, vocabulary, length)
        logits = reader(ids[:, :length], mask[:, :length])
        losses = [F.cross_entropy(logits[name].transpose(1, 2), wanted[name], ignore_index=IGNORED) for name in CLASSES]
        right = [(logits[n].argmax(-1) == wanted[n])[wanted[n] != IGNORED].float().mean() for n in CLASSES]
        return torch.stack(losses).sum(), {"accuracy": torch.stack(right).mean(), "least": torch.stack(right).min()}

    return objective


def targets(captions: list[Caption], vocabulary: Vocabulary, length: int) -> dict[str, Tensor]:
    """The class of each attribute at each token, `[B, length]`."""
    wanted = {name: torch.full((len(captions), length), IGNORED) for name in CLASSES}
    for i, caption in enumerate(captions):
        for thing, end in zip(caption.things, caption.ends, strict=True):
            place = vocabulary.position(caption.text, end)
            for name in ("colour", "shape"):
                wanted[name][i, place] = CLASSES[name].index(getattr(thing, name))
            motion = thing.motion if caption.moving else UNNAMED
            wanted["motion"][i, place] = CLASSES["motion"].index(motion)
        behind = vocabulary.position(caption.text)
        wanted["background"][i, behind] = CLASSES["background"].index(caption.background or UNNAMED)
        wanted["camera"][i, behind] = CLASSES["camera"].index(caption.camera)
    return wanted


def _strange(caption: Caption, rng: random.Random) -> Caption:
    """Now and then with unknown words in front, so that they do no harm later."""
    if rng.random() >= STRANGE_WORDS:
        return caption
    before = rng.choice(("Today ", "cinematic, ", "8k masterpiece of ", "my happy "))
    ends = tuple(end + len(before) for end in caption.ends)
    return replace(caption, text=before + caption.text, ends=ends)
