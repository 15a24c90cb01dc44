"""The denoiser of V4: HunyuanDiT with frame positions in every block, and cross-attention to the start image."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import comfy.ldm.common_dit
import torch
import torch.nn.functional as F
from comfy.ldm.flux.math import apply_rope1
from comfy.ldm.modules.attention import optimized_attention
from einops import rearrange
from torch import Tensor, nn

from .denoiser import Denoiser
from .hunyuan_embedders import Resampler, ResamplerConfig, SiluMLP, TimestepTextSizeStyle, with_learned_padding
from .layers import FeedForward, modulate, zero
from .motion_module import frame_positions
from .rotary import COPIES, fitted, rotations
from .skip_store import SkipStore
from .step_plan import Footprint, Stage, plan_of

BASE_GRID = 32  # rows and columns of tokens that rotary positions are fitted into
SPACE_RATIO = 8
SOURCE_SIZE = (1024, 1024)  # of the source videos, by default

Change = Callable[[Tensor, Tensor], Tensor]  # of a part of the tokens, and of its rotations


@dataclass(frozen=True)
class HunyuanDiTConfig:
    """One network. `caption_channels` is the width of BERT, `caption_channels_2` that of mT5.

    `text_length` and `text_length_2` are the trained lengths of both texts.
    """

    in_channels: int
    latent_channels: int
    width: int
    depth: int
    heads: int
    inner: int
    caption_channels: int
    caption_channels_2: int
    text_length: int
    text_length_2: int
    pooled_channels: int
    resampler: ResamplerConfig | None
    patch: int
    rotary_in_block_0: bool = True  # of its self-attention; the code released with the weights has it

    @property
    def stored_skips(self) -> int:
        """How many of the first blocks are stored for the last."""
        return max(self.depth // 2 - 1, 0)


class Conditions(NamedTuple):
    """What the network is given beside latents and timestep.

    `context` [B, L, C] are BERT's tokens, `context_t5` [B, L2, C2] mT5's, each with a mask of 1 keep, 0 drop.
    `clip_embeds` [B, tokens, C3] are CLIP's last hidden states, `clip_mask` [B, queries] those of their 16 tokens that
    count. `image_meta_size` [B, 6] holds height and width of the source and of the video, and the crop, in pixels.
    """

    context: Tensor
    context_t5: Tensor
    attention_mask: Tensor | None = None
    attention_mask_t5: Tensor | None = None
    clip_embeds: Tensor | None = None
    clip_mask: Tensor | None = None
    image_meta_size: Tensor | None = None
    style: Tensor | None = None


class BlockInputs(NamedTuple):
    """What every block takes beside the tokens.

    `context` [B, L, C] is the text, `image` [B, queries, C] the start image, `vector` [B, D] comes of the timestep.
    `rotary` [1, F*N, 1, D/heads/2, 2, 2] are rotations of tokens, `frames` [F, D] sinusoids, None for a single image.
    """

    context: Tensor
    image: Tensor | None
    vector: Tensor
    rotary: Tensor
    frames: Tensor | None


class RotaryAttention(nn.Module):
    """Multi-head attention with normed queries and keys."""

    def __init__(self, width: int, heads: int, context: int, dtype, device, operations):
        super().__init__()
        self.heads = heads
        kw = {"dtype": dtype, "device": device}
        self.to_q = operations.Linear(width, width, **kw)
        self.to_k = operations.Linear(context, width, **kw)
        self.to_v = operations.Linear(context, width, **kw)
        self.norm_q = operations.LayerNorm(width // heads, eps=1e-6, **kw)
        self.norm_k = operations.LayerNorm(width // heads, eps=1e-6, **kw)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **kw)])

    def keys_values(self, source: Tensor, rotary: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, N, heads, D / heads]` of `source` [B, N, C]; keys turned by `rotary`, where given."""
        k = self.norm_k(self._split(self.to_k(source)))
        return k if rotary is None else apply_rope1(k, rotary), self._split(self.to_v(source))

    def attend(self, x: Tensor, keys_values: tuple[Tensor, Tensor], rotary: Tensor | None, options) -> Tensor:
        """Attention of `x`, all tokens or some, turned by `rotary`, over `keys_values`."""
        q = self.norm_q(self._split(self.to_q(x)))
        q = q if rotary is None else apply_rope1(q, rotary)
        q, k, v = (heads.transpose(1, 2) for heads in (q, *keys_values))
        h = optimized_attention(q, k, v, self.heads, skip_reshape=True, transformer_options=options or {})
        return self.to_out[0](h)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))


