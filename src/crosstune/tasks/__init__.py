"""The tasks, by the name a study file uses. May import `data`, `metrics`, `languages`, `config`."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from crosstune.data.example import Split
from crosstune.data.hub import hub_entry
from crosstune.errors import UserError, did_you_mean
from crosstune.tasks.base import Task
from crosstune.tasks.benchmarks.belebele import Belebele
from crosstune.tasks.benchmarks.choices import GlobalMmlu, Include, PawsX, XCsqa, XStoryCloze, XWinograd
from crosstune.tasks.benchmarks.lareqa import Lareqa
from crosstune.tasks.benchmarks.mewsli_x import MewsliX
from crosstune.tasks.benchmarks.mgsm import AfriMgsm, Mgsm
from crosstune.tasks.benchmarks.nli import AfriXnli, AmericasNli, MyXnli, Xnli
from crosstune.tasks.benchmarks.qa import Mlqa, TydiQa, Xquad
from crosstune.tasks.benchmarks.sib200 import Sib200
from crosstune.tasks.benchmarks.summaries import CrossSum, MasakhaNewsHeadlines, WikiLingua, XlSum
from crosstune.tasks.benchmarks.tagging import MasakhaNer, MasakhaPos, Panx, Pos, Udpos
from crosstune.tasks.benchmarks.tatoeba import Tatoeba
from crosstune.tasks.benchmarks.xcopa import Xcopa
from crosstune.tasks.cldr_names import CldrNames
from crosstune.tasks.number_words import NumberWords
from crosstune.tasks.published import PublishedTask

TASKS: dict[str, type[Task]] = {
    "cldr-names": CldrNames,
    "number-words": NumberWords,
    "xnli": Xnli,
    "americasnli": AmericasNli,
    "myxnli": MyXnli,
    "afrixnli": AfriXnli,
    "xquad": Xquad,
    "tydiqa": TydiQa,
    "mlqa": Mlqa,
    "belebele": Belebele,
    "mgsm": Mgsm,
    "afrimgsm": AfriMgsm,
    "xcopa": Xcopa,
    "xstorycloze": XStoryCloze,
    "xwinograd": XWinograd,
    "paws-x": PawsX,
    "x-csqa": XCsqa,
    "global-mmlu": GlobalMmlu,
    "include": Include,
    "sib200": Sib200,
    "udpos": Udpos,
    "masakhapos": MasakhaPos,
    "pos": Pos,
    "panx": Panx,
    "masakhaner": MasakhaNer,
    "tatoeba": Tatoeba,
    "lareqa": Lareqa,
    "mewsli-x": MewsliX,
    "masakhanews-headlines": MasakhaNewsHeadlines,
    "xlsum": XlSum,
    "wikilingua": WikiLingua,
    "crosssum": CrossSum,
}


@dataclass(frozen=True)
class Description:
    """What ``crosstune list tasks`` shows: languages that can be evaluated now, and where their files are."""

    languages: Sequence[str]
    place: str
    splits: dict[str, str]


def described(kind: type[Task]) -> Description:
    """Languages and sources of a task with its default options; nothing is fetched."""
    task = kind()
    splits: dict[str, str] = dict(kind.split_names)  # type: ignore[arg-type]  # its keys are strings
    if not isinstance(task, PublishedTask):
        return Description(task.languages(), "generated", splits)
    for split, name in task.hub.items():
        splits[split] = f"{splits.get(split, '')}; hub: {_address(name, split)}"
    try:
        return Description(task.languages(), "hub" if task.on_hub else "local files", splits)
    except UserError:
        pass
    try:  # some sets have only their development files here
        on_dev = kind(kind.Options.model_validate({"evaluate_on": "dev"}))
        return Description(on_dev.languages(), "local files, evaluate_on: dev", splits)
    except (UserError, ValidationError):
        return Description((), "no files here", splits)


def _address(name: str, split: Split) -> str:
    try:
        entry = hub_entry(name)
    except UserError as error:
        return str(error)
    return f"{entry.repo}@{entry.revision[:12]} {entry.files.get(split, '')}".rstrip()


def make_task(name: str, options: dict[str, object] | None = None) -> Task:
    """A task by name, with the options a study file gives it.

    Raises:
        UserError: Unknown task, unknown option, or a value the option does not take.
    """
    if name not in TASKS:
        raise UserError(f'unknown task "{name}"{did_you_mean(name, TASKS)}')
    kind = TASKS[name]
    try:
        return kind(kind.Options.model_validate(options or {}))
    except ValidationError as invalid:
        first = invalid.errors()[0]
        option = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            known = list(kind.Options.model_fields)
            hint = did_you_mean(option, known) if known else "; it has no options"
            raise UserError(f'task {name} has no option "{option}"{hint}') from None
        raise UserError(f'task {name}, option "{option}": {first["msg"]}, not {first["input"]!r}') from None
