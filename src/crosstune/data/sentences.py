"""Sentences of a paragraph, by a rule that is good enough for English text that models are trained on."""

import re

# A period ends no sentence behind a single letter or one of these.
_SHORT = re.compile(
    r"(?:\b[A-Z]|\b(?:Mr|Mrs|Ms|Dr|Prof|Gen|Col|Lt|Sgt|Capt|Gov|Sen|Rep|Rev|St|Jr|Sr|Mt|No|vs|etc"
    r"|cf|ca|c|Inc|Ltd|Co|Corp|al|ed|vol|pp|fig|approx|e\.g|i\.e|U\.S|U\.K|a\.m|p\.m))\.$"
)
_END = re.compile(r"[.!?。！？][\"'”’)\]]*\s+(?=[\"'“‘(\[]*[A-Z0-9])")


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each sentence: it ends in . ! or ? before a space and a capital letter or a digit.

    Abbreviations and initials end none.
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        end = match.start() + 1
        if text[match.start()] == "." and _SHORT.search(text[start:end]):
            continue
        spans.append((start, match.start() + len(match[0].rstrip())))
        start = match.end()
    return [*spans, (start, len(text))] if text[start:].strip() else spans
