"""JSON that users type into nodes."""

import json
from typing import Any

MAX_NUMBER = 1e20  # in size; larger ones are slips


def parse_json(text: str, what: str) -> Any:
    """The value in `text`, which holds `what` (in the plural); raises `ValueError` that says where it breaks off."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        problem = f"{error.msg} in line {error.lineno}, column {error.colno}"
    except (ValueError, RecursionError):
        problem = "a number or a nesting is too long"
    raise ValueError(f"The {what} are not valid JSON ({problem}); correct the text.")


def is_number(value: object) -> bool:
    """Whether a value from JSON is a number to reckon with: finite, of a sensible size, not true or false."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MAX_NUMBER
