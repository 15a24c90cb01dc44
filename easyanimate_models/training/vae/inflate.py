"""A video VAE that begins with stills (paper section 3.2): inflated from an image VAE, or trained on stills itself."""

import torch
from torch import Tensor, nn

from ...latent_formats import SliceLatents
from ...vae.image_vae import ImageVAE
from ...vae.slice_vae import SliceVAE, SliceVAEConfig
from ...vae.video_vae import VideoVAE

LAYERS = 2  # of an image VAE, with one attention between the two in its middle
RENAMED = (
    (".resnets.", ".convs."),
    (".conv_shortcut.", ".shortcut."),
    (".downsamplers.0.", ".downsampler."),
    (".upsamplers.0.", ".upsampler."),
    (".to_out.0.", ".to_out."),
)


def inflate(image: ImageVAE, kind: type[SliceVAE], **ops) -> SliceVAE:
    """A video VAE of class `kind` whose convolutions apply those of `image` to the frame itself and ignore the others.

    Frames that stand still are decoded as `image` decodes them. Raises `ValueError` when the two don't fit.
    """
    config = image.config
    if config.layers != LAYERS:
        raise ValueError(
            f"An image VAE with {config.layers} layers per level can't be inflated; it must have {LAYERS}."
        )
    sizes = config.channels, config.layers, config.latent_channels, config.norm_groups
    video = kind(SliceVAEConfig(*sizes, SliceLatents.scale_factor), **ops)
    expected = video.state_dict()
    frame = 2 - video.time.zeros  # of three: in the middle, or the last where the two before it are the past
    weights = {}
    for name, tensor in image.state_dict().items():
        for image_name, video_name in RENAMED:
            name = name.replace(image_name, video_name)
        weights[name] = _with_time(tensor, expected[name], frame) if tensor.ndim == 4 else tensor
    video.load_state_dict(weights)
    return video


@torch.no_grad()
def seeing_one_frame(weights: dict[str, Tensor], vae: VideoVAE) -> dict[str, Tensor]:
    """The weights of a VAE that knows only stills, where each convolution does to a frame alone what it does to them.

    Stills are decoded as before, and videos frame by frame: what training on stills left to chance is gone. V4's
    decoder stays as it is, since it sees stills elsewhere in time than the frames of videos.
    """
    weights = dict(weights)
    for name, conv in vae.named_modules():
        by_another_rule = name.startswith("decoder.") and getattr(vae, "decoder_time", None) is not None
        if isinstance(conv, nn.Conv3d) and conv.kernel_size[0] > 1 and not by_another_rule:
            zeros, weight = int(conv.padding[0]), weights[f"{name}.weight"]
            still = weight[:, :, zeros] if zeros else weight.sum(2)
            alone = weights[f"{name}.weight"] = torch.zeros_like(weight)
            alone[:, :, conv.kernel_size[0] - 1 - zeros] = still
    return weights


def _with_time(weight: Tensor, like: Tensor, frame: int) -> Tensor:
    """The weight of a 2-D convolution in one of the shape of `like`, at `frame`; zero at the other frames."""
    inflated = weight.new_zeros(like.shape)
    inflated[:, :, frame if like.shape[2] > 1 else 0] = weight
    return inflated
