"""Stage 2: the text encoder, trained on the content of captions without any pictures.

Linear read-outs must find what is said of an item at its noun, and after the caption's end all of
it: what each item is, and what has each role in its relation, such as the one on the left. So the
denoiser's cross-attention receives features that already bind attributes to shapes and things to
places, and does not have to learn either through the noise (docs/log.md).
"""

import itertools
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPTokenizer

from mitune.worlds.shapes import networks
from mitune.worlds.shapes.prompts import (
    ITEMS,
    RELATIONS,
    Item,
    Phrase,
    shown,
)
from mitune.worlds.shapes.scene import COLOURS, MOST, SHAPES, TEXTURES

_OF_ITEM = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "texture": len(TEXTURES) + 1,
    "count": MOST + 1,
}


_ROLES = {
    "to the left of": ("left", "right"),
    "to the right of": ("right", "left"),
    "above": ("above", "below"),
    "below": ("below", "above"),
    "inside": ("inner", "outer"),
    "bigger than": ("bigger", "smaller"),
    "touching": ("touching", "touched"),
}
"""Of the last two items of a caption."""
ROLES = tuple(dict.fromkeys(role for pair in _ROLES.values() for role in pair))


def random_phrase(draw: random.Random) -> Phrase:
    """Any phrase of the grammar that names nothing that pre-training never shows."""
    items: list[Item] = []
    for _ in range(draw.choice([1, 2, 2, 3])):
        while True:
            item = Item(
                draw.choice(SHAPES),
                draw.choice([None, *COLOURS, *COLOURS]),
                draw.choice([None, None, *TEXTURES[1:]]),
            )
            if shown(item):
                items.append(item)
                break
    if len(items) == 1 and draw.random() < 0.5:
        items = [Item(items[0].shape, items[0].colour, items[0].texture, draw.randint(2, MOST))]
    relation = draw.choice([None, *RELATIONS]) if len(items) > 1 else None
    return Phrase(tuple(items), relation)


def _of(item: Item | None) -> list[int]:
    """The facts of an item; the last index stands for "none"."""
    if item is None:
        return [len(COLOURS), len(SHAPES), len(TEXTURES), 0]
    return [
        COLOURS.index(item.colour) if item.colour else len(COLOURS),
        SHAPES.index(item.shape),
        TEXTURES.index(item.texture) if item.texture else len(TEXTURES),
        item.count,
    ]


def _facts(phrase: Phrase | None) -> list[int]:
    """A target for each read-out of the whole caption: of its items, of the roles, and its
    relation."""
    items = phrase.items if phrase else ()
    relation = phrase.relation if phrase else None
    roles = dict(zip(_ROLES[relation], items[-2:], strict=True)) if relation else {}
    row = [_of(item) for item in (*items, *[None] * (ITEMS - len(items)))]
    row += [_of(roles.get(role)) for role in ROLES]
    number = RELATIONS.index(relation) if relation else len(RELATIONS)
    return [*itertools.chain(*row), number]


def noun_numbers(tokenizer: CLIPTokenizer, ids: Tensor) -> Tensor:
    """``[B, tokens]`` int64: numbers the nouns of each row of ``ids`` from 1; 0 elsewhere."""
    words = [*SHAPES, *(str(Item(shape, count=2)).split()[-1] for shape in SHAPES)]
    nouns = torch.tensor(tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in words]))
    found = torch.isin(ids, nouns)
    return found.cumsum(dim=1) * found


class _Readouts(nn.Module):
    """Linear maps from a token's state to facts: of the whole caption, and of the item that ends
    there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        whole = [*list(_OF_ITEM.values()) * (ITEMS + len(ROLES)), len(RELATIONS) + 1]
        self.whole = nn.ModuleList(nn.Linear(width, n) for n in whole)
        self.noun = nn.ModuleList(nn.Linear(width, n) for n in _OF_ITEM.values())

    def pairs(
        self, hidden: Tensor, facts: Tensor, noun: Tensor, end: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits and targets of every read-out; ``noun`` numbers the nouns of each row from 1."""
        rows = torch.arange(len(facts))[:, None]
        states, row = hidden[end], rows.expand_as(end)[end]
        found = [(head(states), facts[row, column]) for column, head in enumerate(self.whole)]
        for i in range(ITEMS):
            at = noun == i + 1
            states, row = hidden[at], rows.expand_as(at)[at]
            for column, head in enumerate(self.noun, len(_OF_ITEM) * i):
                found.append((head(states), facts[row, column]))
        return found


def train_text_encoder(
    folder: Path, *, steps: int, batch: int = 64, seed: int = 0
) -> dict[str, float]:
    """Write the tokenizer, train the text encoder, and save both in ``folder`` (``tokenizer/``,
    ``text_encoder/``).

    Returns:
        The numbers for the model card: the lowest and the mean accuracy of the read-outs over new
        captions; seconds.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = networks.write_tokenizer(folder / "tokenizer")
    encoder = networks.text_encoder(tokenizer)
    heads = _Readouts(networks.TEXT_WIDTH)
    optimizer = torch.optim.AdamW(
        [*encoder.parameters(), *heads.parameters()], lr=1e-3, weight_decay=1e-2
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps, pct_start=0.1
    )

    def pairs(count: int) -> list[tuple[Tensor, Tensor]]:
        phrases = [random_phrase(draw) if draw.random() > 0.02 else None for _ in range(count)]
        texts = [str(phrase) if phrase else "" for phrase in phrases]
        ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
        facts = torch.tensor([_facts(phrase) for phrase in phrases])
        hidden = encoder(ids).last_hidden_state
        ends = ids == tokenizer.eos_token_id
        return heads.pairs(hidden, facts, noun_numbers(tokenizer, ids), ends)

    for step in range(steps):
        loss = torch.stack([F.cross_entropy(x, y) for x, y in pairs(batch) if len(y)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"text step {step}/{steps} loss {loss:.4f}", flush=True)
    with torch.no_grad():
        right = [float((x.argmax(dim=-1) == y).float().mean()) for x, y in pairs(2000)]
    encoder.save_pretrained(folder / "text_encoder")
    seconds = time.perf_counter() - start
    mean = sum(right) / len(right)
    return {"worst_readout_accuracy": min(right), "mean_accuracy": mean, "seconds": seconds}
