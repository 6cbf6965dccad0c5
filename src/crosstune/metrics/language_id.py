"""Which language an answer is in, for the rate of answers in the wrong language.

The measure is that of arXiv 2310.09917 and 2402.12279.

An answer is judged by the language that was asked for and the one that the model was tuned on, never by what
else a study evaluates. The script decides first. Where the two share it, an identifier chooses between them
(py3langid, naive Bayes over byte n-grams; where it does not know both, `crosstune.metrics.profiles`); a clear
third language is named. What cannot be decided says so. The thresholds below were measured with
``benchmarks/language_id.py`` and ``language_profiles.py``; see docs/language-identification.md.
"""

import copy
import functools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import regex  # type: ignore[import-untyped]

from crosstune.languages import LANGUAGES, find
from crosstune.metrics.profiles import ProfileIdentifier, profiles

IDENTIFIER = 3
"""Version of the rules, in records. Those without one chose among all the languages of their study; those of
version 2 had no profiles, and told nothing of the pairs that need them."""

MIXED = "mixed"
UNDECIDABLE = "undecidable"
OTHER = "other"

# Of native SIB-200 sentences in other scripts 2 in 1000 have more Latin letters, capitalised words left out.
FOREIGN_SHARE = 0.2
# Letters it takes to say anything at all, in every script: fewer are a unit, a numeral or a symbol.
MIN_SCRIPT_LETTERS = 4
# From here on the identifier is right in over 95 of 100 texts on every corpus measured.
MIN_LETTERS = 10
# Below this a name decides too often ("Carolina Panthers" looks English in any language).
MIN_PROBABILITY = 0.9
# A third language is named where, of all of the script, it has this and the target and the source together
# at most that: never so in 2,640 runs of SIB-200 in the target itself, from 11 letters on.
MIN_THIRD, MAX_EXPECTED = 0.8, 0.05
# A shorter text may be a foreign name ("Kikuyu language" in Kazakh looks Ukrainian).
MIN_THIRD_LETTERS = 20
# A longer text is cut into pieces of this many letters: the shortest that hardly ever call one language two.
PIECE_LETTERS = 15
# Profiles are right in 99 of 100 texts from here on; their pieces are longer, and have to be surer.
MIN_PROFILE_LETTERS = 21
PROFILE_PIECE_LETTERS, MIN_PIECE_PROBABILITY, FOREIGN_PIECES = 30, 0.999, 0.3
# Half of Japanese letters are kana; 4 in 1000 runs of ten letters hold none.
KANA_SHARE = 0.1
MIN_HAN_WITHOUT_KANA = 10

_SCRIPTS_OF = {"Hans": ("Hani",), "Hant": ("Hani",), "Jpan": ("Hani", "Hira", "Kana")}
_EAST_ASIAN = frozenset({"Hani", "Hira", "Kana"})
# In other scripts a letter stands for a syllable or a word, or vowels are left out: it counts as two.
_ALPHABETS = frozenset({"Latn", "Cyrl", "Grek", "Armn", "Geor", "Adlm", "Nkoo", "Olck", "Tfng", "Zzzz"})
# Markup, addresses, commands of LaTeX, and what has digits in it ("CO2", "10kg") are in no language.
_NO_LANGUAGE = regex.compile(
    r"</?[A-Za-z][^<>]{0,200}>|&[A-Za-z]{2,8};|\\[A-Za-z]+"
    r"|(?:https?://|www\.)\S+|[\w.+-]{1,64}@[\w.-]+|\b(?:[A-Za-z0-9-]{1,63}\.){1,9}(?:com|org|net|edu|gov)\b\S*"
    r"|[A-Za-z]*+[0-9][A-Za-z0-9]*"
)
# Languages with two scripts in everyday use, where an answer in the second is in the right language.
_SECOND_VARIETY = {"sr": "sr-Latn", "uz": "uz-Cyrl", "bs": "bs-Cyrl"}
# Labels of the identifier that may be taken for one another: none is a third language beside another of them.
_ALIKE = (frozenset({"ar", "ary", "arz"}), frozenset({"no", "nn"}), frozenset({"bs", "hr", "sr"}))
# Of languages that profiles tell from English, but not surely from this one.
_NEAR = {"rn": "rw", "ast": "es"}
# The rules were measured without these, which are near to much larger languages or read by few.
_NEVER_THIRD = frozenset({"ext", "grc", "hbo", "vo", "wa", "wuu"})
# The identifier's own names. It knows other varieties with a script in their code not at all.
_LABELS = {"nb": "no", "gn": "gug", "ki": "kik", "ff": "fuv", "sr-Latn": "sr"}


