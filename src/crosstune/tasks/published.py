"""Tasks made from published files: on this machine in any of their layouts, or on the hub.

A task names its layouts and writes an `Example` from a row; finding files, reading them, and what happens to
rows that cannot be used is the same for all and is done here. docs/add-a-task.md adds one, step by step.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from crosstune.config.environment import DATA, data_root
from crosstune.data.example import Example, Split, fair_order
from crosstune.data.source import FileLayout, Place, find_places, labelled, renamed
from crosstune.data.tables import BadRow, Row, Rows, read_rows
from crosstune.errors import UserError
from crosstune.tasks.base import Task, TaskOptions
from crosstune.tasks.prompts import load_prompts


class PublishedOptions(TaskOptions):
    """Settings of every task that reads published files.

    Attributes:
        source: "local" files, the "hub", or "auto": local if the data folder has the task's files, else hub.
        data: Folder that holds the local files; by default $CROSSTUNE_DATA.
        revision: Commit, branch or tag of the evaluation data on the hub; see docs/datasets.md.
        evaluate_on: The split that scores come from.
        prompt_language: Prompts in the source language everywhere, or each in its own (target) language.
        on_bad_rows: "error" stops at a row that cannot be used; "skip" leaves it out, and says so.
    """

    source: Literal["auto", "local", "hub"] = "auto"
    data: str | None = None
    revision: str | None = None
    evaluate_on: Literal["test", "dev"] = "test"
    prompt_language: Literal["source", "target"] = "source"
    on_bad_rows: Literal["error", "skip"] = "error"


class PublishedTask(Task):
    """A task whose examples come from files. A subclass gives its layouts, its prompts, and `example`.

    A dataset's peculiarities go into an override: `rows` drops, changes or completes rows before examples are
    made of them; `examples` makes a split from another split or from several datasets; `wording` and
    `template` let options choose among prompts; `languages` handles languages whose files are elsewhere;
    `data_folder` and `missing_split` handle files outside the folder of the benchmarks. The other methods are
    helpers.

    Attributes:
        options: The task's settings; a subclass with options of its own declares their type here.
        layouts: Of each split, tried in order.
        hub: Of each split, the entry of ``hub_datasets.toml``.
        prompts: Name of the file of prompts; "" for none.
        may_be_blank: Columns that are blank in some published rows: such rows are left out and counted, even
            where ``on_bad_rows`` stops at any other.
        without_prompt: What an error suggests for a language without a prompt.
    """

    options: PublishedOptions
    layouts: Mapping[Split, tuple[FileLayout, ...]]
    hub: Mapping[Split, str] = {}
    prompts: ClassVar[str]
    may_be_blank: ClassVar[tuple[str, ...]] = ()
    without_prompt: ClassVar[str] = "leave it out"
    Options: ClassVar[type[TaskOptions]] = PublishedOptions

    @property
    def licences(self) -> Mapping[str, str]:
        """Those of the datasets that it names on the hub, wherever its files are read."""
        from crosstune.data.hub import licence_of

        return {name: licence for name in self.hub.values() if (licence := licence_of(name))}

    @abstractmethod
    def example(self, row: Row, split: Split, language: str) -> Example:
        """One example.

        Raises:
            BadRow: The row cannot be used (`Row.text` and `Row.error` say so).
        """

    def languages(self) -> list[str]:
        """Canonical codes of the languages whose evaluation split is there, the source language first."""
        if self.on_hub:
            from crosstune.data.hub import hub_entry

            offered = set(hub_entry(self.hub["test"]).languages)
        else:
            offered = set(self.places.get(self.options.evaluate_on, ()))
            if not offered:
                raise self.missing_split(self.options.evaluate_on)
        return sorted(offered, key=lambda code: (code != self.source_language, code))

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, shuffled by id: the same order in every language."""
        actual = self.split_read(split)
        examples = self.keep(self.rows(actual, language), lambda row: self.example(row, actual, language))
        if not examples:
            raise UserError(f"task {self.name}: no usable row in its {actual} split in {language}")
        return sorted(examples, key=lambda example: fair_order(example.id))

    def split_read(self, split: Split) -> Split:
        """The source's split that one of the task's is: as ``evaluate_on`` says, "test" may be "dev"."""
        return self.options.evaluate_on if split == "test" else split

    def rows(self, split: Split, language: str) -> Rows:
        """Rows of one of the source's splits, from the hub or from local files.

        Raises:
            UserError: The split or the language is not there.
        """
        return self.hub_rows(split, language) if self.on_hub else self.local_rows(split, language)

    def keep(self, rows: Rows, make: Callable[[Row], Example]) -> list[Example]:
        """Examples of the rows that can be used.

        Raises:
            BadRow: The first that cannot, or that repeats an id, unless ``on_bad_rows`` is "skip".
        """
        examples = []
        first: dict[str, int] = {}
        for row in rows:
            try:
                if isinstance(row, BadRow):
                    raise row
                example = make(row)
                if example.id in first:
                    raise row.error(f"id {example.id[:60]!r} again, first on line {first[example.id]}")
            except BadRow as bad:
                texts = [row.fields.get(name) for name in self.may_be_blank] if isinstance(row, Row) else []
                as_published = any(not str(text or "").strip() for text in texts)
                if self.options.on_bad_rows == "error" and not as_published:
                    raise BadRow(f"{bad} (or set on_bad_rows: skip)") from None
                self.skipped.append(str(bad))
            else:
                first[example.id] = row.line
                examples.append(example)
        return examples

    @cached_property
    def on_hub(self) -> bool:
        """Whether files come from the hub."""
        if self.options.source != "auto":
            return self.options.source == "hub"
        return "test" in self.hub and not self.options.data and not any(self.places.values())

    def wording(self, language: str) -> Mapping[str, Any]:
        """Prompt and words for a language, in it or in the source language, as ``prompt_language`` says.

        Raises:
            UserError: There is no prompt in that language.
        """
        languages = self.wordings()
        wanted = language if self.options.prompt_language == "target" else self.source_language
        if wanted not in languages:
            raise UserError(
                f"task {self.name} has no prompt in {wanted}, only in {', '.join(languages)}; "
                f"{self.without_prompt} or set prompt_language: source"
            )
        return languages[wanted]

    def wordings(self) -> Mapping[str, Mapping[str, Any]]:
        """Prompt and words by language."""
        languages: Mapping[str, Mapping[str, Any]] = load_prompts(self.prompts)["languages"]
        return languages

    def template(self, language: str) -> str | None:
        """The prompt with its places still open; None of a task without prompts."""
        return str(self.wording(language)["prompt"]) if self.prompts else None

    # --- files ------------------------------------------------------------------------------

    @property
    def data_folder(self) -> Path:
        """Folder of the local files; a `UserError` where there is none."""
        return data_root(self.options.data)

    @cached_property
    def places(self) -> dict[Split, dict[str, Place]]:
        """Local files by split and language."""
        root = self.data_folder
        return {
            split: find_places(root, layouts, self.source_language) for split, layouts in self.layouts.items()
        }

    def local_rows(self, split: Split, language: str) -> Rows:
        """Rows of the local files; errors as of `rows`."""
        places = self.places.get(split, {})
        if language not in places:
            if not places:
                raise self.missing_split(split)
            if split == "train":
                raise UserError(f"task {self.name} has training data in {', '.join(places)} only")
            raise self.missing(language, sorted(places))
        root = self.data_folder
        files = [path.relative_to(root).as_posix() for path in places[language].paths]
        self.note_source(split, language, files=files)
        return places[language].rows()

    def hub_rows(self, split: Split, language: str, dataset: str = "") -> Rows:
        """Rows of the hub's files, fetched once: those of the task, or of a dataset that is named.

        Errors are those of `rows`, and that the hub cannot be reached.
        """
        from crosstune.data.hub import fetch_files, hub_entry

        if not dataset and split not in self.hub:
            raise UserError(f"task {self.name} has no {split} split on the hub")
        entry = hub_entry(dataset or self.hub[split])
        if language not in entry.languages:
            raise self.missing(language, sorted(entry.languages))
        # The option is a revision of the evaluation data.
        revision = None if dataset or split == "train" else self.options.revision
        pattern = self.files_named(entry.pattern(split, language), entry.languages[language])
        files = fetch_files(entry.repo, pattern, revision or entry.revision)
        names = [path.name for path in files.paths]
        self.note_source(split, language, repo=files.repo, commit=files.commit, files=names)
        rows = (row for path in files.paths for row in read_rows(path, entry.columns))
        in_language = (row for row in rows if isinstance(row, BadRow) or entry.holds(row.fields, language))
        return labelled(renamed(in_language, entry.rename), entry.labels)

    def files_named(self, pattern: str, code: str) -> str:
        """A pattern of files on the hub with what options say put in; ``code`` is the dataset's language."""
        return pattern

    def note_source(self, split: Split, language: str, **facts: Any) -> None:
        """Record in `sources` where a split came from or what was done to its rows, once."""
        entry = {"split": split, "language": language, **facts}
        if entry not in self.sources:
            self.sources.append(entry)

    def missing_split(self, split: Split) -> UserError:
        """The error for a split without local files: where they were looked for, and what to do."""
        wanted = " or ".join(layout.files for layout in self.layouts.get(split, ()))
        present = [name for name, places in self.places.items() if places]
        also = f" (it has {', '.join(present)})" if present else ""
        instead = ", or evaluate_on: dev" if split == "test" and "dev" in present else ""
        instead += ", or source: hub" if split in self.hub else ""
        return UserError(
            f"task {self.name} has no {split} split under {self.data_folder}{also}: looked for "
            f"{wanted or 'nothing'}; set {DATA} or the task's option data{instead}"
        )
