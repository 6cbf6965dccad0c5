"""Datasets by hub id, from a hub that the test serves on loopback, and the table of where each one lies."""

import errno
import io
import json
import random
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from huggingface_hub import errors

from crosstune.data.hub import DATA_SUFFIXES, hub_entry
from crosstune.errors import UserError
from crosstune.languages.table import find
from crosstune.models.loading.hub import HTTP_ERROR, explained
from hub_server import COMMIT, GATED, NOWHERE, OWNER, HubServer, Repository, serving

QA = f"{OWNER}/qa"
OLD, NEW, CONVERTED, MOVED = (digit * 40 for digit in "abcd")
ENTRIES = {
    "xnli": 15,
    "multi_nli": 1,
    "americas_nli": 10,
    "myxnli": 1,
    "afrixnli": 18,
    "squad": 1,
    "xquad": 12,
    "tydiqa_goldp": 9,
    "mlqa": 7,
    "belebele": 122,
    "race": 1,
    "sciq": 1,
    "multirc": 1,
    "mctest": 1,
    "dream": 1,
    "xcopa": 11,
    "copa": 1,
    "paws": 1,
    "paws_x": 7,
    "xstorycloze": 11,
    "xwinograd": 6,
    "winogrande": 1,
    "x_csqa": 16,
    "commonsense_qa": 1,
    "global_mmlu": 42,
    "include": 44,
    "mgsm": 11,
    "afrimgsm": 19,
    "gsm8k": 1,
    "sib200": 205,
    "xlsum": 45,
    "crosssum": 45,
    "wikilingua": 18,
    "udpos": 33,
    "panx": 40,
}
"""Languages of each dataset, as its authors count them."""

FETCH = """
import json, sys
from crosstune.errors import UserError
from crosstune.data.hub import fetch_files
for line in sys.stdin:
    try:
        found = fetch_files(*json.loads(line))
    except UserError as error:
        answer = {"error": str(error)}
    else:
        answer = {"repo": found.repo, "commit": found.commit, "paths": [str(path) for path in found.paths]}
    print(json.dumps(answer), flush=True)
"""

Fetch = Callable[..., dict[str, Any]]


def table(*questions: str) -> bytes:
    """A parquet file of one question a row."""
    rows = {"id": [str(n) for n in range(len(questions))], "question": list(questions)}
    buffer = io.BytesIO()
    pl.DataFrame(rows).write_parquet(buffer, compression="uncompressed")
    return buffer.getvalue()


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubServer]:
    """A hub with one dataset on three commits."""
    with serving(tmp_path) as hub:
        script = b"raise SystemExit('run')"
        hub.datasets[QA] = Repository(
            {
                OLD: {"de/test-0.parquet": table("Wer?"), "qa.py": script},
                NEW: {
                    "de/test-0.parquet": table("Wer?", "Was?"),
                    "de/test-1.parquet": table("Wo?"),
                    "en/test-0.parquet": table("Who?"),
                    "en/test-0.parquet.py": script,
                    "README.md": b"# Questions",
                    "qa.py": script,
                },
                CONVERTED: {"de/test/0000.parquet": table("Wann?")},
                MOVED: {"de/test-0.parquet": table("Warum?")},
            },
            {"main": NEW, "refs/convert/parquet": CONVERTED},
        )
        yield hub


@pytest.fixture
def process(hub: HubServer, tmp_path: Path) -> Iterator[Callable[..., Fetch]]:
    """``process(**environment)``: a process with the hub's cache of this test, asked file by file."""
    with ExitStack() as stack:

        def start(**environment: str) -> Fetch:
            child = stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", FETCH],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=hub.environment(tmp_path / "home", **environment),
                    text=True,
                )
            )
            assert child.stdin is not None
            assert child.stdout is not None
            requests, answers = child.stdin, child.stdout

            def fetch(repo: str, pattern: str, revision: str = "main") -> dict[str, Any]:
                print(json.dumps([repo, pattern, revision]), file=requests, flush=True)
                answer: dict[str, Any] = json.loads(answers.readline())
                return answer

            return fetch

        yield start


