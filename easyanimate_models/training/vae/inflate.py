"""A video VAE inflated from an image VAE (paper section 3.2): on a still image it does what the image VAE did."""

from torch import Tensor

from ...latent_formats import SliceLatents
from ...vae.image_vae import ImageVAE
from ...vae.slice_vae import SliceVAE, SliceVAEConfig

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


def _with_time(weight: Tensor, like: Tensor, frame: int) -> Tensor:
    """The weight of a 2-D convolution in one of the shape of `like`, at `frame`; zero at the other frames."""
    inflated = weight.new_zeros(like.shape)
    inflated[:, :, frame if like.shape[2] > 1 else 0] = weight
    return inflated
