"""Upload an adapter, a model or a set to the Hugging Face hub, with its card."""

import re
from dataclasses import dataclass
from pathlib import Path

from mitune.adapters import adapter_file, full, run_folder
from mitune.adapters.model_card import CARD
from mitune.core.errors import UserError
from mitune.sets import FineTuningSet
from mitune.sets.schema import RUN

_SET = (CARD, RUN, "parts/*.parquet")
_TUNED = (CARD, run_folder.RUN, run_folder.METRICS, "*.safetensors", "unet/*", "transformer/*")
"""Of a run's folder; its checkpoints and samples stay here."""


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
        return f"{self.folder}: {what}, to the {seen} {self.kind} {self.name}"


def prepare_upload(folder: Path | str, name: str, *, public: bool = False) -> Upload:
    """Find out what of a folder belongs on the hub; nothing leaves the machine.

    Args:
        folder: of ``mitune tune``, ``build``, ``merge`` or ``export``.
        name: of the repository, ``user/name``.
        public: whether everybody can read a repository that is created by the upload.

    Raises:
        UserError: another name or folder; a run or a set that is not finished.
    """
    check_name(name)
    place = Path(folder)
    if not (place / CARD).is_file():
        raise UserError(
            f"{place} holds no {CARD}: expected a finished folder of mitune tune, build, merge or "
            "export, which has a card"
        )
    kind: str = "model"
    patterns: tuple[str, ...] = ("**/*",)
    if (place / "parts").is_dir():
        if not FineTuningSet.open(place).complete:
            raise UserError(f"set {place} is not complete: run the command that began it again")
        kind, patterns = "dataset", _SET
    elif (place / run_folder.RUN).is_file():
        if not ((place / adapter_file.FILE).is_file() or full.found(place)):
            raise UserError(f"the run in {place} is not finished: run its command again first")
        patterns = _TUNED
    elif _pictures(place):
        kind = "dataset"
    files = {path for pattern in patterns for path in place.glob(pattern) if path.is_file()}
    return Upload(
        folder=place,
        name=name,
        kind=kind,
        public=public,
        files=tuple(sorted(path.relative_to(place).as_posix() for path in files)),
    )


def check_name(name: str) -> None:
    """Raise UserError unless a repository can have this name."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name, re.ASCII):
        raise UserError(f"{name!r} is no name of a repository: expected user/name")


def push(upload: Upload) -> str:
    """Upload the files in one commit; the repository is created unless it is there, and files of
    other names in it stay.

    Returns:
        The address of the repository.

    Raises:
        UserError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    hub = HfApi()
    try:
        place = hub.create_repo(
            upload.name, repo_type=upload.kind, private=not upload.public, exist_ok=True
        )
        hub.upload_folder(
            repo_id=upload.name,
            repo_type=upload.kind,
            folder_path=upload.folder,
            allow_patterns=list(upload.files),
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


def _pictures(folder: Path) -> bool:
    """Whether it is an export of a set's pictures."""
    return any(any(folder.glob(kind)) for kind in ("metadata.jsonl", "*.parquet", "*.tar"))
