"""A pack that takes names as if it were alone: its modules lie on the path, under names that ours has too."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import dit  # noqa: E402

import easyanimate_models  # noqa: E402


class Invert:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "invert", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def invert(self, images):
        return (dit.inverted(images) if easyanimate_models.OWNER == dit.OWNER == "first" else images,)


NODE_CLASS_MAPPINGS = {"EasyAnimateTestInvert": Invert}
