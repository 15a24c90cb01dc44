"""How conditioning reaches a network: the host's conditioning dictionary in, tensors for the release's network out."""

import logging
from dataclasses import replace
from functools import cached_property

import comfy.conds
import comfy.model_base
import comfy.model_management as mm
import torch
from torch import Tensor

from .dit.denoiser import Denoiser
from .dit.motion_dit import CLIP_TOKENS, CLIP_WIDTH
from .dit.step_plan import OPTION, StepPlan
from .latent_formats import require_channels
from .sampling.long_video import cut_to_window
from .text_encoders.prompt import SECOND, SECOND_MASK, require_text_of

CLIP_PATCHES = 256  # of ViT-L/14
UNUSED = {  # of CONDITIONING, what nodes for other models give -> what artists call it
    "clip_vision_output": "clip_vision_output",
    "reference_latents": "the reference image (a reference latent)",
    "vace_frames": "the control video of WanVaceToVideo",
    "control_video": "the control video of another model's node",
    "pose_video_latent": "the pose video",
    "face_video_pixels": "the face video",
    "reference_motion": "the reference motion",
    "time_dim_concat": "the images of another model's node",
    "audio_embed": "the audio",
    "guidance": "the guidance of FluxGuidance",
}
STREAMED_PART = 128 * 2**20  # bytes of tokens at once where weights are sent for each part
RESERVE = 1.5  # of free memory to what a step takes, from which on the host joins prompts


