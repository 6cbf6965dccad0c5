import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crosstune.languages import LANGUAGES, find

ROOT = Path(__file__).resolve().parents[2]
DATA = Path(os.environ.get("CROSSTUNE_DATA", ROOT / "../shared/data"))
CSV = ROOT / "src/crosstune/languages/languages.csv"


@pytest.mark.skipif(not (DATA / "language_metadata").is_dir(), reason="language metadata is not here")
def test_the_script_writes_the_committed_table_again(tmp_path):
    script = ROOT / "scripts/build_languages.py"
    out = tmp_path / "languages.csv"
    environment = {**os.environ, "CROSSTUNE_DATA": str(DATA), "PYTHONUTF8": "0", "PYTHONHASHSEED": "random"}
    subprocess.run([sys.executable, script, out], check=True, capture_output=True, env=environment)
    assert out.read_bytes() == CSV.read_bytes()


@pytest.mark.skipif(not (DATA / "sib200").is_dir(), reason="SIB-200 is not here")
def test_every_sib200_folder_is_a_flores_code():
    folders = [path.name for path in (DATA / "sib200/annotated").iterdir() if path.is_dir()]
    assert len(folders) == 135
    assert all(find(folder).flores == folder for folder in folders)


def test_all_205_varieties_of_sib200_have_a_row():
    flores = {row.flores for row in LANGUAGES.values() if row.flores}
    romanised = {"ben_Latn", "hin_Latn", "npi_Latn", "sin_Latn", "urd_Latn"}
    assert len(flores - romanised) == 205
    assert romanised < flores
    assert "nqo_Nkoo" in flores


def test_no_alias_is_claimed_twice_or_shadows_a_row():
    with CSV.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = {row["name"].casefold(): row["code"] for row in rows} | {
        row["code"].casefold(): row["code"] for row in rows
    }
    seen = {}
    for row in rows:
        for alias in filter(None, row["aliases"].split("|")):
            assert seen.setdefault(alias.casefold(), row["code"]) == row["code"], alias
            assert names.get(alias.casefold(), row["code"]) == row["code"], alias
            assert find(alias).code == row["code"], alias
