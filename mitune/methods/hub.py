"""Upload an adapter, a model or a set to the Hugging Face hub, with its card: the files of these
that mitune writes, and nothing else that lies beside them."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from mitune.adapters import adapter_file, full, run_folder
from mitune.adapters.model_card import CARD
from mitune.core.errors import UserError
from mitune.sets import FineTuningSet
from mitune.sets.schema import RUN

_OURS = "- mitune"
"""Stands in the front matter of every card that mitune writes."""
_INDEX = "model_index.json"
_PART = re.compile(r"[\w.-]+\.(json|txt|model|safetensors)", re.ASCII)
"""Files of a diffusers pipeline's part."""
_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Upload:
    """What would be uploaded, and where to.

    Attributes:
        folder: of the files.
        name: of the repository, ``user/name``.
        kind: of the repository, "model" or "dataset".
        public: whether everybody can read a repository that is created now.
        files: paths relative to the folder, sorted.
    """

    folder: Path
    name: str
    kind: str
    public: bool
    files: tuple[str, ...]

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum((self.folder / file).stat().st_size for file in self.files)

    def __str__(self) -> str:
        what = f"{len(self.files)} files, {self.bytes / 1e6:.1f} MB"
        seen = "public" if self.public else "private"
        head = f"{self.folder}: {what}, to the {seen} {self.kind} {self.name}"
        more = [f"and {len(self.files) - _SHOWN} more"] if len(self.files) > _SHOWN else []
        return "\n  ".join([head, *self.files[:_SHOWN], *more])


def prepare_upload(folder: Path | str, name: str, *, public: bool = False) -> Upload:
    """Find out what of a folder belongs on the hub; nothing leaves the machine.

    Args:
        folder: of ``mitune tune``, ``build``, ``real``, ``merge`` or ``export``.
        name: of the repository, ``user/name``.
        public: whether everybody can read a repository that is created by the upload.

    Raises:
        UserError: another name or folder; a run or a set that is not finished.
    """
    check_name(name)
    place = Path(folder)
    if not place.is_dir():
        raise UserError(f"{place} is not there, or no folder: expected one that mitune made")
    if (place / run_folder.RUN).is_file() and not (place / "parts").is_dir():
        if not ((place / adapter_file.FILE).is_file() or full.found(place)):
            raise UserError(f"the run in {place} is not finished: run its command again first")
    elif (place / "parts").is_dir() and not FineTuningSet.open(place).complete:
        raise UserError(f"set {place} is not complete: run the command that began it again")
    kind, files = _contents(place)
    # A link could bring in a file from anywhere.
    kept = sorted(f for f in files if (place / f).is_file() and not _linked(place, f))
    return Upload(folder=place, name=name, kind=kind, public=public, files=tuple(kept))


def _contents(place: Path) -> tuple[str, set[str]]:
    """The kind of repository for a folder, and the files of that kind in it."""
    if not _has_our_card(place):
        inside = next((p for p in sorted(place.glob("*/adapter")) if _has_our_card(p)), None)
        hint = f"; an adapter is in {inside}" if inside else ""
        raise UserError(
            f"{place} holds no {CARD} of mitune's: expected a finished folder of mitune tune, "
            f"build, real, merge or export{hint}"
        )
    if (place / "parts").is_dir():
        return "dataset", {CARD, RUN, *_names(place, "parts", r"[\w-]+\.parquet")}
    if (place / _INDEX).is_file():
        return "model", {CARD, _INDEX, *_pipeline(place)}
    if (place / "metadata.jsonl").is_file():
        return "dataset", {CARD, "metadata.jsonl", *_names(place, "", r"\d{6}\.png")}
    if (place / "pairs.parquet").is_file():
        return "dataset", {CARD, "pairs.parquet"}
    if shards := _names(place, "", r"\d{6}\.tar"):
        return "dataset", {CARD, *shards}
    own = {CARD, run_folder.RUN, run_folder.METRICS, *_adapters(place)}
    if whole := full.found(place):
        part = whole.parent.name
        own |= {
            f"{part}/{path.name}" for path in whole.parent.iterdir() if _PART.fullmatch(path.name)
        }
    if len(own) == 3:
        raise UserError(
            f"{place} holds no adapter, model, set or pictures of mitune's: expected a finished "
            "folder of mitune tune, build, real, merge or export"
        )
    return "model", own


def _has_our_card(place: Path) -> bool:
    try:
        head = (place / CARD).read_text(encoding="utf-8").split("---")[1]
    except (OSError, UnicodeDecodeError, IndexError):
        return False
    return _OURS in head.splitlines()


def _names(place: Path, part: str, pattern: str) -> set[str]:
    """The files of a folder whose whole name fits a pattern, as relative paths."""
    found = (path.name for path in (place / part).iterdir() if re.fullmatch(pattern, path.name))
    return {f"{part}/{name}" if part else name for name in found}


def _pipeline(place: Path) -> Iterator[str]:
    """The files of the parts that a diffusers folder's index names."""
    for part, entry in json.loads((place / _INDEX).read_bytes()).items():
        if isinstance(entry, list) and (place / part).is_dir():
            yield from _names(place, part, _PART.pattern)


def _adapters(place: Path) -> Iterator[str]:
    """The files with mitune's notes in their header."""
    for path in place.glob("*.safetensors"):
        try:
            with safe_open(path, framework="pt") as file:
                ours = adapter_file.NOTES in (file.metadata() or {})
        except (OSError, SafetensorError):
            continue
        if ours:
            yield path.name


def _linked(place: Path, file: str) -> bool:
    """Whether a file, or a folder on the way to it, is a link."""
    path = place / file
    return path.resolve() != place.resolve() / file


def check_name(name: str) -> None:
    """Raise UserError unless a repository can have this name."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
        owner, _, own = name.partition("/")
        valid = bool(owner and own)
    except HFValidationError:
        valid = False
    if not valid:
        raise UserError(f"{name!r} is no name of a repository: expected user/name")


def push(upload: Upload) -> str:
    """Upload the files in one commit; the repository is created unless it is there, and files of
    other names in it stay.

    Returns:
        The address of the repository.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    hub = HfApi()
    files = [
        CommitOperationAdd(path_in_repo=file, path_or_fileobj=upload.folder / file)
        for file in upload.files
    ]
    try:
        place = hub.create_repo(
            upload.name, repo_type=upload.kind, private=not upload.public, exist_ok=True
        )
        hub.create_commit(
            upload.name,
            files,
            repo_type=upload.kind,
            commit_message=f"Upload of {upload.folder.resolve().name} by mitune",
        )
    except Exception as error:  # its client raises errors of several libraries
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{upload.folder} was not uploaded to {upload.name} ({first.strip()}): expected a hub "
            "that this machine reaches and a token that may write there; run hf auth login"
        ) from error
    return str(place)


def push_to_hub(folder: Path | str, name: str, *, public: bool = False) -> str:
    """Upload an adapter, a merged model, a set or an export to the Hugging Face hub, with its card.

    Args, returns and raises as :func:`prepare_upload` and :func:`push`.
    """
    return push(prepare_upload(folder, name, public=public))