class VideoModel(comfy.model_base.BaseModel):
    """What all releases have in common as the host runs them; the release, `model_config`, says the rest."""

    def __init__(self, model_config, device=None):
        super().__init__(model_config, model_config.prediction, device=device, unet_model=model_config.network)
        self.model_sampling = model_config.noise_levels(model_config)

    def concat_cond(self, **kwargs) -> Tensor | None:
        """What the network is given beside the noise, such as a masked video: scaled, in the noise's size."""
        variant = self.model_config.variant
        if variant is None:
            self._require_no_images(kwargs)
            return None
        return variant.concat(kwargs["noise"], kwargs, self.latent_format).to(kwargs["device"])

    @staticmethod
    def _require_no_images(conds: dict) -> None:
        if conds.get("concat_latent_image") is not None and conds.get("denoise_mask") is None:
            raise ValueError(
                "This transformer only makes video from text and can't use images; load an inpainting (InP) "
                "transformer, or remove EasyAnimate Image to Video."
            )
        if conds.get("camera_conditions") is not None:
            raise ValueError(
                "This transformer only makes video from text and can't follow a camera; load a Camera transformer, or "
                "remove the camera embedding."
            )

    def extra_conds(self, **kwargs) -> dict:
        """Text tokens, never padded by repetition as the host would."""
        require_channels(kwargs["noise"], self.latent_format)
        self.require_text(kwargs)
        self._warn_of_unused(kwargs)
        out, context = super().extra_conds(**kwargs), kwargs.get("cross_attn")
        out.pop("attention_mask", None)
        if context is not None:
            out["c_crossattn"] = comfy.conds.CONDRegular(context)
        return out

    def _warn_of_unused(self, conds: dict) -> None:
        """Say in the log what of the positive prompt's conditioning does nothing, as this network takes none of it."""
        taken = self.model_config.variant.takes if self.model_config.variant is not None else frozenset()
        if self.model_config.sees_start_image:
            taken = taken | {"clip_vision_output"}
        for key in UNUSED.keys() - taken:
            if conds.get(key) is not None and conds.get("prompt_type") != "negative":
                logging.warning(
                    "This EasyAnimate %s transformer does not use %s; it changes nothing.",
                    self.latent_format.release,
                    UNUSED[key],
                )

    def start_image(self, clip_vision_output, prompt_type: str | None = None) -> tuple[Tensor, Tensor]:
        """What the network takes of CLIP's view of the start image, and its mask; only networks that see it have it.

        Nothing, masked, for the negative prompt.
        """
        raise ValueError(f"Transformers of {self.latent_format.release} don't see start images through CLIP.")

    def require_text(self, conds: dict) -> None:
        """Raise `ValueError` when the prompt was encoded by a text encoder of another release.

        `conds` is what the host hands to `extra_conds`.
        """
        require_text_width(
            conds.get("cross_attn"), self.diffusion_model.config.caption_channels, self.model_config.text_encoder.name
        )
        require_text_of(self.latent_format.release, conds)

    def _second_text(self, conds: dict, width: int) -> Tensor | None:
        """The tokens of a second text encoder, `[B, L, width]`, where the prompt went through one.

        Zeros where a node (ConditioningZeroOut) made zeros of the first one's: it knows only these.
        """
        second, context = conds.get(SECOND), conds.get("cross_attn")
        require_text_width(second, width, self.model_config.text_encoder.name)
        if second is None or context is None or context.any():
            return second
        return torch.zeros_like(second)

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = {OPTION: self.step_plan(x.shape), **(transformer_options or {})}
        if c_concat is not None:
            c_concat = cut_to_window(c_concat, x, options)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)

    def memory_required(self, input_shape, cond_shapes=None) -> float:
        """Bytes of a step for latents of `input_shape` under the plan that it would have now."""
        fused = mm.xformers_enabled() or mm.pytorch_attention_flash_attention()  # else attention itself takes memory
        if not fused or not isinstance(self.diffusion_model, Denoiser):
            return super().memory_required(input_shape, cond_shapes or {})
        return self._step_bytes(input_shape, self.step_plan(input_shape))

    def step_plan(self, shape) -> StepPlan:
        """How a step on latents of `shape` runs on this device, with the host's reserve of memory.

        Long skips go to RAM where it would not fit with them on the device. Parts are larger where weights don't stay
        there: the host sends them again for each part.
        """
        plan, device = StepPlan(), mm.get_torch_device()
        if device.type in ("cpu", "mps") or not isinstance(self.diffusion_model, Denoiser):
            return plan
        if self.weight_bytes + self._step_bytes(shape, plan) > mm.get_total_memory(device) - mm.extra_reserved_memory():
            plan = replace(plan, part_bytes=STREAMED_PART)
        if not self.diffusion_model.footprint.skips:
            return plan
        loaded = getattr(self, "model_loaded_weight_memory", 0)
        free = mm.get_free_memory(device) - (0 if loaded else self.weight_bytes)
        fits = RESERVE * self._step_bytes(shape, plan) < free
        return plan if fits else replace(plan, skips_in_ram=True)

    @cached_property
    def weight_bytes(self) -> int:
        """What all weights of the network take."""
        return mm.module_size(self.diffusion_model)

    def _step_bytes(self, shape, plan: StepPlan) -> float:
        itemsize = mm.dtype_size(self.manual_cast_dtype or self.get_dtype())
        return self.diffusion_model.step_bytes(shape, itemsize, plan)


class MaskedTextModel(VideoModel):
    """Text tokens with their mask."""

    def extra_conds(self, **kwargs) -> dict:
        out, context = super().extra_conds(**kwargs), kwargs.get("cross_attn")
        mask = None if context is None else text_mask(context, kwargs.get("attention_mask"))
        if mask is not None:
            out["attention_mask"] = comfy.conds.CONDRegular(mask)
        return out


class MotionVideoModel(MaskedTextModel):
    """V1 to V3: also CLIP tokens of the start image."""

    def extra_conds(self, **kwargs) -> dict:
        out = super().extra_conds(**kwargs)
        if self.diffusion_model.config.clip_tokens:
            embeds, mask = self.start_image(kwargs.get("clip_vision_output"), kwargs.get("prompt_type"))
            out["clip_embeds"], out["clip_mask"] = comfy.conds.CONDRegular(embeds), comfy.conds.CONDRegular(mask)
        return out

    def start_image(self, clip_vision_output, prompt_type: str | None = None) -> tuple[Tensor, Tensor]:
        return clip_tokens(clip_vision_output, prompt_type)