def _runs_of_one_script() -> "regex.Pattern[str]":
    """Matches a run of one script, which names the group; Zzzz is any script that no language here has."""
    counts = Counter(s for row in LANGUAGES.values() for s in _SCRIPTS_OF.get(row.script, (row.script,)))
    named = [rf"(?P<{name}>\p{{sc={name}}}[\p{{sc={name}}}\p{{M}}]*+)" for name, _ in counts.most_common()]
    rest = r"(?P<Zzzz>[\p{L}--\p{sc=Zyyy}--\p{sc=Zinh}]++)"
    return regex.compile("|".join([*named, rest]), flags=regex.VERSION1)


_RUN = _runs_of_one_script()


@dataclass(frozen=True, slots=True)
class _Plan:
    """The candidates by script group, the label each stands for, and whether they can be told apart."""

    answer: Mapping[str, str]
    in_group: Mapping[str, tuple[str, ...]]
    target_groups: tuple[str, ...]
    measurable: bool


def script_shares(text: str) -> dict[str, float]:
    """Share in [0, 1] of each script among a text's letters, by ISO 15924 code, largest first.

    Letters that many scripts use (the Japanese length mark, modifier letters) do not count; scripts that no
    language of `crosstune.languages` is written in are "Zzzz" together.
    """
    counts: Counter[str] = Counter()
    for run in _RUN.finditer(text):
        counts[run.lastgroup] += _letters(run[0])
    return {script: count / counts.total() for script, count in counts.most_common() if count}


def identify(text: str, target: str, source: str) -> str:
    """Language of an answer: the target asked for, the source the model was tuned on, or another.

    Codes are any that `crosstune.languages.find` takes.

    Returns:
        The canonical code of the target, of the source, or of a third language that is clearly meant;
        ``"other"``: a script that neither has; ``"mixed"``: code-switched; ``"undecidable"``: hardly any
        letters, a text too short or too alike in both, or a pair that is not `measurable`.

    Raises:
        UserError: Unknown code.
    """
    plan = _plan(target, source)
    if not plan.measurable:
        return UNDECIDABLE
    group, letters = _script_group(_NO_LANGUAGE.sub(" ", text), plan)
    if group not in plan.in_group:
        return group
    label = _among(letters, group, plan.in_group[group])
    return plan.answer.get(label, label)


def measurable(target: str, source: str) -> bool:
    """Whether answers in two languages can be told apart at all.

    Not where they share a script and no identifier knows both, or it knows them by one name only (simplified
    and traditional Chinese): then no rate can be given, not even for what is in a third script.

    Raises:
        UserError: Unknown code.
    """
    return _plan(target, source).measurable


def _letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def _groups(script: str) -> tuple[str, ...]:
    """Chinese and Japanese share Han letters, so their scripts are one group."""
    return ("Hani",) if script in _SCRIPTS_OF or script in _EAST_ASIAN else (script,)


def _enough(group: str, letters: int) -> bool:
    return letters * (1 if group in _ALPHABETS else 2) >= MIN_SCRIPT_LETTERS


