"""MODEL + CONDITIONING + LATENT -> LATENT, and what the stock samplers take: SIGMAS, a MODEL in windows."""

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from comfy_api.latest import io

from ..easyanimate_models.host import fixed_empty_latent, require_choice, show_text
from ..easyanimate_models.latent_formats import mark, require_match, require_numbers
from ..easyanimate_models.sampling.long_video import in_windows
from ..easyanimate_models.sampling.schedules import release_sigmas
from ..easyanimate_models.sampling.step_cache import with_step_cache
from ..easyanimate_models.supported_models import Release
from ..easyanimate_models.vae.masks import latent_mask
from .schema import schema

CATEGORY = "EasyAnimate/sampling"
RELEASE_SCHEDULE = "easyanimate"
MODELS_OWN = -1.0  # 0 has a meaning of its own: only the negative prompt
SCHEDULERS = [RELEASE_SCHEDULE, *comfy.samplers.KSampler.SCHEDULERS]


def _steps_input() -> io.Int.Input:
    return io.Int.Input(
        "steps",
        default=25,
        min=1,
        max=1000,
        tooltip="20 to 50: 25 for V3 and V4, 50 for V5 and V5.1. More steps give a finer result.",
    )


class EasyAnimateSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateSampler",
            display_name="EasyAnimate Sampler",
            category=CATEGORY,
            description="Samples the video: ComfyUI's samplers with the releases' defaults and noise schedule.",
            inputs=[
                io.Model.Input("model", tooltip="The EasyAnimate transformer."),
                io.Conditioning.Input("positive", tooltip="Positive conditioning."),
                io.Conditioning.Input("negative", tooltip="Negative conditioning."),
                io.Latent.Input("latent", tooltip="An empty latent, or an encoded video with denoise below 1."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Random seed of the noise; the same seed gives the same video.",
                ),
                _steps_input(),
                io.Float.Input(
                    "cfg",
                    default=MODELS_OWN,
                    min=MODELS_OWN,
                    max=100.0,
                    step=0.1,
                    tooltip="How closely to follow the prompt; below 0: the model's own, which is 7 for V1 to V4, 6 "
                    "for V5 and V5.1, 2 to 2.5 for the tiny model.",
                ),
                io.Combo.Input("sampler", options=comfy.samplers.KSampler.SAMPLERS, tooltip="The releases use euler."),
                io.Combo.Input(
                    "scheduler",
                    options=SCHEDULERS,
                    tooltip="easyanimate is the releases' own schedule for the chosen sampler.",
                ),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="1 generates from scratch. Lower values keep more of the input latent: 0.3 nearly "
                    "everything, 0.8 only the rough motion.",
                ),
            ],
            outputs=[io.Latent.Output(tooltip="The sampled latent, for EasyAnimate Decode.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, model, positive, negative, latent, seed, steps, cfg, sampler, scheduler, denoise) -> io.NodeOutput:
        release = _require_release(model, "KSampler")
        if cfg < 0:
            cfg = release.cfg
            if cls.hidden is not None:
                show_text(cls.hidden.unique_id, f"The model's own cfg: {cfg:g}.")
        require_choice("sampler", sampler, comfy.samplers.KSampler.SAMPLERS)
        require_choice("scheduler", scheduler, SCHEDULERS)
        latent_format = model.get_model_object("latent_format")
        require_match(latent, latent_format, "transformer")
        samples = fixed_empty_latent(model, latent)
        require_numbers(samples)
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
        sigmas = None
        if scheduler == RELEASE_SCHEDULE:
            scheduler = comfy.samplers.KSampler.SCHEDULERS[0]
            sigmas = release_sigmas(model, sampler, steps, denoise)
        mask = latent.get("noise_mask")
        if mask is not None:  # 0.33 would interpolate it: single frames and pixels were lost
            mask = latent_mask(mask, release.vae.plan, samples.shape)
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
            noise_mask=mask,
            sigmas=sigmas,
            callback=latent_preview.prepare_callback(model, steps),
            disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
            seed=seed,
        )
        rest = {k: v for k, v in latent.items() if not k.startswith("downscale_ratio")}
        return io.NodeOutput(mark({**rest, "samples": samples}, latent_format))


class EasyAnimateScheduler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateScheduler",
            display_name="EasyAnimate Scheduler",
            category=CATEGORY,
            description="The releases' own noise schedule, for SamplerCustom and SamplerCustomAdvanced.",
            inputs=[
                io.Model.Input("model", tooltip="The EasyAnimate transformer."),
                io.Combo.Input(
                    "sampler",
                    options=comfy.samplers.KSampler.SAMPLERS,
                    default="euler",
                    tooltip="The sampler that will run this schedule; with V1 to V4, ddim and the dpmpp family each "
                    "have their own spacing.",
                ),
                _steps_input(),
                io.Float.Input(
                    "denoise",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Below 1, only the last part of a longer schedule, for video to video.",
                ),
            ],
            outputs=[io.Sigmas.Output(tooltip="Noise levels for SamplerCustom and SamplerCustomAdvanced.")],
        )

    @classmethod
    def execute(cls, model, sampler, steps, denoise) -> io.NodeOutput:
        _require_release(model, "BasicScheduler")
        require_choice("sampler", sampler, comfy.samplers.KSampler.SAMPLERS)
        return io.NodeOutput(release_sigmas(model, sampler, steps, denoise))


