"""A user's own task of tags for words: lists or texts in columns of a table, or a word and its tag a line."""

from collections.abc import Sequence

from crosstune.data.example import Example, Split
from crosstune.data.tables import Row
from crosstune.data.tagged import without_spaces
from crosstune.metrics.tagging import begins_with_i
from crosstune.tasks.custom.task import DefinedTask, number_hint, texts_of

WORDS = "words"


class DefinedTags(DefinedTask):
    """Sentences and the tags of their words; an example's prompt is its words joined with spaces."""

    def template(self, language: str) -> str | None:
        """The words themselves."""
        return f"{{{WORDS}}}"

    def example(self, row: Row, split: Split, language: str) -> Example:
        """The words, and their tags among the task's."""
        definition = self.definition
        if definition.words is None:
            words, told = row[WORDS], row["tags"]
        else:
            words, told = (_list(row, column) for column in (definition.words, definition.answer))
        if len(words) != len(told):
            raise row.error(f"{len(words)} words and {len(told)} tags")
        words, tags = without_spaces(words, [self._tag(row, tag) for tag in told])
        if not words:
            raise row.error("a sentence without words")
        if self.metrics[0] == "strict_f1" and (tag := begins_with_i(tags)):
            raise row.error(
                f"{tag} begins a name, which strict_f1 does not count; write B-{tag[2:]}, or take xtreme_f1"
            )
        text = " ".join(words)
        return Example(
            self.name_of(row, split, language),
            language,
            text,
            (" ".join(tags),),
            self.tags,
            ((WORDS, text),),
            self.cluster_of(row),
        )

    def _tag(self, row: Row, value: str) -> str:
        """The tag that a text or a number stands for."""
        if self.definition.answer_is.startswith("index"):
            place = int(value) - (self.definition.answer_is == "index1") if value.isdecimal() else -1
            if 0 <= place < len(self.tags):
                return self.tags[place]
        elif value in self.tags:
            return value
        known = ", ".join(self.tags)[:120]
        hint = number_hint(value, len(self.tags)) if self.definition.answer_is == "text" else ""
        raise row.error(f"unknown tag {value[:60]!r}; known: {known}{hint}")


def _list(row: Row, column: str) -> Sequence[str]:
    """A column's list of texts, or the parts of its one text between spaces."""
    texts = texts_of(row, column)
    return texts if isinstance(row.fields.get(column), list) else texts[0].split()
