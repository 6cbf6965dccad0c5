"""Run a study over and over, killing the process at random moments; a script, so that forks start clean.

    python killing.py STUDY.yaml FOLDER KILLS SEED

Prints JSON: for each kill the moment and what was finished by then, and the stores that were completed.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import peft  # noqa: F401 - what a run would import, paid once in the parent
import torch
from rich.console import Console

from crosstune.running.runner import run_study
from crosstune.study.spec import read_study


def start(study: Path, store: Path) -> int:
    """A process that runs the study into a store; its id."""
    child = os.fork()
    if child:
        return child
    # Imports are paid once, in the parent; a fork is as new to the store as a new process.
    try:
        run_study(
            read_study(study).model_copy(update={"store": str(store)}),
            console=Console(file=(store.parent / f"{store.name}.log").open("a"), width=200),
        )
    finally:
        os._exit(0)


def stamps(store: Path) -> dict[str, int]:
    """When each finished run was written."""
    return {file.parent.name: file.stat().st_mtime_ns for file in store.glob("[0-9a-f]*/checksums.json")}


def main(study: Path, folder: Path, kills: int, seed: int) -> None:
    """Kill until there were enough, then let the last study end."""
    torch.set_num_threads(1)
    moments = random.Random(seed)
    whole = folder / "whole"
    began = time.monotonic()
    os.waitpid(start(study, whole), 0)
    lasts = time.monotonic() - began
    killed, stores = [], [folder / "store-1"]
    while True:
        store, last = stores[-1], len(killed) == kills
        child, after = start(study, store), moments.uniform(0, lasts / 2)
        until = time.monotonic() + (3600 if last else after)
        while (ended := os.waitpid(child, os.WNOHANG)[0] == child) is False and time.monotonic() < until:
            time.sleep(0.002)
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            killed.append({"after": after, "store": store.name, "finished": stamps(store)})
        elif last:
            break
        else:
            stores.append(folder / f"store-{len(stores) + 1}")
    print(json.dumps({"lasts": lasts, "kills": killed, "stores": [store.name for store in stores]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
