"""Not ours."""

OWNER = "first"
