"""From tensors (and config.json) to a release and its network config: the only place that looks at shapes."""

from dataclasses import dataclass

from torch import Tensor

from .checkpoint import Checkpoint, CheckpointError, describe
from .dit.motion_dit import LongSkips, MotionConfig, MotionDiTConfig
from .latent_formats import with_preview
from .supported_models import EasyAnimateV3
from .vae.slice_vae import SliceVAEConfig

MOTION_KEY = "transformer_blocks.{}.attn_temporal.temporal_transformer.proj_in.weight"
RELEASED_SKIPS = LongSkips(stored=13, start=15)
RELEASED_HEADS = 16
RELEASED_MOTION = (MotionConfig(("temporal", "temporal"), 16), MotionConfig(("temporal", "global"), 16))
RELEASED_SCALING = 0.18215


@dataclass(frozen=True)
class _Facts:
    """What the tensors of a transformer show by themselves."""

    in_channels: int
    out_channels: int
    width: int
    depth: int
    caption_channels: int
    patch: int
    skips: int
    clip_tokens: bool


def detect_transformer(checkpoint: Checkpoint) -> EasyAnimateV3:
    """The release's class, holding the network config.

    Raises `CheckpointError` when the file is something else, or when config.json contradicts the tensors.
    """
    facts = _transformer_facts(checkpoint)
    given = checkpoint.config
    _require_agreement(checkpoint, facts)
    if facts.in_channels == 4 and not given:
        raise CheckpointError(
            f"{checkpoint.path.name} could be a V2 or a V3 transformer; put its config.json beside it to tell which."
        )
    skips = None
    if facts.skips:
        stored, start = RELEASED_SKIPS.stored, RELEASED_SKIPS.start
        skips = LongSkips(given.get("uvit_stored", stored), given.get("uvit_start", start))
        if skips.stored != facts.skips:
            raise CheckpointError(
                f"{checkpoint.path.name} has {facts.skips} long skips, not {skips.stored}; "
                "put the right config.json beside it."
            )
    release = EasyAnimateV3(
        MotionDiTConfig(
            in_channels=facts.in_channels,
            latent_channels=facts.out_channels // 2,
            width=facts.width,
            depth=facts.depth,
            heads=given.get("num_attention_heads", RELEASED_HEADS),
            caption_channels=facts.caption_channels,
            motion=_motion(checkpoint),
            skips=skips,
            sample_size=given.get("sample_size", 64),
            clip_tokens=facts.clip_tokens,
            patch=facts.patch,
        )
    )
    if "latent_rgb_factors" in given:
        release.latent_format = with_preview(given["latent_rgb_factors"], given["latent_rgb_bias"])
    return release


def _transformer_facts(checkpoint: Checkpoint) -> _Facts:
    tensors = checkpoint.tensors
    patches, captions = tensors.get("pos_embed.proj.weight"), tensors.get("caption_projection.linear_1.weight")
    if patches is None or captions is None or MOTION_KEY.format(0) not in tensors:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(tensors)}, not an EasyAnimate video transformer "
            "(it has no motion modules); choose the transformer's file or folder."
        )
    patch = patches.shape[-1]
    return _Facts(
        in_channels=patches.shape[1],
        out_channels=tensors["proj_out.weight"].shape[0] // patch**2 if "proj_out.weight" in tensors else 8,
        width=patches.shape[0],
        depth=_count(tensors, "transformer_blocks."),
        caption_channels=captions.shape[1],
        patch=patch,
        skips=_count(tensors, "long_connect_fc."),
        clip_tokens="clip_projection.linear_1.weight" in tensors,
    )


def _require_agreement(checkpoint: Checkpoint, facts: _Facts) -> None:
    """What config.json says must be what the tensors show."""
    claims = {
        "in_channels": facts.in_channels,
        "out_channels": facts.out_channels,
        "cross_attention_dim": facts.width,
        "num_layers": facts.depth,
        "caption_channels": facts.caption_channels,
        "patch_size": facts.patch,
    }
    for name, shown in claims.items():
        _require_claim(checkpoint, name, shown)
    heads = checkpoint.config.get("num_attention_heads", RELEASED_HEADS)
    if facts.width % heads:
        raise CheckpointError(
            f"{checkpoint.path.name} is {facts.width} wide, which {heads} heads don't divide; "
            "put the right config.json beside it."
        )


