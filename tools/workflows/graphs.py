"""The shipped workflows, one function each; `python3 dev.py workflows` writes their files.

To add one: write a function that returns a `Workflow`, list it in `WORKFLOWS`, run `python3 dev.py workflows --pictures
NAME`, and check the thumbnail. The tests then run it with the built-in tiny model and with stand-ins for other files.
"""

from .author import Stage, TinyRun, Workflow, node, note
from .blocks import (
    BUILT_IN,
    BUILT_IN_LORA,
    CLIP,
    CONDITIONED_APP,
    FOURTH,
    IMAGE_APP,
    LOADERS,
    MAKE,
    PROMPT,
    PROMPT_AND_SIZE,
    SOURCE_VIDEO,
    TEXT_APP,
    clip_vision,
    conditioning,
    decode,
    empty,
    from_release,
    inpainting,
    loaders,
    prompt,
    sampler,
    video,
    video_file,
)
from .combined import controlnet_refine, pixart_controlnet, upscale
from .training import footage_to_lora, train_lora, train_motion_module
from .v4 import v4_image_to_video, v4_text_to_video
from .v51 import (
    v51_camera,
    v51_control,
    v51_image_to_video,
    v51_inpaint,
    v51_start_and_end,
    v51_text_to_video,
)

BALL: dict[str, dict] = {"prompt": {"positive": PROMPT, "negative": ""}}


TINY_NOTE = """**The built-in tiny model knows only a few words.** It draws one shape on a plain background:
- shapes: circle (ball), square (box), triangle
- colours: red, green, blue, yellow, purple, white
- backgrounds: black, grey
- motions: stays still, moves to the left or right, goes up or down, grows

Other words mean nothing to it. For anything else, open the template of a release."""


def text_to_video_tiny() -> Workflow:
    return Workflow(
        name="01 Text to Video (EasyAnimate built-in)",
        nodes={
            **loaders(),
            **prompt(),
            **empty(),
            "sampler": sampler(),
            "decode": decode(),
            **video(prefix="easyanimate/tiny"),
            "note": note(TINY_NOTE),
        },
        stages=[
            LOADERS,
            Stage(PROMPT_AND_SIZE, [["prompt", "empty"]]),
            Stage(MAKE.title, [["sampler"], ["decode", "video"], ["save", "note"]]),
        ],
        app=TEXT_APP,
        tiny=TinyRun({"save": (24, 64)}, shows=("red", "left")),
    )


V3_NOTE = """**EasyAnimate V3, text to video.**

**Files**; the editor offers them for download where they are missing:
- models/diffusion_models: EasyAnimateV3-XL-2-InP-512x512-bf16.safetensors (or 768x768, 960x960)
- models/vae: vae/diffusion_pytorch_model.safetensors of the release, renamed to EasyAnimateV3-vae.safetensors
- models/text_encoders: t5xxl_fp16.safetensors

A release folder in models/easyanimate, selected in all loaders, works too.

V3 was released as an inpainting (InP) model: *Image to Video* without images makes video from text. It was trained on \
72 and 144 frames at 24 fps. With the 512 release, keep width times height near 512 x 512, in multiples of 16."""


def text_to_video() -> Workflow:
    return Workflow(
        name="10 Text to Video (EasyAnimate V3)",
        nodes={
            **from_release("a sailing boat on a calm lake at sunset, gentle waves, slow camera, cinematic light"),
            "conditioning": conditioning(),
            "note": note(V3_NOTE),
        },
        stages=[LOADERS, Stage(PROMPT_AND_SIZE, [["prompt", "conditioning"], ["note"]]), MAKE],
        app=CONDITIONED_APP,
        tiny=TinyRun({"save": (24, 64)}, inputs=BALL, shows=("red", "left")),
    )


IMAGE_NOTE = """**A video that starts with your image.** The image is scaled to width and height and cropped at the \
centre, so choose a size close to its aspect ratio.

*CLIP* sees the image too, which keeps the subject consistent; any CLIP ViT-L/14 vision model will do, such as \
model.safetensors of openai/clip-vit-large-patch14, renamed to clip-vit-large-patch14.safetensors. It starts at \
clip_start_percent: lower values stay closer to the image but move less."""


def image_to_video() -> Workflow:
    return Workflow(
        name="11 Image to Video (EasyAnimate V3)",
        nodes={
            **from_release("the subject turns its head slowly and smiles, soft light, shallow depth of field"),
            "start": node("LoadImage", image="example.png"),
            **clip_vision("start"),
            "conditioning": conditioning(start_image=["start", 0], clip_vision_output=["vision", 0]),
            "note": note(IMAGE_NOTE),
        },
        stages=[
            LOADERS,
            Stage(PROMPT_AND_SIZE, [["prompt", "conditioning"], ["start", "encoder", "vision"], ["note"]]),
            MAKE,
        ],
        app=IMAGE_APP,
        titles={"start": "Start image"},
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={**BALL, "start": {"image": "easyanimate/start.png"}},
            shows=("red", "left"),
        ),
    )


ENDS_NOTE = """**A video between two images**, its first frame and its last. Either one is optional. A batch of \
several images becomes the first, or last, few frames."""


