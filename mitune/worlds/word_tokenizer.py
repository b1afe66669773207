"""A CLIP tokenizer in which each word of a small world is one token."""

import json
from collections.abc import Collection
from pathlib import Path

from transformers import CLIPTokenizer


def write_tokenizer(folder: Path, words: Collection[str], length: int) -> CLIPTokenizer:
    """Write a ``vocab.json`` and a ``merges.txt`` in which each of ``words`` is one token, and load
    them; texts have ``length`` tokens.

    The vocabulary contains the byte alphabet, so any other text can be encoded too, as single
    characters whose embeddings are untrained.
    """
    merges: list[tuple[str, str]] = []
    for word in sorted(words):
        symbols = [*word[:-1], word[-1] + "</w>"]
        while True:
            # Apply the merges known so far in order of rank, as BPE does, then add the one still
            # missing.
            for left, right in merges:
                i = 0
                while i < len(symbols) - 1:
                    if (symbols[i], symbols[i + 1]) == (left, right):
                        symbols[i : i + 2] = [left + right]
                    i += 1
            if len(symbols) == 1:
                break
            merges.append((symbols[0], symbols[1]))
    # GPT-2's printable characters for the 256 bytes: printable bytes represent themselves.
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = [chr(b) for b in plain] + [chr(256 + i) for i in range(256 - len(plain))]
    merged = list(dict.fromkeys(left + right for left, right in merges))
    tokens = [*letters, *(letter + "</w>" for letter in letters), *merged]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False))
    lines = ["#version: 0.2", *(f"{left} {right}" for left, right in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n")
    tokenizer = CLIPTokenizer(
        str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=length
    )
    tokenizer.save_pretrained(folder)
    return tokenizer
