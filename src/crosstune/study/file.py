"""A study's file with the files and presets it includes, merged into one mapping that knows its lines.

Keys of the including file win; mappings merge key by key; lists are replaced whole. Of several includes a
later one wins over an earlier one, and any of them over a preset.
"""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from crosstune.config.mistakes import Loc
from crosstune.config.yaml_file import Document, dump, read_document
from crosstune.errors import UserError, did_you_mean
from crosstune.files import user_path
from crosstune.tasks.custom.load import SUFFIXES
from crosstune.training.settings import ONE_OF

PRESETS = Path(__file__).parent / "presets"
_MOST_FILES = 100


class StudyFile:
    """What a study's file says, with all it includes.

    Attributes:
        data: The merged mapping, without ``include`` and ``preset``; whatever the file holds if that is none.
        text: A file of its own that says the same: the file's own text where it includes nothing.
    """

    def __init__(self, path: Path) -> None:
        self._documents = []
        for document in _with_includes(read_document(path), path, ()):
            self._documents.append(document)
            if len(self._documents) > _MOST_FILES:
                raise self._documents[0].error(
                    ("include",), f"more than {_MOST_FILES} files are included, one within another or again"
                )
        first = self._documents[0]
        self.data = first.data
        for other in self._documents[1:]:
            self.data = _merge(self.data, other.data)
        self.text = first.text if len(self._documents) == 1 else dump(self.data)

    def first_error(self, problems: Iterable[tuple[Loc, str]]) -> UserError:
        """The error that stands first, with the file and the line of the part it is about."""
        placed = [(self._owner(loc), loc, text) for loc, text in problems]
        at, loc, text = min(
            placed, key=lambda each: (each[0], self._documents[each[0]].line(self._own(each[0], each[1])))
        )
        return self._documents[at].error(self._own(at, loc), text)

    def _owner(self, loc: Loc) -> int:
        """Number of the file that a place of the merged mapping comes from."""
        there: list[tuple[int, Any]] = [(i, document.data) for i, document in enumerate(self._documents)]
        for step in _steps(loc, self.data):
            having = [(i, data[step]) for i, data in there if isinstance(data, Mapping) and step in data]
            if not having:
                break
            # A list or a plain value stands in one file whole; mappings may come from several.
            there = [each for each in having if isinstance(each[1], Mapping)] or having
            if not isinstance(having[0][1], Mapping):
                return having[0][0]
        return there[0][0]

    def _own(self, at: int, loc: Loc) -> Loc:
        return _steps(loc, self._documents[at].data)


def presets() -> dict[str, str]:
    """Names of the presets, and the first line of each."""
    found = {}
    for file in sorted(PRESETS.rglob("*.yaml")):
        head = file.read_text(encoding="utf-8").partition("\n")[0]
        found[file.relative_to(PRESETS).with_suffix("").as_posix()] = head.lstrip("# ")
    return found


def _with_includes(document: Document, path: Path, above: tuple[Path, ...]) -> Iterator[Document]:
    """The file, then what it includes, the winning ones first."""
    yield document
    data = document.data
    if not isinstance(data, dict):
        if above:
            raise document.error((), "an included file is a mapping of a study's keys")
        return
    above = (*above, path.resolve())
    for key in ("include", "preset"):
        for i, name in reversed(list(enumerate(_names(document, key)))):
            at = (key, i) if isinstance(data[key], list) else (key,)
            if key == "preset" and name not in presets():
                raise document.error(at, f'unknown preset "{name}"{did_you_mean(name, presets())}')
            try:
                file = path.parent / user_path(name) if key == "include" else PRESETS / f"{name}.yaml"
                if not file.is_file():
                    raise UserError(f"there is no {file}; give its path from this file's folder")
            except (UserError, OSError) as error:
                raise document.error(at, f"{key}: {error}") from error
            if file.resolve() in above:
                raise document.error(at, f"{key}: {name} includes this file again; take one of them out")
            inner = read_document(file)
            _rebase(inner.data, file.parent)
            yield from _with_includes(inner, file, above)
    for key in ("include", "preset"):
        data.pop(key, None)


def _names(document: Document, key: str) -> list[str]:
    assert isinstance(document.data, dict)
    given = document.data.get(key, [])
    names: Any = [given] if isinstance(given, str) else given
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        what = "a file" if key == "include" else "a preset's name"
        raise document.error((key,), f"{key}: {what} or a list of them is wanted")
    return names


def _rebase(data: Any, folder: Path) -> None:
    """Tasks' files are named from the folder of the file that names them."""
    tasks = data.get("tasks") if isinstance(data, dict) else None
    if not isinstance(tasks, list):
        return
    for i, task in enumerate(tasks):
        if isinstance(task, str) and task.endswith(SUFFIXES):
            tasks[i] = str(folder.resolve() / task)
        elif isinstance(task, dict) and isinstance(task.get("file"), str):
            task["file"] = str(folder.resolve() / task["file"])


def _merge(high: Any, low: Any) -> Any:
    """One mapping of two; where both say something else, what ``high`` says."""
    if not isinstance(high, Mapping) or not isinstance(low, Mapping):
        return high
    pairs = (*ONE_OF, ("model", "models"))
    dropped = {other for one, two in pairs for mine, other in ((one, two), (two, one)) if mine in high}
    kept = {key: value for key, value in low.items() if key not in dropped}
    return kept | {key: _merge(value, kept[key]) if key in kept else value for key, value in high.items()}


def _steps(loc: Loc, data: Any) -> Loc:
    """A place in the study as a file has it: ``model`` for ``models``, a single entry without its index."""
    given = data if isinstance(data, Mapping) else {}
    if loc[:1] == ("models",) and "models" not in given:
        loc = ("model", *loc[1:])
    if loc and loc[1:2] == (0,) and not isinstance(given.get(str(loc[0])), list):
        loc = (loc[0], *loc[2:])
    return loc
