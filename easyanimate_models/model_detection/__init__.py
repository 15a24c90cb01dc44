"""From tensors (and config.json) to a release and its network config: the only place that looks at shapes.

A file per architecture, each with a `Detector`. To add one, write its file and list it here, the specific before the
general.
"""

from ..files.checkpoint import Checkpoint
from ..supported_models import Release
from ..text_encoders.qwen2_vl import Qwen2VLTextEncoder
from ..text_encoders.t5 import T5TextEncoder
from . import encoders, motion_dit, probes, vae

TRANSFORMERS: list[probes.Detector] = [motion_dit.MOTION_DIT]
VAES: list[probes.Detector] = [vae.VIDEO_VAE, vae.IMAGE_VAE]
TEXT_ENCODERS: list[probes.Detector] = [encoders.T5, encoders.QWEN2_VL]


def with_our_names(checkpoint: Checkpoint, detectors: list[probes.Detector]) -> Checkpoint:
    """A file under our names, whichever of these architectures it is of; what is none comes back as it is."""
    for detector in detectors:
        checkpoint = detector.rename(checkpoint)
    return checkpoint


def detect_transformer(checkpoint: Checkpoint) -> Release:
    """The release's class, holding the network config, of a file under our names. Raises `CheckpointError`."""
    motion_dit.require_whole(checkpoint)
    what = "not an EasyAnimate V1 to V3 transformer; choose the transformer's file or folder"
    return probes.detect(TRANSFORMERS, checkpoint, what)


def detect_vae(checkpoint: Checkpoint) -> vae.DetectedVAE:
    """Which VAE a file under our names is. Raises `CheckpointError`."""
    return probes.detect(VAES, checkpoint, "not an EasyAnimate video VAE; choose the VAE's file or folder")


def detect_text_encoder(checkpoint: Checkpoint) -> T5TextEncoder | Qwen2VLTextEncoder:
    """Which text encoder a file under our names is. Raises `CheckpointError`."""
    what = "not a text encoder of EasyAnimate; choose t5xxl (V1 to V3), Qwen2-VL (V5.1) or a release folder"
    return probes.detect(TEXT_ENCODERS, checkpoint, what)