@functools.lru_cache(maxsize=1024)
def _plan(target: str, source: str) -> _Plan:
    target, source = find(target).code, find(source).code
    answer = {target: target, source: source}
    for code in (target, source):
        if code in _SECOND_VARIETY:
            answer.setdefault(_SECOND_VARIETY[code], code)
    in_group: dict[str, list[str]] = defaultdict(list)
    for code in answer:
        in_group[_groups(LANGUAGES[code].script)[0]].append(code)
    target_groups = [group for group, codes in in_group.items() if any(answer[c] == target for c in codes)]
    # Kana tell Japanese from Chinese without the identifier.
    apart = [[c for c in codes if c != "ja"] for codes in in_group.values()]
    return _Plan(
        answer,
        {group: tuple(codes) for group, codes in in_group.items()},
        tuple(target_groups),
        all(len(codes) < 2 or _all_known(codes) or _profiled(codes) for codes in apart),
    )


def _all_known(codes: Iterable[str]) -> bool:
    return all(_LABELS.get(code, code) in _known() for code in codes)


def _profiled(codes: Iterable[str]) -> bool:
    return set(codes) <= profiles().keys()


def _script_group(text: str, plan: _Plan) -> tuple[str, str]:
    """The script group that the text is in and its words in it, or a label that ends the matter.

    Capitalised words of another script do not speak against the target's: names keep their letters. Nor does
    a letter or two: units and symbols are written alike everywhere.
    """
    every: Counter[str] = Counter()
    uncapitalised: Counter[str] = Counter()
    words: dict[str, list[str]] = defaultdict(list)
    for run in _RUN.finditer(text):
        group = _groups(run.lastgroup)[0]
        letters = _letters(run[0])
        every[group] += letters
        uncapitalised[group] += 0 if run[0][0].isupper() else letters
        words[group].append(run[0])
    total = every.total()
    if len(every) == 1:
        group = next(iter(every))
        words[group] = [text]
    for group in plan.target_groups:
        foreign = uncapitalised.total() - uncapitalised[group]
        few = not any(_enough(other, n) for other, n in uncapitalised.items() if other != group)
        if every[group] and (few or foreign <= FOREIGN_SHARE * (foreign + every[group])):
            return (group, " ".join(words[group])) if _enough(group, every[group]) else (UNDECIDABLE, "")
    if not total or not any(_enough(group, letters) for group, letters in every.items()):
        return UNDECIDABLE, ""
    group, count = every.most_common(1)[0]
    few = not any(_enough(other, letters) for other, letters in every.items() if other != group)
    if not few and total - count > FOREIGN_SHARE * total:
        return MIXED, ""
    return (group, " ".join(words[group])) if group in plan.in_group else (OTHER, "")


def _among(text: str, group: str, candidates: tuple[str, ...]) -> str:
    """One of the candidates, which share the text's script, a third language, or a label for none."""
    if group == "Hani":
        candidates = _by_kana(text, candidates)
        if len(candidates) == 1:
            return candidates[0]
    code_of = {_LABELS.get(code, code): code for code in candidates}
    if _letters(text) < MIN_LETTERS or not code_of.keys() <= _known():
        return candidates[0] if len(candidates) == 1 else _by_profiles(text, candidates)
    if third := _third(text, group, frozenset(code_of)):
        return third
    if len(candidates) == 1:
        return candidates[0]
    identifier = _identifier(tuple(sorted(code_of)))
    if _is_mixed(text, identifier):
        return MIXED
    label, probability = identifier.classify(text)
    return code_of[label] if probability >= MIN_PROBABILITY else UNDECIDABLE


def _by_profiles(text: str, candidates: tuple[str, ...]) -> str:
    """The same by profiles; a third language is one that py3langid names too."""
    if _letters(text) < MIN_PROFILE_LETTERS:
        return UNDECIDABLE
    known = frozenset(_LABELS.get(code, code) for code in candidates) & _known()
    third = _third(text, "Latn", known)
    if third and _profiled([third]) and third not in {_NEAR.get(code) for code in candidates}:
        ranked = dict(_profile_identifier((*candidates, *_in_both())).rank(text))
        if ranked[third] >= MIN_THIRD and sum(ranked[code] for code in candidates) <= MAX_EXPECTED:
            return third
    identifier = _profile_identifier(candidates)
    if _is_mixed(text, identifier, PROFILE_PIECE_LETTERS, MIN_PIECE_PROBABILITY, FOREIGN_PIECES):
        return MIXED
    label, probability = identifier.classify(text)
    return label if probability >= MIN_PROBABILITY else UNDECIDABLE