def questions(found: dict[str, Any]) -> list[str]:
    return [question for path in found["paths"] for question in pl.read_parquet(path)["question"]]


def test_commits_branches_and_only_the_files_asked_for(hub, process, tmp_path):
    fetch = process()
    pinned = fetch(QA, "de/test-*.parquet", OLD)
    assert (pinned["repo"], pinned["commit"], questions(pinned)) == (QA, OLD, ["Wer?"])
    newest = fetch(QA, "de/test-*.parquet")
    assert (newest["commit"], questions(newest)) == (NEW, ["Wer?", "Was?", "Wo?"])
    converted = fetch(QA, "de/test/*.parquet", "refs/convert/parquet")
    assert (converted["commit"], questions(converted)) == (CONVERTED, ["Wann?"])

    # A branch that moves: one process keeps to what it began with, the next one follows.
    hub.datasets[QA].branches["main"] = MOVED
    again = fetch(QA, "en/test-*.parquet")
    assert (again["commit"], questions(again)) == (NEW, ["Who?"])
    moved = process()(QA, "de/test-*.parquet")
    assert (moved["commit"], questions(moved)) == (MOVED, ["Warum?"])

    fetched = {line.split("/", 6)[-1] for line in hub.asked if line.startswith("GET /datasets")}
    assert fetched == {"de/test-0.parquet", "de/test-1.parquet", "de/test/0000.parquet", "en/test-0.parquet"}
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".py", ".md")]


def test_errors_are_one_line_and_say_what_to_do(hub, process):
    hub.datasets[f"{OWNER}/script"] = Repository({NEW: {"script.py": b"", "README.md": b""}}, {"main": NEW})
    fetch = process()
    cases = [
        ((f"{OWNER}/unknown", "*.parquet"), "no such dataset"),
        ((GATED, "*.parquet"), f"accept its terms at {hub.endpoint}/datasets/{GATED}"),
        ((QA, "*.parquet", "v9"), "no revision 'v9'; give a branch, tag or commit of the dataset"),
        ((QA, "*.parquet", "9" * 40), f"no revision '{'9' * 40}'"),
        (
            (QA, "fr/test-*.parquet"),
            "no file fr/test-*.parquet; it holds de/test-0.parquet, de/test-1.parquet",
        ),
        ((f"{OWNER}/script", "*.parquet"), "it holds no data files; try revision refs/convert/parquet"),
        ((QA, "*"), "names no data files; end it in .parquet"),
        ((QA, "*.py"), "names no data files"),
        ((QA, "../*.parquet"), "leaves the repository"),
        (("qa", "a/b/c.parquet"), "no such dataset"),
        (("a/b/c", "*.parquet"), "owner/dataset"),
    ]
    for request, message in cases:
        error = fetch(*request)["error"]
        assert message in error, error
        assert request[0] in error
        assert "\n" not in error


def test_names_that_lead_out_of_the_repository_are_not_fetched(hub, process, tmp_path):
    hostile = ("../evil.parquet", "a/../../../evil.parquet", "/tmp/evil.parquet", "..\\evil.parquet")
    files = dict.fromkeys(hostile, table("Evil?")) | {"good.parquet": table("Good?")}
    hub.datasets[f"{OWNER}/hostile"] = Repository({NEW: files}, {"main": NEW})
    fetched = process()(f"{OWNER}/hostile", "*.parquet")
    assert questions(fetched) == ["Good?"]
    assert not [line for line in hub.asked if "evil" in line]
    assert not list(tmp_path.rglob("*evil*"))


