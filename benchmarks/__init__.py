"""Speed and memory, as ratios in one run: `python3 dev.py bench`. ComfyUI chooses its device when first imported."""

import torch
from comfy.cli_args import args

args.cpu = not torch.cuda.is_available()
args.use_pytorch_cross_attention = True
