"""Guidance functions that other nodes hang on a MODEL, for several videos at once: some of the host's know only one."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Guidance = Callable[[dict[str, Any]], Tensor]
ONE, MANY = "sampler_cfg_function", "sampler_post_cfg_function"  # in the host's model options: a function, and a list
AMBIGUOUS = "Boolean value of Tensor with more than one value"  # what torch says


def with_any_batch(model_options: dict) -> None:
    """Replace the guidance functions in a run's options by those that take any number of videos."""
    if ONE in model_options:
        model_options[ONE] = for_any_batch(model_options[ONE])
    if MANY in model_options:
        model_options[MANY] = [for_any_batch(function) for function in model_options[MANY]]


def for_any_batch(function: Guidance) -> Guidance:
    """`function`, called for each video by itself where it takes what it reads of a batch for a single number.

    RenormCFG compares the norms of a batch in this way, TemporalScoreRescaling its noise levels.
    """

    @functools.wraps(function)
    def guided(args: dict[str, Any]) -> Tensor:
        count = len(args["input"])
        try:
            return function(args)
        except RuntimeError as error:
            if count == 1 or AMBIGUOUS not in str(error):
                raise
        return torch.cat([function(_of_video(args, index, count)) for index in range(count)])

    return guided


def _of_video(args: dict[str, Any], index: int, count: int) -> dict[str, Any]:
    """The arguments for one video of a batch."""
    batches = {name: each for name, each in args.items() if isinstance(each, Tensor) and each.shape[:1] == (count,)}
    return args | {name: each[index : index + 1] for name, each in batches.items()}
