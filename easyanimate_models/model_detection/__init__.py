"""From tensors (and config.json) to a release and its network config: the only place that looks at shapes.

A file per architecture, each with a `Detector`. To add one, write its file and list it here, the specific before the
general.
"""

from dataclasses import replace

from ..files.checkpoint import Checkpoint, number_in
from ..latent_formats import with_preview
from ..supported_models import DEFAULT_CFG, Release
from ..text_encoders.qwen2_vl import Qwen2VLTextEncoder
from ..text_encoders.t5 import T5TextEncoder
from . import encoders, hunyuan_dit, mmdit, motion_dit, probes, vae

TRANSFORMERS: list[probes.Detector] = [hunyuan_dit.HUNYUAN_DIT, motion_dit.MOTION_DIT, mmdit.MMDIT]
VAES: list[probes.Detector] = [vae.VIDEO_VAE, vae.IMAGE_VAE]
TEXT_ENCODERS: list[probes.Detector] = [encoders.T5, encoders.QWEN2_VL, encoders.BERT]


def with_our_names(checkpoint: Checkpoint, detectors: list[probes.Detector]) -> Checkpoint:
    """A file under our names, whichever of these architectures it is of; what is none comes back as it is."""
    for detector in detectors:
        checkpoint = detector.rename(checkpoint)
    return checkpoint


def detect_transformer(checkpoint: Checkpoint) -> Release:
    """The release's class, holding the network config, of a file under our names. Raises `CheckpointError`."""
    motion_dit.require_whole(checkpoint)
    probes.require_whole(TRANSFORMERS, checkpoint)
    what = "not a transformer of EasyAnimate; choose the transformer's file or folder"
    release: Release = probes.detect(TRANSFORMERS, checkpoint, what)
    release.cfg = number_in(checkpoint.config, DEFAULT_CFG, release.cfg, checkpoint.path.name, float)
    if probes.PREVIEW[0] in checkpoint.config:
        colours = probes.preview_in(checkpoint, release.latent_format.latent_channels)
        with_preview(release.latent_format, *colours)
    return release


def detect_vae(checkpoint: Checkpoint) -> vae.DetectedVAE:
    """Which VAE a file under our names is. Raises `CheckpointError`."""
    detected = probes.detect(VAES, checkpoint, "not an EasyAnimate video VAE; choose the VAE's file or folder")
    return replace(detected, video=vae.video_defaults(checkpoint, detected.release.video))


def detect_text_encoder(checkpoint: Checkpoint) -> T5TextEncoder | Qwen2VLTextEncoder:
    """Which text encoder a file under our names is; V4 and V5 have two. Raises `CheckpointError`."""
    what = (
        "not a text encoder of EasyAnimate; choose t5xxl (V1 to V3), Qwen2-VL (V5.1), BERT and mT5 (V4, V5), or a "
        "release folder"
    )
    return probes.detect(TEXT_ENCODERS, checkpoint, what)
