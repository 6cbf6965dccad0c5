"""One task of each form as the hub has it: paths, columns and numbers of labels as they are published.

Written from the datasets' cards, not from ``hub_datasets.toml``, and served on loopback.
"""

import io
import json
import subprocess
import sys

import polars as pl
import pytest

from hub_server import Repository, serving

CONVERTED, MAIN = "c" * 40, "d" * 40
MMLU = {"question": "Nini?", "option_a": "A1", "option_b": "B1", "option_c": "C1", "option_d": "D1"}
STORY = {f"input_sentence_{n}": f"Hatua {n}." for n in range(1, 5)}
CSQA = {"label": ["A", "B", "C"], "text": ["ka", "ki", "ku"]}
# Task, language -> repository, whether it is the hub's conversion, path, a row, and what the example has.
PUBLISHED: dict[tuple[str, str], tuple[str, bool, str, dict, str, str]] = {
    ("paws-x", "de"): (
        "google-research-datasets/paws-x", False, "de/test-00000-of-00001.parquet",
        {"id": 7, "sentence1": "Eins.", "sentence2": "Zwei.", "label": 0}, "Eins.", "No",
    ),
    ("xstorycloze", "sw"): (
        "juletxara/xstory_cloze", True, "sw/eval/0000.parquet",
        {"story_id": "s", **STORY, "sentence_quiz1": "Hapa.", "sentence_quiz2": "Pale.",
         "answer_right_ending": 2}, "Hatua 4.", "Pale.",
    ),
    ("xwinograd", "ja"): (
        "Muennighoff/xwinograd", True, "jp/test/0000.parquet",
        {"sentence": "猫は_を見た。", "option1": "犬", "option2": "鳥", "answer": "2"}, "猫は", "鳥を見た。",
    ),
    ("x-csqa", "ja"): (
        "INK-USC/xcsr", True, "X-CSQA-jap/validation/0000.parquet",
        {"id": "q", "lang": "jap", "question": {"stem": "何?", "choices": CSQA}, "answerKey": "C"},
        "C. ku", "C",
    ),
    ("global-mmlu", "sw"): (
        "CohereLabs/Global-MMLU", True, "sw/test/0000.parquet",
        {"sample_id": "law/1", "subject": "law", **MMLU, "answer": "B"}, "B. B1", "B",
    ),
    ("include", "mk"): (
        "CohereLabs/include-base-44", True, "North Macedonian/test/0000.parquet",
        {"language": "North Macedonian", "country": "x", **MMLU, "answer": 3}, "D. D1", "D",
    ),
    ("afrixnli", "yo"): (
        "masakhane/afrixnli", True, "yor/test/0000.parquet",
        {"premise": "Ó wá.", "hypothesis": "Kò wá.", "label": 2}, "Kò wá.", "No",
    ),
    ("afrimgsm", "yo"): (
        "masakhane/afrimgsm", True, "yor/test/0000.parquet",
        {"question": "Mélòó?", "answer": None, "answer_number": 18, "equation_solution": None},
        "Mélòó?", "18",
    ),
    ("xlsum", "sw"): (
        "csebuetnlp/xlsum", True, "swahili/test/0000.parquet",
        {"id": "1", "url": "u", "title": "t", "summary": "Fupi.", "text": "Habari ndefu."}, "Habari", "Fupi.",
    ),
    ("crosssum", "sw"): (
        "csebuetnlp/CrossSum", True, "english-swahili/test/0000.parquet",
        {"source_url": "s", "target_url": "t", "text": "Long news.", "summary": "Fupi."},
        "Long news.", "Fupi.",
    ),
    ("wikilingua", "de"): (
        "GEM/wiki_lingua", True, "de/test/0000.parquet",
        {"gem_id": "wikilingua-de-1", "source_language": "de", "source": "Lang.", "target": "Kurz."},
        "Lang.", "Kurz.",
    ),
    ("udpos", "de"): (
        "google/xtreme", False, "udpos.German/test-00000-of-00001.parquet",
        {"tokens": ["Das", "Haus"], "pos_tags": [5, 7]}, "Das Haus", "DET NOUN",
    ),
    ("panx", "de"): (
        "google/xtreme", False, "PAN-X.de/test-00000-of-00001.parquet",
        {"tokens": ["In", "Bonn"], "ner_tags": [0, 5], "langs": ["de", "de"]}, "In Bonn", "O B-LOC",
    ),
}  # fmt: skip

READ = """
import json, sys
from crosstune.tasks import TASKS
for name, language in json.load(sys.stdin):
    try:
        task = TASKS[name](TASKS[name].Options(source="hub"))
        (found,) = task.examples("test", language)
        source = task.sources[0]
        print(json.dumps([found.prompt, found.answers[0], source["repo"], source["commit"]]))
    except Exception as error:
        print(json.dumps([repr(error)]))
"""


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """What each task reads, in one process whose hub is this test's."""
    root = tmp_path_factory.mktemp("hub")
    with serving(root) as hub:
        files: dict[str, dict[str, bytes]] = {}
        for repo, _, path, row, *_ in PUBLISHED.values():
            buffer = io.BytesIO()
            pl.DataFrame([row]).write_parquet(buffer)
            files.setdefault(repo, {})[path] = buffer.getvalue()
        for repo, converted, *_ in PUBLISHED.values():
            branch, commit = ("refs/convert/parquet", CONVERTED) if converted else ("main", MAIN)
            hub.datasets[repo] = Repository({commit: files[repo]}, {branch: commit})
        done = subprocess.run(
            [sys.executable, "-c", READ],
            input=json.dumps(list(PUBLISHED)),
            env=hub.environment(root / "home"),
            capture_output=True,
            text=True,
            check=True,
        )
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return dict(zip(PUBLISHED, lines, strict=True))


@pytest.mark.parametrize("which", PUBLISHED, ids="-".join)
def test_an_example_of_the_hubs_files(which, read):
    repo, converted, _, _, asked, answer = PUBLISHED[which]
    prompt, *rest = read[which]
    assert rest == [answer, repo, CONVERTED if converted else MAIN], prompt
    assert asked in prompt
