"""One declarative class per release: all that the host, the loaders and the trainer must know of it."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_base
import comfy.supported_models_base
import torch
from torch import Tensor

from .conditioning.concat import ConcatInputs
from .conditioning.control import CameraInputs, ControlInputs
from .conditioning.inpainting import EncodedMask, EncodedMaskOrZeros, Inpainting, ResizedMask
from .configs import hunyuan_dit, mmdit, motion_dit
from .configs.vae import vae_config
from .dit.hunyuan_dit import HunyuanDiT
from .dit.mmdit import MMDiT
from .dit.motion_dit import LongSkips, MotionDiT, MotionDiTConfig
from .dit.motion_module import MotionConfig
from .files.checkpoint import CheckpointError, embed_config
from .latent_formats import (
    CachedDecoderLatents,
    CausalAttentionLatents,
    CausalLatents,
    ImageLatents,
    SliceLatents,
    WindowLatents,
)
from .model_base import HunyuanVideoModel, MMDiTVideoModel, MotionVideoModel, VideoModel
from .sampling.schedules import (
    DiscreteSchedule,
    FlowLevels,
    FlowSchedule,
    LinearNoiseLevels,
    LinearVelocityLevels,
    Schedule,
    TrailingSchedule,
    ZeroTerminalLevels,
)
from .text_encoders.bert_mt5 import BertMT5TextEncoder
from .text_encoders.qwen2_vl import Qwen2VLTextEncoder
from .text_encoders.t5 import T5TextEncoder
from .vae.cached_vae import CachedDecoderVAE, CachedVAE
from .vae.image_vae import ImageVAE
from .vae.slice_vae import SliceVAE, WindowVAE
from .vae.video_sizes import VideoDefaults

RELEASED_SKIPS = LongSkips(stored=13, start=15)
DEFAULT_CFG = "default_cfg"  # in the config.json of a transformer that needs another than its release
V1_MOTION = (MotionConfig(("grid", "grid"), 8),)


class Release(comfy.supported_models_base.BASE):
    """A release: an instance holds the config of one network, `release.config`.

    The loaders build `network(config, dtype, device, operations)` and wrap it in `model_class`; config.json is read by
    the release's detector and written by `config_json`.
    """

    network: type[Any]
    config_json: Callable[[Any], dict]  # config.json of the transformer, in the original's words
    model_class: type[VideoModel]
    prediction: comfy.model_base.ModelType  # what the network predicts
    noise_levels: type  # between timesteps and sigmas, a model sampling of the host
    schedule: Schedule
    inpainting: Inpainting  # what an inpainting model is given beside the noise
    variants: tuple[ConcatInputs, ...] = ()  # of its networks that take more than the noise, inpainting among them
    text_encoder: type  # the kind that it was trained with
    vae: type[Any]
    video: VideoDefaults = VideoDefaults()
    cfg = 7.0  # how closely its samples follow the prompt when nobody says
    vae_flags: dict = {}  # in the VAE's config.json, what tells it from those of other releases
    ignored: tuple[str, ...] = ()  # parts of names of tensors in its files that the network does not need
    adapted: str  # what the names of the layers that a LoRA adapts begin with
    trained: tuple[str, ...]  # what the names of the weights that full fine-tuning changes begin with
    motion_marker: str | None = None  # in the names of all motion module weights, and of no others
    unet_extra_config: dict = {}
    supported_inference_dtypes = [torch.bfloat16, torch.float16, torch.float32]

    def __init__(self, config):
        super().__init__({"config": config})

    @property
    def config(self) -> Any:
        """The config of the network."""
        return self.unet_config["config"]

    @property
    def variant(self) -> ConcatInputs | None:
        """What the network takes beside the noise; None for text to video."""
        extra = self.config.in_channels - self.config.latent_channels
        return next((variant for variant in self.variants if variant.channels == extra), None)

    def require_variant(self, file: str) -> None:
        """Raise `CheckpointError` when no published network takes so many input channels; `file` names it."""
        latents = self.config.latent_channels
        known = {latents: "text to video", **{latents + variant.channels: variant.name for variant in self.variants}}
        if self.config.in_channels not in known:
            listed = ", ".join(f"{channels} ({name})" for channels, name in known.items())
            raise CheckpointError(
                f"{file} takes {self.config.in_channels} channels, but the transformers of "
                f"{self.latent_format.release} take {listed}; choose another file."
            )

    @property
    def is_inpainting(self) -> bool:
        """Whether the network is given masked images beside the noise."""
        return isinstance(self.variant, Inpainting)

    @property
    def sees_start_image(self) -> bool:
        """Whether the network takes CLIP embeddings of the start image."""
        return False

    @property
    def is_image_transformer(self) -> bool:
        """Whether the network has no motion modules yet where its release has some."""
        return False

    @classmethod
    def is_motion_weight(cls, name: str) -> bool:
        """Whether a weight of the network belongs to its motion modules."""
        return cls.motion_marker is not None and cls.motion_marker in name

    @staticmethod
    def with_motion_modules(config: Any) -> Any:
        """The same network with new motion modules, if it has none. Raises `ValueError` where none fit."""
        raise ValueError("This transformer has no separate motion modules; train a LoRA, or the transformer itself.")

    def get_model(self, state_dict, prefix="", device=None) -> VideoModel:
        return self.model_class(self, device=device)

    @classmethod
    def vae_config_json(cls, config) -> dict:
        """config.json of the VAE."""
        return vae_config(config, cls.vae_flags)

    def _embedded_config(self) -> dict:
        """config.json of the transformer, with the preview colours and the cfg that its file brought."""
        config = type(self).config_json(self.config)
        config |= getattr(self.latent_format, "own_colours", {})
        if self.cfg != type(self).cfg:
            config[DEFAULT_CFG] = self.cfg
        return config

    def process_unet_state_dict_for_saving(self, state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
        """What tensors can't tell, such as heads, files that the host saves carry inside."""
        return super().process_unet_state_dict_for_saving({**state_dict, **embed_config(self._embedded_config())})


