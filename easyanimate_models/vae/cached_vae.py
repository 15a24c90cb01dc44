"""The video VAEs of V4, V5 and V5.1, whose convolutions remember the slice before: no seams in time."""

from .layers import CausalTime, PairTime
from .slice_vae import SliceVAE
from .slicing import CAUSAL, PAIRS


class CachedVAE(SliceVAE):
    """V5 and V5.1: encoder and decoder causal from the first frame to the last, four frames a latent.

    Its norms are over single frames, its attention too (V5), or it has none (V5.1).
    """

    plan, time = CAUSAL, CausalTime()


class CachedDecoderVAE(SliceVAE):
    """V4: the encoder of V3, and a decoder that remembers the pair of latents before."""

    plan, decoder_time = PAIRS, PairTime()
