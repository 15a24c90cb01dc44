"""`python -m easyanimate_models.training RUN_FOLDER [STAGE ...]`: train the tiny model; goes on where it stopped.

All stages run in order unless some are named; `restore latents fine_tune export` trains the shipped weights further.
"""

import sys
from pathlib import Path

import torch
from comfy.cli_args import args as host_args

host_args.cpu = not torch.cuda.is_available()
host_args.use_pytorch_cross_attention = True

from .tiny import STAGES, restore  # noqa: E402  (the host reads its arguments when imported)
from .tiny_variants import VARIANTS  # noqa: E402

if torch.cuda.is_available():
    torch.set_default_device("cuda")
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = True
run = Path(sys.argv[1])
stages = {**STAGES, **VARIANTS}
for stage in sys.argv[2:] or stages:
    {**stages, "restore": restore}[stage](run)
