"""The verb that uploads a folder to the hub: push."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mitune.cli.options.model import Output


@dataclass(frozen=True, kw_only=True)
class Push(Output):
    """Upload an adapter, a merged model, a set or an export to the Hugging Face hub, with its card.

    What is uploaded, and where to, is printed first. The repository is private unless you say
    otherwise. The token is that of `hf auth login`, or HF_TOKEN.
    """

    folder: Path
    """Folder that `mitune tune`, build, merge or export made."""
    repo: str
    """The repository, user/name; it is created unless it is there."""
    public: bool = False
    """Let everybody read a repository that is created now."""

    def run(self) -> dict[str, Any]:
        return upload(self.folder, self.repo, public=self.public)


def upload(folder: Path, repo: str, *, public: bool) -> dict[str, Any]:
    """Say what is uploaded, and do it."""
    from mitune.methods.hub import prepare_upload, push

    planned = prepare_upload(folder, repo, public=public)
    print(planned, flush=True)
    address = push(planned)
    print(f"uploaded: {address}")
    return {"repository": address, "kind": planned.kind, "files": list(planned.files)}
