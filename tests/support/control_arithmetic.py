"""A PixArt ControlNet beside a base, in the names of the official files, its arithmetic written out frame by frame."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from .tiny_networks import DIT, random

DEPTH = 3  # of the four blocks of the tiny transformer
FRAMES = 4  # of latents, so 16 of pixels


def pixart_shapes(width: int, depth: int) -> dict[str, tuple[int, ...]]:
    """The tensors of a ControlNet in the names of the official files, and their shapes."""
    linears = {"attn.qkv": (3, 1), "attn.proj": (1, 1), "cross_attn.q_linear": (1, 1), "cross_attn.kv_linear": (2, 1)}
    linears |= {"cross_attn.proj": (1, 1), "mlp.fc1": (4, 1), "mlp.fc2": (1, 4)}
    shapes: dict[str, tuple[int, ...]] = {}
    for i in range(depth):
        block = f"controlnet.{i}.copied_block"
        outer = ("before_proj", "after_proj") if i == 0 else ("after_proj",)
        sizes = {f"{block}.{name}": size for name, size in linears.items()}
        sizes |= {f"controlnet.{i}.{name}": (1, 1) for name in outer}
        shapes[f"{block}.scale_shift_table"] = (6, width)
        for name, (rows, columns) in sizes.items():
            shapes[f"{name}.weight"] = (rows * width, columns * width)
            shapes[f"{name}.bias"] = (rows * width,)
    return shapes


def pixart_file(path, width: int = DIT.width, heads: int = DIT.heads, depth: int = DEPTH, seed: int = 0):
    """A random ControlNet in the names of the official files, and its tensors."""
    tensors = {}
    for number, (name, shape) in enumerate(pixart_shapes(width, depth).items(), seed):
        size = 0.3 if name.endswith("table") else 0.1 if len(shape) == 1 else shape[1] ** -0.5
        tensors[name] = size * random(*shape, seed=number)
    save_file(tensors, path, metadata={"num_attention_heads": str(heads)})
    return tensors


def inputs_for(config) -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Noisy latents, sigmas and conditions of two videos."""
    cond = {"c_crossattn": random(2, 5, 16, seed=2), "attention_mask": torch.ones(2, 5)}
    cond["attention_mask"][1, 3:] = 0
    if config.clip_tokens:
        cond["c_concat"] = random(2, 8, FRAMES, 4, 6, seed=3)
        cond |= {"clip_embeds": random(2, 768, seed=4), "clip_mask": torch.ones(2, 8)}
    return 3 * random(2, 4, FRAMES, 4, 6, seed=1), torch.tensor([3.0, 3.0]), cond


def attention(q, k, v, heads: int, bias=None):
    q, k, v = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (q, k, v))
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    return ((scores if bias is None else scores + bias).softmax(-1) @ v).transpose(1, 2).flatten(2)


def pixart_block(tensors: dict, name: str, x, context, bias, modulation, heads: int):
    """One frame `x` [B, N, D] through a block in PixArt's own names."""

    def linear(layer, value):
        return F.linear(value, tensors[f"{name}.{layer}.weight"], tensors[f"{name}.{layer}.bias"])

    table = tensors[f"{name}.scale_shift_table"][None] + modulation.unflatten(1, (6, -1))
    shift1, scale1, gate1, shift2, scale2, gate2 = table.chunk(6, dim=1)
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale1) + shift1
    x = x + gate1 * linear("attn.proj", attention(*linear("attn.qkv", h).chunk(3, -1), heads))
    keys, values = linear("cross_attn.kv_linear", context).chunk(2, -1)
    crossed = attention(linear("cross_attn.q_linear", x), keys, values, heads, bias)
    x = x + linear("cross_attn.proj", crossed)
    h = F.layer_norm(x, x.shape[-1:], eps=1e-6) * (1 + scale2) + shift2
    return x + gate2 * linear("mlp.fc2", F.gelu(linear("mlp.fc1", h), approximate="tanh"))


def computed(base, tensors: dict, hint: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
    """The residuals, and the noise with each added before the base's next block, all written out.

    `hint` [1, 4, F, h, w] are its latents, unscaled.
    """
    network, config = base.model.diffusion_model, base.model.diffusion_model.config
    x, sigma, cond = inputs_for(config)
    x = x / (sigma[0] ** 2 + 1) ** 0.5
    x = torch.cat([x, cond["c_concat"]], dim=1) if "c_concat" in cond else x
    names = ("attention_mask", "clip_embeds", "clip_mask")
    chosen = {k: cond[k] for k in names if k in cond}
    timesteps = base.model.model_sampling.timestep(sigma)
    hidden, block_inputs, timestep = network.embed(x, timesteps, cond["c_crossattn"], **chosen)
    context, bias, modulation, grid = block_inputs
    padded = torch.zeros(2, *x.shape[1:]).index_copy(1, torch.arange(4), (hint * 0.18215).expand(2, -1, -1, -1, -1))
    hint_tokens = network.tokens(padded)
    first = network.transformer_blocks[0](hidden, block_inputs, {})
    before = {k: tensors[f"controlnet.0.before_proj.{k}"] for k in ("weight", "bias")}
    states = (first + F.linear(hint_tokens, **before)).unflatten(1, (grid[0], -1)).unbind(1)
    added = []
    for i in range(DEPTH):
        block = f"controlnet.{i}.copied_block"
        states = [pixart_block(tensors, block, s, context, bias, modulation, config.heads) for s in states]
        after = {k: tensors[f"controlnet.{i}.after_proj.{k}"] for k in ("weight", "bias")}
        added.append(F.linear(torch.cat(states, dim=1), **after))
    x, stored = first, [first]
    for i in range(1, config.depth):
        x = x + added[i - 1]
        if config.skips and i >= 2:
            x = x + network.long_connect_fc[i - 2](stored.pop())
        x = network.transformer_blocks[i](x, block_inputs, {})
        if i < 2:
            stored.append(x)
    noise = network._unpatchify(network._final(x, timestep, {}), *grid)
    return added, noise