def start_and_end() -> Workflow:
    return Workflow(
        name="12 Start and End Image (EasyAnimate V3)",
        nodes={
            **from_release("the flower opens its petals, time lapse, macro shot"),
            "start": node("LoadImage", image="example.png"),
            "end": node("LoadImage", image="example.png"),
            **clip_vision("start"),
            "conditioning": conditioning(
                start_image=["start", 0], end_image=["end", 0], clip_vision_output=["vision", 0]
            ),
            "note": note(ENDS_NOTE),
        },
        stages=[
            LOADERS,
            Stage(PROMPT_AND_SIZE, [["prompt", "conditioning"], ["start", "end"], ["encoder", "vision", "note"]]),
            MAKE,
        ],
        titles={"start": "Start image", "end": "End image"},
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={
                **BALL,
                "start": {"image": "easyanimate/start.png"},
                "end": {"image": "easyanimate/end.png"},
            },
            shows=("red", "left"),
        ),
    )


VIDEO_NOTE = """**Video to video.** The sampler's *denoise* sets how much is regenerated: 0.3 keeps nearly everything, \
0.8 only the rough motion. Lengths of 1, 8n and 8n + 1 frames are kept exactly."""


def video_to_video() -> Workflow:
    return Workflow(
        name="13 Video to Video (EasyAnimate V3)",
        nodes={
            **from_release("an oil painting of a city street in the rain, thick brush strokes", denoise=0.6),
            **video_file(),
            "conditioning": inpainting(),
            "note": note(VIDEO_NOTE),
        },
        stages=[LOADERS, SOURCE_VIDEO, Stage("3. Prompt", [["prompt", "conditioning"], ["note"]]), FOURTH],
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={**BALL, **CLIP, "sampler": {"denoise": 0.8}},
            shows=("red", "left"),
        ),
    )


INPAINT_NOTE = """**Regenerate a region of a video.** White areas of the mask are regenerated, black areas are kept. \
Draw the mask on the first frame (right-click, *Open in MaskEditor*), or supply one mask per frame.

With *noise_mask* on, everything outside the mask is held to the original at every step. Transformers that are not InP \
need this; InP transformers also see the area around the mask."""


def inpaint_video() -> Workflow:
    return Workflow(
        name="14 Video Inpainting (EasyAnimate V3)",
        nodes={
            **from_release("a hot air balloon floats over the hills"),
            **video_file(),
            "mask": node("LoadImageMask", image="example.png", channel="alpha"),
            "conditioning": inpainting(mask=["mask", 0]),
            "note": note(INPAINT_NOTE),
        },
        stages=[
            LOADERS,
            SOURCE_VIDEO,
            Stage("3. Prompt and mask", [["prompt", "conditioning"], ["mask"], ["note"]]),
            FOURTH,
        ],
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={
                "prompt": {"positive": "a green square stays still on a black background", "negative": ""},
                **CLIP,
                "clip_file": {"file": "easyanimate/still.mp4"},
                "model": {"transformer": BUILT_IN},  # draws better than InP; the noise mask keeps the rest
                "mask": {"image": "easyanimate/mask.png", "channel": "red"},
            },
            shows=("green", "stay"),
        ),
    )


LORA_NOTE = """**A LoRA for the transformer, and for the text encoder if the file has weights for it.** Put the file \
into models/loras. Chain nodes to stack several LoRAs. A negative strength inverts the effect.

This node reads the releases' own files (lora_unet__...) and those of kohya, PEFT and ComfyUI."""


def lora() -> Workflow:
    return Workflow(
        name="15 LoRA (EasyAnimate V3)",
        nodes={
            **from_release("a fox runs through fresh snow, slow motion", model=["lora", 0], clip=["lora", 1]),
            "lora": node(
                "EasyAnimateLoadLora", model=["model", 0], clip=["clip", 0], lora="easyanimate-style-lora.safetensors"
            ),
            "conditioning": conditioning(),
            "note": note(LORA_NOTE),
        },
        stages=[LOADERS, Stage(PROMPT_AND_SIZE, [["lora", "note"], ["prompt", "conditioning"]]), MAKE],
        tiny=TinyRun(
            {"save": (24, 64)}, inputs={"prompt": {"positive": PROMPT, "negative": ""}, "lora": {"lora": BUILT_IN_LORA}}
        ),
    )


LONG_NOTE = """**Longer than the model was trained on.** *Context Windows* samples overlapping windows of the video, \
using the memory of a single window; decoding works slice by slice anyway. More overlap is smoother but slower.

The prompt applies to the whole video. Sampling time grows with the number of windows."""


def long_video() -> Workflow:
    return Workflow(
        name="16 Long Video (EasyAnimate V3)",
        nodes={
            **from_release("flying over a mountain ridge in morning fog, steady camera", model=["windows", 0]),
            "windows": node("EasyAnimateContextWindows", model=["model", 0], length=144, overlap=48),
            "conditioning": conditioning(length=432),
            "note": note(LONG_NOTE),
        },
        stages=[LOADERS, Stage(PROMPT_AND_SIZE, [["prompt", "conditioning"], ["windows", "note"]]), MAKE],
        tiny=TinyRun(
            {"save": (48, 64)},
            inputs={
                "prompt": {"positive": "a yellow box rests on a black background", "negative": ""},
                "conditioning": {"length": 48},
                "windows": {"length": 24, "overlap": 8},
            },
        ),
    )


WORKFLOWS = [  # in the order of their names
    text_to_video_tiny,
    v51_text_to_video,
    v51_image_to_video,
    v51_start_and_end,
    v51_inpaint,
    v51_control,
    v51_camera,
    v4_text_to_video,
    v4_image_to_video,
    text_to_video,
    image_to_video,
    start_and_end,
    video_to_video,
    inpaint_video,
    lora,
    long_video,
    pixart_controlnet,
    upscale,
    controlnet_refine,
    train_lora,
    train_motion_module,
    footage_to_lora,
]
