"""The dataset card of a set, which ``datasets``, the hub's viewer and people read first."""

from mitune.sets.schema import SetRecord

_CARD = """\
---
pretty_name: MI-Tune fine-tuning set
tags:
- mitune
- text-to-image
configs:
- config_name: default
  data_files:
  - split: train
    path: parts/*.parquet
---

# MI-Tune fine-tuning set

{prompts} prompts with {candidates} candidates each, {keep} kept by the rule `{rule}`. One row per
candidate, kept or not; `run.json` holds the settings and the prompts. A set whose build was
interrupted has fewer parts and is readable all the same.

| column | type | meaning |
|---|---|---|
| `prompt`, `prompt_index` | string, int32 | the prompt and its position in `run.json` |
| `prompt_id` | uint32 | first 32 bits of SHA-256(prompt), a word of the noise key |
| `candidate`, `seed` | int32, int64 | position in the prompt's pool; the run's seed |
| `score` | float32 | estimated point-wise mutual information, nats |
| `terms` | list of float32 | per step taken, the squared norm of cond - uncond |
| `cross_terms` | list of float32 | per step taken, the inner product of uncond and cond - uncond |
| `finite` | bool | false: score or latent is not finite; never selected |
| `pruned` | bool | true: stopped early, its score is of the steps it took; never selected |
| `rank`, `selected` | int32, bool | place by the rule (0 = best); whether it was kept |
| `latent`, `latent_shape` | lists, null unless selected | final latent in C order, its shape |

    from datasets import load_dataset
    kept = load_dataset("path/of/this/folder", split="train").filter(lambda row: row["selected"])

    import duckdb
    duckdb.sql("select prompt, score from 'parts/*.parquet' where selected order by score desc")

    from mitune.sets import FineTuningSet
    pairs = FineTuningSet.open("path/of/this/folder").selected()
"""


def card(record: SetRecord) -> bytes:
    """The bytes of README.md. Its ``configs:`` section makes ``datasets.load_dataset(folder)`` read
    the parts.
    """
    text = _CARD.format(
        prompts=len(record.prompts),
        candidates=record.candidates if record.pools is None else f"up to {record.candidates}",
        keep=record.keep,
        rule=record.rule,
    )
    return text.encode()
