"""Stage 2: the text encoder, trained on the content of captions without any pictures.

The text encoders of larger models are also trained before the denoiser and separately from it. Here
linear read-outs must find the colour and shape of an object at its noun, and the whole caption
after its end. So the denoiser's cross-attention receives features that already bind colours to
shapes, and does not have to learn the binding through the noise.
"""

import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mitune.worlds.shapes_v1 import networks
from mitune.worlds.shapes_v1.prompts import Phrase, all_objects
from mitune.worlds.shapes_v1.scene import COLOURS, RELATIONS, SHAPES

_READOUTS = {
    "count": 3,
    "colour_1": len(COLOURS) + 1,
    "shape_1": len(SHAPES) + 1,
    "colour_2": len(COLOURS) + 1,
    "shape_2": len(SHAPES) + 1,
    "relation": len(RELATIONS) + 1,
}


def every_phrase() -> list[Phrase]:
    """All captions that pre-training can show: single objects, and pairs in both orders with "and"
    and with each relation."""
    shown = all_objects()
    phrases = [Phrase((o,)) for o in shown]
    for relation in (None, *RELATIONS):
        phrases += [Phrase((a, b), relation) for a in shown for b in shown if a != b]
    return phrases


def _facts(phrase: Phrase | None) -> list[int]:
    """The targets of the read-outs, in the order of _READOUTS; the last class means 'none' for all
    but ``count``."""
    objects = phrase.objects if phrase else ()
    row = [len(objects)]
    for i in range(2):
        colour, shape = objects[i] if i < len(objects) else (None, None)
        row.append(COLOURS.index(colour) if colour else len(COLOURS))
        row.append(SHAPES.index(shape) if shape else len(SHAPES))
    relation = phrase.relation if phrase else None
    row.append(RELATIONS.index(relation) if relation else len(RELATIONS))
    return row


def train_text_encoder(
    folder: Path, *, steps: int, batch: int = 64, seed: int = 0
) -> dict[str, float]:
    """Write the tokenizer, train the text encoder, and save both in ``folder`` (``tokenizer/``,
    ``text_encoder/``).

    Returns:
        The numbers for the model card: the lowest accuracy of any read-out, at the nouns and at the
        end, over all captions; seconds.
    """
    start = time.perf_counter()
    torch.manual_seed(seed)
    draw = random.Random(seed)
    tokenizer = networks.write_tokenizer(folder / "tokenizer")
    encoder = networks.text_encoder(tokenizer)
    phrases: list[Phrase | None] = [*every_phrase(), None]
    texts = [str(p) if p else "" for p in phrases]
    ids = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt").input_ids
    facts = torch.tensor([_facts(p) for p in phrases])
    nouns = torch.tensor(tokenizer.convert_tokens_to_ids([f"{s}</w>" for s in SHAPES]))
    is_noun = torch.isin(ids, nouns)
    # Object 1 is read at the first noun, object 2 at the second; the whole caption is read at the
    # end token and at every token after it.
    ordinal = is_noun.cumsum(dim=1) * is_noun
    is_end = ids == tokenizer.eos_token_id
    width = networks.TEXT_WIDTH
    whole = nn.ModuleDict({name: nn.Linear(width, n) for name, n in _READOUTS.items()})
    noun = nn.ModuleDict(
        {"colour": nn.Linear(width, len(COLOURS)), "shape": nn.Linear(width, len(SHAPES))}
    )
    parameters = [*encoder.parameters(), *whole.parameters(), *noun.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 1e-3, total_steps=steps, pct_start=0.1
    )

    def logits_and_targets(rows: Tensor) -> list[tuple[Tensor, Tensor]]:
        hidden = encoder(ids[rows]).last_hidden_state
        end, pairs = is_end[rows], []
        for column, head in enumerate(whole.values()):
            target = facts[rows, column, None].expand_as(end)
            pairs.append((head(hidden[end]), target[end]))
        for i in (1, 2):
            at = ordinal[rows] == i
            for column, head in enumerate(noun.values()):
                target = facts[rows, 2 * i - 1 + column, None].expand_as(at)
                pairs.append((head(hidden[at]), target[at]))
        return pairs

    for step in range(steps):
        rows = torch.tensor(draw.choices(range(len(phrases)), k=batch))
        loss = torch.stack([F.cross_entropy(x, y) for x, y in logits_and_targets(rows)]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"text step {step}/{steps} loss {loss:.4f}", flush=True)
    with torch.no_grad():
        pairs = logits_and_targets(torch.arange(len(phrases)))
        accuracy = min(float((x.argmax(dim=-1) == y).float().mean()) for x, y in pairs)
    encoder.save_pretrained(folder / "text_encoder")
    return {"worst_readout_accuracy": accuracy, "seconds": time.perf_counter() - start}