def _third(text: str, group: str, expected: frozenset[str]) -> str | None:
    """The language of the same script that the text is in, where it is surely none of those expected."""
    if _letters(text) < MIN_THIRD_LETTERS:
        return None
    code_of = _in_script(group)
    ranked = dict(_identifier(tuple(sorted(code_of.keys() | expected))).rank(text))
    best = max(ranked, key=ranked.__getitem__)
    expected = expected.union(*(labels for labels in _ALIKE if labels & expected))
    left = sum(ranked.get(label, 0.0) for label in expected)
    sure = best not in expected and ranked[best] >= MIN_THIRD and left <= MAX_EXPECTED
    return code_of[best] if sure else None


@functools.cache
def _in_script(group: str) -> dict[str, str]:
    """The languages of a script that the identifier may name unasked, by its names for them."""
    labels = {_LABELS.get(code, code): code for code, row in LANGUAGES.items() if row.script == group}
    return {label: labels[label] for label in sorted((labels.keys() & _known()) - _NEVER_THIRD)}


def _by_kana(text: str, candidates: tuple[str, ...]) -> tuple[str, ...]:
    """The candidates left, or the one label, for a text in Han letters and kana.

    All in Han: only where Chinese is expected too can Japanese be told from it, so it always is.
    """
    shares = script_shares(text)
    if shares.get("Hira", 0.0) + shares.get("Kana", 0.0) >= KANA_SHARE:
        return ("ja",)
    if "ja" not in candidates:
        return candidates
    if _letters(text) < MIN_HAN_WITHOUT_KANA:
        return (UNDECIDABLE,)
    return tuple(code for code in candidates if code != "ja") or ("zh",)


def _is_mixed(
    text: str,
    identifier: Any,
    size: int = PIECE_LETTERS,
    surely: float = MIN_PROBABILITY,
    small: float = FOREIGN_SHARE,
) -> bool:
    """Whether pieces of the text are surely in different languages, none of them a small part of it."""
    letters: Counter[str] = Counter()
    for piece, count in _pieces(text, size):
        label, probability = identifier.classify(piece)
        if probability >= surely:
            letters[label] += count
    return len(letters) > 1 and max(letters.values()) <= (1 - small) * letters.total()


def _pieces(text: str, size: int) -> list[tuple[str, int]]:
    """Whole words, about ``size`` letters at a time, with their letters; the last takes what is left."""
    pieces: list[tuple[str, int]] = []
    words: list[str] = []
    letters = 0
    for word in text.split():
        words.append(word)
        letters += _letters(word)
        if letters >= size:
            pieces.append((" ".join(words), letters))
            words, letters = [], 0
    if words and pieces:
        last, count = pieces.pop()
        pieces.append((" ".join([last, *words]), count + letters))
    return pieces


@functools.cache
def _model() -> Any:
    from py3langid import langid  # type: ignore[import-untyped]

    return langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)


@functools.cache
def _known() -> frozenset[str]:
    return frozenset(_model().labels)


@functools.lru_cache(maxsize=1024)
def _identifier(labels: tuple[str, ...]) -> Any:
    """The identifier restricted to these. A copy of its own, so that threads do not change each other's."""
    restricted = copy.copy(_model())
    restricted.set_languages(labels)
    return restricted


@functools.cache
def _in_both() -> tuple[str, ...]:
    """The languages in Latin script that both identifiers know."""
    return tuple(sorted(set(_in_script("Latn").values()) & profiles().keys()))


@functools.lru_cache(maxsize=1024)
def _profile_identifier(codes: tuple[str, ...]) -> ProfileIdentifier:
    return ProfileIdentifier(codes)
