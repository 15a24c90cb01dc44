"""`python -m easyanimate_models.data RECIPE.toml`: footage into a data set, as a recipe says; stopped, it goes on."""

import logging
import sys
from functools import partial
from pathlib import Path

from tqdm import tqdm


def shown(bar: tqdm, done: int, total: int) -> None:
    """A stage's progress, on the terminal."""
    bar.total = total
    bar.update(done - bar.n)


def main(file: Path) -> None:
    """Follow a recipe; what is wrong with it, or with the footage, in one sentence."""
    from .recipe import follow, read_data_recipe

    try:
        follow(read_data_recipe(file), lambda stage: partial(shown, tqdm(desc=stage, unit="file")))
    except (ValueError, OSError, ImportError) as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("Stopped; run it again to go on.")


if __name__ == "__main__":
    import torch
    from comfy.cli_args import args as host_args

    host_args.cpu = not torch.cuda.is_available()
    host_args.use_pytorch_cross_attention = True
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