def _require_claim(checkpoint: Checkpoint, name: str, shown) -> None:
    claimed = checkpoint.config.get(name)
    if claimed is not None and claimed != shown:
        raise CheckpointError(
            f"config.json beside {checkpoint.path.name} says {name} {claimed}, but the weights have {shown}; "
            "they belong to different models."
        )


def _motion(checkpoint: Checkpoint) -> tuple[MotionConfig, ...]:
    given = checkpoint.config
    if not given:
        return RELEASED_MOTION
    if given.get("basic_block_type") != "global_motionmodule":
        raise CheckpointError(
            f"{checkpoint.path.name} is a {given.get('basic_block_type')!r} model; only V3 (global_motionmodule) "
            "transformers can be loaded so far."
        )
    kinds = []
    for parity in ("even", "odd"):
        module = given.get(f"motion_module_kwargs_{parity}", {})
        names = module.get("attention_block_types", ["Temporal_Self", "Temporal_Self"])
        attentions = tuple(name.split("_")[0].lower() for name in names)
        kinds.append(MotionConfig(attentions, module.get("num_attention_heads", RELEASED_HEADS)))
    return tuple(kinds)


def detect_vae(checkpoint: Checkpoint) -> SliceVAEConfig:
    """The config of a Slice VAE, or a `CheckpointError` that names what the file is instead."""
    tensors, given = checkpoint.tensors, checkpoint.config
    first = tensors.get("encoder.down_blocks.0.convs.0.conv1.weight")
    if first is None or first.ndim != 5:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(tensors)}, not an EasyAnimate video VAE; "
            "choose the VAE's file or folder."
        )
    blocks = _count(tensors, "encoder.down_blocks.")
    channels = tuple(tensors[f"encoder.down_blocks.{i}.convs.0.conv1.weight"].shape[0] for i in range(blocks))
    _require_claim(checkpoint, "block_out_channels", list(channels))
    groups = given.get("norm_num_groups", 32)
    if any(width % groups for width in channels):
        raise CheckpointError(
            f"{checkpoint.path.name} has {list(channels)} channels, which {groups} norm groups don't divide; "
            "put the right config.json beside it."
        )
    if blocks != 4 or given.get("slice_compression_vae", True) is not True:
        raise CheckpointError(f"{checkpoint.path.name} is not a V3 Slice VAE; only those can be loaded so far.")
    return SliceVAEConfig(
        channels=channels,
        layers=_count(tensors, "encoder.down_blocks.0.convs."),
        latent_channels=tensors["decoder.conv_in.weight"].shape[1] if "decoder.conv_in.weight" in tensors else 4,
        norm_groups=groups,
        scaling_factor=given.get("scaling_factor", RELEASED_SCALING),
    )


def detect_t5(checkpoint: Checkpoint) -> dict[str, int]:
    """Sizes of a T5 encoder by its tensors, in the names of its config."""
    tensors = checkpoint.tensors
    bias = tensors.get("encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight")
    if bias is None or "encoder.block.0.layer.1.DenseReluDense.wi_0.weight" not in tensors:
        raise CheckpointError(
            f"{checkpoint.path.name} is {describe(tensors)}, not a T5 v1.1 text encoder; choose a t5xxl file or the "
            "release's text_encoder folder."
        )
    heads = bias.shape[1]
    inner, width = tensors["encoder.block.0.layer.0.SelfAttention.q.weight"].shape
    vocabulary = tensors.get("shared.weight")
    if vocabulary is None:
        raise CheckpointError(f"{checkpoint.path.name} lacks shared.weight, its word embeddings; download it again.")
    sizes = {
        "num_layers": _count(tensors, "encoder.block."),
        "num_heads": heads,
        "d_model": width,
        "d_kv": inner // heads,
        "d_ff": tensors["encoder.block.0.layer.1.DenseReluDense.wi_0.weight"].shape[0],
        "vocab_size": vocabulary.shape[0],
    }
    for name, shown in sizes.items():
        _require_claim(checkpoint, name, shown)
    return sizes


def _count(tensors: dict[str, Tensor], prefix: str) -> int:
    """How many numbered parts start with `prefix`."""
    return len({key[len(prefix) :].split(".")[0] for key in tensors if key.startswith(prefix)})
