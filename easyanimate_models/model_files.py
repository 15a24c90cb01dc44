"""Which files the loaders offer, under which names, and what path a name stands for.

Files come from the host's folders (extra_model_paths included); release folders from `models/easyanimate`.
"""

import os
from pathlib import Path

import folder_paths

from .checkpoint import INDEX_SUFFIXES, SAFE_SUFFIXES, WEIGHT_SUFFIXES, CheckpointError

FOLDER = "easyanimate"
BUILT_IN, BUILT_IN_INP = "built-in tiny model", "built-in tiny InP model"
BUILT_IN_LORA = "built-in tiny LoRA (grey background)"
TINY = Path(__file__).parent / "tiny"
NO_FILE = "none"
HOST_FOLDERS = {
    "transformer": ("diffusion_models", "checkpoints"),
    "motion_module": ("diffusion_models",),
    "vae": ("vae",),
    "text_encoder": ("text_encoders",),
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
            if (path / component).is_dir() or path.suffix in WEIGHT_SUFFIXES:
                found.setdefault(f"{FOLDER}/{path.name}", path)
    for folder in HOST_FOLDERS[component]:
        for name in folder_paths.get_filename_list(folder):
            if name.endswith((*WEIGHT_SUFFIXES, *INDEX_SUFFIXES)):
                shown = name if folder == HOST_FOLDERS[component][0] else f"{folder}/{name}"
                found.setdefault(shown, Path(folder_paths.get_full_path_or_raise(folder, name)))
    return found


def resolve(component: str, name: str) -> Path:
    """The path behind a name that `choices` offered; names made up elsewhere lead nowhere."""
    path = choices(component).get(name)
    if path is None:
        raise CheckpointError(f"There is no {component.replace('_', ' ')} named {name!r}; refresh and choose again.")
    return path


def host_files(folder: str, suffixes: tuple[str, ...] = SAFE_SUFFIXES) -> list[str]:
    """Names of the weights in one of the host's folders, such as "loras"."""
    return [name for name in folder_paths.get_filename_list(folder) if name.endswith(suffixes)]


def host_path(folder: str, name: str) -> Path:
    """The path behind a name that `host_files` offered; it never leaves the folder."""
    return Path(folder_paths.get_full_path_or_raise(folder, name))


def lora_path(name: str) -> Path:
    """The path behind a name of models/loras, or of the built-in LoRA."""
    return TINY / "lora" / "grey.safetensors" if name == BUILT_IN_LORA else host_path("loras", name)
