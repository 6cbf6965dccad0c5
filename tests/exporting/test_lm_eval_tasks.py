"""Tasks for lm-evaluation-harness: what runs were tested on, in all of their languages."""

from pathlib import Path

import polars as pl
import yaml

from crosstune.exporting.lm_eval_tasks import write_tasks
from crosstune.store import store
from records import as_record


def test_runs_tested_alike_are_one_task_and_others_another(tmp_path: Path) -> None:
    task = {"name": "number-words", "version": 1, "kind": "generation", "metrics": ["exact"]}
    few, fewer = {"limit": 3, "max_answer_tokens": 7}, {"limit": 2}
    tested = [(["en", "de"], few), (["en", "ru"], few), (["en"], fewer)]
    for i, (languages, evaluate) in enumerate(tested):
        record = as_record({"id": f"{i:016}", "task": task, "languages": languages, "evaluate": evaluate})
        store.save(tmp_path / "store", record, pl.DataFrame({"language": languages}), None)
    files, left = write_tasks(tmp_path / "store", tmp_path / "tasks")
    assert left == []
    written = {}
    for file in files:
        if file.suffix == ".yaml":
            content = yaml.load(file.read_text(encoding="utf-8"), yaml.BaseLoader)
            rows = file.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()
            longest = content["generation_kwargs"]["max_gen_toks"]
            written[file.stem.removeprefix("crosstune_number-words_")] = len(rows), longest == "7"
    assert written == {"en": (3, True), "de": (3, True), "ru": (3, True), "2_en": (2, False)}
