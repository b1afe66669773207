"""Stage 2: the text encoder, trained on the content of captions without any pictures.

Linear read-outs must find what is said of an item at its noun, and the whole caption after its end.
So the denoiser's cross-attention receives features that already bind attributes to shapes, and does
not have to learn the binding through the noise (docs/log.md).
"""

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mitune.worlds.shapes2 import networks
from mitune.worlds.shapes2.prompts import (
    ITEMS,
    RELATIONS,
    Item,
    Phrase,
    shown,
)
from mitune.worlds.shapes2.scene import COLOURS, MOST, SHAPES, TEXTURES

_OF_ITEM = {
    "colour": len(COLOURS) + 1,
    "shape": len(SHAPES) + 1,
    "texture": len(TEXTURES) + 1,
    "count": MOST + 1,
}


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


def _facts(phrase: Phrase | None) -> list[int]:
    """A target for each read-out of the whole caption; the last index stands for "none"."""
    items = phrase.items if phrase else ()
    row: list[int] = []
    for i in range(ITEMS):
        item = items[i] if i < len(items) else None
        row.append(COLOURS.index(item.colour) if item and item.colour else len(COLOURS))
        row.append(SHAPES.index(item.shape) if item else len(SHAPES))
        row.append(TEXTURES.index(item.texture) if item and item.texture else len(TEXTURES))
        row.append(item.count if item else 0)
    relation = phrase.relation if phrase else None
    return [*row, RELATIONS.index(relation) if relation else len(RELATIONS)]


class _Readouts(nn.Module):
    """Linear maps from a token's state to facts: of the whole caption, and of the item that ends
    there."""

    def __init__(self, width: int) -> None:
        super().__init__()
        whole = [*list(_OF_ITEM.values()) * ITEMS, len(RELATIONS) + 1]
        self.whole = nn.ModuleList(nn.Linear(width, n) for n in whole)
        self.noun = nn.ModuleList(nn.Linear(width, n) for n in _OF_ITEM.values())

    def pairs(
        self, hidden: Tensor, facts: Tensor, noun: Tensor, end: Tensor
    ) -> list[tuple[Tensor, Tensor]]:
        """Logits and targets of every read-out; ``noun`` numbers the nouns of each row from 1."""
        found = []
        for column, head in enumerate(self.whole):
            found.append((head(hidden[end]), facts[:, column, None].expand_as(end)[end]))
        for i in range(ITEMS):
            at = noun == i + 1
            for column, head in enumerate(self.noun):
                target = facts[:, len(_OF_ITEM) * i + column, None].expand_as(at)
                found.append((head(hidden[at]), target[at]))
        return found


def train_text_encoder(
    folder: Path, *, steps: int, batch: int = 64, seed: int = 0
) -> dict[str, float]:
    """Write the tokenizer, train the text encoder, and save both in ``folder`` (``tokenizer/``,
    ``text_encoder/``).

    Returns:
        The numbers for the model card: the lowest accuracy of any read-out over new captions;
        seconds.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = networks.write_tokenizer(folder / "tokenizer")
    encoder = networks.text_encoder(tokenizer)
    heads = _Readouts(networks.TEXT_WIDTH)
    nouns = [*SHAPES, *(str(Item(shape, count=2)).split()[-1] for shape in SHAPES)]
    noun_ids = torch.tensor(tokenizer.convert_tokens_to_ids([f"{word}</w>" for word in nouns]))
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
        is_noun = torch.isin(ids, noun_ids)
        hidden = encoder(ids).last_hidden_state
        ends = ids == tokenizer.eos_token_id
        return heads.pairs(hidden, facts, is_noun.cumsum(dim=1) * is_noun, ends)

    for step in range(steps):
        loss = torch.stack([F.cross_entropy(x, y) for x, y in pairs(batch) if len(y)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"text step {step}/{steps} loss {loss:.4f}", flush=True)
    with torch.no_grad():
        accuracy = min(float((x.argmax(dim=-1) == y).float().mean()) for x, y in pairs(2000))
    encoder.save_pretrained(folder / "text_encoder")
    return {"worst_readout_accuracy": accuracy, "seconds": time.perf_counter() - start}
