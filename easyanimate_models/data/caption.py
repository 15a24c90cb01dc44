"""What a clip shows, in words, by any vision-language model of `transformers` that lies on this disk (paper 4.2)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ..extras import needed
from .video_file import spread

PROMPT = (
    "These are frames of one video, in order. Describe the video in one paragraph of plain sentences: who or what is "
    "seen, what they do and how it moves, the place, the light, the colours, and what the camera does. Say only what "
    "is seen; do not mention frames or the word video."
)
REWRITING = (
    "Rewrite this description of a video as one fluent paragraph of at most 100 words. Keep every fact, add none, and "
    "answer with the paragraph only.\n\n{text}"
)
DTYPE_SINCE = (4, 56)  # transformers; before, it was called torch_dtype
SIDE = 448  # pixels, the narrow side of what is shown


@dataclass(frozen=True)
class Captioner:
    """Describes a clip by the model in the folder `model`; the text model in `rewriter`, if any, words it anew.

    It is shown `frames` pictures and answers in at most `longest` tokens. `device` is torch's name of one.
    """

    model: Path
    prompt: str = PROMPT
    frames: int = 8
    longest: int = 256
    rewriter: Path | None = None
    rewriting: str = REWRITING
    device: str = "cpu"
    name = "caption"

    def __post_init__(self):
        if self.rewriter is not None and "{text}" not in self.rewriting:
            raise ValueError("The instruction for rewriting must hold {text}, where the description goes.")

    def __call__(self, file: Path) -> dict[str, str]:
        """`text`, in one line."""
        pictures = [Image.fromarray(pixels.copy()) for pixels in spread(file, self.frames, SIDE)]
        shown = [{"type": "image", "image": picture} for picture in pictures]
        asked = [{"role": "user", "content": [*shown, {"type": "text", "text": self.prompt}]}]
        see = _pipeline("image-text-to-text", self.model, self.device)
        text = _line(see(text=asked, max_new_tokens=self.longest, return_full_text=False))
        if self.rewriter is None or not text:
            return {"text": text}
        write = _pipeline("text-generation", self.rewriter, self.device)
        asked = [{"role": "user", "content": self.rewriting.replace("{text}", text)}]
        return {"text": _line(write(asked, max_new_tokens=self.longest, return_full_text=False)) or text}


@lru_cache(maxsize=2)
def _pipeline(task: str, folder: Path, device: str):
    """The model as `transformers` runs it: from this folder alone, weights as safetensors, no code of its own."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} holds no model (no config.json); give the folder of one that transformers can load."
        )
    transformers = needed("transformers")
    precision = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= DTYPE_SINCE else "torch_dtype"
    told = {"use_safetensors": True, precision: "auto"}  # never a pickle; nothing is looked for beyond a folder
    try:
        return transformers.pipeline(task, model=str(folder), device=device, trust_remote_code=False, model_kwargs=told)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"{folder} can't be used for {task} ({str(error).splitlines()[0]}); choose another."
        ) from error


def forget_models() -> None:
    """Give their memory back."""
    _pipeline.cache_clear()


def _line(answers: list[dict[str, str]]) -> str:
    return " ".join(str(answers[0]["generated_text"]).split())
