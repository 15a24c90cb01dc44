"""Which files the loaders offer, under which names, and what path a name stands for.

Files come from the host's folders (extra_model_paths included); release folders from `models/easyanimate`.
"""

import os
import re
from pathlib import Path

import folder_paths

from .checkpoint import INDEX_SUFFIXES, SAFE_SUFFIXES, WEIGHT_SUFFIXES, CheckpointError
from .messages import shorten

FOLDER = "easyanimate"
BUILT_IN, BUILT_IN_INP = "built-in tiny model", "built-in tiny InP model"
BUILT_IN_LORA = "built-in tiny LoRA (grey background)"
TINY = Path(__file__).parent.parent / "tiny"
TINY_V51 = TINY.with_name("tiny_v51")  # in training, so that no list of models has it yet
NO_FILE = "none"
PLAIN_NAME = re.compile(r"\w[\w .-]{0,98}[\w-]|\w")
MAX_NAME_BYTES = 200  # of a name, so that an ending fits
RESERVED_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{i}" for port in ("com", "lpt") for i in range(1, 10))}
HOST_FOLDERS = {
    "transformer": ("diffusion_models", "checkpoints"),
    "motion_module": ("diffusion_models",),
    "vae": ("vae",),
    "text_encoder": ("text_encoders",),
    "text_encoder_2": ("text_encoders",),
    "image_encoder": ("clip_vision",),
}


def register_folder() -> None:
    """Tell the host about `models/easyanimate`, where diffusers release folders go."""
    folder_paths.add_model_folder_path(FOLDER, os.path.join(folder_paths.models_dir, FOLDER))


def choices(component: str) -> dict[str, Path]:
    """Name -> path of everything that may hold `component`; the built-in model comes first."""
    found = {BUILT_IN: TINY} if (TINY / component).is_dir() else {}
    if component == "transformer":
        found[BUILT_IN_INP] = TINY / "transformer_inp"
    for root in map(Path, folder_paths.get_folder_paths(FOLDER)):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if (path / component).is_dir() or path.suffix.lower() in WEIGHT_SUFFIXES:
                found.setdefault(f"{FOLDER}/{path.name}", path)
    for folder in HOST_FOLDERS[component]:
        for name in folder_paths.get_filename_list(folder):
            if name.lower().endswith((*WEIGHT_SUFFIXES, *INDEX_SUFFIXES)):
                label = name if folder == HOST_FOLDERS[component][0] else f"{folder}/{name}"
                if (path := folder_paths.get_full_path(folder, name)) is not None:  # a link may lead nowhere
                    found.setdefault(label, Path(path))
    return found


def resolve(component: str, name: str) -> Path:
    """The path behind a name that `choices` offered; names made up elsewhere lead nowhere."""
    path = choices(component).get(name)
    if path is None:
        raise CheckpointError(
            f"There is no {component.replace('_', ' ')} named {shorten(name)}; refresh and choose again."
        )
    return path


def host_files(folder: str, suffixes: tuple[str, ...] = SAFE_SUFFIXES) -> list[str]:
    """Names of the weights in one of the host's folders, such as "loras"."""
    return [name for name in folder_paths.get_filename_list(folder) if name.lower().endswith(suffixes)]


def host_path(folder: str, name: str) -> Path:
    """The path behind a name that `host_files` offered; it never leaves the folder."""
    path = folder_paths.get_full_path(folder, name) if name in folder_paths.get_filename_list(folder) else None
    if path is None:
        raise CheckpointError(f"There is no file named {shorten(name)} in models/{folder}; refresh and choose again.")
    return Path(path)


def lora_path(name: str) -> Path:
    """The path behind a name of models/loras, or of the built-in LoRA."""
    return TINY / "lora" / "grey.safetensors" if name == BUILT_IN_LORA else host_path("loras", name)


def plain_name(name: str, what: str) -> str:
    """`name`, if a file or folder can have it on every system and it leads nowhere else; raises `ValueError`."""
    if not PLAIN_NAME.fullmatch(name) or len(name.encode(errors="replace")) > MAX_NAME_BYTES:
        raise ValueError(
            f"{name[:MAX_NAME_BYTES]!r} can't be the name of a {what}; use letters, digits, spaces, dots and dashes "
            "only, and keep it short."
        )
    if name.split(".")[0].strip().lower() in RESERVED_NAMES:
        raise ValueError(f"{name!r} can't be the name of a {what}, because Windows reserves it; choose another.")
    return name
