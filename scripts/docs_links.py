"""For the site, which has no other files: links out of docs/ become the paths that they name."""

import re
from typing import Any

_OUT = re.compile(r"(?<!!)\[([^\]]+)\]\((\.\./[^)#\s]+)[^)]*\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """MkDocs calls this with the text of each page."""

    def named(match: re.Match[str]) -> str:
        text, path = match[1], match[2].removeprefix("../")
        return text if path in text or text in path else f"{text} (`{path}`)"

    return _OUT.sub(named, markdown)
