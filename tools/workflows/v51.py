"""The workflows of V5.1: text, start and end images, inpainting, a control video, a camera."""

from .author import Stage, TinyRun, Workflow, node, note
from .blocks import (
    BUILT_IN,
    CLIP,
    FOURTH,
    IMAGE_APP,
    LOADERS,
    MAKE,
    PROMPT_AND_SIZE,
    SOURCE_VIDEO,
    TEXT_APP,
    built_in,
    conditioning,
    decode,
    from_release,
    inpainting,
    video_file,
)
from .files import V51_MODELS, v51

TEXT_TO_VIDEO, INPAINTING, CONTROL, CAMERA = V51_MODELS
LENGTH = 49
TINY_SIZE = {"width": 64, "height": 64, "length": 9}
SHOWN = {"length": 24}  # of the built-in model, in thumbnails
FILES = """

**Files**, from the hub's alibaba-pai/{release}:
- transformer/diffusion_pytorch_model.safetensors: rename it to {release}.safetensors and put it into \
models/diffusion_models. For the larger model, take {larger}.
- vae/diffusion_pytorch_model.safetensors: rename it to EasyAnimateV5.1-vae.safetensors, models/vae. All V5.1 \
models share it.
- The text encoder (Qwen2-VL) is a folder of five files, which all V5.1 models share. In ComfyUI's folder: \
*hf download alibaba-pai/EasyAnimateV5.1-7b-zh --include "text_encoder/\\*" --local-dir \
models/easyanimate/EasyAnimateV5.1-7b-zh*."""


def _note(text: str, release: str) -> dict:
    return note(text + FILES.format(release=release, larger=release.replace("7b", "12b")))


def _from_release(release: str, text: str, **sampling) -> dict:
    """As `blocks.from_release`, as V5.1 samples and decodes."""
    nodes = from_release(text, files=v51(release), **({"steps": 50, "cfg": 6} | sampling))
    return nodes | {"decode": decode()}


TEXT_NOTE = """**EasyAnimate V5.1, text to video.** Prompts may be English or Chinese; long descriptions work best. \
Trained on 49 frames at 8 fps, at 512, 768 and 1024 pixels: 672 x 384, 1008 x 576 and 1344 x 768. Lengths are 4n + 1; \
1 is an image. With little memory, set *weight_dtype* to fp8_e4m3fn."""


def v51_text_to_video() -> Workflow:
    return Workflow(
        name="02 Text to Video (EasyAnimate V5.1)",
        nodes={
            **_from_release(
                TEXT_TO_VIDEO,
                "A sailing boat crosses a calm lake at sunset. Gentle waves sparkle in warm light, the camera follows "
                "slowly, cinematic.",
                positive=["prompt", 0],
                negative=["prompt", 1],
                latent=["empty", 0],
            ),
            "empty": node("EasyAnimateEmptyLatent", width=672, height=384, length=LENGTH, vae=["vae", 0]),
            "note": _note(TEXT_NOTE, TEXT_TO_VIDEO),
        },
        stages=[LOADERS, Stage(PROMPT_AND_SIZE, [["prompt", "empty"], ["note"]]), MAKE],
        app=TEXT_APP,
        tiny=TinyRun(
            {"save": (9, 64)},
            inputs={"empty": TINY_SIZE},
            thumbnail=built_in(BUILT_IN, "a blue triangle moves to the right on a black background", empty=SHOWN),
        ),
    )


IMAGE_NOTE = """**EasyAnimate V5.1, a video that starts with your image.** The image is scaled to width and height and \
cropped at the centre, so choose a size close to its aspect ratio. Describe what happens, not only what is there.

Raise *noise_augmentation* a little if nothing moves; 0 stays closest to the image. Without an image: text to video."""


def v51_image_to_video() -> Workflow:
    return _with_images(
        "03 Image to Video (EasyAnimate V5.1)",
        "The subject turns its head slowly and smiles. Soft light, shallow depth of field.",
        IMAGE_NOTE,
        start="easyanimate/start.png",
    )


ENDS_NOTE = """**EasyAnimate V5.1, a video between two images**, its first frame and its last. Either one is optional. \
A batch of several images becomes the first, or last, few frames."""


def v51_start_and_end() -> Workflow:
    return _with_images(
        "04 Start and End Image (EasyAnimate V5.1)",
        "The flower opens its petals, time lapse, macro shot.",
        ENDS_NOTE,
        start="easyanimate/start.png",
        end="easyanimate/end.png",
    )


def _with_images(name: str, text: str, words: str, **images: str) -> Workflow:
    """Start and end image, or one of them; `images` are those of the tiny run."""
    return Workflow(
        name=name,
        nodes={
            **_from_release(INPAINTING, text),
            **{image: node("LoadImage", image="example.png") for image in images},
            "conditioning": conditioning(length=LENGTH, **{f"{image}_image": [image, 0] for image in images}),
            "note": _note(words, INPAINTING),
        },
        stages=[LOADERS, Stage(PROMPT_AND_SIZE, [["prompt", "conditioning"], [*images], ["note"]]), MAKE],
        titles={image: f"{image.capitalize()} image" for image in images},
        app={} if "end" in images else IMAGE_APP,
        tiny=TinyRun(
            {"save": (9, 64)},
            inputs={"conditioning": TINY_SIZE, **{image: {"image": file} for image, file in images.items()}},
            thumbnail=built_in(conditioning=SHOWN),
        ),
    )


