"""The video VAEs of V4, V5 and V5.1, whose convolutions remember the slice before: no seams in time."""

from .layers import CausalTime, PairTime
from .slice_vae import SliceVAE
from .slicing import CAUSAL, PAIRS
from .video_vae import PeakMemory


class CachedVAE(SliceVAE):
    """V5 and V5.1: encoder and decoder causal from the first frame to the last, four frames a latent.

    Its norms are over single frames, its attention too (V5), or it has none (V5.1).
    """

    plan, time = CAUSAL, CausalTime()
    memory = PeakMemory(encode=8, decode=13, kept_encode=8.6, kept_decode=14.4, copied_encode=1, copied_decode=4)


class CachedDecoderVAE(SliceVAE):
    """V4: the encoder of V3, and a decoder that remembers the pair of latents before."""

    plan, decoder_time = PAIRS, PairTime()
    memory = PeakMemory(encode=12, decode=24, kept_decode=14.4, copied_encode=4, copied_decode=4)
