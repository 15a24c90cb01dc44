"""Not ours."""

OWNER = "first"


def inverted(images):
    return 1 - images
