"""Write the n-gram profiles of ``crosstune.metrics.profiles``, one language a line, from the UDHR.

    python scripts/build_profiles.py

Read is udhr/udhr2.zip under $CROSSTUNE_DATA, of the public repository nltk/nltk_data. Only varieties in
Latin script are taken, those of the language table, each from the first of its texts.
"""

import gzip
import os
import re
import sys
import zipfile
from collections import Counter, defaultdict
from pathlib import Path

from crosstune.errors import UserError
from crosstune.languages import LANGUAGES, find
from crosstune.metrics.profiles import ORDERS, ngrams

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "src" / "crosstune" / "metrics" / "profiles.txt.gz"
KEPT = 300
"""N-grams of each order."""

# Texts whose name is not that of the variety they are in: Twi under Akan's code.
ALSO = {"aka_asante": "tw", "aka_akuapem": "ak"}
SCRIPTS = {"latn", "cyrl", "arab", "hans", "hant", "mong", "tfng", "tglg"}


def texts(archive: Path) -> dict[str, str]:
    """The declarations in Latin script by canonical code."""
    read: dict[str, str] = {}
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            stem = Path(name).stem
            base, *rest = stem.split("_")
            script = next((part for part in rest if part in SCRIPTS), "")
            try:
                row = find(ALSO.get(stem) or (f"{base}_{script}" if script else base))
            except UserError:
                continue
            if row.script == "Latn" and re.fullmatch(r"[a-z]{3}", base):
                read.setdefault(row.code, opened.read(name).decode("utf-8"))
    return read


def profile(text: str) -> str:
    """Of each order the total, then the n-grams kept, by falling count."""
    counts = {n: Counter[str]() for n in ORDERS}
    for n, gram in ngrams(text):
        counts[n][gram] += 1
    orders = []
    for n in ORDERS:
        by_count = defaultdict(list)
        for gram, count in sorted(counts[n].items(), key=lambda item: (-item[1], item[0]))[:KEPT]:
            by_count[count].append(gram.replace(" ", "_"))
        groups = (f"{count}:{' '.join(grams)}" for count, grams in by_count.items())
        orders.append("|".join([str(counts[n].total()), *groups]))
    return "\t".join(orders)


def main() -> None:
    """Write the file, or the one that is named."""
    data = Path(os.environ.get("CROSSTUNE_DATA", ROOT / "../shared/data"))
    out = Path(sys.argv[1]) if len(sys.argv) > 1 else OUT
    lines = [f"{code}\t{profile(text)}\n" for code, text in sorted(texts(data / "udhr/udhr2.zip").items())]
    out.write_bytes(gzip.compress("".join(lines).encode("utf-8"), mtime=0))
    print(f"{out}: {len(lines)} of {len(LANGUAGES)} varieties, {out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
