"""The workflows of V4: text and a start image."""

from .author import Stage, TinyRun, Workflow, node, note
from .blocks import (
    CONDITIONED_APP,
    IMAGE_APP,
    LOADERS,
    MAKE,
    PROMPT_AND_SIZE,
    built_in,
    clip_vision,
    conditioning,
    decode,
    from_release,
)
from .files import V4

FILES = """

**Files.** Put the whole folder of the hub's alibaba-pai/EasyAnimateV4-XL-2-InP into models/easyanimate and \
select it in all loaders. For example, in ComfyUI's folder: *hf download alibaba-pai/EasyAnimateV4-XL-2-InP \
--local-dir models/easyanimate/EasyAnimateV4-XL-2-InP*. It has two text encoders (BERT and mT5), which the loader \
finds there. If the hub gives you an archive, unpack it first."""
TEXT_NOTE = """**EasyAnimate V4, text to video.** Prompts may be English or Chinese. Trained on up to 144 frames at 24 \
fps and on sizes from 512 to 1280 pixels; lengths are 8n, or 1 for an image. V4 is an inpainting (InP) model: *Image \
to Video* without images makes video from text."""
IMAGE_NOTE = """**EasyAnimate V4, a video that starts with your image.** The image is scaled to width and height and \
cropped at the centre, so choose a size close to its aspect ratio. *end_image* works too.

*CLIP* sees the image as well, from clip_start_percent of the run on: lower values stay closer to the image but move \
less."""


def v4_text_to_video() -> Workflow:
    return Workflow(
        name="08 Text to Video (EasyAnimate V4)",
        nodes={
            **_from_release("a sailing boat on a calm lake at sunset, gentle waves, slow camera, cinematic light"),
            "conditioning": conditioning(),
            "note": note(TEXT_NOTE + FILES),
        },
        stages=[LOADERS, Stage(PROMPT_AND_SIZE, [["prompt", "conditioning"], ["note"]]), MAKE],
        app=CONDITIONED_APP,
        tiny=TinyRun(
            {"save": (24, 64)}, thumbnail=built_in(text="a yellow ball moves to the right on a black background")
        ),
    )


def v4_image_to_video() -> Workflow:
    return Workflow(
        name="09 Image to Video (EasyAnimate V4)",
        nodes={
            **_from_release("the subject turns its head slowly and smiles, soft light, shallow depth of field"),
            "start": node("LoadImage", image="example.png"),
            **clip_vision("start", V4),
            "conditioning": conditioning(
                start_image=["start", 0], clip_vision_output=["vision", 0], clip_start_percent=0.6
            ),
            "note": note(IMAGE_NOTE + FILES),
        },
        stages=[
            LOADERS,
            Stage(PROMPT_AND_SIZE, [["prompt", "conditioning"], ["start", "encoder", "vision"], ["note"]]),
            MAKE,
        ],
        app=IMAGE_APP,
        titles={"start": "Start image"},
        tiny=TinyRun({"save": (24, 64)}, inputs={"start": {"image": "easyanimate/start.png"}}, thumbnail=built_in()),
    )


def _from_release(text: str) -> dict:
    return from_release(text, files=V4) | {"decode": decode()}
