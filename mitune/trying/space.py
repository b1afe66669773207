"""The files of a Space of the Hugging Face hub that shows the same page: a container that runs
``mitune try``."""

import json
import shutil
from pathlib import Path

import mitune
from mitune.adapters.adapter_file import resolve
from mitune.adapters.export.folder import new_folder
from mitune.adapters.model_card import is_on_hub
from mitune.core.errors import UserError
from mitune.worlds.known import WORLDS

_PORT = 7860
"""That a Space is asked at, by its own convention."""

_CARD = """\
---
title: {title}
sdk: docker
app_port: {port}
license: mit
---
{model}, drawn by mitune: candidates of a prompt with their mutual information
([Information Theoretic Text-to-Image Alignment](https://arxiv.org/abs/2405.20759)).
"""

_DOCKERFILE = """\
FROM python:3.11-slim
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
RUN useradd --create-home user
WORKDIR /home/user
# What pip installs: a release, or "mitune[try] @ git+https://...", or a wheel in this folder.
ARG MITUNE="mitune[try]=={version}"
COPY . .
RUN pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \\
 && pip install --no-cache-dir pybind11 'setuptools>=77' \\
 && pip install --no-cache-dir --no-build-isolation "$MITUNE"
USER user
EXPOSE {port}
CMD {command}
"""


def write_space(folder: Path, *, model: str, adapter: Path | None) -> list[Path]:
    """Write a Space's files into a new folder, with a copy of the adapter.

    Args:
        folder: absent or empty.
        model: name of an embedded model, or of one on the hub, which the container loads.
        adapter: file or folder; None: none.

    Returns:
        The files.

    Raises:
        UserError: the model is neither, there is no such adapter, or the folder is not new.
    """
    if model not in WORLDS and not is_on_hub(model):
        raise UserError(
            f"model is {model}: expected an embedded model or a name on the hub, which the Space "
            "can load; push the model first"
        )
    # Behind the hub's proxy, on all of the container's addresses.
    command = ["mitune", "try", "--model", model, "--host", "0.0.0.0", "--port", str(_PORT)]
    command.append("--behind-proxy")
    source = None if adapter is None else resolve(adapter)
    if source is not None:
        command += ["--adapter", f"adapter/{source.name}"]
    with new_folder(folder) as made:
        if source is not None:
            (made / "adapter").mkdir()
            shutil.copyfile(source, made / "adapter" / source.name)
        title = json.dumps(f"Try {model}")
        (made / "README.md").write_text(_CARD.format(title=title, port=_PORT, model=f"`{model}`"))
        (made / "Dockerfile").write_text(
            _DOCKERFILE.format(version=mitune.__version__, port=_PORT, command=json.dumps(command))
        )
    return sorted(path for path in folder.rglob("*") if path.is_file())
