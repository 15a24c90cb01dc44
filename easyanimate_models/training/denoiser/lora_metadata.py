"""What the header of a LoRA file says of its training: Stability's `modelspec` keys and kohya's `ss_` keys.

Model managers and trainers show both. What they have no key for is under `easyanimate`, as JSON.
"""

import json
import re
import time
from datetime import datetime, timezone

import comfy.model_base

from ..checkpoints import CONTENTS

IMPLEMENTATION = "https://github.com/aigc-apps/EasyAnimate"
PREDICTIONS = {comfy.model_base.ModelType.EPS: "epsilon", comfy.model_base.ModelType.V_PREDICTION: "v"}
KOHYA = {  # its key -> the setting of ours; all values are text
    "ss_network_dim": "rank",
    "ss_network_alpha": "alpha",
    "ss_learning_rate": "learning_rate",
    "ss_unet_lr": "learning_rate",
    "ss_lr_scheduler": "schedule",
    "ss_lr_warmup_steps": "warmup",
    "ss_max_train_steps": "steps",
    "ss_optimizer": "optimizer",
    "ss_max_grad_norm": "clip",
    "ss_gradient_accumulation_steps": "accumulate",
    "ss_mixed_precision": "precision",
    "ss_seed": "seed",
    "ss_total_batch_size": "batch",
    "ss_num_train_images": "clips",
    "ss_caption_dropout_rate": "text_dropout",
    "ss_min_snr_gamma": "min_snr",
}


def lora_metadata(title: str, steps: int, settings: dict, release) -> dict[str, str]:
    """The header of a LoRA for a `release`, after so many steps with the `settings` of its run."""
    version = re.sub(r"^V(\d)(\d)$", r"V\1.\2", type(release).__name__.removeprefix("EasyAnimate"))
    contents = settings[CONTENTS]
    side, now = settings["side"], datetime.now(timezone.utc)
    metadata = {
        "format": "pt",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"easyanimate-{version.lower()}/lora",
        "modelspec.implementation": IMPLEMENTATION,
        "modelspec.title": title,
        "modelspec.description": f"A LoRA for EasyAnimate {version}, {steps} steps on {settings['clips']} clips.",
        "modelspec.date": now.isoformat(timespec="seconds"),
        "modelspec.resolution": f"{side}x{side}",
        "ss_output_name": title,
        "ss_base_model_version": f"easyanimate_{version.lower()}",
        "ss_sd_model_hash": contents["transformer"],
        "ss_network_module": "networks.lora",
        "ss_steps": str(steps),
        "ss_resolution": f"({side}, {side})",
        "ss_training_finished_at": str(time.time()),
        "easyanimate.release": version,
        "easyanimate.contents": json.dumps(contents),
        "easyanimate.settings": json.dumps({name: v for name, v in settings.items() if name != CONTENTS}),
    }
    if release.prediction in PREDICTIONS:  # the keys know no flow
        metadata["modelspec.prediction_type"] = PREDICTIONS[release.prediction]
    if settings["text"]:
        metadata["ss_text_encoder_lr"] = str(settings["learning_rate"])
    return metadata | {key: str(settings[name]) for key, name in KOHYA.items()}
