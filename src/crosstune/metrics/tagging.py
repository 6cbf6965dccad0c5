"""Scores of tag sequences: accuracy by word, and F1 of chunks in two readings, as sums over sentences.

``xtreme_f1`` is what XTREME reports: micro F1 of the chunks that seqeval 1.2.2 finds by default. There the
first letter of a tag is its prefix and the rest its type. On bare part-of-speech tags that merges equal
neighbours and takes SCONJ and CCONJ for one type; on IOB2 it lets I-PER open a chunk. ``strict_f1`` is micro
F1 of IOB2 chunks that begin with B and go on with I of the same type, as seqeval's strict mode has it: what
begins with I is no chunk there, neither of the gold tags nor of those told.
"""

from collections.abc import Iterable, Sequence

Chunk = tuple[str, int, int]
"""Type, first word and last word."""


def chunks(tags: Sequence[str]) -> set[Chunk]:
    """Chunks as seqeval finds them by default (conlleval's rules, for IOBES prefixes)."""
    spans: set[Chunk] = set()
    before, kind_before, start = "O", "", 0
    for i, tag in enumerate([*tags, "O"]):
        prefix, kind = tag[0], tag[1:].split("-", 1)[-1] or "_"
        changes = kind != kind_before
        ends = before in "ES" or (before in "BI" and prefix in "BSO") or (before not in "O." and changes)
        if ends:
            spans.add((kind_before, start, i - 1))
        if prefix in "BS" or (before in "ESO" and prefix in "EI") or (prefix not in "O." and changes):
            start = i
        before, kind_before = prefix, kind
    return spans


def strict_chunks(tags: Sequence[str]) -> set[Chunk]:
    """Chunks of IOB2: B-X and each I-X right behind it; an I-X behind anything else is in none."""
    spans: set[Chunk] = set()
    kind, start = "", 0
    for i, tag in enumerate([*tags, "O"]):
        if kind and tag != f"I-{kind}":
            spans.add((kind, start, i - 1))
            kind = ""
        if tag.startswith("B-"):
            kind, start = tag[2:], i
    return spans


def cannot_score(metric: str, tags: Sequence[str]) -> str:
    """Why a metric of chunks would take some tags for others; "" where it reads them all."""
    if metric == "strict_f1":
        begun = {tag[2:] for tag in tags if tag.startswith("B-")}
        for tag in tags:
            if tag != "O" and (tag[:2] not in ("B-", "I-") or tag[2:] not in begun):
                return (
                    f"strict_f1 reads O, B-X and I-X, each I-X with a B-X, and {tag} would be in no name; "
                    "take tag_accuracy, or write the tags in IOB2"
                )
    if metric == "xtreme_f1" and (odd := [tag for tag in tags if tag[0] == "O" and tag != "O"]):
        return f"xtreme_f1 takes a first letter O for no name, and {odd[0]} has it; call that tag otherwise"
    return ""


def begins_with_i(tags: Sequence[str]) -> str:
    """The first I-X that would begin a name, which `strict_chunks` leaves out; "" if there is none."""
    pairs = zip(["O", *tags], tags, strict=False)
    return next((tag for last, tag in pairs if tag[:2] == "I-" and last not in (tag, f"B-{tag[2:]}")), "")


def unopened_names(golds: Iterable[str]) -> list[str]:
    """What to tell of gold tags, parted by spaces, with names that ``strict_f1`` does not count."""
    count = sum(begins_with_i(gold.split(" ")) != "" for gold in golds)
    line = (
        f"strict_f1 leaves out names that begin with I-, as {count} test sentences have; xtreme_f1 has them"
    )
    return [line] if count else []


def tag_sums(answer: str, golds: Sequence[str], choices: Sequence[str]) -> list[float]:
    """Of a sentence's tags: right words and words; in both readings, chunks shared, told and gold."""
    told, gold = answer.split(" "), golds[0].split(" ")
    numbers = [sum(a == b for a, b in zip(told, gold, strict=True)), len(gold)]
    for reading in (chunks, strict_chunks):
        predicted, reference = reading(told), reading(gold)
        numbers += [len(predicted & reference), len(predicted), len(reference)]
    return [float(number) for number in numbers]
