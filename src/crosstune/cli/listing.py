"""What `crosstune list` prints. Heavy imports wait for their list."""

from collections.abc import Callable, Sequence
from typing import Any

from crosstune.cli.printing import print_rows, say


def methods() -> None:
    """The methods, and where their default learning rates come from."""
    from crosstune.methods import METHODS

    made = [(name, _rate(each), each.summary) for name, each in METHODS.items()]
    print_rows(("method", "learning rate", ""), made)
    say("where the default rates come from:")
    for name, each in METHODS.items():
        if each.learning_rate is not None:
            say(f"  {name}: {each.learning_rate_from}")


def tasks() -> None:
    """The tasks, with the languages and the sources of each."""
    from crosstune.tasks import TASKS, described

    shown = {name: described(each) for name, each in TASKS.items()}
    print_rows(
        ("task", "kind", "languages", "from", ""),
        [
            (name, each.kind, _count(shown[name].languages), shown[name].place, each.summary)
            for name, each in TASKS.items()
        ],
        right=(2,),
    )
    for name, about in shown.items():
        say(f"{name}")
        say(f"  languages: {' '.join(about.languages) or about.place}")
        for split, source in about.splits.items():
            say(f"  {split}: {source}")
    say("a task of your own is one file: see docs/custom-tasks.md")


def models() -> None:
    """The models known by shape."""
    from crosstune.models.loading.known import ALIASES, KNOWN

    rows = []
    for name, shape in KNOWN.items():
        ids = [alias for alias, known in ALIASES.items() if known == name]
        demo = [alias for alias in ids if alias.startswith("demo:")]
        rows.append((name, f"{shape.parameters:,}", str(shape.layers), str(shape.hidden), (demo or ids)[0]))
    print_rows(("model", "parameters", "layers", "hidden", "load as"), rows, right=(1, 2, 3))
    say("any causal language model of the hub or in a folder can be loaded; these are known by shape")


def presets() -> None:
    """The presets that a study can build on."""
    from crosstune.study.file import presets

    print_rows(("preset", ""), list(presets().items()))
    say('a study takes one with "preset: NAME" and changes what it likes: see docs/studies.md')


def claims() -> None:
    """The files of claims that results can be held against."""
    from crosstune.claims.file import read_claims, shipped

    rows = [(name, str(len(read_claims(name))), head) for name, head in shipped().items()]
    print_rows(("claims", "number", ""), rows, right=(1,))
    for name in shipped():
        say(f"{name}")
        for each in read_claims(name):
            say(f"  {each.claim.claim}")
    say("hold results against them: crosstune verdict DIR --claims NAME; write your own: see docs/claims.md")


def languages() -> None:
    """The languages that any task covers."""
    from crosstune.languages import LANGUAGES

    print_rows(
        ("code", "language", "family", "script", "class"),
        [
            (
                each.code,
                each.name,
                each.family,
                each.script,
                "" if each.resource is None else str(each.resource),
            )
            for each in LANGUAGES.values()
        ],
    )


LISTS: dict[str, Callable[[], None]] = {
    "methods": methods,
    "tasks": tasks,
    "models": models,
    "presets": presets,
    "claims": claims,
    "languages": languages,
}


def _rate(method: Any) -> str:
    return "-" if method.learning_rate is None else f"{method.learning_rate:g}"


def _count(codes: Sequence[str]) -> str:
    return str(len(codes)) if codes else "-"
