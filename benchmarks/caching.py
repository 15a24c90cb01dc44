"""What leaving out steps gains and costs, with the built-in model: our step cache, stock EasyCache and LazyCache."""

from functools import partial

import comfy.sample
import torch
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode

from easyanimate_models.files.model_files import TINY
from easyanimate_models.sampling.schedules import release_sigmas
from easyanimate_models.sampling.step_cache import with_step_cache
from easyanimate_models.sd import load_text_encoder, load_transformer, load_vae
from easyanimate_models.training.toy.evaluation import held_out_prompts
from easyanimate_models.training.toy.shapes import FRAMES, SIZE
from easyanimate_models.training.vae.reconstruct import psnr
from easyanimate_models.vae.video_sizes import latent_size

from . import teacache
from .measure import Row, report, seconds

STEPS, CLIPS = 25, 12


def stock(model, kind, threshold: float):
    """The model under a stock cache."""
    return kind.execute(model, threshold, 0.15, 0.95, False).args[0]


CACHED = {
    **{
        f"EasyAnimate Step Cache, threshold 0.1, start {start}": partial(
            with_step_cache, threshold=0.1, start_percent=start, most=3
        )
        for start in (0.2, 0.35, 0.5)
    },
    **{f"EasyCache, threshold {t}": partial(stock, kind=EasyCacheNode, threshold=t) for t in (0.05, 0.1)},
    **{f"LazyCache, threshold {t}": partial(stock, kind=LazyCacheNode, threshold=t) for t in (0.05, 0.1)},
}


SHIPPED = "EasyAnimate Step Cache, threshold 0.1, start 0.35"  # as the node has it


class Sampling:
    """Runs of the template's settings over a few held-out prompts."""

    def __init__(self):
        self.model, self.vae, clip = load_transformer(TINY), load_vae(TINY), load_text_encoder(TINY)
        _, prompts = held_out_prompts(CLIPS)
        self.prompts = [clip.encode_from_tokens_scheduled(clip.tokenize(text)) for text in [*prompts, ""]]
        self.sigmas = release_sigmas(self.model, "euler", STEPS)

    def latents(self, model) -> torch.Tensor:
        empty = torch.zeros(1, 4, *latent_size(SIZE, SIZE, FRAMES))
        settings = STEPS, 2.0, "euler", "normal"
        runs = []
        for i, positive in enumerate(self.prompts[:-1]):
            noise = comfy.sample.prepare_noise(empty, i)
            inputs = positive, self.prompts[-1], empty
            runs.append(comfy.sample.sample(model, noise, *settings, *inputs, sigmas=self.sigmas, disable_pbar=True))
        return torch.cat(runs)


@torch.no_grad()
def main() -> None:
    sampling = Sampling()
    sampling.latents(sampling.model)
    plain: list[torch.Tensor] = []
    slow = seconds(lambda: plain.append(sampling.latents(sampling.model)))
    video = sampling.vae.decode(plain[0])
    how = f"{CLIPS} held-out prompts, {STEPS} steps of euler, cfg 2; PSNR to the videos without"
    rows = []
    for name, wrap in CACHED.items():
        found: list[torch.Tensor] = []
        model = wrap(sampling.model)
        quick = seconds(lambda m=model, f=found: f.append(sampling.latents(m)))
        each = psnr(4 * (sampling.vae.decode(found[0]) - video).square().mean((1, 2, 3, 4)))
        gain, quality = slow / quick, float(each.mean())
        figure = f"{gain:.2f} × faster, {quality:.1f} dB (worst {float(each.min()):.1f})"
        met = gain >= 1.6 and quality >= 30 if name == SHIPPED else None
        rows.append(Row(name, "≥ 1.6 × at ≥ 30 dB" if name == SHIPPED else "", figure, met, how))
    report(__file__, rows + teacache.rows())


if __name__ == "__main__":
    main()
