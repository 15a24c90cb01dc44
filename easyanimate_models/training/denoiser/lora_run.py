"""A LoRA of a MODEL, learnt from a data set that is encoded."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ..clips.latent_cache import EncodedSet
from ..samples import NOBODY, Audience
from ..training_plan import Plan
from .lora import LoraSettings, adapted, learn, scaled
from .objective import METHOD, Method
from .text_lora import Reader

LENGTHS = ("full", "random")


@dataclass(frozen=True)
class DataSettings:
    """In which size clips are shown: about `side` x `side` pixels, at most so many frames, every so many of them.

    Of each clip so many `windows` are learnt from: one is its beginning, more lie anywhere. Their `lengths` are "full",
    or "random": one in ten is shorter than it could be, as with the original's random frame crop.
    """

    side: int
    frames: int
    every: int = 1
    batch: int = 1
    text_dropout: float = 0.1
    clip_dropout: float = 0.5
    windows: int = 1
    lengths: str = "full"

    def __post_init__(self):
        if self.windows < 1:
            raise ValueError(f"{self.windows} windows of a clip teach nothing; set windows to 1 or more.")
        if self.lengths not in LENGTHS:
            raise ValueError(f"lengths is {self.lengths!r}; it must be one of {', '.join(LENGTHS)}.")


def teach(
    model,
    found: EncodedSet,
    data: DataSettings,
    lora: LoraSettings,
    plan: Plan,
    folder: Path,
    method: Method = METHOD,
    audience: Audience = NOBODY,
    clip=None,
) -> nn.ModuleDict:
    """Adapters of the MODEL that have learnt what is in `found`.

    Where the text encoder learns too, `clip` is the one; its adapters are among them.
    """
    with torch.inference_mode(False):
        torch.manual_seed(plan.seed)
        patcher, adapters = adapted(model, lora)
        reader = Reader(clip, lora) if lora.text else None
        adapters.update(reader.adapters if reader else {})
    batches = scaled(found.batches(data.batch, plan.seed, data.text_dropout, data.clip_dropout, reader), model)
    told = {**vars(data), **vars(lora), **vars(method.noise), "clips": found.count}
    learn(patcher, adapters, batches, plan, folder, told, method, audience, reader)
    return adapters