class ShiftedNorm(nn.Module):
    """A norm whose output is shifted by what the timestep says."""

    def __init__(self, width: int, dtype, device, operations):
        super().__init__()
        self.norm = operations.LayerNorm(width, eps=1e-6, dtype=dtype, device=device)
        self.linear = operations.Linear(width, width, dtype=dtype, device=device)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        return self.norm(x) + self.linear(F.silu(vector))[:, None]


class Gate(nn.Module):
    """norm, then GEGLU. The norm's eps is the width, a slip of the original's that the weights were trained with."""

    def __init__(self, width: int, dtype, device, operations):
        super().__init__()
        self.norm = operations.LayerNorm(width, eps=width, dtype=dtype, device=device)
        self.proj = operations.Linear(width, 2 * width, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(self.norm(x)).chunk(2, dim=-1)
        return F.gelu(gate).mul_(x)


class HunyuanDiTBlock(nn.Module):
    """Long skip, frame positions, self-attention over all frames, cross-attention to text and image, feed-forward."""

    def __init__(self, config: HunyuanDiTConfig, index: int, dtype, device, operations):
        super().__init__()
        leaf, kw = (dtype, device, operations), {"eps": 1e-6, "dtype": dtype, "device": device}
        width, context = config.width, config.caption_channels
        self.rotates_itself = index > 0 or config.rotary_in_block_0
        self.skip_norm: Any = None
        if index > config.depth // 2:
            self.skip_norm = operations.LayerNorm(2 * width, **kw)
            self.skip_linear = operations.Linear(2 * width, width, dtype=dtype, device=device)
        self.norm1 = ShiftedNorm(width, *leaf)
        self.attn1 = RotaryAttention(width, config.heads, width, *leaf)
        self.norm2 = operations.LayerNorm(width, **kw)
        self.attn2 = RotaryAttention(width, config.heads, context, *leaf)
        if config.resampler:
            self.norm_clip = operations.LayerNorm(width, **kw)
            self.attn_clip = RotaryAttention(width, config.heads, context, *leaf)
            self.gate_clip = Gate(width, *leaf)
            self.norm_clip_out = operations.LayerNorm(width, **kw)
        self.norm3 = operations.LayerNorm(width, **kw)
        self.ff = FeedForward(width, False, *leaf, inner=config.inner)

    def forward(self, x: Tensor, skip: Tensor | None, inputs: BlockInputs, options) -> Tensor:
        """`x`, which may change in place, and `skip` [B, F*N, D]; the blocks of the second half take a skip."""
        plan = plan_of(options)
        x = x if skip is None else plan.update(x, self._join, skip)
        if inputs.frames is not None:
            frames = x.unflatten(1, (len(inputs.frames), -1))
            x = plan.update(frames, torch.add, inputs.frames[None, :, None]).flatten(1, 2)
        x = self._self_attention(x, inputs, options)
        x = plan.update(x, self._text_attention(inputs, options), inputs.rotary)
        if inputs.image is not None:
            x = plan.update(x, self._image_attention(inputs.image, options), inputs.rotary)
        return plan.update(x, lambda part: part + self.ff(self.norm3(part)))

    def _self_attention(self, x: Tensor, inputs: BlockInputs, options) -> Tensor:
        """Keys and values are whole, queries go in parts."""
        plan = plan_of(options)
        norm_part = plan.shared(x, lambda part: self.norm1(part, inputs.vector))

        def turning(rotary: Tensor) -> Tensor | None:
            return rotary if self.rotates_itself else None

        def keys_values(part: Tensor, rotary: Tensor) -> tuple[Tensor, ...]:
            return self.attn1.keys_values(norm_part(part), turning(rotary))

        k, v = plan.make(x, keys_values, inputs.rotary)

        def added(part: Tensor, rotary: Tensor) -> Tensor:
            return part + self.attn1.attend(norm_part(part), (k, v), turning(rotary), options)

        return plan.update(x, added, inputs.rotary)

    def _text_attention(self, inputs: BlockInputs, options) -> Change:
        text = self.attn2.keys_values(inputs.context)
        return lambda part, rotary: part + self.attn2.attend(self.norm2(part), text, rotary, options)

    def _image_attention(self, image: Tensor, options) -> Change:
        keys_values = self.attn_clip.keys_values(image)

        def added(part: Tensor, rotary: Tensor) -> Tensor:
            h = self.attn_clip.attend(self.norm_clip(part), keys_values, rotary, options)
            return part + self.norm_clip_out(self.gate_clip(h))

        return added

    def _join(self, x: Tensor, skip: Tensor) -> Tensor:
        return self.skip_linear(self.skip_norm(torch.cat([x, skip], dim=-1)))


class FinalNorm(nn.Module):
    """A norm that the timestep scales and shifts: in this order, not in that of the other releases."""

    def __init__(self, width: int, dtype, device, operations):
        super().__init__()
        self.norm = operations.LayerNorm(width, elementwise_affine=False, eps=1e-6, dtype=dtype, device=device)
        self.linear = operations.Linear(width, 2 * width, dtype=dtype, device=device)

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        scale, shift = self.linear(F.silu(vector))[:, None].chunk(2, dim=-1)
        return modulate(self.norm(x), shift, scale)


class Patches(nn.Module):
    """Each frame's patches as tokens."""

    def __init__(self, in_channels: int, width: int, patch: int, dtype, device, operations):
        super().__init__()
        self.proj = operations.Conv2d(in_channels, width, patch, stride=patch, dtype=dtype, device=device)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, C, F, H, W]` -> `[B, F*N, D]`."""
        batch = x.shape[0]
        x = self.proj(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(x, "(b f) d h w -> b (f h w) d", b=batch).contiguous()


class HunyuanDiT(Denoiser):
    """Predicts the velocity (v) of video latents; see `_forward` for the inputs."""

    def __init__(self, config: HunyuanDiTConfig, dtype=None, device=None, operations: Any = None, **_):
        super().__init__(config, dtype)
        attention = Stage(3.3, 4 + COPIES, 2)  # tokens, keys, values; the skip in use stays beside the next
        self.footprint = Footprint((attention, Stage(1, 9)), skips=config.stored_skips, returning=2)
        leaf = (dtype, device, operations)
        width, context, context_2 = config.width, config.caption_channels, config.caption_channels_2
        self.pos_embed = Patches(config.in_channels, width, config.patch, *leaf)
        self.text_embedder = SiluMLP(context_2, 4 * context_2, context, *leaf)
        rows = config.text_length + config.text_length_2
        self.text_embedding_padding = nn.Parameter(torch.empty(rows, context, dtype=dtype, device=device))
        pool = (config.text_length_2, context_2, config.pooled_channels)
        self.time_extra_emb = TimestepTextSizeStyle(width, pool, *leaf)
        self.clip_projection: Resampler | None = None
        if config.resampler:
            padding = torch.empty(config.resampler.queries, context, dtype=dtype, device=device)
            self.clip_padding = nn.Parameter(padding)
            self.clip_projection = Resampler(config.resampler, context, config.heads, *leaf)
        self.blocks: Any = nn.ModuleList(HunyuanDiTBlock(config, i, *leaf) for i in range(config.depth))
        self.norm_out = FinalNorm(width, *leaf)
        outputs = config.patch**2 * 2 * config.latent_channels
        self.proj_out = operations.Linear(width, outputs, dtype=dtype, device=device)

    def initialize_weights(self) -> None:
        """Before training from scratch, as HunyuanDiT does: zero output, and no block that the timestep shifts."""
        for layer in self.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.pos_embed.proj.weight.view(self.config.width, -1))
        nn.init.zeros_(self.pos_embed.proj.bias)
        nn.init.normal_(self.text_embedding_padding)
        self.time_extra_emb.initialize_weights()
        if self.clip_projection is not None:
            nn.init.normal_(self.clip_padding, std=0.02)
            self.clip_projection.initialize_weights()
        zero(*(block.norm1.linear for block in self.blocks), self.norm_out.linear, self.proj_out)

    @property
    def blocks_in_order(self) -> nn.ModuleList:
        """See `Denoiser`."""
        return self.blocks

    def _forward(self, x: Tensor, timesteps: Tensor, *args, transformer_options=None, **kwargs) -> Tensor:
        """`timesteps` [B]; all else is as in `Conditions`, the text by position or by name."""
        if kwargs.get("control"):
            raise ValueError("There are no ControlNets for EasyAnimate V4; remove Apply ControlNet.")
        conditions = Conditions(*args, **{k: v for k, v in kwargs.items() if k in Conditions._fields})
        options, (frames, height, width) = transformer_options or {}, x.shape[2:]
        rows, columns = (-(-side // self.config.patch) for side in (height, width))
        inputs = self._inputs(x, timesteps, conditions, options)
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (1, self.config.patch, self.config.patch))
        x = self._blocks(self.pos_embed(x), inputs, options)
        (x,) = plan_of(options).make(x, lambda part: (self.proj_out(self.norm_out(part, inputs.vector)),))
        x = self._unpatchify(x, frames, rows, columns)
        return x[:, :, :, :height, :width]

    def _inputs(self, x: Tensor, timesteps: Tensor, given: Conditions, options) -> BlockInputs:
        """What the blocks take beside the tokens of the latents `x`."""
        batch, _, frames, height, width = x.shape
        sizes, style = given.image_meta_size, given.style
        if sizes is None:
            sizes = torch.tensor([[*SOURCE_SIZE, height * SPACE_RATIO, width * SPACE_RATIO, 0, 0]], device=x.device)
        style = torch.zeros(1, dtype=torch.long, device=x.device) if style is None else style
        sizes, style = sizes.expand(batch, -1), style.expand(batch)
        vector = self.time_extra_emb(timesteps, given.context_t5.to(x.dtype), sizes, style)
        rows, columns = (-(-side // self.config.patch) for side in (height, width))
        rotary = rotary_positions(rows, columns, self.config.width // self.config.heads, x.device, options)
        rotary = rotary.repeat(1, frames, 1, 1, 1, 1)
        table = frame_positions(frames, x.new_empty(0, self.config.width)) if frames != 1 else None
        return BlockInputs(self._text(given, x.dtype), self._image(given, x, options), vector, rotary, table)

    def _text(self, given: Conditions, dtype: torch.dtype) -> Tensor:
        """BERT's tokens, then mT5's, `[B, L, C]`."""
        padding, length = self.text_embedding_padding, self.config.text_length
        second = self.text_embedder(given.context_t5.to(dtype))
        first = with_learned_padding(given.context.to(dtype), given.attention_mask, padding[:length])
        return torch.cat([first, with_learned_padding(second, given.attention_mask_t5, padding[length:])], dim=1)

    def _image(self, given: Conditions, x: Tensor, options) -> Tensor | None:
        """Tokens of the start image `[B, queries, C]`: all padding without one, None in networks that see none."""
        if self.clip_projection is None:
            return None
        if given.clip_embeds is None:
            tokens = x.new_zeros(x.shape[0], *self.clip_padding.shape)
            return with_learned_padding(tokens, x.new_zeros(tokens.shape[:2]), self.clip_padding)
        return with_learned_padding(
            self.clip_projection(given.clip_embeds.to(x.dtype), options), given.clip_mask, self.clip_padding
        )

    def _blocks(self, x: Tensor, inputs: BlockInputs, options) -> Tensor:
        """U-ViT: outputs of the first blocks go into the last, last in first out."""
        skips = SkipStore(plan_of(options), x.device)
        patches = options.get("patches_replace", {}).get("dit", {})
        for i, block in enumerate(self.blocks):
            skip, patch = skips.pop() if i > self.config.depth // 2 else None, patches.get(("double_block", i))
            given = (x, skip, inputs, options)
            x = block(*given) if patch is None else _patched(patch, block, *given)
            if i < self.config.stored_skips:
                skips.push(x)
        return x

    def _unpatchify(self, x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        """Tokens to latents; the learned sigma, the second half of the channels, is dropped."""
        p, channels = self.config.patch, self.config.latent_channels
        sizes = {"f": frames, "h": rows, "w": columns, "p": p, "q": p}
        x = rearrange(x, "b (f h w) (p q c) -> b c f (h p) (w q)", **sizes)
        return x[:, :channels]


def rotary_positions(rows: int, columns: int, width: int, device, options: dict) -> Tensor:
    """Rotations `[1, rows * columns, 1, width / 2, 2, 2]` of a frame's tokens: the column's first, then the row's."""
    change = options.get("rope_options") or {}
    height, breadth = fitted(rows, columns, BASE_GRID, BASE_GRID)
    spans = height.changed(change, "y"), breadth.changed(change, "x")
    row, column = rotations(spans, (width // 2, width // 2), device).chunk(2, dim=-3)
    return torch.cat([column, row], dim=-3)


def _patched(patch, block: HunyuanDiTBlock, x: Tensor, skip: Tensor | None, inputs: BlockInputs, options) -> Tensor:
    """A block under a host patch such as skip-layer guidance; a block that is skipped takes no skip either."""

    def original(args: dict) -> dict:
        changed = inputs._replace(context=args["txt"], vector=args["vec"], rotary=args["pe"])
        x = args["img"].clone()  # the patch may use it again
        return {"img": block(x, skip, changed, args["transformer_options"]), "txt": args["txt"]}

    given = {"img": x, "txt": inputs.context, "vec": inputs.vector, "pe": inputs.rotary}
    return patch({**given, "transformer_options": options}, {"original_block": original})["img"]
