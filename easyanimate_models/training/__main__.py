"""`python -m easyanimate_models.training RECIPE.toml`: train as a recipe says.

`… RUN_FOLDER [STAGE ...]`: train the built-in tiny model. All stages run in order unless some are named; `restore
latents fine_tune export` trains the shipped weights further. `… RUN_FOLDER v51 [STAGE ...]`: a second one, of V5.1's
kind. All of it resumes where it stopped.
"""

import logging
import os
import sys
from pathlib import Path

import torch
from comfy.cli_args import args as host_args

from .launch import missing_processes, runs_on_gpu, start_processes

host_args.cpu = not runs_on_gpu()
host_args.use_pytorch_cross_attention = True

if runs_on_gpu():
    torch.set_default_device(f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
INTERRUPTED = 130  # the exit code of programs that Ctrl-C ended
logging.basicConfig(level=logging.INFO, format="%(message)s")


def train_tiny_model(run: Path, names: list[str]) -> None:
    """The named stages of a built-in model, or all of them."""
    from .toy.stages import chosen_stages

    try:
        stages = chosen_stages(names)
    except ValueError as error:
        sys.exit(str(error))
    for stage in stages:
        stage(run)


def train_recipe(file: Path) -> None:
    """A recipe; what is wrong with it, or with the clips, in one sentence."""
    from .recipe import read_recipe
    from .recipe_run import run_recipe

    try:
        logging.info("%s", run_recipe(read_recipe(file)))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:  # what is left of the run is in the log
        sys.exit(INTERRUPTED)


def run_folder(name: str) -> Path:
    """The run folder of that name; exits for a bare name that is no folder, most likely that of a recipe."""
    folder = Path(name)
    if folder.name == name and not folder.is_dir():
        recipes = sorted(Path(__file__).with_name("recipes").glob("*.toml"))
        sys.exit(
            f"{name} is neither a recipe nor a folder; give the path of a recipe, such as {recipes[0]}, or ./{name} to "
            f"train the built-in tiny model there. The recipes: {', '.join(file.name for file in recipes)}."
        )
    return folder


def main(arguments: list[str]) -> None:
    if not arguments:
        sys.exit("Usage: python -m easyanimate_models.training RECIPE.toml, or RUN_FOLDER [STAGE ...]")
    try:
        processes = missing_processes()
    except ValueError as error:
        sys.exit(str(error))
    if processes:
        start_processes(processes, arguments)
    elif arguments[0].endswith(".toml"):
        train_recipe(Path(arguments[0]))
    else:
        train_tiny_model(run_folder(arguments[0]), arguments[1:])


main(sys.argv[1:])
