"""What `crosstune list` prints. Heavy imports wait for their list."""

from collections.abc import Callable

from crosstune.cli.printing import print_rows, say


def methods() -> None:
    """The methods, and where their default learning rates come from."""
    from crosstune.methods import METHODS

    rates = {name: method.learning_rate for name, method in METHODS.items()}
    shown = {name: "-" if rate is None else f"{rate:g}" for name, rate in rates.items()}
    rows = [(name, shown[name], method.summary) for name, method in METHODS.items()]
    print_rows(("method", "learning rate", ""), rows)
    say("where the default rates come from:")
    for name, method in METHODS.items():
        if method.learning_rate is not None:
            say(f"  {name}: {method.learning_rate_from}")


def tasks() -> None:
    """The tasks, with the languages and the sources of each."""
    from crosstune.tasks import TASKS, described

    descriptions = {name: described(task) for name, task in TASKS.items()}
    rows = [
        (name, task.kind, str(len(about.languages)) if about.languages else "-", about.place, task.summary)
        for (name, task), about in zip(TASKS.items(), descriptions.values(), strict=True)
    ]
    print_rows(("task", "kind", "languages", "from", ""), rows, right=(2,))
    for name, about in descriptions.items():
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
    say("any causal model or encoder of the hub or in a folder can be loaded; these are known by shape")


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
        for placed in read_claims(name):
            say(f"  {placed.claim.claim}")
    say("hold results against them: crosstune verdict DIR --claims NAME; write your own: see docs/claims.md")


def languages() -> None:
    """The languages that any task covers."""
    from crosstune.languages import LANGUAGES

    rows = [
        (row.code, row.name, row.family, row.script, "" if row.resource is None else str(row.resource))
        for row in LANGUAGES.values()
    ]
    print_rows(("code", "language", "family", "script", "class"), rows)


def studies() -> None:
    """The studies and examples that come with crosstune."""
    from crosstune.study.ready import folder, listed

    print_rows(("study", ""), [*listed("studies", ".yaml").items(), *listed("examples", ".yaml").items()])
    say(f"run one by that name from any folder; to change one, copy it from {folder('studies').parent}")


def docs() -> None:
    """The pages of the documentation."""
    from crosstune.study.ready import folder, listed

    print_rows(("page", ""), list(listed("docs", ".md").items()))
    say(f"they lie in {folder('docs').parent}")


LISTS: dict[str, Callable[[], None]] = {
    "methods": methods,
    "tasks": tasks,
    "models": models,
    "presets": presets,
    "claims": claims,
    "languages": languages,
    "studies": studies,
    "docs": docs,
}
