"""Datasets on the Hugging Face hub: where each one lies there (``hub_datasets.toml``), and its files here.

Files are fetched as they were published and read without any code of the repository: a dataset that its own
script would have to unpack is taken from the branch ``refs/convert/parquet``, the hub's conversion of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path, PurePosixPath
from typing import Any

import huggingface_hub
from huggingface_hub import errors

from crosstune.data.example import Split
from crosstune.errors import UserError, did_you_mean
from crosstune.files import table_beside
from crosstune.languages.table import find
from crosstune.models.loading.hub import HTTP_ERROR, explained

DATA_SUFFIXES = (".parquet", ".jsonl", ".json", ".tsv", ".csv")

# Names that would leave the folder of the snapshot; a backslash counts as a slash there.
_OUTSIDE = ("/*", "../*", "*/../*", "*:*")

# What a revision stood for when this process first asked, and whether the hub was there to say so: a branch
# that moves meanwhile must not mix two versions, and a hub that is away is not waited for again.
_known: dict[tuple[str, str], tuple[str, bool]] = {}


@dataclass(frozen=True, slots=True)
class HubFiles:
    """Files of a dataset repository here: sorted paths, ``owner/name``, and the commit's 40 hex digits."""

    paths: list[Path]
    repo: str
    commit: str


@dataclass(frozen=True, slots=True)
class HubEntry:
    """Where a dataset lies on the hub."""

    repo: str  # ``owner/name``
    revision: str  # commit, or a branch where no commit is known
    licence: str  # of the data
    # Pattern of the files of each split there is, with ``{code}`` for the dataset's language code.
    files: Mapping[Split, str]
    columns: Sequence[str]  # that every file must have
    languages: Mapping[str, str]  # the dataset's own code by canonical code
    rename: Mapping[str, str] = field(default_factory=dict)  # the task's column name by the published one
    # What the numbers in a label column mean, in order; empty where labels are texts.
    labels: Sequence[str] = ()
    # Column that starts with a row's language code and "-", in files of many languages.
    language_prefix: str | None = None

    def pattern(self, split: Split, language: str) -> str:
        """Files of a split in a language.

        Raises:
            UserError: No such split or language.
        """
        if split not in self.files:
            raise UserError(f"{self.repo} has no {split} split, only {', '.join(self.files)}")
        if language not in self.languages:
            raise UserError(f'{self.repo} has no "{language}"{did_you_mean(language, self.languages)}')
        return self.files[split].replace("{code}", self.languages[language])

    def holds(self, row: Mapping[str, Any], language: str) -> bool:
        """Whether a row is in a language, which only files of many languages leave open."""
        if self.language_prefix is None:
            return True
        return str(row.get(self.language_prefix)).startswith(f"{self.languages[language]}-")


@cache
def hub_entry(name: str) -> HubEntry:
    """The entry of a dataset in ``hub_datasets.toml``.

    Raises:
        UserError: No such dataset, or one that has to be brought as local files; it says where from.
    """
    table = table_beside(__file__, "hub_datasets.toml")
    elsewhere: dict[str, str] = table.pop("not_fetched")
    if name in elsewhere:
        raise UserError(f"{name} cannot be fetched from the hub: {elsewhere[name]}")
    if name not in table:
        raise UserError(f'no dataset "{name}" is known on the hub{did_you_mean(name, table)}')
    entry = table[name]
    # "jap=ja": a code that stands for no language elsewhere, and the language.
    pairs = (code.partition("=") for code in entry.pop("codes", ["en"]))
    entry["languages"] = {find(known or code).code: code for code, _, known in pairs}
    return HubEntry(**entry)


def licence_of(name: str) -> str | None:
    """That of a dataset's data; None where it is not known."""
    try:
        return hub_entry(name).licence
    except UserError:  # it is not fetched
        return None


def fetch_files(repo: str, pattern: str, revision: str) -> HubFiles:
    """Fetch a dataset's files into the hub's own cache, unless they are there.

    ``pattern`` is of paths in the repository ``owner/name``, such as ``en/test-*.parquet``; it ends as data
    files do (`DATA_SUFFIXES`), so no script can match. The revision of a branch is looked up once a process;
    offline it is the one of the last time.

    Raises:
        UserError: No such repository, revision or file; no access; not reachable and not cached; the
            download broke off; disk full; a pattern that no data file can match.
    """
    if not pattern.endswith(DATA_SUFFIXES):
        raise UserError(f"{repo}: {pattern!r} names no data files; end it in {', '.join(DATA_SUFFIXES)}")
    if pattern.startswith("/") or ".." in PurePosixPath(pattern).parts:
        raise UserError(f"{repo}: {pattern!r} leaves the repository; give a pattern of paths inside it")
    with explained(repo, revision, "dataset"):
        folder = _snapshot(repo, pattern, revision)
    paths = sorted(path for path in folder.glob(pattern) if path.is_file())
    if not paths:
        available = _what_there_is(repo, folder.name)
        raise UserError(f"{repo} at revision {revision!r}: no file {pattern}; {available}")
    return HubFiles(paths, repo, folder.name)


def _snapshot(repo: str, pattern: str, revision: str) -> Path:
    """The cache's folder of the commit with the files that match, as they are there if the hub is away."""
    fetch = partial(
        huggingface_hub.snapshot_download,
        repo,
        repo_type="dataset",
        allow_patterns=[pattern],
        ignore_patterns=list(_OUTSIDE),
    )
    if (repo, revision) in _known:
        commit, online = _known[repo, revision]
        return Path(fetch(revision=commit, local_files_only=not online))
    try:
        # Fails at once where fetching would try again for half a minute.
        huggingface_hub.dataset_info(repo, revision=revision)
    except errors.RevisionNotFoundError:
        raise
    except (HTTP_ERROR, OSError) as away:
        try:
            folder = Path(fetch(revision=revision, local_files_only=True))
        except errors.LocalEntryNotFoundError:
            if isinstance(away, errors.HfHubHTTPError):
                raise away from None  # no access, or no such repository: what the hub said tells more
            raise
        _known[repo, revision] = (folder.name, False)
        return folder
    folder = Path(fetch(revision=revision))
    _known[repo, revision] = (folder.name, True)
    return folder


def _what_there_is(repo: str, commit: str) -> str:
    """The data files of a repository, for an error about one that it lacks."""
    try:
        siblings = huggingface_hub.dataset_info(repo, revision=commit).siblings or []
    except (HTTP_ERROR, OSError):
        return "what else it holds cannot be asked now"
    data = sorted(file.rfilename for file in siblings if file.rfilename.endswith(DATA_SUFFIXES))
    if not data:
        return "it holds no data files; try revision refs/convert/parquet"
    return f"it holds {', '.join(data[:8])}" + (f", ... ({len(data)} in all)" if len(data) > 8 else "")
