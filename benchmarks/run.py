"""crosstune against what people would use instead, row by row.

    python benchmarks/run.py                    # every row
    python benchmarks/run.py --list
    python benchmarks/run.py train-lora-sib200 --rounds 5

Each row runs both sides in turn in one run and writes benchmarks/results/<row>-<device>-<dtype>.json. The
exit code is 1 when a row's answers differ. Needs the ``dev`` and ``demo`` extras, and CROSSTUNE_DATA for the
benchmarks' texts (docs/datasets.md); rows against lm-evaluation-harness need ``pip install lm-eval==0.4.13``.
"""

import argparse
import json
import sys
from pathlib import Path

import torch
import transformers

import loading
import machine
import reuse
import scoring
import training
import writing
from harness import SIDES, Row, Setting, alone, run

ROWS: dict[str, Row] = {
    row.name: row for row in (*training.ROWS, *reuse.ROWS, *scoring.ROWS, *writing.ROWS, *loading.ROWS)
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help="names, or beginnings of names; all when left out"
    )
    parser.add_argument("--list", action="store_true", help="names and titles of the rows")
    parser.add_argument("--model", default=Setting.model)
    parser.add_argument("--dtype", default=Setting.dtype, help="of both sides")
    parser.add_argument("--device", default=Setting.device, help="of both sides")
    parser.add_argument("--rounds", type=int, help="blocks a side; each row has its own default")
    parser.add_argument("--clock", choices=machine.CLOCKS, default="wall", help="cpu: on a machine in use")
    parser.add_argument("--threads", type=int, help="of PyTorch")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "results", help="folder for the JSON"
    )
    parser.add_argument("--alone", nargs=2, metavar=("PART", "FOLDER"), help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    args = parse()
    if args.list:
        for row in ROWS.values():
            print(f"{row.name:<28} {row.title}, against {row.peer}")
        return 0
    chosen = [n for n in ROWS if not args.rows or any(n.startswith(wish) for wish in args.rows)]
    for wish in args.rows:
        if not any(name.startswith(wish) for name in ROWS):
            print(f'no row "{wish}"; rows: {", ".join(ROWS)}', file=sys.stderr)
            return 2
    transformers.utils.logging.set_verbosity_error()
    setting = Setting(args.model, args.dtype, args.device, args.rounds, args.threads)
    machine.use_clock(args.clock)
    if setting.threads:
        torch.set_num_threads(setting.threads)
    if args.alone:
        part, folder = args.alone
        assert part in ("prepare", *SIDES)
        print(json.dumps(alone(part, ROWS[args.rows[0]], setting, Path(folder))))
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    passed = True
    for name in chosen:
        result = run(ROWS[name], setting)
        kind = result["device"].partition(":")[0]
        (args.out / f"{name}-{kind}-{result['dtype']}.json").write_text(json.dumps(result, indent=2) + "\n")
        passed &= result["passed"]
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
