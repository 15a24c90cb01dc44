from .easyanimate_models.sd import OWNER
from .utils import halved


class Halve:
    CATEGORY, FUNCTION, RETURN_TYPES = "tests", "halve", ("IMAGE",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"images": ("IMAGE",)}}

    def halve(self, images):
        return (halved(images) if OWNER == "second" else images,)


NODE_CLASS_MAPPINGS = {"EasyAnimateTestHalve": Halve}
