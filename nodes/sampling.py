"""MODEL + CONDITIONING + LATENT -> LATENT, and MODEL -> SIGMAS for the stock samplers."""

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from comfy_api.latest import io

from ..easyanimate_models.host import fixed_empty_latent
from ..easyanimate_models.latent_formats import mark, require_match
from ..easyanimate_models.schedules import release_sigmas

CATEGORY = "EasyAnimate/sampling"
RELEASE_SCHEDULE = "easyanimate"


class EasyAnimateSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateSampler",
            display_name="EasyAnimate Sampler",
            category=CATEGORY,
            description="Makes the video out of noise: the host's samplers, with the releases' defaults and spacing.",
            inputs=[
                io.Model.Input("model", tooltip="The EasyAnimate transformer."),
                io.Conditioning.Input("positive", tooltip="What should be seen."),
                io.Conditioning.Input("negative", tooltip="What should not be seen."),
                io.Latent.Input("latent", tooltip="An empty latent, or an encoded video with denoise below 1."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Which noise to start from.",
                ),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="More steps, finer result: 20 to 50."),
                io.Float.Input(
                    "cfg", default=7.0, min=0.0, max=100.0, step=0.1, tooltip="How strictly to follow the text."
                ),
                io.Combo.Input("sampler", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The releases use euler."),
                io.Combo.Input(
                    "scheduler",
                    options=[RELEASE_SCHEDULE, *comfy.samplers.KSampler.SCHEDULERS],
                    tooltip="easyanimate is the releases' own spacing for the chosen sampler.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, the latent given is kept to that extent: video to video.",
                ),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, model, positive, negative, latent, seed, steps, cfg, sampler, scheduler, denoise) -> io.NodeOutput:
        latent_format = model.get_model_object("latent_format")
        require_match(latent, latent_format, "transformer")
        samples = fixed_empty_latent(model, latent)
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
        sigmas = None
        if scheduler == RELEASE_SCHEDULE:
            scheduler = comfy.samplers.KSampler.SCHEDULERS[0]
            sigmas = release_sigmas(model.get_model_object("model_sampling"), sampler, steps, denoise)
        samples = comfy.sample.sample(
            model,
            noise,
            steps,
            cfg,
            sampler,
            scheduler,
            positive,
            negative,
            samples,
            denoise=denoise,
            noise_mask=latent.get("noise_mask"),
            sigmas=sigmas,
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        kept = {k: v for k, v in latent.items() if not k.startswith("downscale_ratio")}
        return io.NodeOutput(mark({**kept, "samples": samples}, latent_format))


class EasyAnimateScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="EasyAnimateScheduler",
            display_name="EasyAnimate Scheduler",
            category=CATEGORY,
            description="The releases' own noise levels, for SamplerCustom and SamplerCustomAdvanced.",
            inputs=[
                io.Model.Input("model", tooltip="The EasyAnimate transformer."),
                io.Combo.Input(
                    "sampler",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="The sampler that will take these steps: the releases space them differently for ddim "
                    "and for the dpmpp family.",
                ),
                io.Int.Input("steps", default=25, min=1, max=1000, tooltip="More steps, finer result: 20 to 50."),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, only the last part of a longer schedule: video to video.",
                ),
            ],
            outputs=[io.Sigmas.Output()],
        )

    @classmethod
    def execute(cls, model, sampler, steps, denoise) -> io.NodeOutput:
        return io.NodeOutput(release_sigmas(model.get_model_object("model_sampling"), sampler, steps, denoise))


NODES = [EasyAnimateSampler, EasyAnimateScheduler]
