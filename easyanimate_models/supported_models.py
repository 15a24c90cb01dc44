"""One declarative class per release: what the host must know to run it, and which VAE belongs to it."""

from dataclasses import replace

import comfy.supported_models_base
import torch
from torch import Tensor

from .configs.motion_dit import transformer_config
from .configs.vae import vae_config
from .dit.motion_dit import LongSkips, MotionDiT, MotionDiTConfig
from .dit.motion_module import MotionConfig
from .files.checkpoint import embed_config
from .latent_formats import ImageLatents, SliceLatents, WindowLatents
from .model_base import MotionVideoModel
from .vae.image_vae import ImageVAE, ImageVAEConfig
from .vae.slice_vae import SliceVAE, SliceVAEConfig, WindowVAE

RELEASED_SKIPS = LongSkips(stored=13, start=15)
V1_MOTION = (MotionConfig(("grid", "grid"), 8),)


class Release(comfy.supported_models_base.BASE):
    """What V1 to V3 have in common; `motion` and `skips` are the released ones, for files without a config.json."""

    network = MotionDiT
    motion: tuple[MotionConfig, ...]
    skips: LongSkips | None = RELEASED_SKIPS
    heads = 16
    motion_marker = "attn_temporal."  # in the names of all motion module weights, and of no others
    adapted = "transformer_blocks."  # where the layers are that a LoRA adapts
    trained = ("transformer_blocks.", "proj_out.", "pos_embed.", "long_connect_fc.")  # by full fine-tuning
    vae: type
    vae_flags: dict = {}  # in the VAE's config.json, what tells it from those of other releases

    unet_extra_config: dict = {}
    sampling_settings = {
        "beta_schedule": "sqrt_linear",  # the host's name for betas that are linear in the step
        "linear_start": 0.0001,
        "linear_end": 0.02,
        "timesteps": 1000,
    }
    memory_usage_factor = 0.8  # 16.8 kB per latent pixel of a batch; in bfloat16 short videos take 19.3, long ones 15.0
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, config: MotionDiTConfig):
        super().__init__({"config": config})

    def get_model(self, state_dict, prefix="", device=None):
        return MotionVideoModel(self, device=device)

    @staticmethod
    def config_json(config: MotionDiTConfig) -> dict:
        """config.json of the transformer."""
        return transformer_config(config)

    @staticmethod
    def with_motion_modules(config: MotionDiTConfig) -> MotionDiTConfig:
        """The same network with V1's motion modules, if it has none."""
        return config if config.motion else replace(config, motion=V1_MOTION)

    @classmethod
    def vae_config_json(cls, config: SliceVAEConfig | ImageVAEConfig) -> dict:
        """config.json of the VAE."""
        return vae_config(config, cls.vae_flags)

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """Heads and block kinds can't be told from tensors, so files saved by the host carry them in one."""
        config = transformer_config(self.unet_config["config"])
        if getattr(self.latent_format, "latent_rgb_factors_bias", None):
            config["latent_rgb_factors"] = self.latent_format.latent_rgb_factors
            config["latent_rgb_bias"] = self.latent_format.latent_rgb_factors_bias
        return super().process_unet_state_dict_for_saving({**state_dict, **embed_config(config)})


class EasyAnimateV1(Release):
    """Grid motion modules over PixArt, image VAE latents. Without motion modules, PixArt itself."""

    motion = V1_MOTION
    skips = None
    memory_usage_factor = 0.45  # without what the long skips keep alive
    latent_format = ImageLatents
    vae = ImageVAE


class EasyAnimateV2(Release):
    """Temporal motion modules, U-ViT skips, MagViT window VAE latents."""

    motion = (MotionConfig(("temporal", "temporal"), 8),)
    latent_format = WindowLatents
    vae = WindowVAE
    vae_flags = {"slice_mag_vae": True, "mini_batch_encoder": 9, "mini_batch_decoder": 3}


class EasyAnimateV3(Release):
    """Hybrid motion modules (temporal and global attention), U-ViT skips, Slice VAE latents."""

    motion = (MotionConfig(("temporal", "temporal"), 16), MotionConfig(("temporal", "global"), 16))
    latent_format = SliceLatents
    vae = SliceVAE
    vae_flags = {"slice_compression_vae": True, "mini_batch_encoder": 8, "mini_batch_decoder": 2}


RELEASES = (EasyAnimateV1, EasyAnimateV2, EasyAnimateV3)


def release_of_vae(kind: type) -> type[Release]:
    """The release whose VAE is of this class."""
    return next(release for release in RELEASES if release.vae is kind)
