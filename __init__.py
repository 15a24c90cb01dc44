"""EasyAnimate for ComfyUI: hands the nodes to the host."""

from comfy_api.latest import ComfyExtension

from .easyanimate_models.files.example_clip import bring_example_clip
from .easyanimate_models.files.model_files import register_folder
from .nodes import NODES

WEB_DIRECTORY = "./web"  # help pages

register_folder()
bring_example_clip()


class EasyAnimateExtension(ComfyExtension):
    async def get_node_list(self):
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    return EasyAnimateExtension()
