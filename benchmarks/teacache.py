"""What caches lose where they are as fast as TeaCache, in a run of V5.1 that was recorded from the original with it.

The network is small and random: it changes more from step to step than a trained one, so all thresholds are high.
"""

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import comfy.sample
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from safetensors.torch import load_file, save_file

from easyanimate_models.sampling.schedules import release_sigmas
from easyanimate_models.sampling.step_cache import with_step_cache
from easyanimate_models.sd import load_transformer

from .measure import Row

GOLDEN = Path(__file__).parent.parent / "tests" / "golden"
THRESHOLDS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0, 3.0)
IN_A_ROW = 2  # steps at most, as many as TeaCache left out
CACHES = {
    "EasyAnimate Step Cache": lambda model, threshold: with_step_cache(model, threshold, 0.0, IN_A_ROW),
    "EasyCache": lambda model, threshold: EasyCacheNode.execute(model, threshold, 0.0, 1.0, False).args[0],
    "LazyCache": lambda model, threshold: LazyCacheNode.execute(model, threshold, 0.0, 1.0, False).args[0],
}


@dataclass
class Outcome:
    """Latents of a run, in the original's scale, and how many steps were computed."""

    latents: torch.Tensor
    computed: int


@dataclass
class RecordedRun:
    """The recorded run, to be repeated with other caches."""

    config: dict = field(default_factory=lambda: json.loads((GOLDEN / "v51_teacache/teacache.json").read_text()))

    def __post_init__(self):
        self.tensors = _tensors("v51_teacache/teacache")
        self.model = _transformer(self.config["transformer"])
        self.steps = self.config["num_inference_steps"]
        self.sigmas = release_sigmas(self.model, "euler", self.steps)
        self.plain = self.tensors["outputs.latents_final_without_teacache"]

    def recorded(self) -> Outcome:
        """With TeaCache."""
        computed = sum(call["computed"] for call in self.config["per_call"])
        return Outcome(self.tensors["outputs.latents_after_each_step"][-1], computed)

    def sample(self, model) -> Outcome:
        """With whatever is wrapped around `model`."""
        calls: list[None] = []
        block = self.model.model.diffusion_model.transformer_blocks[0]
        hook = block.register_forward_pre_hook(lambda *_: calls.append(None))
        noise = self.tensors["inputs.initial_noise"]
        negative, positive = ([[rows[None], {}]] for rows in self.tensors["inputs.text_embeds_neg_pos"])
        settings = (self.steps, self.config["guidance_scale"], "euler", "normal", positive, negative)
        options = {"sigmas": self.sigmas, "disable_pbar": True}
        latents = comfy.sample.sample(model, noise, *settings, torch.zeros_like(noise), **options)
        hook.remove()
        return Outcome(self.model.model.latent_format.process_in(latents), len(calls))

    def as_fast(self, cache: Callable) -> tuple[float, Outcome] | None:
        """The lowest of `THRESHOLDS` at which no more steps are computed than with TeaCache, and what comes of it."""
        outcomes = ((threshold, self.sample(cache(self.model, threshold))) for threshold in THRESHOLDS)
        allowed = self.recorded().computed
        return next((found for found in outcomes if found[1].computed <= allowed), None)

    def decibels(self, outcome: Outcome) -> float:
        """PSNR of latents to those without a cache."""
        error = (outcome.latents - self.plain).square().mean()
        return 10 * math.log10(float((self.plain.max() - self.plain.min()).square() / error))


def _tensors(name: str) -> dict[str, torch.Tensor]:
    """Of a recording, in float32."""
    return {name: tensor.float() for name, tensor in load_file(GOLDEN / f"{name}.safetensors").items()}


def _transformer(name: str):
    """The host's MODEL of a recorded transformer."""
    weights = {k.removeprefix("weights."): v for k, v in _tensors(name).items() if k.startswith("weights.")}
    with tempfile.TemporaryDirectory() as folder:
        save_file(weights, Path(folder) / "diffusion_pytorch_model.safetensors")
        config = json.loads((GOLDEN / f"{name}.json").read_text())["constructor"]
        (Path(folder) / "config.json").write_text(json.dumps(config))
        return load_transformer(Path(folder), weight_dtype="fp32")


@torch.no_grad()
def rows() -> list[Row]:
    """TeaCache as it was recorded, and every other cache at no lower speed."""
    run = RecordedRun()
    how = f"V5.1, tiny and random, {run.steps} steps of euler; PSNR of latents to those without"
    tea = run.recorded()
    outcomes = {"TeaCache, recorded": (run.config["threshold"], tea)}
    outcomes |= {name: found for name, cache in CACHES.items() if (found := run.as_fast(cache))}
    return [
        Row(
            f"{name}, threshold {threshold}",
            "",
            f"{outcome.computed} of {run.steps} steps computed, {run.decibels(outcome):.1f} dB",
            None,
            how,
        )
        for name, (threshold, outcome) in outcomes.items()
    ]
