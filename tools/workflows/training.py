"""The workflows that train: clips or footage in, a LoRA or motion modules out, and a video with them."""

from .author import Stage, TinyRun, Workflow, node, note
from .blocks import CLIP, LOADERS, PROMPT, conditioning, from_release

LORA_NOTE = """**Teach the model something from your clips.** Put 10 to 50 clips (or images) into a folder of \
ComfyUI's `input` folder, each with a `.txt` file of the same name that says what it shows, and choose that folder; \
here one clip is connected instead.

The LoRA lands in `models/loras` under its *name*. Cancel keeps what was learnt: run it again to go on. More in \
`docs/train_a_lora.md`."""

MOTION_NOTE = """**Teach the model how things move.** Its motion modules learn, everything that a picture shows stays \
as it is. Put many clips (hundreds, for a movement of one kind) into a folder of ComfyUI's `input` folder, each with a \
`.txt` file of the same name that says what it shows, and choose that folder; here one clip is connected instead.

The file `NAME_mm` lands in `models/diffusion_models`: choose it as *motion_module* in Load EasyAnimate Transformer. \
With a PixArt transformer and V1's VAE loaded, new motion modules are made for it. Cancel keeps what was learnt: run \
it again to go on."""


FOOTAGE_NOTE = """**From raw footage to a LoRA.** Put your videos into a folder of ComfyUI's `input` folder and choose \
it in *Split Videos*: it cuts them into clips of one shot each. *Score Clips* measures them, *Filter Clips* keeps the \
good ones; its *report* is a page that shows which and why. Change the limits and only they are applied anew.

*Caption Clips* describes them by a vision-language model in `models/LLM`. Captions by hand win: a `.txt` file beside \
a video, or beside a clip in `output/easyanimate_data`. More in `docs/prepare_data.md`."""


SHORT_CLIPS = {"min_seconds": 0.5, "max_seconds": 4.0}


def footage_to_lora() -> Workflow:
    """Split, score, filter, caption, train, and a video with the LoRA."""
    return Workflow(
        name="footage_to_lora",
        nodes={
            **from_release("a red ball moves to the left on a black background", model=["train", 0]),
            "split": node("EasyAnimateSplitVideos", folder="my_footage"),
            "score": node("EasyAnimateScoreClips", dataset=["split", 0]),
            "filter": node("EasyAnimateFilterClips", dataset=["score", 0]),
            "preview": node("PreviewImage", images=["filter", 1]),
            "describe": node("EasyAnimateCaptionClips", dataset=["filter", 0]),
            **_train("EasyAnimateTrainLora", steps=500, dataset=["describe", 0]),
            "conditioning": conditioning(),
            "note": note(FOOTAGE_NOTE),
        },
        stages=[
            LOADERS,
            Stage("2. Clips from footage", [["split", "score"], ["filter", "describe"], ["preview", "note"]]),
            Stage("3. Learn", [["train", "curve"]]),
            Stage("4. See it", [["prompt", "conditioning"], ["sampler"], ["decode", "video"], ["save"]]),
        ],
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={
                "prompt": {"positive": PROMPT, "negative": ""},
                "split": {"folder": "easyanimate", "name": "easyanimate-tiny-test", **SHORT_CLIPS},
                "score": {"text_area": False},
                "filter": {"min_motion": 0.0, "max_motion": 1000.0},
                "conditioning": {"length": 24},
                "train": {"name": "easyanimate-tiny-footage", "resolution": 64, "frames": 24, "steps": 50},
            },
        ),
    )


def _train(kind: str, steps: int, **inputs) -> dict:
    """`train`, a node of this kind on `model`, `clip` and `vae`, and `curve`, its loss."""
    links = {name: [name, 0] for name in ("model", "clip", "vae")}
    return {
        "train": node(kind, **links, **inputs, steps=steps),
        "curve": node("PreviewImage", images=["train", 1]),
    }


def train_lora() -> Workflow:
    return _training("train_lora", "EasyAnimateTrainLora", LORA_NOTE, steps=500)


def train_motion_module() -> Workflow:
    return _training("train_motion_module", "EasyAnimateTrainMotionModule", MOTION_NOTE, steps=2000)


def _training(name: str, kind: str, text: str, steps: int) -> Workflow:
    """Train on one clip by a node of this kind, and a video with the result."""
    return Workflow(
        name=name,
        nodes={
            **from_release("a red ball moves to the left on a black background", model=["train", 0]),
            "clip_file": node("LoadVideo", file="clip.mp4"),
            "parts": node("GetVideoComponents", video=["clip_file", 0]),
            "caption": node("PrimitiveString", value="what the clip shows"),
            **_train(kind, steps, clips=["parts", 0], captions=["caption", 0]),
            "conditioning": conditioning(),
            "note": note(text),
        },
        stages=[
            LOADERS,
            Stage("2. What to learn", [["clip_file", "parts", "caption"], ["note"]]),
            Stage("3. Learn it", [["train", "curve"]]),
            Stage("4. See it", [["prompt", "conditioning"], ["sampler"], ["decode", "video"], ["save"]]),
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
