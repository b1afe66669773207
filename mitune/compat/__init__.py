"""The classes of the authors' research code (github.com/Chao0511/mitune), so that a script written
for it runs with one import changed::

    from mitune.compat import MISelectionPipeline

    pipe = MISelectionPipeline.from_pretrained("stabilityai/stable-diffusion-2-1-base").to("cuda")
    pipe.mi_weight_init()
    embeds, pooled, latents, images = pipe(
        prompt, num_images_per_prompt=50, generator=generator, return_dict=False
    )

And their sets: a folder ``{prompt}_{seed}`` for each selected picture.
"""

from mitune.core.lazy import lazy

__getattr__, __dir__ = lazy(
    __name__,
    {
        "MISelectionPipeline": "mitune.compat.selection",
        "MISelectionXLPipeline": "mitune.compat.selection",
        "StableDiffusion3Pipeline_MI": "mitune.compat.selection",
        "import_set": "mitune.compat.folders",
        "write_selected": "mitune.compat.folders",
    },
)
