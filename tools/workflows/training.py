"""The workflows that train: clips or footage in, a LoRA or motion modules out, and a video with them."""

from .author import Stage, TinyRun, Workflow, node, note
from .blocks import CLIP, EXAMPLE_CLIP, LOADERS, PROMPT, conditioning, from_release

LORA_NOTE = """**Train a LoRA on your clips.** Put 10 to 50 clips (or images) into a folder inside ComfyUI's input \
folder, each with a .txt file of the same name that describes it, and choose that folder. In this template, a single \
clip is connected instead.

The LoRA is saved in models/loras under its *name*. Cancel keeps the progress: run again to resume. For details, see \
docs/train_a_lora.md."""

MOTION_NOTE = """**Train motion only.** The motion modules are trained; all other weights stay frozen. Put many clips \
(hundreds, for a single kind of movement) into a folder inside ComfyUI's input folder, each with a .txt file of \
the same name that describes it, and choose that folder. In this template, a single clip is connected instead.

The file NAME_mm is saved in models/diffusion_models: select it as *motion_module* in Load EasyAnimate \
Transformer. With a PixArt transformer and V1's VAE loaded, new motion modules are created for it. Cancel keeps \
the progress: run again to resume."""


FOOTAGE_NOTE = """**From raw footage to a LoRA.** Put your videos into a folder inside ComfyUI's input folder and \
choose it in *Split Videos*, which cuts them into single-shot clips. *Score Clips* measures them, and *Filter Clips* \
keeps the good ones; its *report* shows which ones and why. If you change the limits, only the filter runs again.

*Caption Clips* captions them with a vision-language model from models/LLM. Captions written by hand take \
precedence: a .txt file beside a video, or beside a clip in output/easyanimate_data. For details, see \
docs/prepare_data.md."""


def footage_to_lora() -> Workflow:
    """Split, score, filter, caption, train, and a video with the LoRA."""
    return Workflow(
        name="22 Footage to LoRA (EasyAnimate)",
        nodes={
            **from_release("a red ball moves to the left on a black background", model=["train", 0]),
            "split": node("EasyAnimateSplitVideos", folder="my_footage"),
            "score": node("EasyAnimateScoreClips", dataset=["split", 0]),
            "filter": node("EasyAnimateFilterClips", dataset=["score", 0]),
            "describe": node("EasyAnimateCaptionClips", dataset=["filter", 0]),
            "train": node(
                "EasyAnimateTrainLora",
                model=["model", 0],
                clip=["clip", 0],
                vae=["vae", 0],
                dataset=["describe", 0],
                steps=500,
            ),
            "conditioning": conditioning(),
            "note": note(FOOTAGE_NOTE),
        },
        stages=[
            LOADERS,
            Stage("2. Footage to clips", [["split", "score"], ["filter", "describe"], ["note"]]),
            Stage("3. Train", [["train"]]),
            Stage("4. Try it", [["prompt", "conditioning"], ["sampler"], ["decode", "video"], ["save"]]),
        ],
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={
                "prompt": {"positive": PROMPT, "negative": ""},
                "split": {
                    "folder": "easyanimate",
                    "name": "easyanimate-tiny-test",
                    "min_seconds": 0.5,
                    "max_seconds": 4.0,
                },
                "score": {"text_area": False},
                "filter": {"min_motion": 0.0, "max_motion": 1000.0},
                "conditioning": {"length": 24},
                "train": {"name": "easyanimate-tiny-footage", "resolution": 64, "frames": 24, "steps": 50},
            },
        ),
    )


def train_lora() -> Workflow:
    return _training("20 Train a LoRA (EasyAnimate)", "EasyAnimateTrainLora", LORA_NOTE, steps=500)


def train_motion_module() -> Workflow:
    return _training("21 Train Motion Modules (EasyAnimate)", "EasyAnimateTrainMotionModule", MOTION_NOTE, steps=2000)


def _training(name: str, kind: str, text: str, steps: int) -> Workflow:
    """Train on one clip by a node of this kind, and a video with the result."""
    return Workflow(
        name=name,
        nodes={
            **from_release("a red ball moves to the left on a black background", model=["train", 0]),
            "clip_file": node("LoadVideo", file=EXAMPLE_CLIP),
            "parts": node("GetVideoComponents", video=["clip_file", 0]),
            "caption": node("PrimitiveString", value="describe the clip here"),
            "train": node(
                kind,
                model=["model", 0],
                clip=["clip", 0],
                vae=["vae", 0],
                clips=["parts", 0],
                captions=["caption", 0],
                steps=steps,
            ),
            "conditioning": conditioning(),
            "note": note(text),
        },
        stages=[
            LOADERS,
            Stage("2. Training clip", [["clip_file", "parts", "caption"], ["note"]]),
            Stage("3. Train", [["train"]]),
            Stage("4. Try it", [["prompt", "conditioning"], ["sampler"], ["decode", "video"], ["save"]]),
        ],
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={
                "prompt": {"positive": PROMPT, "negative": ""},
                "clip_file": CLIP["clip_file"],
                "caption": {"value": PROMPT},
                "conditioning": {"length": 24},
                "train": {"name": "easyanimate-tiny-test", "resolution": 64, "frames": 24, "steps": 50},
            },
        ),
    )
