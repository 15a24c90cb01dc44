"""What the host sees, in the order of the data flow.

EasyAnimateLoadTransformer ── MODEL ─────────────────────────────┐
EasyAnimateLoadVAE ────────── VAE ──────────────────────────┐    │
EasyAnimateLoadTextEncoder ── CLIP                          │    │
prompt ─ EasyAnimateEncodePrompt ── CONDITIONING ───────────┼────┼─ EasyAnimateSampler ── LATENT ─┐
size ─── EasyAnimateEmptyLatent ─── LATENT ─────────────────┼────┤                                │
image ── EasyAnimateImageToVideo ── CONDITIONING, LATENT ───┼────┤ (instead)                      │
video ── EasyAnimateInpaintVideo ── CONDITIONING, LATENT ───┼────┤ (instead)                      │
video ── EasyAnimateControlToVideo  CONDITIONING, LATENT ───┼────┤ (instead)                      │
video ── EasyAnimateEncode ──────── LATENT (instead) ───────┴────┴─────── EasyAnimateDecode ──────┴─ IMAGE
poses ── EasyAnimateCameraPath ──── WAN_CAMERA_EMBEDDING
points ─ EasyAnimateTrajectory ──── IMAGE, a control video
footage ─ EasyAnimateSplitVideos ─ ScoreClips ─ FilterClips ─ CaptionClips ── dataset
clips + MODEL, VAE, CLIP ─ EasyAnimateTrainLora ── MODEL
clips + MODEL, VAE, CLIP ─ EasyAnimateTrainMotionModule ── MODEL
"""

from . import conditioning, control, dataset, decoding, latents, loaders, prompts, sampling, training

NODES = [
    *loaders.NODES,
    *prompts.NODES,
    *conditioning.NODES,
    *control.NODES,
    *latents.NODES,
    *sampling.NODES,
    *decoding.NODES,
    *dataset.NODES,
    *training.NODES,
]
