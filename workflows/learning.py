"""The workflow that trains: clips in, a LoRA out, and a video with it."""

from author import Stage, TinyRun, Workflow, node, note
from blocks import CLIP, LOADERS, PROMPT, from_release, given

NOTE = """**Teach the model something from your clips.** Put 10 to 50 clips (or images) into a folder of ComfyUI's \
`input` folder, each with a `.txt` file of the same name that says what it shows, and choose that folder; here one \
clip is connected instead.

The LoRA lands in `models/loras` under its *name*. Cancel keeps what was learnt: run it again to go on. More in \
`docs/train_a_lora.md`."""


def train_lora() -> Workflow:
    return Workflow(
        name="train_lora",
        nodes={
            **from_release("a red ball moves to the left on a black background", model=["learnt", 0]),
            "clip_file": node("LoadVideo", file="clip.mp4"),
            "parts": node("GetVideoComponents", video=["clip_file", 0]),
            "caption": node("PrimitiveString", value="what the clip shows"),
            "learnt": node(
                "EasyAnimateTrainLora",
                model=["model", 0],
                clip=["clip", 0],
                vae=["vae", 0],
                clips=["parts", 0],
                captions=["caption", 0],
                steps=500,
            ),
            "curve": node("PreviewImage", images=["learnt", 1]),
            "given": given(),
            "note": note(NOTE),
        },
        stages=[
            LOADERS,
            Stage("2. What to learn", [["clip_file", "parts", "caption"], ["note"]]),
            Stage("3. Learn it", [["learnt", "curve"]]),
            Stage("4. See it", [["prompt", "given"], ["sampler"], ["decode", "video"], ["save"]]),
        ],
        tiny=TinyRun(
            {"save": (24, 64)},
            inputs={
                "prompt": {"positive": PROMPT, "negative": ""},
                "clip_file": CLIP["clip_file"],
                "caption": {"value": PROMPT},
                "given": {"length": 24},
                "learnt": {"name": "easyanimate-tiny-test", "resolution": 64, "frames": 24},
            },
        ),
    )