class MotionRelease(Release):
    """V1 to V3: a PixArt-style transformer with motion modules, which predicts noise.

    `motion` and `skips` are the released ones, for files without a config.json.
    """

    network = MotionDiT
    motion_marker = "attn_temporal."
    motion: tuple[MotionConfig, ...]
    skips: LongSkips | None = RELEASED_SKIPS

    config_json = staticmethod(motion_dit.transformer_config)
    model_class = MotionVideoModel
    prediction = comfy.model_base.ModelType.EPS
    noise_levels = LinearNoiseLevels
    schedule = DiscreteSchedule()
    inpainting = EncodedMask()
    variants = (inpainting,)
    text_encoder = T5TextEncoder
    ignored = (
        ".pos_encoder.pe",  # sinusoids, a seventh of the file; computed when needed
        "pos_embed.pos_embed",
        "caption_projection.y_embedding",  # the empty text of PixArt's training; ours comes from the text encoder
    )
    adapted = "transformer_blocks."
    trained = ("transformer_blocks.", "proj_out.", "pos_embed.", "long_connect_fc.")
    sampling_settings = {
        "beta_schedule": "sqrt_linear",  # the host's name for betas that are linear in the step
        "linear_start": 0.0001,
        "linear_end": 0.02,
        "timesteps": 1000,
    }
    memory_usage_factor = 0.8  # 16.8 kB per latent pixel of a batch; in bfloat16 short videos take 19.3, long ones 15.0

    @property
    def sees_start_image(self) -> bool:
        return self.config.clip_tokens

    @property
    def is_image_transformer(self) -> bool:
        return not self.config.motion

    @staticmethod
    def with_motion_modules(config: MotionDiTConfig) -> MotionDiTConfig:
        """The same network with V1's motion modules, if it has none."""
        return config if config.motion else replace(config, motion=V1_MOTION)


class EasyAnimateV1(MotionRelease):
    """Grid motion modules over PixArt, image VAE latents. Without motion modules, PixArt itself."""

    motion = V1_MOTION
    skips = None
    video = VideoDefaults(fps=12.0)
    memory_usage_factor = 0.45  # without what the long skips keep alive
    latent_format = ImageLatents
    vae = ImageVAE


class EasyAnimateV2(MotionRelease):
    """Temporal motion modules, U-ViT skips, MagViT window VAE latents."""

    motion = (MotionConfig(("temporal", "temporal"), 8),)
    latent_format = WindowLatents
    vae = WindowVAE
    vae_flags = {"slice_mag_vae": True, "mini_batch_encoder": 9, "mini_batch_decoder": 3}


