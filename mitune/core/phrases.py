"""The noun phrases of a prompt, by a small deterministic parser for prompts as benchmarks have
them: "a red apple and a green bench", "the black phone is on the brown table"."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from mitune.core.errors import UserError

_DETERMINER = re.compile(
    "a|an|the|this|that|these|those|some|his|her|its|their|one|two|three|four|five"
)
_BETWEEN = re.compile(
    # conjunctions, prepositions, comparatives
    "and|or|but|with|without|of|(?:up)?on|in|at|to|from|by|near|next|beside|behind|under|underneath|over"
    "|above|below|between|among|inside|outside|into|onto|through|across|along|around|against|off"
    "|towards?|than|as|while|for|touching|(?:bigg|small|larg|tall|short|long)er"
    # verbs that say nothing by themselves, and adverbs
    "|is|are|was|were|be|been|being|has|have|had|do|does|did|not|no|very"
)
_PLACES = re.compile("left|right|top|bottom|side|front|back|middle|center|centre")
"""Of "on the left of": no things, where they stand alone."""
_TO_BE = re.compile("is|are|was|were")
_WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")


@dataclass(frozen=True)
class NounPhrase:
    """What a prompt asks for, with what it says about it.

    Attributes:
        text: its words as the prompt has them, without a determiner.
        start, end: of these words in the prompt, in characters.
    """

    text: str
    start: int
    end: int

    @property
    def noun(self) -> tuple[int, int]:
        """Where its last word, the noun, is in the prompt."""
        last = list(_WORD.finditer(self.text))[-1]
        return self.start + last.start(), self.start + last.end()


Parser = Callable[[str], list[NounPhrase]]


def with_determiner(prompt: str, phrase: NounPhrase) -> str:
    """The phrase's words with the determiner before it, if it has one: "a red apple"."""
    before = list(_WORD.finditer(prompt, 0, phrase.start))
    if before and _DETERMINER.fullmatch(before[-1].group().lower()):
        return prompt[before[-1].start() : phrase.end]
    return phrase.text


def noun_phrases(prompt: str) -> list[NounPhrase]:
    """The noun phrases by rules: what is between determiners, prepositions, conjunctions and forms
    of "to be" and "to have"."""
    found = []
    for words in _chunks(prompt):
        start, end = words[0].start(), words[-1].end()
        if not all(_PLACES.fullmatch(word.group().lower()) for word in words):
            found.append(NounPhrase(prompt[start:end], start, end))
    return found


def _chunks(prompt: str) -> Iterator[list[re.Match[str]]]:
    chunk: list[re.Match[str]] = []
    before = ""
    for word in _WORD.finditer(prompt):
        text = word.group().lower()
        apart = bool(chunk) and not prompt[chunk[-1].end() : word.start()].isspace()
        # "is looking at": a verb, and no thing.
        acts = text.endswith("ing") and _TO_BE.fullmatch(before)
        stops = acts or _DETERMINER.fullmatch(text) or _BETWEEN.fullmatch(text)
        if chunk and (stops or apart):
            yield chunk
            chunk = []
        if not stops:
            chunk.append(word)
        before = text
    if chunk:
        yield chunk


def without_phrases(prompt: str) -> list[str]:
    """The prompt without each of its noun phrases, their determiners, and the words between phrases
    that then join nothing; without its only phrase nothing is left."""
    found = []
    for phrase in noun_phrases(prompt):
        kept: list[str] = []
        for word in _WORD.finditer(prompt):
            text = word.group()
            if phrase.start <= word.start() < phrase.end:
                if kept and _DETERMINER.fullmatch(kept[-1].lower()):
                    kept.pop()
            elif not _BETWEEN.fullmatch(text.lower()) or (kept and not _joins(kept[-1])):
                kept.append(text)
        while kept and _joins(kept[-1]):
            kept.pop()
        found.append(" ".join(kept))
    return found or [""]


def _joins(word: str) -> bool:
    return _BETWEEN.fullmatch(word.lower()) is not None


def by_spacy(model: str = "en_core_web_sm") -> Parser:
    """A parser that asks spaCy, for prompts in free English.

    Raises:
        UserError: spaCy or its model is not installed.
    """
    try:
        import spacy
    except ImportError:
        raise UserError(
            "spaCy is not installed: pip install spacy, or leave the parser to the rules"
        ) from None
    try:
        language: Any = spacy.load(model)
    except OSError:
        raise UserError(
            f"spaCy has no model {model!r}: python -m spacy download {model}, or leave the parser "
            "to the rules"
        ) from None

    def parse(prompt: str) -> list[NounPhrase]:
        found = []
        for chunk in language(prompt).noun_chunks:
            words = [t for t in chunk if t.pos_ not in ("DET", "PRON")]
            if words:
                start, end = words[0].idx, words[-1].idx + len(words[-1])
                found.append(NounPhrase(prompt[start:end], start, end))
        return found

    return parse


def token_at(tokenizer: Any, prompt: str, end: int) -> int:
    """Position among a prompt's tokens, the first of which begins the text, of the last token of
    the word that ends at character ``end``. Under a causal text encoder that one has seen the whole
    word."""
    return len(tokenizer(prompt[:end]).input_ids) - 2
