"""A PixArt ControlNet as the host's CONTROL_NET, steering V1 to V3 frame by frame.

It was trained on images: its blocks have no motion module, and each frame follows its own hint. As in PixArt, the hint
is encoded by the VAE and embedded by the base's own patch embedding, so the base of the run in progress is needed.
"""

from typing import Any

import comfy.controlnet
import comfy.model_base
import comfy.model_management as mm
import comfy.utils
import torch
from torch import Tensor

from ..dit.motion_dit import MotionDiT
from ..host import total_frames
from ..sampling.long_video import cut_to_window

NOT_FOR_THE_NETWORK = ("c_crossattn", "c_concat", "control", "transformer_options")


class PixArtControl(comfy.controlnet.ControlBase):
    """`patcher` holds a `ControlNet`; `name` is the file's, for messages."""

    def __init__(self, patcher, name: str):
        super().__init__()
        self.patcher = patcher
        self.name = name
        self.base: Any = None  # the model of the run in progress, from pre_run to cleanup

    def set_cond_hint(self, cond_hint, strength=1.0, timestep_percent_range=(0.0, 1.0), vae=None, extra_concat=()):
        """The host hands over frames `[T, 3, H, W]` in 0..1."""
        if vae is None:
            raise ValueError(
                f"{self.name} needs the VAE to encode its hint image; connect the model's VAE to the vae input of "
                "Apply ControlNet."
            )
        super().set_cond_hint(cond_hint, strength, timestep_percent_range, extra_concat=list(extra_concat))
        self.vae = vae
        return self

    def pre_run(self, model, percent_to_timestep_function) -> None:
        super().pre_run(model, percent_to_timestep_function)
        self._require_fit(model)
        self.base = model
        self.cond_hint: Tensor | None = None  # an interrupted run is not cleaned up

    def cleanup(self) -> None:
        super().cleanup()
        self.base = None

    def copy(self) -> "PixArtControl":
        control = PixArtControl(self.patcher, self.name)
        self.copy_to(control)
        return control

    def get_models(self) -> list:
        return [*super().get_models(), self.patcher]

    def get_control(self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict):
        """What is added to the output of the base's blocks, `{"output": [[B, F*N, D], ...]}`, by strength."""
        previous = None
        if self.previous_controlnet is not None:
            earlier = self.previous_controlnet
            previous = earlier.get_control(x_noisy, t, cond, batched_number, transformer_options)
        if self.timestep_range is not None and not self.timestep_range[1] <= t[0] <= self.timestep_range[0]:
            return previous
        network: MotionDiT = self.base.diffusion_model
        x, timesteps, conds = self._base_inputs(x_noisy, t, cond, transformer_options)
        embedding = network.embed(x, timesteps, **conds)
        hidden = network.transformer_blocks[0](embedding.tokens, embedding.inputs, transformer_options)
        hint = network.tokens(self._hint(x, transformer_options))
        residuals = self.patcher.model(hidden, hint.expand_as(hidden), embedding.inputs, transformer_options)
        return self.control_merge({"output": residuals}, previous, output_dtype=None)

    def _require_fit(self, model) -> None:
        ours, network = self.patcher.model.config, model.diffusion_model
        if not isinstance(network, MotionDiT):
            raise ValueError(
                f"{self.name} is a PixArt ControlNet, which only works with EasyAnimate V1 to V3; "
                "connect one of these models."
            )
        base = network.config
        if (ours.width, ours.heads) != (base.width, base.heads) or ours.depth >= base.depth:
            raise ValueError(
                f"{self.name} ({ours.depth} blocks, width {ours.width}, {ours.heads} heads) does not fit this "
                f"transformer ({base.depth} blocks, width {base.width}, {base.heads} heads); choose a ControlNet that "
                "was trained on the same PixArt model."
            )

    def _base_inputs(self, x: Tensor, sigma: Tensor, cond: dict, options: dict) -> tuple[Tensor, Tensor, dict]:
        """Input, timesteps and conditions of the base's network, as `BaseModel._apply_model` makes them."""
        base = self.base
        dtype = base.get_dtype() if base.manual_cast_dtype is None else base.manual_cast_dtype
        parts = [base.model_sampling.calculate_input(sigma, x)]
        if cond.get("c_concat") is not None:
            parts.append(cut_to_window(cond["c_concat"], x, options).to(x))
        extra = {k: v for k, v in cond.items() if torch.is_tensor(v) and k not in NOT_FOR_THE_NETWORK}
        conds = {k: comfy.model_base.convert_tensor(v, dtype, x.device) for k, v in extra.items()}
        conds["context"] = cond["c_crossattn"].to(x.device, dtype)
        return torch.cat(parts, dim=1).to(dtype), base.model_sampling.timestep(sigma).float(), conds

    def _hint(self, x: Tensor, options: dict) -> Tensor:
        """The hint `[1, in channels, F, h, w]` for the frames of `x`, encoded when a run starts or the size changes.

        An inpainting base has more channels than the VAE. The patch embedding is linear and its first channels are
        the ones that grew out of PixArt's, so zeros in the others let those alone see the hint.
        """
        window = options.get("context_window")
        if self.cond_hint is None or self.cond_hint.shape[-2:] != x.shape[-2:]:
            self.cond_hint = self._encode(x.shape[2] if window is None else total_frames(window), *x.shape[-2:])
        hint = self.cond_hint.to(x)
        frames = x.shape[2] if window is None else max(max(window.index_list) + 1, hint.shape[2])
        hint = _with_length(frames, hint)
        if window is not None:
            hint = window.get_tensor(hint, x.device, dim=2)
        rest = hint.new_zeros(1, x.shape[1] - hint.shape[1], *hint.shape[2:])
        return torch.cat([hint, rest], dim=1)

    def _encode(self, frames: int | None, rows: int, columns: int) -> Tensor:
        """Hint latents `[1, C, F, rows, columns]`, of `frames` latent frames or, where None, of the hint's own."""
        ratio = self.vae.spacial_compression_encode()
        pixels = self.cond_hint_original
        pixels = comfy.utils.common_upscale(pixels, columns * ratio, rows * ratio, self.upscale_algorithm, "center")
        if frames is not None:
            to_pixels = self.vae.upscale_ratio
            length = to_pixels[0](frames) if isinstance(to_pixels, tuple) else frames
            pixels = _with_length(length, pixels.movedim(0, 1)[None])[0].movedim(1, 0)
        in_use = mm.loaded_models(only_currently_used=True)
        latents = self.vae.encode(pixels.movedim(1, -1)[..., :3])
        mm.load_models_gpu(in_use)
        if latents.ndim == 4:  # an image VAE of the host: one latent a frame
            latents = latents.movedim(0, 1)[None]
        channels = self.base.diffusion_model.config.latent_channels
        if latents.shape[1] != channels or latents.shape[-2:] != (rows, columns):
            raise ValueError(
                f"The VAE connected to Apply ControlNet makes {latents.shape[1]}-channel latents of "
                f"{latents.shape[-1]}x{latents.shape[-2]}, but the model needs {channels} channels of "
                f"{columns}x{rows}; connect the model's own VAE."
            )
        return self.base.process_latent_in(latents)


def _with_length(frames: int, clip: Tensor) -> Tensor:
    """A clip `[B, C, F, H, W]` cut to `frames`, or continued by its last frame."""
    missing = frames - clip.shape[2]
    if missing <= 0:
        return clip[:, :, :frames]
    return torch.cat([clip, clip[:, :, -1:].expand(-1, -1, missing, -1, -1)], dim=2)
