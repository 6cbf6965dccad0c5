"""A study file merged with its includes and presets into one mapping with line numbers.

The including file overrides its includes; mappings are merged key by key, lists are replaced. Later includes
override earlier ones, and any include overrides a preset.
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
    """The content of a study file, with all its includes.

    Args:
        path: The file.
        changes: Values over the file's own, by dotted key, such as ``train.steps``. Those of ``train`` and
            ``evaluate`` hold for every task and method, whatever the file says of one.

    Attributes:
        data: The merged mapping, without ``include`` and ``preset``; other content unchanged.
        text: One file with the same content: the original text if the file includes and changes nothing.
    """

    def __init__(self, path: Path, changes: Mapping[str, Any] | None = None) -> None:
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
        self._changes = {tuple(key.split(".")): value for key, value in (changes or {}).items()}
        in_files = self.data if isinstance(self.data, Mapping) else ()
        self._new = {(key[0],) for key in self._changes if key[0] not in in_files}
        for keys, value in self._changes.items():
            _change(self.data, keys, value)
        whole = len(self._documents) == 1 and not changes
        self.text = first.text if whole else dump(self.data)

    def first_error(self, problems: Iterable[tuple[Loc, str]]) -> UserError:
        """The error for the first problem, with its file and line, or the change that it is of."""
        errors = []
        for loc, message in problems:
            keys = tuple(map(str, loc))
            for key in sorted(self._changes, key=len, reverse=True):
                if keys[: len(key)] == key or (keys == key[:1] and keys in self._new):
                    return UserError(f"--set {'.'.join(key)}: {message}")
            number = self._source(loc)
            document = self._documents[number]
            path = _steps(loc, document.data)
            errors.append((number, document.line(path), document.error(path, message)))
        return min(errors, key=lambda error: error[:2])[2]

    def _source(self, loc: Loc) -> int:
        """Index of the file that a location of the merged mapping comes from."""
        candidates: list[tuple[int, Any]] = [(i, document.data) for i, document in enumerate(self._documents)]
        for step in _steps(loc, self.data):
            values = [(i, data[step]) for i, data in candidates if isinstance(data, Mapping) and step in data]
            if not values:
                break
            # A list or a scalar comes from one file; mappings may come from several.
            candidates = [(i, value) for i, value in values if isinstance(value, Mapping)] or values
            if not isinstance(values[0][1], Mapping):
                return values[0][0]
        return candidates[0][0]


def presets() -> dict[str, str]:
    """Name and first line of each preset."""
    first_lines = {}
    for file in sorted(PRESETS.rglob("*.yaml")):
        head = file.read_text(encoding="utf-8").partition("\n")[0]
        first_lines[file.relative_to(PRESETS).with_suffix("").as_posix()] = head.lstrip("# ")
    return first_lines


def _with_includes(document: Document, path: Path, above: tuple[Path, ...]) -> Iterator[Document]:
    """The file, then its includes, those with higher precedence first."""
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
    value = document.data.get(key, [])
    names: Any = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        what = "a file" if key == "include" else "a preset's name"
        raise document.error((key,), f"{key}: {what} or a list of them is wanted")
    return names


def _rebase(data: Any, folder: Path) -> None:
    """Make paths of task files, relative to the file that names them, absolute."""
    tasks = data.get("tasks") if isinstance(data, dict) else None
    if not isinstance(tasks, list):
        return
    for i, task in enumerate(tasks):
        if isinstance(task, str) and task.endswith(SUFFIXES):
            tasks[i] = str(folder.resolve() / task)
        elif isinstance(task, dict) and isinstance(task.get("file"), str):
            task["file"] = str(folder.resolve() / task["file"])


def _merge(high: Any, low: Any) -> Any:
    """Merge two mappings; ``high`` overrides ``low``."""
    if not isinstance(high, Mapping) or not isinstance(low, Mapping):
        return high
    pairs = (*ONE_OF, ("model", "models"))
    overridden = {key for pair in pairs if not high.keys().isdisjoint(pair) for key in pair} - high.keys()
    rest = {key: value for key, value in low.items() if key not in overridden}
    return rest | {key: _merge(value, rest[key]) if key in rest else value for key, value in high.items()}


def _change(data: Any, keys: tuple[str, ...], value: Any) -> None:
    """Set a value in a study's mapping; what its tasks and methods say of the same setting is taken out."""
    if not isinstance(data, dict):
        return
    *above, last = keys
    excluded = {last, *(key for pair in (*ONE_OF, ("model", "models")) if last in pair for key in pair)}
    if keys[0] in ("train", "evaluate"):
        for entry in (entry for part in ("tasks", "methods") for entry in _list(data.get(part))):
            settings = entry.get(keys[0]) if isinstance(entry, dict) else None
            if isinstance(settings, dict):
                for key in excluded:
                    settings.pop(key, None)
    for key in above:
        if not isinstance(data.get(key), dict):
            data[key] = {}
        data = data[key]
    for key in excluded:
        data.pop(key, None)
    data[last] = value


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _steps(loc: Loc, data: Any) -> Loc:
    """A location of the study as in its file: ``model`` for ``models``, a single entry without its index."""
    mapping = data if isinstance(data, Mapping) else {}
    if loc[:1] == ("models",) and "models" not in mapping:
        loc = ("model", *loc[1:])
    if loc and loc[1:2] == (0,) and not isinstance(mapping.get(str(loc[0])), list):
        loc = (loc[0], *loc[2:])
    return loc
