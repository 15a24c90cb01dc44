"""What the latents of each VAE look like to the host: channels, scale, ratios, preview colours."""

import comfy.latent_formats


class SliceLatents(comfy.latent_formats.LatentFormat):
    """Four channels, 8x8 in space and 4x in time (V3)."""

    latent_channels = 4
    latent_dimensions = 3
    spacial_downscale_ratio = 8
    temporal_downscale_ratio = 4
    scale_factor = 0.18215
    taesd_decoder_name = None  # the image previewer would be handed a video
    latent_rgb_factors = [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ]


def with_preview(factors: list[list[float]], bias: list[float]) -> SliceLatents:
    """The same latents with preview colours of their own."""
    latents = SliceLatents()
    latents.latent_rgb_factors = factors
    latents.latent_rgb_factors_bias = bias
    return latents