class EasyAnimateV3(MotionRelease):
    """Hybrid motion modules (temporal and global attention), U-ViT skips, Slice VAE latents."""

    motion = (MotionConfig(("temporal", "temporal"), 16), MotionConfig(("temporal", "global"), 16))
    latent_format = SliceLatents
    vae = SliceVAE
    vae_flags = {"slice_compression_vae": True, "mini_batch_encoder": 8, "mini_batch_decoder": 2}


class EasyAnimateV4(Release):
    """HunyuanDiT, which predicts velocity; BERT and mT5 text, latents of V3's encoder and a cached decoder."""

    network = HunyuanDiT
    config_json = staticmethod(hunyuan_dit.hunyuan_dit_config)
    model_class = HunyuanVideoModel
    prediction = comfy.model_base.ModelType.V_PREDICTION
    noise_levels = LinearVelocityLevels
    schedule = DiscreteSchedule()
    ignored = (".t_embed.pe",)  # sinusoids of the frame number, computed when needed
    adapted = "blocks."
    trained = ("blocks.", "proj_out.", "pos_embed.", "norm_out.")
    sampling_settings = {
        "beta_schedule": "linear",  # the host's name for betas whose square roots are linear in the step
        "linear_start": 0.00085,
        "linear_end": 0.03,
        "timesteps": 1000,
    }
    inpainting = EncodedMaskOrZeros()
    variants = (inpainting,)
    text_encoder = BertMT5TextEncoder
    latent_format = CachedDecoderLatents
    vae = CachedDecoderVAE
    vae_flags = {"cache_compression_vae": True, "mini_batch_encoder": 8, "mini_batch_decoder": 2}
    memory_usage_factor = 1.0  # 21.0 kB per latent pixel of a batch; in bfloat16 a step takes 21.2, 13.4 of it skips

    @property
    def sees_start_image(self) -> bool:
        return self.config.resampler is not None


class MMDiTRelease(Release):
    """V5 and V5.1: an MMDiT over the latents of a causal VAE, with networks of their own for images and for control."""

    network = MMDiT
    config_json = staticmethod(mmdit.transformer_config)
    model_class = MMDiTVideoModel
    adapted = "transformer_blocks."
    trained = ("transformer_blocks.", "proj.", "proj_out.")
    inpainting = ResizedMask()
    vae = CachedVAE
    video = VideoDefaults(length=49, fps=8.0)
    cfg = 6.0
    vae_flags = {
        "cache_mag_vae": True,
        "spatial_group_norm": True,
        "mini_batch_encoder": 4,
        "mini_batch_decoder": 1,
    }
    memory_usage_factor = 0.44  # 7.7 kB per latent pixel, and for parts of the tokens 0.45 GB, in bfloat16


class EasyAnimateV5(MMDiTRelease):
    """Text from BERT and mT5, velocity down from pure noise; its VAE has attention."""

    prediction = comfy.model_base.ModelType.V_PREDICTION
    noise_levels = ZeroTerminalLevels
    schedule = TrailingSchedule()
    sampling_settings = {
        "beta_schedule": "linear",  # the host's name for betas whose square roots are linear in the step
        "linear_start": 0.00085,
        "linear_end": 0.012,
        "timesteps": 1000,
        "zsnr": True,
    }
    variants = (MMDiTRelease.inpainting, ControlInputs(with_reference=False))
    text_encoder = BertMT5TextEncoder
    latent_format = CausalAttentionLatents


class EasyAnimateV51(MMDiTRelease):
    """Text from Qwen2-VL, flow matching; its VAE has no attention."""

    prediction = comfy.model_base.ModelType.FLOW
    noise_levels = FlowLevels
    schedule = FlowSchedule()
    sampling_settings = {"shift": math.e, "multiplier": 1000}
    variants = (MMDiTRelease.inpainting, ControlInputs(with_reference=True), CameraInputs())
    latent_format = CausalLatents
    text_encoder = Qwen2VLTextEncoder


RELEASES: tuple[type[Release], ...] = (
    EasyAnimateV1,
    EasyAnimateV2,
    EasyAnimateV3,
    EasyAnimateV4,
    EasyAnimateV5,
    EasyAnimateV51,
)
DEFAULT = EasyAnimateV3  # of an empty latent that no VAE says the release of


def release_of_vae(kind: type) -> type[Release]:
    """The release whose VAE is of this class."""
    return next(release for release in RELEASES if release.vae is kind)
