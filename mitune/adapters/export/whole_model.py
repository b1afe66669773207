"""Write a whole model with an adapter merged into it, as a diffusers pipeline folder."""

import copy
from pathlib import Path

from mitune.adapters import adapter as adapters
from mitune.adapters.adapter_file import run_of
from mitune.adapters.export.folder import new_folder
from mitune.adapters.export.layers import adapted
from mitune.adapters.merge import merged_weights
from mitune.adapters.model_card import CARD, Form, card
from mitune.core.errors import UserError
from mitune.core.files import atomic_write
from mitune.models.protocol import LatentModel

_MERGED = Form(
    title="Tuned model",
    relation="finetune",
    use="""\
    from diffusers import DiffusionPipeline
    pipeline = DiffusionPipeline.from_pretrained("path/of/this/folder")""",
    limits=(
        "The adapter is merged into the float32 weights of the denoiser, and of the text encoder "
        "if that was trained, and cannot be taken off again. Adapters of the base are not for this "
        "model: its weights are others.",
        "All else is the base's; a safety checker is left out.",
        "`mitune` takes the paper's settings for it, as for any folder. What an embedded model "
        "has of its own is lost: settings and prompts must be given, and there is no "
        "oracle.",
    ),
)


def merge(model: LatentModel, adapter: Path | str, out: Path | str) -> Path:
    """Write a folder of a diffusers pipeline that predicts what ``model`` with ``adapter`` does.

    peft's own merge computes the weights in float32 and rounds once (``mitune.adapters.merge``);
    diffusers saves them as safetensors. The folder is built under a hidden name and appears whole
    or not at all. README.md in it is the model card.

    Args:
        model: the base, in float32 and without an adapter; unchanged.
        adapter: its folder or file.
        out: absent or empty.

    Returns:
        ``out``.

    Raises:
        UserError: ``out`` is there and not empty or cannot be written; an adapter of another model,
            one that does not fit, or one that makes weights infinite or NaN; a model that is not in
            float32, or whose text encoders are offloaded.
    """
    if model.offload:
        raise UserError(
            f"the text encoders of {model.name} are offloaded: expected a model that was loaded "
            "without offload"
        )
    run = run_of(adapter)
    with new_folder(out) as folder:
        with adapted(model, adapter):
            # Clones: after the block, the weights of a full fine-tuning are off the denoiser again.
            weights = {
                network: {name: tensor.clone() for name, tensor in merged_weights(carrier).items()}
                for network, carrier in adapters.carriers(model).items()
            }
        merged = {name: copy.deepcopy(model.pipeline.components[name]) for name in weights}
        for name, network in merged.items():
            network.load_state_dict(weights[name])
        model.pipeline_with(merged).save_pretrained(folder, safe_serialization=True)
        atomic_write(folder / CARD, card(run, _MERGED, base=model.name))
    return Path(out)
