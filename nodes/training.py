"""Clips + MODEL -> a LoRA, or motion modules. What training needs is imported when it begins."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..easyanimate_models.host import require_choice
from .dataset import dataset_folder, fps_input, input_digest, input_folder
from .decoding import require_slice_vae
from .previews import show_images
from .prompts import require_text_encoder
from .schema import schema
from .training_inputs import NO_FOLDER, clips_inputs, models_and_folder, sample_inputs
from .training_monitoring import NO_LORA, MonitoringOptions, monitoring_inputs, prompts_in, start_input
from .training_options import (
    TrainingOptions,
    blocks_to_swap_input,
    dataset_input,
    every_input,
    image_encoder_input,
    training_options,
)
from .training_progress import Progress, picture

CATEGORY = "EasyAnimate/training"
FPS = (
    "Resamples the clips of a folder or dataset to this frame rate: 24 for V3 and V4, 8 for V5 and V5.1. 0 = each "
    "clip's own rate."
)
NAMES = ["comfyui", "original"]


def _outputs() -> list:
    return [
        io.Model.Output(tooltip="The trained transformer."),
        io.Image.Output(display_name="loss", tooltip="The loss curve."),
        io.String.Output(display_name="file", tooltip="Name of the saved file."),
    ]


class EasyAnimateTrainLora(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        steps = io.Int.Input("steps", default=500, min=1, max=1_000_000, tooltip="300 to 2000 for 20 clips.")
        return schema(
            node_id="EasyAnimateTrainLora",
            display_name="EasyAnimate Train LoRA",
            category=CATEGORY,
            description="Trains a LoRA on a few clips, for a style, a subject or a motion, and saves it in "
            "models/loras. Can be interrupted and resumed.",
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *models_and_folder("my_lora", "LoRA file", steps),
                io.Int.Input(
                    "rank",
                    default=16,
                    min=0,
                    max=1024,
                    tooltip="8 to 128; 16 is often enough. A higher rank learns more and makes a larger file.",
                ),
                *clips_inputs(),
                io.Boolean.Input(
                    "motion_modules",
                    default=True,
                    optional=True,
                    tooltip="Train the motion modules too. Off: learns a style only; motion stays as it was.",
                ),
                every_input(),
                io.Combo.Input(
                    "names",
                    options=NAMES,
                    optional=True,
                    tooltip="Layer names in the file: as in ComfyUI, or as in EasyAnimate's original trainer.",
                ),
                *sample_inputs(),
                io.Boolean.Input(
                    "text_encoder",
                    default=False,
                    optional=True,
                    tooltip="Train the text encoder too, for words it doesn't know. It then stays in memory.",
                ),
                image_encoder_input(),
                dataset_input(),
                fps_input(FPS),
                *monitoring_inputs("LoRA"),
                start_input(),
                *training_options(),
                blocks_to_swap_input(),
            ],
            outputs=[*_outputs(), io.Clip.Output(tooltip="The trained text encoder.")],
        )

    @classmethod
    def fingerprint_inputs(cls, folder, **_) -> str:
        return input_digest(folder[0])

    @classmethod
    def execute(
        cls, model, clip, vae, name, folder, steps, learning_rate, rank, resolution, frames, batch_size, seed,
        clips=None, captions=None, motion_modules=(True,), every=(1,), names=("comfyui",), sample_every=(0,),
        sample_prompt=("",), text_encoder=(False,), clip_vision=None, dataset=None,
        fps=(0.0,), save_every=(0,), validation=(0.0,), validation_every=(50,), sample_steps=(25,), sample_cfg=(7.0,),
        sample_sampler=("euler",), sample_width=(0,), sample_height=(0,), sample_frames=(0,), sample_image=None,
        start_from=(NO_LORA,), optimizer=("adamw",), lr_schedule=("constant",), weight_decay=(0.01,),
        caption_dropout=(0.1,), trigger_word=("",), caption_shuffles=(0,), keep_tags=(1,),
        blocks_to_swap=(0,),
    ) -> io.NodeOutput:  # fmt: skip
        from ..easyanimate_models.training.denoiser.lora import LoraSettings
        from ..easyanimate_models.training.node_run import train_lora

        require_choice("way to name layers", names[0], NAMES)
        inputs = TrainingInputs(
            model=model[0],
            clip=clip[0],
            vae=vae[0],
            name=name[0],
            folder=folder[0],
            steps=steps[0],
            learning_rate=learning_rate[0],
            resolution=resolution[0],
            frames=frames[0],
            batch_size=batch_size[0],
            seed=seed[0],
            clips=clips,
            captions=captions,
            every=every[0],
            sample_every=sample_every[0],
            sample_prompt=sample_prompt,
            clip_vision=_first(clip_vision),
            dataset=_first(dataset),
            fps=fps[0],
            monitoring=MonitoringOptions.of(
                save_every,
                validation,
                validation_every,
                sample_steps,
                sample_cfg,
                sample_sampler,
                sample_width,
                sample_height,
                sample_frames,
                sample_image,
                start_from,
            ),  # fmt: skip
            options=TrainingOptions.of(
                optimizer, lr_schedule, weight_decay, caption_dropout, trigger_word, caption_shuffles, keep_tags
            ),
        )
        start = inputs.monitoring.start_file()
        lora = LoraSettings(rank[0], rank[0], motion_modules[0], text_encoder[0], start)
        progress = Progress(cls.hidden.unique_id, inputs.steps)
        job = replace(_job(inputs), blocks_to_swap=blocks_to_swap[0])
        result = train_lora(job, lora, names[0], _callbacks(progress))
        outputs = _outputs_of(result)
        return io.NodeOutput(*outputs, result.clip, ui=show_images([outputs[1], *progress.sheets]))


class EasyAnimateTrainMotionModule(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        tooltip = "Many thousands (and many clips) for new motion modules; a few hundred to fine-tune existing ones."
        steps = io.Int.Input("steps", default=2000, min=1, max=1_000_000, tooltip=tooltip)
        return schema(
            node_id="EasyAnimateTrainMotionModule",
            display_name="EasyAnimate Train Motion Module",
            category=CATEGORY,
            description="Trains motion only: new V1 motion modules for an image transformer (PixArt), or the existing "
            "ones of a video transformer. All other weights stay frozen. Saves to models/diffusion_models. Can be "
            "interrupted and resumed.",
            is_input_list=True,
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                *models_and_folder("my_motion", "file (with _mm appended)", steps),
                *clips_inputs(),
                every_input(),
                *sample_inputs(),
                image_encoder_input(),
                dataset_input(),
                fps_input(FPS),
                *monitoring_inputs("file"),
                *training_options(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def fingerprint_inputs(cls, folder, **_) -> str:
        return input_digest(folder[0])

    @classmethod
    def execute(
        cls, model, clip, vae, name, folder, steps, learning_rate, resolution, frames, batch_size, seed,
        clips=None, captions=None, every=(1,), sample_every=(0,), sample_prompt=("",), clip_vision=None, dataset=None,
        fps=(0.0,), save_every=(0,), validation=(0.0,), validation_every=(50,), sample_steps=(25,), sample_cfg=(7.0,),
        sample_sampler=("euler",), sample_width=(0,), sample_height=(0,), sample_frames=(0,), sample_image=None,
        optimizer=("adamw",), lr_schedule=("constant",), weight_decay=(0.01,), caption_dropout=(0.1,),
        trigger_word=("",), caption_shuffles=(0,), keep_tags=(1,),
    ) -> io.NodeOutput:  # fmt: skip
        from ..easyanimate_models.training.node_run import train_motion_module

        inputs = TrainingInputs(
            model=model[0],
            clip=clip[0],
            vae=vae[0],
            name=name[0],
            folder=folder[0],
            steps=steps[0],
            learning_rate=learning_rate[0],
            resolution=resolution[0],
            frames=frames[0],
            batch_size=batch_size[0],
            seed=seed[0],
            clips=clips,
            captions=captions,
            every=every[0],
            sample_every=sample_every[0],
            sample_prompt=sample_prompt,
            clip_vision=_first(clip_vision),
            dataset=_first(dataset),
            fps=fps[0],
            monitoring=MonitoringOptions.of(
                save_every,
                validation,
                validation_every,
                sample_steps,
                sample_cfg,
                sample_sampler,
                sample_width,
                sample_height,
                sample_frames,
                sample_image,
            ),  # fmt: skip
            options=TrainingOptions.of(
                optimizer, lr_schedule, weight_decay, caption_dropout, trigger_word, caption_shuffles, keep_tags
            ),
        )
        progress = Progress(cls.hidden.unique_id, inputs.steps)
        outputs = _outputs_of(train_motion_module(_job(inputs), _callbacks(progress)))
        return io.NodeOutput(*outputs, ui=show_images([outputs[1], *progress.sheets]))


@dataclass(frozen=True)
class TrainingInputs:
    """The inputs that both nodes have: of all but clips and captions, which are lists, there is one."""

    model: Any
    clip: Any
    vae: Any
    name: str
    folder: str
    steps: int
    learning_rate: float
    resolution: int
    frames: int
    batch_size: int
    seed: int
    clips: list | None
    captions: list | None
    every: int
    sample_every: int
    sample_prompt: list[str]
    clip_vision: Any
    dataset: str | None
    fps: float
    monitoring: MonitoringOptions
    options: TrainingOptions


def _first(values: list | None):
    """The value of an optional input; None where nothing is connected."""
    return None if values is None else values[0]


def _job(inputs: TrainingInputs):
    """What is to be trained."""
    from ..easyanimate_models.training.clips.dataset import in_memory, read_dataset
    from ..easyanimate_models.training.clips.holding_out import ValidationSettings
    from ..easyanimate_models.training.clips.settings import DataSettings
    from ..easyanimate_models.training.node_run import TrainingJob
    from ..easyanimate_models.training.samples import SampleSettings
    from ..easyanimate_models.training.training_plan import TrainingPlan

    steps, monitoring = inputs.steps, inputs.monitoring
    clip, vae = require_text_encoder(inputs.clip), require_slice_vae(inputs.vae)
    folder = _dataset_folder(inputs)
    size = inputs.resolution, inputs.frames, inputs.every, inputs.batch_size
    data = DataSettings(*size, fps=inputs.fps, **inputs.options.of_data())
    if folder is None:
        items = in_memory(inputs.clips or [], inputs.captions or [data.trigger_word])
    else:
        items = read_dataset(folder, not data.trigger_word.strip(), inputs.fps, within=True)
    return TrainingJob(
        name=inputs.name,
        model=inputs.model,
        clip=clip,
        vae=vae,
        items=items,
        data=data,
        plan=TrainingPlan(
            steps,
            inputs.learning_rate,
            min(100, steps // 10),
            ema=0.99,
            clip=1.0,
            seed=inputs.seed,
            save_every=monitoring.save_every,
            **inputs.options.of_plan(),
        ),
        samples=SampleSettings(
            inputs.sample_every, prompts=prompts_in(inputs.sample_prompt), **monitoring.of_samples()
        ),
        cache_folder=folder,
        clip_vision=inputs.clip_vision,
        sample_image=monitoring.start_image(),
        validation=ValidationSettings(monitoring.validation, every=monitoring.validation_every),
    )


def _dataset_folder(inputs: TrainingInputs) -> Path | None:
    """The folder of the data set; None for clips that are connected."""
    if inputs.dataset:
        return dataset_folder(inputs.dataset)
    return None if inputs.folder == NO_FOLDER else input_folder(inputs.folder)


def _outputs_of(result) -> tuple:
    """The outputs that both nodes have."""
    return result.model, picture(result.folder / "loss.png"), result.file.name


def _callbacks(progress: Progress):
    """How a run tells the node what it does."""
    from ..easyanimate_models.training.node_run import ProgressCallbacks

    return ProgressCallbacks(progress.encoding, progress.step, progress.preview, progress.say)


NODES = [EasyAnimateTrainLora, EasyAnimateTrainMotionModule]
