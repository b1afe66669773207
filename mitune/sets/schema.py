"""The layout of a set's folder: the columns of its parts, and run.json, which describes the set.

run.json                   settings, prompts and environment; written before anything else
README.md                  dataset card
audit.json                 what pruning lost; only in a pruned set that is complete
parts/part-00000.parquet   one row per candidate; each part is a block of whole prompts
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from mitune.core.errors import UserError
from mitune.sets.select import check_keep, check_rule

FORMAT = "mitune-set"
VERSION = 2
RUN = "run.json"
AUDIT = "audit.json"
CARD = "README.md"
PARTS = "parts"

ROUNDING = ("backend", "attention", "slots", "batch")
"""Settings that change the rows of a set only by rounding. A resumed build must still use the same
values: it promises the bits of an uninterrupted run on the same machine, and with two roundings in
one set a pool would compare scores that were rounded differently. The machine itself (device,
versions) stands in the environment and is not compared, because a set may move to another one."""
_LATER = ("model_parts", *ROUNDING)
"""Settings that sets of earlier versions did not record. A missing value is unknown and therefore
does not count as a difference."""
_FORMER_NOTES = ("model", "source.name")
"""Notes that earlier versions stored among the settings."""

COLUMNS = pa.schema(
    [
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("prompt_index", pa.int32(), nullable=False),
        pa.field("prompt_id", pa.uint32(), nullable=False),
        pa.field("candidate", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("terms", pa.list_(pa.float32()), nullable=False),
        pa.field("cross_terms", pa.list_(pa.float32()), nullable=False),
        pa.field("finite", pa.bool_(), nullable=False),
        pa.field("pruned", pa.bool_(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("selected", pa.bool_(), nullable=False),
        pa.field("latent", pa.list_(pa.float32())),
        pa.field("latent_shape", pa.list_(pa.int32())),
    ]
)


@dataclass(frozen=True, kw_only=True)
class SetRecord:
    """The content of run.json: everything that determines the rows of a set. It also holds notes
    and the environment that first wrote the set; these are recorded once and never compared.

    Attributes:
        settings: resolved settings of the generation as plain JSON (no tuples, no NaN, keys are
            strings).
        prompts: the prompts in order. They are distinct, because a prompt keys its noise and its
            rows.
        candidates: size of each prompt's pool; of the largest pool if ``pools`` is given.
        keep: number of candidates to keep from each pool, 1 <= keep <= candidates.
        rule: selection rule, one of ``mitune.sets.RULES``.
        prompts_per_part: prompts in a part; the last part may hold fewer.
        pools: size of each prompt's pool if the sizes differ, 1 <= size <= candidates; else None.
        all_latents: whether the latents of all finished candidates are stored, not of the kept
            alone.
        environment: versions, revision, device.
        notes: for people, such as the name or path from which a model was loaded.

    Raises:
        UserError: for prompts, keep or rule that the user must correct.
        ValueError: for settings, environment or notes that are not plain JSON, pools of the wrong
            number or size, or prompts_per_part below 1.
    """

    settings: dict[str, Any]
    prompts: tuple[str, ...]
    candidates: int
    keep: int
    rule: str
    prompts_per_part: int
    pools: tuple[int, ...] | None = None
    all_latents: bool = False
    environment: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_rule(self.rule)
        check_keep(self.keep, self.candidates)
        if self.prompts_per_part < 1:
            raise ValueError(f"got prompts_per_part {self.prompts_per_part}; expected >= 1")
        if self.pools is not None and (
            len(self.pools) != len(self.prompts)
            or not all(1 <= size <= self.candidates for size in self.pools)
        ):
            raise ValueError(
                f"got pools {_shorten(self.pools)}; expected {len(self.prompts)} sizes of 1 to "
                f"{self.candidates}"
            )
        if not self.prompts:
            raise UserError(
                "no prompts; expected at least one: give a list or a file with one prompt a line"
            )
        first: dict[str, int] = {}
        for position, prompt in enumerate(self.prompts):
            if prompt in first:
                raise UserError(
                    f"prompt {prompt!r} is given twice (positions {first[prompt]} and {position}, "
                    "from 0); expected distinct prompts: remove one of the two"
                )
            first[prompt] = position
        for name in ("settings", "environment", "notes"):
            value = getattr(self, name)
            for key in value:
                if not _is_json({key: value[key]}):
                    raise ValueError(
                        f"{name}[{key!r}] is {value[key]!r}; expected JSON that reads back equal"
                    )

    @property
    def parts(self) -> int:
        """Number of parts of the complete set."""
        return -(-len(self.prompts) // self.prompts_per_part)

    def prompts_of(self, part: int) -> range:
        """Indices of the prompts whose rows are in a part."""
        start = part * self.prompts_per_part
        return range(start, min(start + self.prompts_per_part, len(self.prompts)))

    def pool(self, prompt_index: int) -> int:
        """Size of the pool of a prompt."""
        return self.candidates if self.pools is None else self.pools[prompt_index]

    def rows_of(self, part: int) -> int:
        """Number of rows of a part."""
        return sum(map(self.pool, self.prompts_of(part)))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over everything except environment and notes. Every part carries it, so that a
        part of another set is recognized.
        """
        text = json.dumps(self._identity(), sort_keys=True, allow_nan=False, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def dumps(self) -> bytes:
        """The bytes of run.json."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "environment": self.environment,
            "notes": self.notes,
            **self._identity(),
        }
        return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()

    @classmethod
    def load(cls, folder: Path) -> "SetRecord":
        """Read ``folder/run.json``.

        Raises:
            UserError: if the file is absent, damaged or not a fine-tuning set's. The message names
                the file.
        """
        path = folder / RUN
        try:
            content = json.loads(path.read_bytes())
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(
                f"{folder} is no fine-tuning set (it has no {RUN}); "
                "expected a folder that `mitune build` made"
            ) from error
        except OSError as error:
            raise UserError(
                f"cannot read {path} ({error.strerror}); expected a readable file"
            ) from error
        except ValueError as error:
            raise UserError(
                f"{path} is damaged (not JSON); expected the file that `mitune build` wrote: "
                "restore it, or build the set again in another folder"
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise UserError(
                f"{path} describes no fine-tuning set; expected a folder that `mitune build` made"
            )
        if content.get("version") != VERSION:
            raise UserError(
                f"{path} has format version {content.get('version')!r}; expected {VERSION}: "
                "read it with the mitune that wrote it, or build the set again"
            )
        try:
            selection = content["selection"]
            if "pools" in selection:
                selection["pools"] = tuple(selection["pools"])
            return cls(
                settings=content["settings"],
                prompts=tuple(content["prompts"]),
                environment=content["environment"],
                notes=content.get("notes", {}),
                **selection,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} was changed by hand ({error}); "
                "expected the file that `mitune build` wrote: restore it"
            ) from error

    def difference(self, other: "SetRecord") -> str:
        """Describe in one line the differences between this record ("there") and another ("here");
        empty if there are none. Settings that a set of an earlier version did not record do not
        count; see ``unrecorded``.
        """
        absent = self.unrecorded(other)
        there = _flat({**self.settings, **self._selection()})
        here = _flat({**other.settings, **other._selection()})
        here = {key: v for key, v in here.items() if key.partition(".")[0] not in absent}
        there = {key: v for key, v in there.items() if key in here or key not in _FORMER_NOTES}
        keys = there.keys() | here.keys()
        if there.get("model_fingerprint") != here.get("model_fingerprint"):
            # Of another model all parts are others: they would hide what else differs.
            keys = {key for key in keys if not key.startswith("model_parts.")}
        found = [
            f"{key} is {_show(there, key)} there and {_show(here, key)} here"
            for key in sorted(keys)
            if (key not in there or key not in here or there[key] != here[key])
            # Report a group of settings that only one record has as one difference.
            and key.rpartition(".")[0] not in keys
        ]
        if len(self.prompts) != len(other.prompts):
            found.append(f"{len(self.prompts)} prompts there and {len(other.prompts)} here")
        for index, (a, b) in enumerate(zip(self.prompts, other.prompts, strict=False)):
            if a != b:
                found.append(f"prompt {index} is {_shorten(a)} there and {_shorten(b)} here")
                break
        return ", ".join(found)

    def unrecorded(self, other: "SetRecord") -> list[str]:
        """The settings of another record that this one lacks because an earlier version wrote
        it."""
        return [key for key in _LATER if key in other.settings and key not in self.settings]

    def rounds_otherwise(self, other: "SetRecord") -> bool:
        """Whether the two records differ in settings of ``ROUNDING`` and in nothing else."""
        bare = [
            replace(r, settings={k: v for k, v in r.settings.items() if k not in ROUNDING})
            for r in (self, other)
        ]
        return self.difference(other) != "" and bare[0].difference(bare[1]) == ""

    def _selection(self) -> dict[str, Any]:
        names = ["candidates", "keep", "rule", "prompts_per_part"]
        # Left out if all pools have the same size, as generated pools do.
        names += [] if self.pools is None else ["pools"]
        names += ["all_latents"] if self.all_latents else []
        return {name: getattr(self, name) for name in names}

    def _identity(self) -> dict[str, Any]:
        return {
            "settings": self.settings,
            "selection": self._selection(),
            "prompts": list(self.prompts),
        }


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value, allow_nan=False)) == value)
    except (TypeError, ValueError):
        return False


def _flat(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, entry in value.items():
        if isinstance(entry, dict) and entry:
            flat |= _flat(entry, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = entry
    return flat


def _show(flat: Mapping[str, Any], key: str) -> str:
    if key in flat:
        return _shorten(flat[key])
    return "given" if any(other.startswith(f"{key}.") for other in flat) else "absent"


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
