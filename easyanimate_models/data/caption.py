"""Captions by any vision-language model that `transformers` loads from this disk (paper 4.2)."""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image

from ..files.packages import require_package
from ..media.video_file import sample_frames

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
SIDE = 448  # pixels, the short side of what the model gets


@dataclass(frozen=True)
class Captioner:
    """Describes a clip by the model in the folder `model`; the text model in `rewriter`, if any, rewrites that.

    The model gets `frames` pictures of each of `batch` clips at once, and answers in at most `longest` tokens. `device`
    is torch's name of one.
    """

    model: Path
    prompt: str = PROMPT
    frames: int = 8
    longest: int = 256
    rewriter: Path | None = None
    rewriting: str = REWRITING
    device: str = "cpu"
    batch: int = 1
    name = "caption"

    def __post_init__(self):
        if self.rewriter is not None and "{text}" not in self.rewriting:
            raise ValueError("The rewriting instruction must contain {text}, which stands for the description.")
        if self.batch < 1:
            raise ValueError(f"batch is {self.batch}; set it to 1 or more.")

    def __call__(self, file: Path) -> dict[str, str]:
        """`text`, in one line."""
        return self.process([self.load(file)])[0]

    def load(self, file: Path) -> list[Image.Image]:
        """The frames of a clip that the model gets. Raises `MediaError`."""
        return [Image.fromarray(pixels.copy()) for pixels in sample_frames(file, self.frames, SIDE)]

    def process(self, clips: list[list[Image.Image]]) -> list[dict[str, str]]:
        """The `text` of each clip."""
        chats = [
            _chat([*({"type": "image", "image": image} for image in clip), {"type": "text", "text": self.prompt}])
            for clip in clips
        ]
        texts = self._answers("image-text-to-text", self.model, chats)
        if self.rewriter is not None:
            chats = [_chat(self.rewriting.replace("{text}", text)) for text in texts]
            rewritten = self._answers("text-generation", self.rewriter, chats)
            texts = [new or old for new, old in zip(rewritten, texts, strict=True)]
        return [{"text": text} for text in texts]

    def _answers(self, task: str, folder: Path, chats: list) -> list[str]:
        pipeline = _pipeline(task, folder, self.device)
        answers = pipeline(chats, max_new_tokens=self.longest, return_full_text=False, batch_size=self.batch)
        return [" ".join(str(answer[0]["generated_text"]).split()) for answer in answers]


def _chat(content) -> list[dict]:
    """A chat with a single message."""
    return [{"role": "user", "content": content}]


@lru_cache(maxsize=2)
def _pipeline(task: str, folder: Path, device: str):
    """A pipeline of `transformers`: from this folder alone, weights as safetensors, no code of its own."""
    if not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} contains no model (no config.json); choose the folder of a model that transformers can load."
        )
    transformers = require_package("transformers")
    precision = "dtype" if tuple(map(int, transformers.__version__.split(".")[:2])) >= DTYPE_SINCE else "torch_dtype"
    options = {"use_safetensors": True, precision: "auto"}  # never a pickle
    try:
        pipeline = transformers.pipeline(
            task, model=str(folder), device=device, trust_remote_code=False, model_kwargs=options
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ValueError(
            f"{folder} can't be used for {task} ({str(error).splitlines()[0]}); choose another."
        ) from error
    tokenizer = getattr(pipeline.processor, "tokenizer", None) or pipeline.tokenizer
    tokenizer.padding_side = "left"  # answers begin where questions end
    return pipeline


def forget_models() -> None:
    """Free the memory of all models."""
    _pipeline.cache_clear()
