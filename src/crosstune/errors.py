"""The one kind of error a person can mend, and the nearest right name for a wrong one."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave: a name, a file, a setting.

    Its text is one line that names the file and line where there is one, what was found,
    and what to do. The command line prints it without a traceback and exits with code 2.
    """


def did_you_mean(wrong: str, known: Iterable[str]) -> str:
    """``'; did you mean "lora"?'`` for the nearest known name, or the known names when none is near."""
    names = sorted(known)
    near = difflib.get_close_matches(wrong.lower(), names, n=1, cutoff=0.5)
    if near:
        return f'; did you mean "{near[0]}"?'
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return f"; known: {shown}"
