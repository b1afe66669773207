"""The classes of the authors' research code (github.com/Chao0511/mitune), so that a script written
for it runs with one import changed::

    from mitune.compat import MISelectionPipeline

    pipe = MISelectionPipeline.from_pretrained(FOLDER_OR_HUB_NAME).to("cuda")
    pipe.mi_weight_init()
    embeds, pooled, latents, images = pipe(
        prompt, num_images_per_prompt=50, generator=generator, return_dict=False
    )

Each class stands with its family (``mitune.models.family.AuthorsClass``). And the authors' sets: a
folder ``{prompt}_{seed}`` for each selected picture.
"""

from mitune.core.lazy import lazy
from mitune.models.family import families

__getattr__, __dir__ = lazy(
    __name__,
    {
        **{f.authors.name: "mitune.compat.selection" for f in families() if f.authors},
        "import_set": "mitune.compat.folders",
        "write_selected": "mitune.compat.folders",
    },
)
