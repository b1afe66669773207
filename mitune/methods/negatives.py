"""Wrong prompts that are nearly right: hard negatives for HN-ITM."""

from itertools import pairwise

from mitune.core.errors import UserError
from mitune.core.phrases import NounPhrase, Parser, noun_phrases


def exchanged(prompt: str, parser: Parser = noun_phrases) -> str:
    """The prompt with the attributes of its first two noun phrases exchanged: "a blue circle and a
    red square" of "a red circle and a blue square"; where they have no different attributes, with
    their nouns exchanged.

    Raises:
        UserError: the prompt has not two noun phrases that differ.
    """
    phrases = parser(prompt)
    for first, second in pairwise(phrases):
        for what in (_attributes, _noun):
            (a, b), (c, d) = what(first), what(second)
            if prompt[a:b].lower() != prompt[c:d].lower():
                text = f"{prompt[:a]}{prompt[c:d]}{prompt[b:c]}{prompt[a:b]}{prompt[d:]}"
                return " ".join(text.split())
    raise UserError(
        f"prompt {prompt!r:.80} has no two noun phrases that differ: a wrong prompt is made by "
        "exchanging what two of them say; give one yourself"
    )


def _attributes(phrase: NounPhrase) -> tuple[int, int]:
    """Where a phrase's words before its noun are."""
    return phrase.start, phrase.noun[0]


def _noun(phrase: NounPhrase) -> tuple[int, int]:
    return phrase.noun
