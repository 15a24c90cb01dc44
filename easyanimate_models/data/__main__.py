"""`python -m easyanimate_models.data RECIPE.toml`: footage into a data set, by a recipe; stopped, it resumes."""

import logging
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm


def update(bar: tqdm, done: int, total: int) -> None:
    """Show a stage's progress on the terminal."""
    bar.total = total
    bar.update(done - bar.n)


def main(file: Path) -> None:
    """Run a recipe; what is wrong with it, or with the footage, is said in one sentence."""
    from .recipe import read_data_recipe, run_recipe

    try:
        run_recipe(read_data_recipe(file), lambda stage: partial(update, tqdm(desc=stage, unit="file")))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Interrupted; run it again to resume.")


if __name__ == "__main__":
    import torch
    from comfy.cli_args import args as host_args

    host_args.cpu = not torch.cuda.is_available()
    host_args.use_pytorch_cross_attention = True
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
