"""The denoiser of V5 and V5.1: joint attention over text and video, as in Stable Diffusion 3's MMDiT."""

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
from .layers import FeedForward, TwoLayer, modulate, sinusoid, zero
from .rotary import COPIES, Span, fitted, rotations
from .step_plan import Footprint, Stage, plan_of

BASE_ROWS, BASE_COLUMNS = 30, 45  # patches of 480 x 720 pixels, which positions are fitted into
QK_EPS, TEXT_EPS = 1e-6, 1e-6  # of norms; all others have `MMDiTConfig.eps`


@dataclass(frozen=True)
class MMDiTConfig:
    """One network. `mmdit_layers` is how many of its blocks, the first, have weights of their own for the text.

    V5 takes two texts, `caption_channels_2` are the second one's (None without); V5.1 norms its one (`text_norm`).
    """

    in_channels: int
    latent_channels: int
    width: int
    depth: int
    mmdit_layers: int
    heads: int
    caption_channels: int
    caption_channels_2: int | None
    text_norm: bool
    timestep_channels: int
    eps: float
    patch: int

    @property
    def head_channels(self) -> int:
        """Channels of a head, shared out to time, rows and columns by 2 : 3 : 3."""
        return self.width // self.heads

    @property
    def rotary_channels(self) -> tuple[int, int, int]:
        """Of each head: those that time, the row and the column turn."""
        return self.head_channels // 4, self.head_channels * 3 // 8, self.head_channels * 3 // 8


class Modulation(NamedTuple):
    """What adaLN does to one kind of token, (B, 1, D) each."""

    shift: Tensor
    scale: Tensor
    gate: Tensor


