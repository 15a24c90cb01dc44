"""How conditioning reaches the network: the host's conditioning dictionary in, tensors for `MotionDiT` out."""

import comfy.conds
import comfy.model_base
import comfy.model_sampling
import torch
from torch import Tensor

from .conditioning.inpainting import from_stock_nodes, resized
from .dit.motion_dit import CLIP_TOKENS, CLIP_WIDTH, MotionDiT
from .latent_formats import require_channels
from .sampling.long_video import cut_to_window


class LinearNoiseLevels(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """Between two trained noise levels, timestep and sigma go linearly, as in the original; the host would round."""

    def timestep(self, sigma: Tensor) -> Tensor:
        table = self.sigmas.to(sigma)
        high = torch.searchsorted(table, sigma.contiguous()).clamp(1, len(table) - 1)
        low = table[high - 1]
        return (high - 1 + (sigma - low) / (table[high] - low)).clamp(0, len(table) - 1)

    def sigma(self, timestep: Tensor) -> Tensor:
        t = timestep.float().to(self.sigmas.device).clamp(0, len(self.sigmas) - 1)
        low, high = self.sigmas[t.floor().long()], self.sigmas[t.ceil().long()]
        return torch.lerp(low, high, t.frac()).to(timestep.device)


class MotionVideoModel(comfy.model_base.BaseModel):
    """V1 to V3 as the host runs them: noise prediction over video latents."""

    def __init__(self, model_config, device=None):
        super().__init__(model_config, comfy.model_base.ModelType.EPS, device=device, unet_model=MotionDiT)
        self.model_sampling = LinearNoiseLevels(model_config)

    def concat_cond(self, **kwargs) -> Tensor | None:
        """The mask and masked-video latents of an inpainting (InP) model, scaled, in the size of the noise."""
        config, latents = self.diffusion_model.config, kwargs.get("concat_latent_image")
        extra = config.in_channels - config.latent_channels
        if extra == 0:
            if latents is not None and kwargs.get("denoise_mask") is None:
                raise ValueError(
                    "This transformer makes video from text only and can't be given images; load an inpainting (InP) "
                    "transformer, or take EasyAnimate Image to Video out."
                )
            return None
        if latents is None:
            raise ValueError(
                "This is an inpainting (InP) transformer; connect EasyAnimate Image to Video between the prompt and "
                "the sampler (without images it makes video from text)."
            )
        mask = kwargs.get("concat_mask")
        if latents.shape[1] == config.latent_channels and mask is not None:
            latents = from_stock_nodes(latents, mask)
        if latents.shape[1] != extra:
            raise ValueError(
                f"The images given have {latents.shape[1]} latent channels, this transformer takes {extra}; "
                "encode them with the VAE of the transformer's release."
            )
        return self.process_latent_in(resized(latents, kwargs["noise"]).to(kwargs["device"]))

    def extra_conds(self, **kwargs) -> dict:
        """Text tokens with their mask, never padded by repetition as the host would; CLIP tokens of the start image."""
        require_channels(kwargs["noise"], self.latent_format)
        require_words(kwargs.get("cross_attn"), self.diffusion_model.config.caption_channels)
        out = super().extra_conds(**kwargs)
        for given, name in (("cross_attn", "c_crossattn"), ("attention_mask", "attention_mask")):
            if kwargs.get(given) is not None:
                out[name] = comfy.conds.CONDRegular(kwargs[given])
        if self.diffusion_model.config.clip_tokens:
            embeds, mask = clip_tokens(kwargs.get("clip_vision_output"), kwargs.get("prompt_type"))
            out["clip_embeds"], out["clip_mask"] = comfy.conds.CONDRegular(embeds), comfy.conds.CONDRegular(mask)
        return out

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = transformer_options or {}
        if c_concat is not None:
            c_concat = cut_to_window(c_concat, x, options)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)


def require_words(context: Tensor | None, width: int) -> None:
    """Raise `ValueError` when the prompt was read by a text encoder of another width."""
    if context is not None and context.shape[-1] != width:
        raise ValueError(
            f"The text encoder gives {context.shape[-1]} numbers for a word, this transformer takes {width}; load the "
            "T5 that belongs to it with Load EasyAnimate Text Encoder."
        )


def clip_tokens(seen, prompt_type: str | None) -> tuple[Tensor, Tensor]:
    """The image embedding `[B, 768]` and the mask of its tokens `[B, 8]`; nothing, masked, for the negative prompt."""
    if seen is None or prompt_type == "negative":
        return torch.zeros(1, CLIP_WIDTH), torch.zeros(1, CLIP_TOKENS)
    embeds = seen["image_embeds"]
    if embeds.shape[-1] != CLIP_WIDTH:
        raise ValueError(
            f"The CLIP vision model gives {embeds.shape[-1]} numbers for an image, EasyAnimate takes {CLIP_WIDTH}; "
            "load CLIP ViT-L/14 (clip_vision_l, or image_encoder of the release)."
        )
    return embeds, torch.ones(len(embeds), CLIP_TOKENS)