class EasyAnimateContextWindows(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateContextWindows",
            display_name="EasyAnimate Context Windows",
            category=CATEGORY,
            description="For videos longer than the model was trained on: samples overlapping windows, in the memory "
            "of one window.",
            inputs=[
                io.Model.Input("model", tooltip="The EasyAnimate transformer."),
                io.Int.Input(
                    "length",
                    default=144,
                    min=8,
                    max=4096,
                    step=1,
                    tooltip="Frames per window: up to 144 for V3 and V4, 49 for V5 and V5.1 (13 latent frames), as "
                    "they were trained. Rounded down to whole VAE slices.",
                ),
                io.Int.Input(
                    "overlap",
                    default=48,
                    min=0,
                    max=4096,
                    step=1,
                    tooltip="Frames shared by neighbouring windows, usually a third of length: 48 of 144, 16 of 49. "
                    "More is smoother but slower.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The transformer, set to sample in windows.")],
        )

    @classmethod
    def execute(cls, model, length, overlap) -> io.NodeOutput:
        release = _require_release(model, "Context Windows (Manual)")
        return io.NodeOutput(in_windows(model, length, overlap, release.vae.plan))


class EasyAnimateStepCache(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return schema(
            node_id="EasyAnimateStepCache",
            display_name="EasyAnimate Step Cache",
            category=CATEGORY,
            description="Samples almost twice as fast by skipping later steps whose result can be predicted from the "
            "two before. The picture changes slightly.",
            inputs=[
                io.Model.Input(
                    "model", tooltip="The transformer with its LoRAs. Make this the last node before the sampler."
                ),
                io.Float.Input(
                    "threshold",
                    default=0.1,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Largest relative error allowed for a skipped step: 0 = skip nothing, 0.05 = cautious; "
                    "above 0.2 the difference is visible.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.35,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Steps before this fraction of sampling are never skipped, because they decide the "
                    "content. Lower is faster but may change the picture.",
                ),
                io.Int.Input(
                    "most_in_a_row", default=3, min=1, max=20, tooltip="Maximum number of steps to skip in a row."
                ),
            ],
            outputs=[io.Model.Output(tooltip="The transformer, set to skip steps.")],
        )

    @classmethod
    def execute(cls, model, threshold, start_percent, most_in_a_row) -> io.NodeOutput:
        return io.NodeOutput(with_step_cache(model, threshold, start_percent, most_in_a_row))


def _require_release(model, stock: str) -> Release:
    """Which release a MODEL is of; `stock` is the node for those of other families."""
    release = model.model.model_config
    if not isinstance(release, Release):
        raise ValueError(f"This model is not an EasyAnimate transformer; use {stock} for other models.")
    return release


NODES = [EasyAnimateSampler, EasyAnimateScheduler, EasyAnimateContextWindows, EasyAnimateStepCache]
