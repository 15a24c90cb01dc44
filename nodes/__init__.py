"""What the host sees, in the order of the data flow.

EasyAnimateLoadTransformer ── MODEL ─────────────────────────────┐
EasyAnimateLoadVAE ────────── VAE ──────────────────────────┐    │
EasyAnimateLoadTextEncoder ── CLIP                          │    │
prompt ─ EasyAnimateEncodePrompt ── CONDITIONING ───────────┼────┼─ EasyAnimateSampler ── LATENT ─┐
size ─── EasyAnimateEmptyLatent ─── LATENT ─────────────────┼────┘                                │
video ── EasyAnimateEncode ──────── LATENT (instead) ───────┴───────────── EasyAnimateDecode ─────┴─ IMAGE
"""

from . import decoding, latents, loaders, prompts, sampling

NODES = [*loaders.NODES, *prompts.NODES, *latents.NODES, *sampling.NODES, *decoding.NODES]
