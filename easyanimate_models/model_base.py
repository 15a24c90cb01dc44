"""How conditioning reaches the network: the host's conditioning dictionary in, tensors for `MotionDiT` out."""

import comfy.conds
import comfy.model_base
import comfy.model_sampling
import torch
from torch import Tensor

from .dit.motion_dit import MotionDiT


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
        """The mask and masked-video latents of an inpainting (InP) model, `concat_latent_image`, scaled."""
        config = self.diffusion_model.config
        extra = config.in_channels - config.latent_channels
        if extra == 0:
            return None
        latents = kwargs.get("concat_latent_image")
        if latents is None or latents.shape[1] != extra:
            raise ValueError(
                "This is an inpainting (InP) model: its conditioning must carry mask and masked-video latents, "
                "but there are none; load a text-to-video transformer instead."
            )
        return self.process_latent_in(latents.to(kwargs["device"]))

    def extra_conds(self, **kwargs) -> dict:
        """Text tokens with their mask, never padded by repetition as the host would."""
        out = super().extra_conds(**kwargs)
        names = {"cross_attn": "c_crossattn", "attention_mask": "attention_mask"}
        names |= {"clip_embeds": "clip_embeds", "clip_mask": "clip_mask"}
        for given, name in names.items():
            if kwargs.get(given) is not None:
                out[name] = comfy.conds.CONDRegular(kwargs[given])
        return out

    def _apply_model(self, x, t, c_concat=None, c_crossattn=None, control=None, transformer_options=None, **kwargs):
        options = transformer_options or {}
        if c_concat is not None:
            c_concat = cut_to_window(c_concat, x, options)
        return super()._apply_model(x, t, c_concat, c_crossattn, control, options, **kwargs)


def cut_to_window(latents: Tensor, x: Tensor, options: dict) -> Tensor:
    """Latents for the whole video as those for the context window `x`; 0.3.75 does not cut them itself."""
    window = options.get("context_window")
    if window is None or latents.shape[2] == x.shape[2]:
        return latents
    return window.get_tensor(latents, x.device, dim=2)
