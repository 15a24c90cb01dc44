"""A LoRA of a MODEL, learnt from a data set that is encoded."""

from pathlib import Path

import torch
from torch import nn

from ..clips.latent_cache import LatentDataset
from ..clips.settings import DataSettings
from ..samples import NOBODY, Audience
from ..training_plan import Plan
from .lora import LoraSettings, adapted, learn, scaled
from .objective import METHOD, Method
from .text_lora import Reader


def teach(
    model,
    found: LatentDataset,
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