INPAINT_NOTE = """**EasyAnimate V5.1, regenerate a region of a video.** White areas of the mask are regenerated, black \
areas are kept. Draw the mask on the first frame (right-click, *Open in MaskEditor*), or supply one mask per frame.

Give it a clip of at most 49 frames, at 8 fps as the model was trained. Lengths are 4n + 1; other clips lose their \
last frames. Without a mask, and with a *denoise* below 1: video to video."""


def v51_inpaint() -> Workflow:
    return Workflow(
        name="05 Video Inpainting (EasyAnimate V5.1)",
        nodes={
            **_from_release(INPAINTING, "A hot air balloon floats over the hills."),
            **video_file(),
            "mask": node("LoadImageMask", image="example.png", channel="alpha"),
            "conditioning": inpainting(mask=["mask", 0]),
            "note": _note(INPAINT_NOTE, INPAINTING),
        },
        stages=[
            LOADERS,
            SOURCE_VIDEO,
            Stage("3. Prompt and mask", [["prompt", "conditioning"], ["mask"], ["note"]]),
            FOURTH,
        ],
        tiny=TinyRun(
            {"save": (21, 64)},
            inputs={**CLIP, "mask": {"image": "easyanimate/mask.png", "channel": "red"}},
            thumbnail=built_in(
                BUILT_IN,  # draws better than InP; the noise mask keeps the rest
                "a green square stays still on a black background",
                clip_file={"file": "easyanimate/still.mp4"},
            ),
        ),
    )


CONTROL_NOTE = """**EasyAnimate V5.1 Control: a video that follows another one.** Canny edges come with ComfyUI; \
depth, poses and straight lines (MLSD), from other packs, work with the same model. So does *EasyAnimate Trajectory*, \
in which spots move along coordinates.

Connect *ref_image* to say what the video should look like. Frames beyond *length* are left out."""


def v51_control() -> Workflow:
    return Workflow(
        name="06 Control Video (EasyAnimate V5.1)",
        nodes={
            **_from_release(CONTROL, "A paper boat drifts down a stream, macro shot, soft morning light."),
            **video_file(),
            "hint": node("Canny", image=["scaled", 0], low_threshold=0.2, high_threshold=0.5),
            "conditioning": _control(width=672, height=384, length=LENGTH, control_video=["hint", 0]),
            "note": _note(CONTROL_NOTE, CONTROL),
        },
        stages=[
            LOADERS,
            Stage("2. Control video", [["clip_file", "parts", "scaled", "hint"]]),
            Stage("3. Prompt and size", [["prompt", "conditioning"], ["note"]]),
            FOURTH,
        ],
        tiny=TinyRun({"save": (9, 64)}, inputs={**CLIP, "conditioning": TINY_SIZE}, pictures=("scaled", "hint")),
    )


CAMERA_NOTE = """**EasyAnimate V5.1 Camera: a camera that moves as you say.** Choose a move and its speed in \
*WanCameraEmbedding*, which also sets the size of the video. For any other path, replace it by *EasyAnimate Camera \
Path*, which takes poses from a file.

The image is what the camera sees; *ref_image* is optional."""


def v51_camera() -> Workflow:
    size = {name: ["camera", output] for output, name in enumerate(TINY_SIZE, 1)}
    return Workflow(
        name="07 Camera (EasyAnimate V5.1)",
        nodes={
            **_from_release(CAMERA, "Fireworks burst over a city at night, reflected in the river."),
            "start": node("LoadImage", image="example.png"),
            "camera": node("WanCameraEmbedding", camera_pose="Pan Left", width=672, height=384, length=LENGTH),
            "conditioning": _control(**size, camera_conditions=["camera", 0], ref_image=["start", 0]),
            "note": _note(CAMERA_NOTE, CAMERA),
        },
        stages=[
            LOADERS,
            Stage("2. Camera and image", [["camera", "start"]]),
            Stage("3. Prompt", [["prompt", "conditioning"], ["note"]]),
            FOURTH,
        ],
        titles={"start": "Reference image"},
        tiny=TinyRun(
            {"save": (9, 64)},
            inputs={"start": {"image": "easyanimate/start.png"}, "camera": TINY_SIZE},
            pictures=("first 12 views",),
            drawn=_pan_left("start", 12),
        ),
    )


def _pan_left(image: str, frames: int) -> dict:
    """Up to `first {frames} views`: what the camera of *Pan Left* sees of a picture three units away, 40 pixels wide.

    The host's preset moves 1.5 to the left; its focal length is half the width of 16:9 footage, cut to a square.
    """
    side, x, y = 40, 24, 24
    moved = 1.5 / 3 * 0.5 * 16 / 9 * side
    nodes: dict[str, dict] = {}
    for i in range(frames):
        corner = {"x": x - round(moved * i / frames), "y": y}
        nodes[f"view {i}"] = node("ImageCrop", image=[image, 0], width=side, height=side, **corner)
    joined = "view 0"
    for i in range(1, frames):
        nodes[f"first {i + 1} views"] = node("ImageBatch", image1=[joined, 0], image2=[f"view {i}", 0])
        joined = f"first {i + 1} views"
    return nodes


def _control(**inputs) -> dict:
    """An EasyAnimateControlToVideo; `inputs` are its size and what it follows."""
    wired = {"positive": ["prompt", 0], "negative": ["prompt", 1], "vae": ["vae", 0]}
    return node("EasyAnimateControlToVideo", **wired, **inputs)
