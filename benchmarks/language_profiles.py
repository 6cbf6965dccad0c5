"""How well `identify` does with languages that only profiles of the UDHR know (`crosstune.metrics.profiles`).

    python benchmarks/language_profiles.py        # about two minutes on one core; writes the JSON

Texts are SIB-200 and MasakhaPOS under $CROSSTUNE_DATA, in no profile, cut as in language_id.py. English is
the source; answers are in the language asked for, in English, or in a third language.
"""

import argparse
import json
import os
import random
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

from crosstune.languages import LANGUAGES, find
from crosstune.metrics import profiles
from crosstune.metrics.language_id import MIXED, _all_known, identify
from language_id import BINS, by_length, cuts, halves, latin, rule, share, sib200, sib200_lines

OUT = Path(__file__).parent / "results" / "language_profiles.json"
THIRD = ("fr", "de", "es", "sw", "id", "pt", "ha", "it", "nl", "tr", "vi", "yo", "so", "rw", "xh")


def masakhapos(data: Path) -> dict[str, list[str]]:
    """Words by canonical code, and English ones of EWT."""
    texts = {}
    for path in [*sorted((data / "masakhapos").glob("*/test.txt")), data / "udpos" / "en_ewt" / "test.txt"]:
        code = "en" if path.parent.name == "en_ewt" else find(path.parent.name).code
        lines = path.read_text(encoding="utf-8").splitlines()
        texts[code] = [line.split()[0] for line in lines if line.strip()]
    return texts


def new(texts: dict[str, list[str]]) -> list[str]:
    """Those that profiles know and py3langid does not."""
    return latin(texts, lambda code: code in profiles.profiles() and not _all_known([code]))


def sentences(data: Path) -> dict[str, Any]:
    """Whole sentences in the language asked for, and halves of one in each language."""
    lines = sib200_lines(data)
    labels: list[tuple[str, str]] = []
    found: list[bool] = []
    for code in new(sib200(data)):
        labels += [(code, identify(line, code, "en")) for line in lines[code]]
        for line, other in zip(lines[code][:40], lines["en"][40:80], strict=True):
            both = " ".join([*halves(line)[0], *halves(other)[1]])
            found.append(identify(both, code, "en") == MIXED)
    return {
        "sentences": len(labels),
        "right": share([label == code for code, label in labels]),
        "labels": Counter("right" if label == code else label for code, label in labels),
        "halves_found": share(found),
    }


def third(texts: dict[str, list[str]], count: int) -> dict[str, Any]:
    named, wrong = defaultdict(list), defaultdict(list)
    for code in new(texts):
        for spoken in random.Random(code).sample([c for c in THIRD if c in texts], 4):
            for _, index, text in cuts(texts, [spoken], count):
                label = identify(text, code, "en")
                named[index].append(label == spoken)
                wrong[index].append(label in (code, "en"))
    return {"named": by_length(named), "taken_for_target_or_english": by_length(wrong)}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CROSSTUNE_DATA", "../shared/data")))
    parser.add_argument("--snippets", type=int, default=20, help="texts a language and length")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    corpora = {"sib200": sib200(arguments.data), "masakhapos": masakhapos(arguments.data)}
    flores = [c for c, row in LANGUAGES.items() if row.flores and row.script == "Latn"]
    known = [c for c in flores if _all_known([c])]
    result: dict[str, Any] = {
        "snippets": arguments.snippets,
        "profiles": len(profiles.profiles()),
        "latin_flores": {
            "all": len(flores),
            "py3langid": len(known),
            "with_profiles": sum(c in known or c in profiles.profiles() for c in flores),
            "undecidable": sorted(c for c in flores if c not in known and c not in profiles.profiles()),
        },
    }
    for name, texts in corpora.items():
        result[name] = {"codes": new(texts), **rule(texts, new(texts), arguments.snippets)}
    result["sib200_sentences"] = sentences(arguments.data)
    result["third_language_sib200"] = third(corpora["sib200"], arguments.snippets // 4)
    print(json.dumps(result, indent=1, ensure_ascii=False))
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {arguments.out}; lengths in letters: {BINS}")


if __name__ == "__main__":
    main()
