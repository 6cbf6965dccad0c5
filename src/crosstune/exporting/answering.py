"""A finished run that answers the three kinds of request which lm-evaluation-harness makes of a model.

Texts are tokenised as the harness does for models of Hugging Face: a continuation as it stands behind its
context. Nothing here needs the harness; `crosstune.exporting.lm_eval` registers it there.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from crosstune.errors import UserError
from crosstune.exporting.likelihood import Pair, likelihoods
from crosstune.files import user_path
from crosstune.languages import find
from crosstune.outputs.generation import generate
from crosstune.running.restored import method_of, restored
from crosstune.store import store

MOST_WRITTEN = 256
"""Tokens of an answer where a task names no number, as in the harness."""
_LONGEST = 2048  # tokens read at once of a model that names no number


class Request(Protocol):
    """The part of a request of the harness's that is read here."""

    args: tuple[Any, ...]


class AnsweringRun:
    """A run's model with what it trained, loaded until the process ends.

    Args:
        run: ``<store>/<id>``.
        language: For which parts of its method are active; its source language by default.
        device: Where to load it.
        tokens_per_pass: Most tokens that go through it at once.

    Raises:
        UserError: No such run, damaged weights, or a model that answers with a head or is no decoder.
    """

    def __init__(
        self, run: str, language: str | None = None, device: str | None = None, tokens_per_pass: int = 8192
    ) -> None:
        folder = user_path(run)
        record = store.read_run(folder)
        if record.head_parameters:
            raise UserError(f"{run}: it answers with a head, and the harness asks for words")
        method = method_of(record)
        code = find(language).code if language else record.source_language
        inside = ExitStack()
        self.lm = inside.enter_context(restored(folder, record, method, code, device=device or "auto"))
        if self.lm.geometry.encoder or self.lm.geometry.encoder_layers:
            raise UserError(f"{run}: its model is no decoder alone, which these requests are made of")
        inside.enter_context(method.evaluating())
        self.inside = inside  # until the process ends
        self.record, self.tokens_per_pass = record, int(tokens_per_pass)
        self.tokenizer = self.lm.tokenizer

    def loglikelihood(
        self, requests: Sequence[Request], disable_tqdm: bool = False
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation behind its context, and whether greedy decoding writes it."""
        pairs = [self._pair(*request.args) for request in requests]
        return likelihoods(self.lm, pairs, self.tokens_per_pass)

    def loglikelihood_rolling(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[float]:
        """Log-probability of each whole text, in windows of what the model reads at once."""
        positions = getattr(self.lm.decoder.config, "max_position_embeddings", None) or _LONGEST
        most = min(positions - self.lm.adaptation.front, self.tokens_per_pass)
        texts = [list(windows(self._ids(*request.args), self._first, most)) for request in requests]
        scores = iter(likelihoods(self.lm, [pair for text in texts for pair in text], self.tokens_per_pass))
        return [sum(next(scores)[0] for _ in text) for text in texts]

    def generate_until(self, requests: Sequence[Request], disable_tqdm: bool = False) -> list[str]:
        """Greedy answers up to a stop string, without white space around them.

        Raises:
            UserError: A task that draws its answers.
        """
        alike: dict[tuple[tuple[str, ...], int], list[int]] = {}
        for i, request in enumerate(requests):
            alike.setdefault(_ends(request.args[1]), []).append(i)
        answers = [""] * len(requests)
        for (stop, most), places in alike.items():
            prompts = [self._ids(requests[i].args[0]) for i in places]
            written = generate(self.lm, prompts, most, stop, self.tokens_per_pass)
            for i, text in zip(places, written, strict=True):
                answers[i] = text
        return answers

    @property
    def tokenizer_name(self) -> str:
        """For the harness's caches."""
        return self.record.model.replace("/", "__")

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        """The tokenizer's, where one is asked for.

        Raises:
            UserError: It has none.
        """
        template: str | None = self.tokenizer.chat_template
        if chat_template and template is None:
            raise UserError("the model's tokenizer has no chat template; take --apply_chat_template out")
        return template if chat_template else None

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """A chat as the text that the model reads."""
        shown: str = self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
            enable_thinking=False,
        )
        return shown

    @property
    def _first(self) -> int:
        """The token in front of a text that has nothing in front."""
        bos = self.tokenizer.bos_token_id
        return int(self.tokenizer.eos_token_id if bos is None else bos)

    def _ids(self, text: str) -> list[int]:
        bos = self.tokenizer.bos_token
        if bos and text.startswith(bos):  # a chat template wrote it
            return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        ids: list[int] = self.tokenizer(text)["input_ids"]
        return ids[: len(ids) - self.lm.tokens.closed_by]

    def _pair(self, context: str, continuation: str) -> Pair:
        if not context:
            ids: list[int] = self.tokenizer(continuation, add_special_tokens=False)["input_ids"]
            return ([self._first], ids) if ids[:1] != [self._first] else (ids[:1], ids[1:])
        bare = context.rstrip()  # a space in front of a word is the word's
        before = self._ids(bare)
        return before, self._ids(bare + context[len(bare) :] + continuation)[len(before) :]


def windows(ids: Sequence[int], first: int, most: int) -> Iterator[Pair]:
    """A text as contexts and continuations, each token in one: as many at a time as are read at once.

    The last continuation has as much in front of it as there is room for.
    """
    whole = [first, *ids] if list(ids[:1]) != [first] else list(ids)
    for start in range(0, len(whole) - 1, most):
        end = min(start + most, len(whole) - 1)
        yield whole[max(0, end - most) : start + 1], whole[start + 1 : end + 1]


def _ends(settings: Mapping[str, Any]) -> tuple[tuple[str, ...], int]:
    """The stop strings and the most tokens of a request."""
    if settings.get("do_sample") and settings.get("temperature", 1.0):
        raise UserError("the task draws its answers (do_sample), and a run writes the likeliest")
    until = settings.get("until") or ()
    stop = (until,) if isinstance(until, str) else tuple(until)
    most = next(
        (settings[key] for key in ("max_gen_toks", "max_new_tokens") if settings.get(key)), MOST_WRITTEN
    )
    return tuple(text for text in stop if text), int(most)
