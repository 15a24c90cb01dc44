"""One declarative class per release: what the host must know to run it."""

import comfy.supported_models_base
import torch

from .dit.motion_dit import MotionDiTConfig
from .latent_formats import SliceLatents
from .model_base import MotionVideoModel


class EasyAnimateV3(comfy.supported_models_base.BASE):
    """Hybrid motion modules (temporal and global attention), U-ViT skips, Slice VAE latents."""

    unet_extra_config = {}
    sampling_settings = {
        "beta_schedule": "sqrt_linear",  # the host's name for betas that are linear in the step
        "linear_start": 0.0001,
        "linear_end": 0.02,
        "timesteps": 1000,
    }
    latent_format = SliceLatents
    memory_usage_factor = 1.2
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, config: MotionDiTConfig):
        super().__init__({"config": config})

    def get_model(self, state_dict, prefix="", device=None):
        return MotionVideoModel(self, device=device)