class AdaLayerNorm(nn.Module):
    """A LayerNorm whose shift and scale come of the timestep, with whatever else does."""

    def __init__(self, config: MMDiTConfig, outputs: int, dtype, device, operations):
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        self.outputs = outputs
        self.linear = operations.Linear(config.timestep_channels, outputs * config.width, **kw)
        self.norm = operations.LayerNorm(config.width, eps=config.eps, **kw)

    def chunks(self, timestep: Tensor) -> tuple[Tensor, ...]:
        """The outputs for `timestep` [B, T], (B, 1, D) each."""
        return self.linear(F.silu(timestep))[:, None].chunk(self.outputs, dim=-1)

    def modulations(self, timestep: Tensor) -> tuple[Modulation, Modulation]:
        """Those of video and of text, where there are six outputs."""
        chunks = self.chunks(timestep)
        return Modulation(*chunks[:3]), Modulation(*chunks[3:])

    def forward(self, x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
        return modulate(self.norm(x), shift, scale)


class Projections(nn.Module):
    """Tokens to queries, keys and values, queries and keys normed per head; and what attention gives to tokens."""

    def __init__(self, config: MMDiTConfig, dtype, device, operations):
        super().__init__()
        kw = {"dtype": dtype, "device": device}
        width = config.width
        self.heads = config.heads
        self.to_q = operations.Linear(width, width, **kw)
        self.to_k = operations.Linear(width, width, **kw)
        self.to_v = operations.Linear(width, width, **kw)
        self.norm_q = operations.LayerNorm(config.head_channels, eps=QK_EPS, **kw)
        self.norm_k = operations.LayerNorm(config.head_channels, eps=QK_EPS, **kw)
        self.to_out = nn.ModuleList([operations.Linear(width, width, **kw)])

    def queries(self, x: Tensor, pe: Tensor | None = None) -> Tensor:
        """Queries `[B, N, D]` of tokens, turned by `pe` if they have a place in the video."""
        return self._turned(self.norm_q(self.to_q(x).unflatten(-1, (self.heads, -1))), pe)

    def keys_values(self, x: Tensor, pe: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values `[B, N, D]` of tokens; keys turned like queries."""
        return self._turned(self.norm_k(self.to_k(x).unflatten(-1, (self.heads, -1))), pe), self.to_v(x)

    @staticmethod
    def _turned(heads: Tensor, pe: Tensor | None) -> Tensor:
        return (heads if pe is None else apply_rope1(heads, pe)).flatten(-2)


class MMDiTBlock(nn.Module):
    """Joint attention, then feed-forward; text and video share all weights, or only the affine parts of norms."""

    def __init__(self, config: MMDiTConfig, text_weights: bool, dtype, device, operations):
        super().__init__()
        leaf = (dtype, device, operations)
        self.norm1 = AdaLayerNorm(config, 6, *leaf)
        self.attn1 = Projections(config, *leaf)
        self.attn2: Any = Projections(config, *leaf) if text_weights else None
        self.norm2 = AdaLayerNorm(config, 6, *leaf)
        self.ff = FeedForward(config.width, False, *leaf)
        self.txt_ff: Any = FeedForward(config.width, False, *leaf) if text_weights else None

    def forward(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, options: dict) -> tuple[Tensor, Tensor]:
        """Video `[B, N, D]` and text `[B, L, D]`, changed, the video perhaps in place.

        `vec` [B, T] is the timestep, `pe` the rotary positions.
        """
        img, txt = self._attention(img, txt, vec, pe, options)
        of_img, of_txt = self.norm2.modulations(vec)
        txt_ff = self.ff if self.txt_ff is None else self.txt_ff
        img = plan_of(options).update(img, lambda part: self._feed_forward(part, of_img, self.ff))
        return img, self._feed_forward(txt, of_txt, txt_ff)

    def _attention(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, options: dict) -> tuple[Tensor, Tensor]:
        """Keys and values of text and video are whole; queries go in parts, those of the text first."""
        attn1, attn2 = self.attn1, self.attn1 if self.attn2 is None else self.attn2
        of_img, of_txt = self.norm1.modulations(vec)
        normed = self.norm1(txt, of_txt.shift, of_txt.scale)
        norm_part = plan_of(options).shared(img, lambda part: self.norm1(part, of_img.shift, of_img.scale))

        def of_part(part: Tensor, pe: Tensor) -> tuple[Tensor, Tensor]:
            return attn1.keys_values(norm_part(part), pe)

        joint = plan_of(options).make(img, of_part, pe, before=attn2.keys_values(normed))

        def attended(q: Tensor) -> Tensor:
            return optimized_attention(q, *joint, attn1.heads, transformer_options=options)

        def changed(part: Tensor, pe: Tensor) -> Tensor:
            q = attn1.queries(norm_part(part), pe)
            return torch.addcmul(part, of_img.gate, attn1.to_out[0](attended(q)))

        txt = torch.addcmul(txt, of_txt.gate, attn2.to_out[0](attended(attn2.queries(normed))))
        return plan_of(options).update(img, changed, pe), txt

    def _feed_forward(self, x: Tensor, modulation: Modulation, ff: FeedForward) -> Tensor:
        shift, scale, gate = modulation
        return torch.addcmul(x, gate, ff(self.norm2(x, shift, scale)))


class MMDiT(Denoiser):
    """Predicts the velocity of video latents; see `_forward` for the shapes."""

    def __init__(self, config: MMDiTConfig, dtype=None, device=None, operations: Any = None, **_):
        super().__init__(config, dtype)
        self.footprint = Footprint((Stage(3.2, 3.2 + COPIES, 1.5),))  # tokens, keys, values
        leaf = (dtype, device, operations)
        kw = {"dtype": dtype, "device": device}
        width, patch = config.width, config.patch
        self.time_embedding = TwoLayer(width, config.timestep_channels, nn.SiLU(), *leaf)
        self.proj = operations.Conv2d(config.in_channels, width, patch, stride=patch, **kw)
        self.text_proj = _text_projection(config.caption_channels, width, config.text_norm, *leaf)
        self.text_proj_t5 = None
        if config.caption_channels_2 is not None:
            self.text_proj_t5 = _text_projection(config.caption_channels_2, width, config.text_norm, *leaf)
        self.transformer_blocks: Any = nn.ModuleList(
            MMDiTBlock(config, i < config.mmdit_layers, *leaf) for i in range(config.depth)
        )
        self.norm_final = operations.LayerNorm(width, eps=config.eps, **kw)
        self.norm_out = AdaLayerNorm(config, 2, *leaf)
        self.proj_out = operations.Linear(width, patch**2 * config.latent_channels, **kw)

    def initialize_weights(self) -> None:
        """Before training from scratch: zero output, and blocks that change nothing, as DiT does."""
        linears = [norm.linear for block in self.transformer_blocks for norm in (block.norm1, block.norm2)]
        zero(*linears, self.norm_out.linear, self.proj_out)

    def _forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        context_t5: Tensor | None = None,
        *,
        control=None,
        transformer_options=None,
        **_,
    ) -> Tensor:
        """`timesteps` [B]; `context` [B, L, C] and V5's second text `context_t5` [B, L2, C2].

        Every row of the text counts, padding too, as in training; masks are ignored. Raises `ValueError` for a missing
        text, or a ControlNet.
        """
        if control:
            raise ValueError(
                "EasyAnimate V5 and V5.1 can't use a ControlNet; remove Apply ControlNet, and load a Control "
                "transformer for control videos."
            )
        frames, height, width = x.shape[2:]
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (1, self.config.patch, self.config.patch))
        grid = frames, x.shape[3] // self.config.patch, x.shape[4] // self.config.patch
        options = transformer_options or {}
        vec = self.time_embedding(sinusoid(timesteps, self.config.width).to(x.dtype))
        pe = self.positions(*grid, options.get("rope_options") or {}, x.device)
        img = self._blocks(self.tokens(x), self._text(context, context_t5), vec, pe, options)
        return self._unpatchify(self._final(img, vec, options), *grid)[:, :, :, :height, :width]

    def tokens(self, x: Tensor) -> Tensor:
        """Latents `[B, in channels, F, H, W]` as tokens `[B, F*N, D]`."""
        batch = x.shape[0]
        x = self.proj(rearrange(x, "b c f h w -> (b f) c h w"))
        return rearrange(x, "(b f) d h w -> b (f h w) d", b=batch)

    def positions(self, frames: int, rows: int, columns: int, rope_options: dict, device) -> Tensor:
        """Rotary positions of all tokens, `[1, F*N, 1, head / 2, 2, 2]`; `rope_options` are the host's."""
        axes = zip("tyx", (Span(0, 1, frames), *fitted(rows, columns, BASE_ROWS, BASE_COLUMNS)), strict=True)
        spans = tuple(span.changed(rope_options, name) for name, span in axes)
        return rotations(spans, self.config.rotary_channels, device)

    def _text(self, context: Tensor, context_t5: Tensor | None) -> Tensor:
        """Text tokens `[B, L + L2, D]`."""
        if self.text_proj_t5 is None:
            return self.text_proj(context)
        if context_t5 is None:
            raise ValueError(
                "This EasyAnimate V5 transformer needs the prompt from two text encoders, BERT and mT5; load both with "
                "Load EasyAnimate Text Encoder."
            )
        return torch.cat([self.text_proj(context), self.text_proj_t5(context_t5)], dim=1)

    def _blocks(self, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, options: dict) -> Tensor:
        patches = options.get("patches_replace", {}).get("dit", {})
        options = {**options, "total_blocks": len(self.transformer_blocks), "block_type": "double"}
        for i, block in enumerate(self.transformer_blocks):
            options["block_index"] = i
            patch = patches.get(("double_block", i))
            if patch is None:
                img, txt = block(img, txt, vec, pe, options)
            else:
                img, txt = _patched(patch, block, img, txt, vec, pe, options)
        return img

    def _final(self, x: Tensor, timestep: Tensor, options: dict) -> Tensor:
        shift, scale = self.norm_out.chunks(timestep)

        def final(part: Tensor) -> tuple[Tensor]:
            return (self.proj_out(self.norm_out(self.norm_final(part), shift, scale)),)

        return plan_of(options).make(x, final)[0]

    def _unpatchify(self, x: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        p = self.config.patch
        sizes = {"f": frames, "h": rows, "w": columns, "p": p, "q": p}
        return rearrange(x, "b (f h w) (c p q) -> b c f (h p) (w q)", **sizes)


def _text_projection(channels: int, width: int, norm: bool, dtype, device, operations) -> nn.Module:
    """Text to tokens, its embeddings normed before or not."""
    kw = {"dtype": dtype, "device": device}
    linear = operations.Linear(channels, width, **kw)
    return nn.Sequential(operations.RMSNorm(channels, eps=TEXT_EPS, **kw), linear) if norm else linear


def _patched(patch, block: MMDiTBlock, img: Tensor, txt: Tensor, vec: Tensor, pe: Tensor, options):
    """A block under a host patch such as skip-layer guidance."""

    def original(args: dict) -> dict:
        img = args["img"].clone()  # the patch may use it again
        img, txt = block(img, args["txt"], args["vec"], args["pe"], args["transformer_options"])
        return {"img": img, "txt": txt}

    args = {"img": img, "txt": txt, "vec": vec, "pe": pe, "transformer_options": options}
    out = patch(args, {"original_block": original})
    return out["img"], out["txt"]
