"""A run.json whose checksum is right and that lacks a field: said in one line by all that read the store."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

import crosstune
from crosstune.errors import UserError
from crosstune.files import sha256_of
from crosstune.planning.plan import plan_study
from crosstune.planning.table import plan_table
from crosstune.running.runner import run_study
from crosstune.store.store import CHECKSUMS, DAMAGED, RUN
from crosstune.study.spec import Study
from saved_model import study_of


def test_plan_and_run_name_the_field(model: Path, tmp_path: Path) -> None:
    store = tmp_path / "runs"
    study = Study(**study_of(model, store, tasks=["cldr-names"], methods=["none", "lora"]))
    run_study(study, console=Console(quiet=True))
    run = next(run for run in crosstune.results(store).runs if run.label == "lora")
    file = store / run.id / RUN
    content = json.loads(file.read_text(encoding="utf-8"))
    del content["task"]["version"]
    file.write_text(json.dumps(content), encoding="utf-8")
    sums = store / run.id / CHECKSUMS
    sums.write_text(json.dumps(json.loads(sums.read_bytes()) | {RUN: sha256_of(file)}), encoding="utf-8")

    plan = plan_study(study)
    assert plan.broken == [
        f"{file}: has no task.version; crosstune run sets the run aside and makes it again"
    ]
    assert [(group.method, group.to_do) for group in plan.groups] == [("none", 0), ("lora", 1)]
    out = io.StringIO()
    Console(file=out, width=400).print(plan_table(plan, "study.yaml"))
    assert plan.broken[0] in out.getvalue()
    with pytest.raises(UserError, match=r"has no task\.version; .*run the study again"):
        crosstune.results(store)

    log = io.StringIO()
    summary = run_study(study, console=Console(file=log, width=1000))
    assert summary.done == [run.id]
    (aside,) = (store / DAMAGED).iterdir()
    assert f"is run again: {file}: has no task.version; set aside as {aside}" in log.getvalue()
    assert plan_study(study).broken == []
