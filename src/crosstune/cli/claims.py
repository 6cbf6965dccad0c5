"""The verbs on claims: judge them, and fix them before results exist."""

from pathlib import Path
from typing import Annotated

import typer

from crosstune.cli.options import Claims, Form, StoreFolder
from crosstune.cli.printing import print_csv, print_json, say, show
from crosstune.files import user_path


def verdict(store: StoreFolder, claims: Claims = None, form: Form = "table") -> None:
    """Hold results against claims.

    Each is supported, contradicted, or there is not enough data. By default these are the claims that
    crosstune ships about a model of these results. csv has one row a claim; json has every comparison a claim
    was judged by as well. What each verdict means is in docs/claims.md.

    Example: crosstune verdict runs/demo --claims demo
    """
    from dataclasses import asdict

    import polars as pl

    from crosstune import api
    from crosstune.claims.judge import verdict_table
    from crosstune.report.tables.verdicts import verdicts_table

    verdicts = api.results(store).verdicts(claims or None)
    if form == "table":
        show(verdicts_table(verdicts))
    elif form == "csv":
        print_csv(verdict_table(verdicts).with_columns(pl.col("runs").list.join(" ")))
    else:
        print_json([asdict(judged) for judged in verdicts])
    left = 0 if claims else len(api.placed_claims(None)) - len(verdicts)
    if left and form == "table":
        say(f"{left} more claims are about models that are not here, or about none: crosstune list claims")


def freeze(
    claims: Annotated[
        str, typer.Argument(metavar="CLAIMS.yaml", help="A file of claims, or a shipped name.")
    ],
    store: Annotated[Path, typer.Option(help="Folder that the study will run into; made where missing.")],
) -> None:
    """Fix claims before results exist.

    A copy and its hash go into the store, and the page says so. Verdicts on claims of a file that changed
    since say that. To prove the date to others, publish the hash that is printed.

    Example: crosstune freeze my_claims.yaml --store runs/mine
    """
    from crosstune.claims.file import claims_file, read_claims
    from crosstune.store.frozen import freeze as keep

    read_claims(claims)
    entry = keep(claims_file(claims), user_path(store))
    after = f"after {len(entry.runs)} runs" if entry.runs else "before any run"
    say(f"{entry.name} is frozen since {entry.at}, {after}: sha256 {entry.sha256}")
