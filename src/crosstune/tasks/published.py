"""Tasks made from published files: on this machine in any of their layouts, or on the hub.

A task names its layouts and writes an `Example` from a row; finding files, reading them, and what happens to
rows that cannot be used is the same for all and stands here.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

from crosstune.config.environment import DATA, data_root
from crosstune.data.example import Example, Split
from crosstune.data.local import fair_order, missing_language
from crosstune.data.source import FileLayout, Place, _canonical, _codes, _shape, labelled, renamed
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
    """A task whose examples come from files. A subclass is its layouts and `example`.

    Attributes:
        layouts: Of each split, tried in order.
        hub: Of each split, the entry of ``hub_datasets.toml``.
        prompts: Name of the file of prompts.
    """

    layouts: Mapping[Split, tuple[FileLayout, ...]]
    hub: Mapping[Split, str] = {}
    prompts: ClassVar[str]
    Options: ClassVar[type[TaskOptions]] = PublishedOptions

    @abstractmethod
    def example(self, row: Row, split: Split, language: str) -> Example:
        """One example.

        Raises:
            BadRow: The row cannot be used (`Row.text` and `Row.error` say so).
        """

    @property
    def published(self) -> PublishedOptions:
        """The options, under their own type."""
        assert isinstance(self.options, PublishedOptions)
        return self.options

    def languages(self) -> list[str]:
        """Canonical codes of the languages whose evaluation split is there, the source language first."""
        if self.on_hub:
            from crosstune.data.hub import hub_entry

            offered = set(hub_entry(self.hub["test"]).languages)
        else:
            offered = set(self._places[self.published.evaluate_on])
            if not offered:
                raise self._nothing_here(self.published.evaluate_on)
        return sorted(offered, key=lambda code: (code != self.source_language, code))

    def examples(self, split: Split, language: str) -> list[Example]:
        """All examples of a split, shuffled by id: the same order in every language."""
        actual: Split = self.published.evaluate_on if split == "test" else split
        rows = self._hub_rows(actual, language) if self.on_hub else self._local_rows(actual, language)
        kept = self.keep(rows, lambda row: self.example(row, actual, language))
        if not kept:
            raise UserError(f"task {self.name}: no usable row in its {actual} split in {language}")
        return sorted(kept, key=lambda example: fair_order(example.id))

    def keep(self, rows: Rows, make: Callable[[Row], Example]) -> list[Example]:
        """Examples of the rows that can be used.

        Raises:
            BadRow: The first that cannot, or that repeats an id, unless ``on_bad_rows`` is "skip".
        """
        kept = []
        first: dict[str, int] = {}
        for row in rows:
            try:
                if isinstance(row, BadRow):
                    raise row
                example = make(row)
                if example.id in first:
                    raise row.error(f"id {example.id[:60]!r} again, first on line {first[example.id]}")
            except BadRow as bad:
                if self.published.on_bad_rows == "error":
                    raise BadRow(f"{bad} (or set on_bad_rows: skip)") from None
                self.skipped.append(str(bad))
            else:
                first[example.id] = row.line
                kept.append(example)
        return kept

    @cached_property
    def on_hub(self) -> bool:
        """Whether files come from the hub."""
        if self.published.source != "auto":
            return self.published.source == "hub"
        return "test" in self.hub and not self.published.data and not any(self._places.values())

    def wording(self, language: str) -> Mapping[str, Any]:
        """Prompt and words for a language, in it or in the source language, as ``prompt_language`` says.

        Raises:
            UserError: There is no prompt in that language.
        """
        languages: Mapping[str, Mapping[str, Any]] = load_prompts(self.prompts)["languages"]
        asked = language if self.published.prompt_language == "target" else self.source_language
        if asked not in languages:
            raise UserError(
                f"task {self.name} has no prompt in {asked}, only in {', '.join(languages)}; "
                "leave it out or set prompt_language: source"
            )
        return languages[asked]

    def template(self, language: str) -> str | None:
        """The prompt with its places still open."""
        text: str = self.wording(language)["prompt"]
        return text

    # --- files ------------------------------------------------------------------------------

    @cached_property
    def _places(self) -> dict[Split, dict[str, Place]]:
        """Local files by split and language."""
        root = data_root(self.published.data)
        return {split: self._find(root, layouts) for split, layouts in self.layouts.items()}

    def _find(self, root: Path, layouts: tuple[FileLayout, ...]) -> dict[str, Place]:
        """Places of one split; the first layout that has a language wins."""
        found: dict[str, Place] = {}
        for layout in layouts:
            by_language: dict[str, list[Path]] = {}
            shape = _shape(layout.files)
            for path in sorted(root.glob(layout.files.replace("{code}", "*"))):
                match = shape.fullmatch(path.relative_to(root).as_posix())
                if match is None or not path.is_file():
                    continue
                code = match.groupdict().get("code")
                language = layout.language or self.source_language if code is None else _canonical(code)
                if language is not None:
                    by_language.setdefault(language, []).append(path)
            if layout.column is not None:
                paths = tuple(path for paths in by_language.values() for path in paths)
                for code in _codes(layout, paths):
                    if (language := _canonical(code)) is not None:
                        found.setdefault(language, Place(layout, paths, code))
                continue
            for language, files in by_language.items():
                found.setdefault(language, Place(layout, tuple(files)))
        return found

    def _local_rows(self, split: Split, language: str) -> Rows:
        places = self._places.get(split, {})
        if language not in places:
            if not places:
                raise self._nothing_here(split)
            if split == "train":
                raise UserError(f"task {self.name} has training data in {', '.join(places)} only")
            raise missing_language(self.name, language, sorted(places))
        place = places[language]
        root = data_root(self.published.data)
        self._note(split, language, files=[path.relative_to(root).as_posix() for path in place.paths])
        rows = (row for path in place.paths for row in place.layout.rows(path))
        if place.code is None:
            return rows
        column = place.layout.column
        return (row for row in rows if isinstance(row, BadRow) or row.fields.get(column or "") == place.code)

    def _hub_rows(self, split: Split, language: str) -> Rows:
        from crosstune.data.hub import fetch_files, hub_entry

        if split not in self.hub:
            raise UserError(f"task {self.name} has no {split} split on the hub")
        entry = hub_entry(self.hub[split])
        if language not in entry.languages:
            raise missing_language(self.name, language, sorted(entry.languages))
        revision = self.published.revision if split != "train" and self.published.revision else entry.revision
        files = fetch_files(entry.repo, entry.pattern(split, language), revision)
        self._note(split, language, repo=files.repo, commit=files.commit, files=[p.name for p in files.paths])
        rows = (row for path in files.paths for row in read_rows(path, entry.columns))
        own = (row for row in rows if isinstance(row, BadRow) or entry.holds(row.fields, language))
        return labelled(renamed(own, entry.rename), entry.labels)

    def _note(self, split: Split, language: str, **facts: Any) -> None:
        """Remember where a split came from, once."""
        entry = {"split": split, "language": language, **facts}
        if entry not in self.sources:
            self.sources.append(entry)

    def _nothing_here(self, split: Split) -> UserError:
        wanted = " or ".join(layout.files for layout in self.layouts.get(split, ()))
        there = [name for name, places in self._places.items() if places]
        also = f" (it has {', '.join(there)})" if there else ""
        instead = ", or evaluate_on: dev" if split == "test" and "dev" in there else ""
        instead += ", or source: hub" if split in self.hub else ""
        return UserError(
            f"task {self.name} has no {split} split under {data_root(self.published.data)}{also}: looked for "
            f"{wanted or 'nothing'}; set {DATA} or the task's option data{instead}"
        )
