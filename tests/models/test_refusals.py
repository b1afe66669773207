"""Models that cannot be aligned say why, from the class of their pipeline."""

import json
from pathlib import Path

import pytest
from flux_pipeline import flux_pipeline
from sdxl_pipeline import sdxl_pipeline

import mitune
from mitune.core.errors import UserError
from mitune.models.refusals import why_not

PARTS = {
    "transformer": ["diffusers", "SomeModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
}
"""By names that many families have."""


@pytest.mark.parametrize(
    ("pipeline", "words"),
    [
        ("StableDiffusionInpaintPipeline", "given a mask and a picture too"),
        ("FluxFillPipeline", "given a mask and a picture too"),
        ("StableDiffusionXLImg2ImgPipeline", "starts from a picture"),
        ("QwenImageEditPipeline", "starts from a picture"),
        ("WanPipeline", "draws videos"),
        ("HunyuanVideoPipeline", "draws videos"),
        ("StableDiffusionControlNetPipeline", "steered by another network"),
        ("LatentConsistencyModelPipeline", "distilled to few steps"),
        ("SanaSprintPipeline", "distilled to few steps"),
        ("Flux2Pipeline", "given its guidance as a number"),
        ("StableAudioPipeline", "makes sound"),
    ],
)
def test_a_folder_of_such_a_pipeline_is_refused_with_the_reason(
    tmp_path: Path, pipeline: str, words: str
) -> None:
    for parts in ({"transformer": ["diffusers", "SomeModel"]}, PARTS):
        index = {"_class_name": pipeline, **parts}
        (tmp_path / "model_index.json").write_text(json.dumps(index))
        with pytest.raises(UserError, match=f"is a {pipeline}, which .*{words}.* expected an? "):
            mitune.load(tmp_path)


def test_another_s_pipeline_with_a_family_s_names_of_parts_is_told_by_its_own(
    tmp_path: Path,
) -> None:
    """Not as one of the families whose parts have these names too."""
    index = {"_class_name": "BriaPipeline", **PARTS}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=r"is a BriaPipeline of scheduler, .*: expected an? "):
        mitune.load(tmp_path)


def test_what_is_only_not_there_yet_has_no_reason() -> None:
    for pipeline in ("KolorsPipeline", "HiDreamImagePipeline", "BriaPipeline"):
        assert why_not(pipeline) is None


def test_guidance_as_a_number_is_refused() -> None:
    pipeline = sdxl_pipeline()
    pipeline.unet.register_to_config(time_cond_proj_dim=8)
    with pytest.raises(UserError, match="given its guidance as a number"):
        mitune.load(pipeline)


def test_a_flux_that_takes_no_guidance_is_distilled() -> None:
    with pytest.raises(UserError, match=r"distilled to few steps, as FLUX.1-schnell is"):
        mitune.load(flux_pipeline(guidance_embeds=False))
