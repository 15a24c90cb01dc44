"""A pack with the inner names of ours, imported as it should be: `.nodes`, `.utils`, `.easyanimate_models`."""

from .nodes import NODE_CLASS_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS"]
