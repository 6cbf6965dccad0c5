"""JSON inside a page, from which no character can escape."""

import json
import re
from typing import Any

from markupsafe import Markup

# What could end a script element, or a line of it, or is no character at all.
_ACTIVE = re.compile("[<>&\u007f-\u009f\u2028\u2029\ud800-\udfff]")


def embedded_json(value: Any) -> Markup:
    """JSON that is safe inside a script element: no character of it can end the element or open a comment."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Markup(_ACTIVE.sub(lambda match: f"\\u{ord(match[0]):04x}", text))