class HunyuanVideoModel(MaskedTextModel):
    """V4: also a second text with its mask, and all of CLIP's view of the start image."""

    def extra_conds(self, **kwargs) -> dict:
        out, config = super().extra_conds(**kwargs), self.diffusion_model.config
        second = self._second_text(kwargs, config.caption_channels_2)
        if second is not None:
            out["context_t5"] = comfy.conds.CONDRegular(second)
            mask = text_mask(second, kwargs.get(SECOND_MASK))
            if mask is not None:
                out["attention_mask_t5"] = comfy.conds.CONDRegular(mask)
        if config.resampler is not None:
            embeds, mask = self.start_image(kwargs.get("clip_vision_output"), kwargs.get("prompt_type"))
            out["clip_embeds"], out["clip_mask"] = comfy.conds.CONDRegular(embeds), comfy.conds.CONDRegular(mask)
        return out

    def start_image(self, clip_vision_output, prompt_type: str | None = None) -> tuple[Tensor, Tensor]:
        view = clip_vision_output if prompt_type != "negative" else None
        return clip_patches(view, self.diffusion_model.config.resampler)


class MMDiTVideoModel(VideoModel):
    """V5 and V5.1: every row of the text counts, its padding too. V5 reads a second text."""

    def extra_conds(self, **kwargs) -> dict:
        out, width = super().extra_conds(**kwargs), self.diffusion_model.config.caption_channels_2
        second = None if width is None else self._second_text(kwargs, width)
        if second is not None:
            out["context_t5"] = comfy.conds.CONDRegular(second)
        return out


def text_mask(context: Tensor, mask: Tensor | None) -> Tensor | None:
    """The mask `[B, L]` of text tokens `[B, L, C]`; None where all of them count.

    Nodes that join or mix prompts leave the mask of the first one. Padding is zeros in what our text encoders give, so
    tokens are known by themselves; `mask` holds for embeddings without zeros, and where everything is zero all counts.
    """
    tokens = (context != 0).any(dim=-1)
    fits = mask is not None and mask.shape == tokens.shape
    if tokens.all():
        return mask if fits else None
    if not tokens.any():
        return mask if fits else None
    return tokens.to(mask if mask is not None else context)


def require_text_width(context: Tensor | None, width: int, encoder: str) -> None:
    """Raise `ValueError` when the prompt was encoded by a text encoder of another width than the one named."""
    if context is not None and context.shape[-1] != width:
        raise ValueError(
            f"The text encoder gives {context.shape[-1]}-dimensional embeddings, but this transformer needs {width}; "
            f"load the text encoder that belongs to it, {encoder}, with Load EasyAnimate Text Encoder."
        )


def clip_tokens(clip_vision_output, prompt_type: str | None) -> tuple[Tensor, Tensor]:
    """The image embedding `[B, 768]` and the mask of its tokens `[B, 8]`; nothing, masked, for the negative prompt."""
    if clip_vision_output is None or prompt_type == "negative":
        return torch.zeros(1, CLIP_WIDTH), torch.zeros(1, CLIP_TOKENS)
    embeds = clip_vision_output["image_embeds"]
    if embeds.shape[-1] != CLIP_WIDTH:
        raise ValueError(
            f"The CLIP vision model gives {embeds.shape[-1]}-dimensional embeddings, but EasyAnimate needs "
            f"{CLIP_WIDTH}; load CLIP ViT-L/14 (clip_vision_l, or image_encoder of the release)."
        )
    return embeds, torch.ones(len(embeds), CLIP_TOKENS)


def clip_patches(clip_vision_output, resampler) -> tuple[Tensor, Tensor]:
    """CLIP's view of an image patch by patch, `[B, patches, C]`, and the mask of what `resampler` makes of it.

    Without an image nothing, masked.
    """
    if clip_vision_output is None:
        return torch.zeros(1, CLIP_PATCHES, resampler.channels), torch.zeros(1, resampler.queries)
    embeds = clip_vision_output["last_hidden_state"][:, 1:]  # without the class token
    if embeds.shape[-1] != resampler.channels:
        raise ValueError(
            f"The CLIP vision model gives {embeds.shape[-1]}-dimensional patches, but EasyAnimate V4 needs "
            f"{resampler.channels}; load CLIP ViT-L/14 (clip_vision_l, or image_encoder of the release)."
        )
    return embeds, torch.ones(len(embeds), resampler.queries)