def test_interrupted_download(hub, process):
    whole = random.Random(0).randbytes(24_000_000)  # several of the pieces in which the library writes a file
    for fault in ("cut", "die", "short"):
        hub.datasets[f"{OWNER}/{fault}"] = Repository({NEW: {"train.parquet": whole}}, {"main": NEW})
    fetch, offline = process(), process(HF_HUB_OFFLINE="1")

    hub.fault = "cut"
    files = fetch(f"{OWNER}/cut", "train.parquet")
    assert [Path(path).read_bytes() for path in files["paths"]] == [whole]
    assert "train.parquet bytes=" in hub.asked[-1]  # taken up again, not begun anew

    for fault in ("die", "short"):
        hub.fault = fault
        error = fetch(f"{OWNER}/{fault}", "train.parquet")["error"]
        assert f"fetching from {hub.endpoint} failed" in error
        assert "\n" not in error
        # What came so far is not taken for the file.
        assert "not in the local cache" in offline(f"{OWNER}/{fault}", "train.parquet")["error"]

        hub.fault = None
        files = fetch(f"{OWNER}/{fault}", "train.parquet")
        assert [Path(path).read_bytes() for path in files["paths"]] == [whole]
        assert offline(f"{OWNER}/{fault}", "train.parquet") == files


def test_offline(hub, process):
    online = process()
    main, pinned = online(QA, "de/test-*.parquet"), online(QA, "de/test-*.parquet", OLD)
    hub.asked.clear()
    ways = [
        ({"HF_HUB_OFFLINE": "1"}, "HF_HUB_OFFLINE is set"),
        ({"HF_ENDPOINT": NOWHERE}, "cannot be reached"),
    ]
    for environment, why in ways:
        offline = process(**environment)
        assert offline(QA, "de/test-*.parquet") == main
        assert offline(QA, "de/test-*.parquet", OLD) == pinned
        assert offline(QA, "de/test-*.parquet", NEW) == main
        for repo, pattern in ((QA, "en/test-*.parquet"), (f"{OWNER}/other", "*.parquet")):
            error = offline(repo, pattern)["error"]
            assert why in error
            assert "connect once to fetch it, or give local files" in error
    assert hub.asked == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "set HF_HOME"),
        (HTTP_ERROR("Server error\nmore"), "failed: Server error; try again"),
        (errors.EntryNotFoundError("gone"), 'a/b at revision "main": a file is gone'),
    ],
)
def test_errors_a_server_on_loopback_does_not_give(error, message):
    with pytest.raises(UserError, match=re.escape(message)) as caught, explained("a/b", "main", "dataset"):
        raise error
    assert "\n" not in str(caught.value)


# --- the table ----------------------------------------------------------------------------------


def test_every_dataset_has_the_languages_it_was_published_with():
    for name, count in ENTRIES.items():
        entry = hub_entry(name)
        assert len(entry.languages) == count, name
        own = {"jap": "ja", "jp": "ja", "North Macedonian": "mk"}  # that stand for nothing elsewhere
        assert all(find(own.get(code, code)).code == x for x, code in entry.languages.items())
        assert re.fullmatch(r"[0-9a-f]{40}|main|refs/convert/parquet", entry.revision), name
        assert entry.columns
        assert set(entry.rename) <= set(entry.columns)
        assert {"train", "dev", "test"} >= set(entry.files)
        for split in entry.files:
            for language in entry.languages:
                pattern = entry.pattern(split, language)
                assert pattern.endswith(DATA_SUFFIXES)
                assert "{" not in pattern
    assert hub_entry("sib200").pattern("test", "de") == "data/deu_Latn/test.tsv"
    assert hub_entry("belebele").pattern("test", "hi-Latn") == "data/hin_Latn.jsonl"
    assert hub_entry("americas_nli").pattern("test", "qu") == "quy/test/*.parquet"


def test_training_data_is_english_but_for_the_sets_that_have_it_in_every_language():
    trains = {name for name in ENTRIES if "train" in hub_entry(name).files}
    everywhere = {name for name in trains if set(hub_entry(name).languages) != {"en"}}
    assert everywhere == {
        *(
            "sib200",
            "tydiqa_goldp",
            "xlsum",
            "crosssum",
            "wikilingua",
            "xstorycloze",
            "global_mmlu",
            "udpos",
            "panx",
        )
    }


def test_rows_of_one_language_in_a_file_of_many():
    entry = hub_entry("tydiqa_goldp")
    assert entry.holds({"id": "swahili-12-1"}, "sw")
    assert not entry.holds({"id": "swahili-12-1"}, "ar")
    assert not entry.holds({"id": None}, "ar")
    assert hub_entry("xquad").holds({"id": "56"}, "ar")


