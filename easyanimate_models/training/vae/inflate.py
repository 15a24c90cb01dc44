"""A video VAE out of an image VAE (paper section 3.2): to a still image it does what the image VAE did."""

from torch import Tensor

from ...model_detection import RELEASED_SCALING
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
    """A `kind` of video VAE whose convolutions see what `image`'s see, in the frame itself, and nothing beside it.

    Frames that stand still are decoded as `image` decodes them. Raises `ValueError` when the two don't fit.
    """
    config = image.config
    if config.layers != LAYERS:
        raise ValueError(f"An image VAE of {config.layers} layers a level can't be inflated; it needs {LAYERS}.")
    numbers = config.channels, config.layers, config.latent_channels, config.norm_groups
    video = kind(SliceVAEConfig(*numbers, RELEASED_SCALING), **ops)
    wanted = video.state_dict()
    frame = 2 - video.time.zeros  # of three: in the middle, or the last where the two before it are the past
    weights = {}
    for name, tensor in image.state_dict().items():
        for theirs, ours in RENAMED:
            name = name.replace(theirs, ours)
        weights[name] = _with_time(tensor, wanted[name], frame) if tensor.ndim == 4 else tensor
    video.load_state_dict(weights)
    return video


def _with_time(flat: Tensor, like: Tensor, frame: int) -> Tensor:
    """Weights of a convolution over images, in one of over time that is otherwise zero."""
    deep = flat.new_zeros(like.shape)
    deep[:, :, frame if like.shape[2] > 1 else 0] = flat
    return deep
