"""Run a study again and again in processes that kill themselves at a pass too large; a script.

    python dying.py STUDY.yaml STORE TOKENS

A process gets SIGKILL from itself, as from a kernel without memory, when a pass of more than TOKENS begins.
Prints JSON: how many died, and how the last one ended.
"""

import json
import os
import signal
import sys
from pathlib import Path

import peft  # noqa: F401 - what a run would import, paid once in the parent
import torch
from rich.console import Console

from crosstune.errors import UserError
from crosstune.models.memory.token_limit import TokenLimit
from crosstune.running.runner import run_study
from crosstune.study.spec import read_study

MOST_DEATHS = 60


def one_process(study: Path, store: Path, tokens: int) -> int:
    """Run the study in a fork; its exit code, negative for the signal it died of."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    begin = TokenLimit.begin

    def begin_or_die(self: TokenLimit, rows: int, size: int) -> None:
        begin(self, rows, size)
        if size > tokens:
            os.kill(os.getpid(), signal.SIGKILL)

    TokenLimit.begin = begin_or_die  # type: ignore[method-assign]
    log = (store.parent / f"{store.name}.log").open("a")
    code = 0
    try:
        run_study(
            read_study(study).model_copy(update={"store": str(store)}), console=Console(file=log, width=300)
        )
    except UserError as error:
        print(error, file=log)
        code = 2
    finally:
        log.flush()
        os._exit(code)


def main(study: Path, store: Path, tokens: int) -> None:
    """Until the study is through."""
    torch.set_num_threads(1)
    deaths = 0
    while (code := one_process(study, store, tokens)) == -signal.SIGKILL and deaths < MOST_DEATHS:
        deaths += 1
    print(json.dumps({"deaths": deaths, "code": code}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
