"""The denoiser of V1 to V3: a PixArt-alpha image transformer with a motion module in every block (paper 3.1)."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.ldm.common_dit
import torch
from einops import rearrange
from torch import Tensor, nn

from .denoiser import Denoiser
from .layers import AdaLNSingle, Attention, FeedForward, PatchEmbed, TwoLayer, attention_bias, modulate, zero
from .motion_module import Grid, MotionConfig, MotionModule
from .skip_store import SkipStore
from .step_plan import Footprint, Stage, plan_of

CLIP_WIDTH = 768
CLIP_TOKENS = 8
SIZE_CONDITIONED = 128  # only models of this sample size are conditioned on resolution and aspect ratio
SPACE_RATIO = 8


@dataclass(frozen=True)
class LongSkips:
    """U-ViT: outputs of the first `stored` blocks are added before block `start` and later, last in first out."""

    stored: int
    start: int


@dataclass(frozen=True)
class MotionDiTConfig:
    """One network. `motion` lists the module kinds that blocks take in turn; empty means a plain image model."""

    in_channels: int
    latent_channels: int
    width: int
    depth: int
    heads: int
    caption_channels: int
    motion: tuple[MotionConfig, ...]
    skips: LongSkips | None
    sample_size: int
    clip_tokens: bool
    patch: int


class BlockInputs(NamedTuple):
    """What every block takes beside the tokens.

    `context` [B, L, D] is the text, `bias` [B, 1, 1, L] that of its mask, `modulation` [B, 6*D] comes of the timestep.
    """

    context: Tensor
    bias: Tensor | None
    modulation: Tensor
    grid: Grid


class Embedding(NamedTuple):
    """What goes into the blocks: `tokens` [B, F*N, D], their inputs, and the `timestep` [B, D]."""

    tokens: Tensor
    inputs: BlockInputs
    timestep: Tensor


class MotionDiTBlock(nn.Module):
    """Spatial self-attention per frame, motion module, cross-attention to the text, feed-forward."""

    def __init__(self, width: int, heads: int, motion: MotionConfig | None, dtype, device, operations):
        super().__init__()
        leaf = (dtype, device, operations)
        norm = {"elementwise_affine": False, "eps": 1e-6, "dtype": dtype, "device": device}
        self.scale_shift_table = nn.Parameter(torch.empty(6, width, device=device))
        self.norm1 = operations.LayerNorm(width, **norm)
        self.attn1 = Attention(width, heads, True, *leaf)
        self.attn_temporal: Any = MotionModule(width, motion, *leaf) if motion else None
        self.attn2 = Attention(width, heads, True, *leaf)
        self.norm2 = operations.LayerNorm(width, **norm)
        self.ff = FeedForward(width, False, *leaf)

    def forward(self, x: Tensor, inputs: BlockInputs, options) -> Tensor:
        """`x` [B, F*N, D], which may change in place."""
        plan, grid = plan_of(options), inputs.grid
        shift_attn, scale_attn, gate_attn, shift_ff, scale_ff, gate_ff = self._modulation(x, inputs.modulation)

        def spatial(part: Tensor) -> Tensor:
            h = modulate(self.norm1(part), shift_attn, scale_attn)
            h = self.attn1(rearrange(h, "b (f n) d -> (b f) n d", n=grid[1] * grid[2]), options=options)
            return torch.addcmul(part, gate_attn, rearrange(h, "(b f) n d -> b (f n) d", b=len(part)))

        x = plan.update(x, spatial, unit=grid[1] * grid[2])
        x = x if self.attn_temporal is None else self._motion(x, grid, options)
        text = self.attn2.keys_values(inputs.context)
        x = plan.update(x, lambda part: part + self.attn2.attend(part, text, inputs.bias, options))
        return plan.update(
            x, lambda part: torch.addcmul(part, gate_ff, self.ff(modulate(self.norm2(part), shift_ff, scale_ff)))
        )

    def _modulation(self, x: Tensor, modulation: Tensor) -> tuple[Tensor, ...]:
        """Shift, scale and gate of attention and of feed-forward, (B, 1, D) each."""
        table = self.scale_shift_table.to(device=x.device, dtype=x.dtype)
        return (table + modulation.unflatten(1, (6, -1))).chunk(6, dim=1)

    def _motion(self, x: Tensor, grid: Grid, options) -> Tensor:
        h = self.attn_temporal(rearrange(x, "b (f n) d -> (b f) n d", f=grid[0]), grid, options)
        return rearrange(h, "(b f) n d -> b (f n) d", f=grid[0])


class MotionDiT(Denoiser):
    """Predicts the noise in video latents; see `embed` for the inputs."""

    def __init__(self, config: MotionDiTConfig, dtype=None, device=None, operations: Any = None, **_):
        super().__init__(config, dtype)
        stages = [Stage(2, 13, 3)]  # feed-forward of a motion module: GEGLU, four times as wide
        if any("global" in motion.attentions for motion in config.motion):
            stages.append(Stage(4, 3))  # tokens, those of the motion module, keys, values
        self.footprint = Footprint(tuple(stages), skips=config.skips.stored if config.skips else 0, returning=1)
        leaf = (dtype, device, operations)
        width = config.width
        kinds = [config.motion[i % len(config.motion)] if config.motion else None for i in range(config.depth)]
        with_size = config.sample_size == SIZE_CONDITIONED
        self.pos_embed = PatchEmbed(config.in_channels, width, config.patch, config.sample_size, *leaf)
        self.adaln_single = AdaLNSingle(width, with_size, *leaf)
        gelu = nn.GELU(approximate="tanh")
        self.caption_projection = TwoLayer(config.caption_channels, width, gelu, *leaf)
        self.clip_projection = None
        if config.clip_tokens:
            self.clip_projection = TwoLayer(CLIP_WIDTH, CLIP_TOKENS * width, gelu, *leaf)
        self.transformer_blocks: Any = nn.ModuleList(MotionDiTBlock(width, config.heads, k, *leaf) for k in kinds)
        skips = range(config.skips.stored if config.skips else 0)
        self.long_connect_fc = nn.ModuleList(operations.Linear(width, width, dtype=dtype, device=device) for _ in skips)
        self.norm_out = operations.LayerNorm(width, elementwise_affine=False, eps=1e-6, dtype=dtype, device=device)
        self.scale_shift_table = nn.Parameter(torch.empty(2, width, device=device))
        outputs = config.patch**2 * 2 * config.latent_channels
        self.proj_out = operations.Linear(width, outputs, dtype=dtype, device=device)

    def initialize_weights(self) -> None:
        """Before training from scratch: zero output, cross-attention, motion modules and long skips, as DiT does."""
        blocks: list[Any] = list(self.transformer_blocks)
        for table in [self.scale_shift_table, *(block.scale_shift_table for block in blocks)]:
            nn.init.normal_(table, std=self.config.width**-0.5)
        nn.init.normal_(self.adaln_single.linear.weight, std=0.02)
        zero(self.proj_out, *(block.attn2.to_out[0] for block in blocks))
        self.zero_motion_modules()

    def zero_motion_modules(self) -> None:
        """Zero what is added to an image transformer, so that each frame comes out as before: motion and long skips."""
        modules: list[Any] = [block.attn_temporal for block in self.transformer_blocks if block.attn_temporal]
        zero(*(module.temporal_transformer.proj_out for module in modules), *self.long_connect_fc)

    def _forward(self, x: Tensor, timesteps: Tensor, *args, control=None, transformer_options=None, **kwargs) -> Tensor:
        """`control["output"][i]` [B, F*N, D], where there is one, is added to what block i puts out; see `embed`."""
        height, width = x.shape[-2:]
        tokens, inputs, timestep = self.embed(x, timesteps, *args, **kwargs)
        options = transformer_options or {}
        tokens = self._blocks(tokens, inputs, options, (control or {}).get("output", ()))
        x = self._unpatchify(self._final(tokens, timestep, options), *inputs.grid)
        return x[:, :, :, :height, :width]

    def embed(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        attention_mask: Tensor | None = None,
        clip_embeds: Tensor | None = None,
        clip_mask: Tensor | None = None,
        resolution: Tensor | None = None,
        aspect_ratio: Tensor | None = None,
        **_,
    ) -> Embedding:
        """Latents, timestep and conditions as the blocks take them.

        `timesteps` [B]; `context` [B, L, C]; masks [B, L] and [B, 8] with 1 keep, 0 drop; `clip_embeds` [B, 768].
        `resolution` [B, 2] (height, width in pixels) and `aspect_ratio` [B] default to those of `x`.
        """
        frames, height, width = x.shape[2:]
        size = self._size(x.shape[0], height, width, resolution, aspect_ratio, x.device)
        modulation, timestep = self.adaln_single(timesteps, size, x.dtype)
        context, bias = self._context(context, attention_mask, clip_embeds, clip_mask)
        rows, columns = (-(-side // self.config.patch) for side in (height, width))
        return Embedding(self.tokens(x), BlockInputs(context, bias, modulation, (frames, rows, columns)), timestep)

    def tokens(self, x: Tensor) -> Tensor:
        """Latents `[B, in channels, F, H, W]` as tokens `[B, F*N, D]` that know their place in the frame."""
        batch = x.shape[0]
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (1, self.config.patch, self.config.patch))
        x = self.pos_embed(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(x, "(b f) n d -> b (f n) d", b=batch)

    def _blocks(self, x: Tensor, inputs: BlockInputs, options, residuals) -> Tensor:
        plan, used = plan_of(options), 0
        skips = SkipStore(plan, x.device)
        stored, start = (self.config.skips.stored, self.config.skips.start) if self.config.skips else (0, 0)
        patches = options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(self.transformer_blocks):
            if len(skips) and i >= start:
                connect = self.long_connect_fc[used]
                x = plan.update(x, lambda part, skip, layer=connect: part + layer(skip), skips.pop())
                used += 1
            patch = patches.get(("double_block", i))
            x = block(x, inputs, options) if patch is None else _patched(patch, block, x, inputs, options)
            if i < stored:
                skips.push(x)
            if i < len(residuals) and residuals[i] is not None:
                x = plan.update(x, lambda part, added: part + added.to(part), residuals[i])
        return x

    def _context(self, context: Tensor, mask, clip_embeds, clip_mask) -> tuple[Tensor, Tensor | None]:
        """Text tokens, then the CLIP tokens of the start image."""
        context = self.caption_projection(context)
        if mask is None and clip_embeds is not None:
            mask = torch.ones(context.shape[:2], device=context.device)
        if self.clip_projection is not None and clip_embeds is not None:
            image = self.clip_projection(clip_embeds).unflatten(1, (CLIP_TOKENS, -1))
            context = torch.cat([context, image], dim=1)
            keep = torch.ones(image.shape[:2], device=mask.device) if clip_mask is None else clip_mask
            mask = torch.cat([mask, keep.to(mask)], dim=1)
        return context, None if mask is None else attention_bias(mask, context.dtype)

    def _size(self, batch: int, height: int, width: int, resolution, aspect_ratio, device) -> tuple[Tensor, Tensor]:
        if resolution is None:
            resolution = torch.tensor([[height, width]], device=device) * SPACE_RATIO
        if aspect_ratio is None:
            aspect_ratio = torch.tensor([height / width], device=device)
        return resolution.expand(batch, 2), aspect_ratio.reshape(-1).expand(batch)

    def _final(self, x: Tensor, timestep: Tensor, options) -> Tensor:
        table = self.scale_shift_table.to(device=x.device, dtype=x.dtype) + timestep[:, None]
        shift, scale = table.chunk(2, dim=1)
        (out,) = plan_of(options).make(x, lambda part: (self.proj_out(modulate(self.norm_out(part), shift, scale)),))
        return out

    def _unpatchify(self, x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        """Tokens to latents; the learned sigma, the second half of the channels, is dropped."""
        p, channels = self.config.patch, self.config.latent_channels
        sizes = {"f": frames, "h": rows, "w": columns, "p": p, "q": p}
        x = rearrange(x, "b (f h w) (p q c) -> b c f (h p) (w q)", **sizes)
        return x[:, :channels]


def _patched(patch, block: MotionDiTBlock, x: Tensor, inputs: BlockInputs, options) -> Tensor:
    """A block under a host patch such as skip-layer guidance."""

    def original(args: dict) -> dict:
        changed = inputs._replace(context=args["txt"], modulation=args["vec"])
        return {"img": block(args["img"].clone(), changed, args["transformer_options"])}  # the patch may use it again

    args = {"img": x, "txt": inputs.context, "vec": inputs.modulation, "transformer_options": options}
    return patch(args, {"original_block": original})["img"]