def test_what_the_table_lacks():
    for name, message in (
        ("beleble", 'did you mean "belebele"?'),
        ("reclor", "reclor cannot be fetched from the hub: its authors"),
        ("not_fetched", "no dataset"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            hub_entry(name)
    with pytest.raises(UserError, match="google/xquad has no train split, only test"):
        hub_entry("xquad").pattern("train", "en")
    with pytest.raises(UserError, match='facebook/xnli has no "fi"'):
        hub_entry("xnli").pattern("test", "fi")


def test_the_document_names_every_repository_at_its_revision():
    text = (Path(__file__).parents[2] / "docs" / "datasets.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    for name in ENTRIES:
        entry = hub_entry(name)
        row = next(line for line in rows if line.startswith(f"| `{name}` "))
        assert f"`{entry.repo}`" in row
        assert f"`{entry.revision}`" in row
        assert f"| {entry.licence} |" in row


OWN_TASK = """
import sys
from crosstune.errors import UserError
from crosstune.tasks.custom.load import load_task
for file in sys.argv[1:]:
    try:
        kind = load_task(file).task
        task = kind(kind.Options())
        prompts = [example.prompt for code in task.languages() for example in task.examples("test", code)]
        print(task.languages(), sorted(prompts), task.sources[0]["repo"], task.sources[0]["commit"])
    except UserError as error:
        print(error)
"""
DEFINITION = """name: own
kind: generation
hub: OWNER/qa
revision: REVISION
prompt: "{question}"
answer: question
id: id
test: TEST
"""


def test_a_task_of_ones_own_from_the_hub(hub: HubServer, tmp_path: Path) -> None:
    text = DEFINITION.replace("OWNER", OWNER)
    page = (Path(__file__).parents[2] / "docs" / "recipes.md").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^`quiz.yaml`.*?```yaml\n(.*?)```", page, re.S | re.M)
    stream = io.BytesIO()
    choices = [{"text": word, "label": letter} for word, letter in (("Bern", "A"), ("Rom", "B"))]
    pl.DataFrame({"id": ["q1"], "question": ["Wo?"], "choices": [choices], "answerKey": ["B"]}).write_parquet(
        stream
    )
    quiz = {
        f"{code}/{split}-0.parquet": stream.getvalue() for code in ("de", "en") for split in ("train", "test")
    }
    hub.datasets[f"{OWNER}/quiz"] = Repository({COMMIT: quiz}, {"main": COMMIT})
    files = {
        "files": text.replace("REVISION", OLD).replace("TEST", '"{code}/test-*.parquet"'),
        "config": text.replace("REVISION", "refs/convert/parquet").replace("TEST", '"{code}/test"'),
        "nothing": text.replace("REVISION", NEW).replace("TEST", '"{code}/dev-*.parquet"'),
        "unpinned": text.replace("revision: REVISION\n", "").replace("TEST", '"{code}/test"'),
        "recipe": recipe,
    }
    for name, content in files.items():
        (tmp_path / f"{name}.yaml").write_text(content, encoding="utf-8")
    command = [sys.executable, "-c", OWN_TASK, *(str(tmp_path / f"{name}.yaml") for name in files)]
    done = subprocess.run(
        command, env=hub.environment(tmp_path / "home"), capture_output=True, text=True, check=True
    )
    from_files, from_config, nothing, unpinned, quiz_lines, _ = done.stdout.split("\n")
    assert from_files == f"['de'] ['Wer?'] {QA} {OLD}"
    assert from_config == f"['de'] ['Wann?'] {QA} {CONVERTED}"
    assert "no file */dev-*.parquet; it holds de/test-0.parquet" in nothing
    assert "unpinned.yaml:3: task: hub and revision go together" in unpinned
    assert quiz_lines == f"['en', 'de'] ['Wo?\\nAnswer:', 'Wo?\\nAnswer:'] {OWNER}/quiz {COMMIT}"
