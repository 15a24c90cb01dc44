"""`python -m easyanimate_models.training RECIPE.toml`: train as a recipe says.

`… RUN_FOLDER [STAGE ...]`: train the built-in tiny model. All stages run in order unless some are named; `restore
latents fine_tune export` trains the shipped weights further. Both resume where they stopped.
"""

import logging
import os
import sys
from pathlib import Path

import torch
from comfy.cli_args import args as host_args

host_args.cpu = not torch.cuda.is_available()
host_args.use_pytorch_cross_attention = True

if torch.cuda.is_available():
    torch.set_default_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
logging.basicConfig(level=logging.INFO, format="%(message)s")


def train_tiny_model(run: Path, names: list[str]) -> None:
    """The named stages of the built-in model, or all of them."""
    from .toy.tiny import STAGES, restore
    from .toy.tiny_variants import VARIANTS

    stages = {**STAGES, **VARIANTS}
    for name in names or stages:
        stage = restore if name == "restore" else stages[name]
        stage(run)


def train_recipe(file: Path) -> None:
    """A recipe; what is wrong with it, or with the clips, in one sentence."""
    from .recipe import read_recipe
    from .recipe_run import run_recipe

    try:
        logging.info("%s", run_recipe(read_recipe(file)))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))


if sys.argv[1].endswith(".toml"):
    train_recipe(Path(sys.argv[1]))
else:
    train_tiny_model(Path(sys.argv[1]), sys.argv[2:])
