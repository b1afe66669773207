"""Loading: the family, folders, pipelines, adapters, and what is refused."""

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, StableDiffusionPipeline, UNet2DModel

from mitune.core.errors import UserError
from mitune.core.identity import weights_digest
from mitune.load import load, pick_device
from mitune.models.folder import _without_prefix
from mitune.worlds.shapes_v1.model import FOLDER
from mitune.worlds.shapes_v1.prompts import prompts

PROMPTS = prompts("train")[:3]


def test_a_folder_is_what_diffusers_makes_of_it(shapes_model):
    """Prediction, text embedding and decoding equal those of a plain pipeline."""
    plain = StableDiffusionPipeline.from_pretrained(FOLDER).to(dtype=torch.float32)
    embeds, negative = plain.encode_prompt(PROMPTS, "cpu", 1, True, negative_prompt=[""] * 3)
    ours = shapes_model.encode_prompts(PROMPTS)
    torch.testing.assert_close(ours["encoder_hidden_states"], embeds)
    null = shapes_model.encode_null()["encoder_hidden_states"]
    torch.testing.assert_close(null.expand_as(negative), negative)
    z = torch.randn(3, *shapes_model.latent_shape)
    t = torch.tensor([1, 400, 999])
    with torch.no_grad():
        torch.testing.assert_close(shapes_model(z, t, ours), plain.unet(z, t, embeds).sample)
        pictures = plain.vae.decode(z / plain.vae.config.scaling_factor).sample
    torch.testing.assert_close(shapes_model.decode(z), (pictures / 2 + 0.5).clamp(0, 1))


def test_encoding_inverts_decoding(shapes_model):
    from mitune.worlds.shapes_v1.pretrain.vae import object_indices
    from mitune.worlds.shapes_v1.prompts import all_objects
    from mitune.worlds.shapes_v1.scene import render, sample_scenes

    scenes = sample_scenes(
        20,
        torch.Generator().manual_seed(0),
        objects=object_indices(all_objects()),
        two_objects=0.5,
    )
    pictures = render(scenes)
    latents = shapes_model.encode_images(pictures)
    assert latents.shape == (20, *shapes_model.latent_shape)
    assert 0.8 < float(latents.std()) < 1.2
    assert float((shapes_model.decode(latents) - pictures).square().mean()) < 1e-3


def test_a_pipeline_object_and_v_prediction(shapes_model):
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER).to(dtype=torch.float32)
    pipeline.scheduler = DDPMScheduler.from_config(
        pipeline.scheduler.config, prediction_type="v_prediction"
    )
    model = load(pipeline, device="cpu")
    assert model.prediction == "v_prediction"
    # The same weights, for an adapter; another model, for a set.
    assert model.fingerprint == shapes_model.fingerprint
    differing = [part for part in model.parts if model.parts[part] != shapes_model.parts[part]]
    assert differing == ["scheduler"]


def test_precision_is_of_the_unet_alone():
    model = load("shapes-v1", device="cpu", precision="bfloat16")
    assert {p.dtype for p in model.unet.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in model.vae.parameters()} == {torch.float32}
    assert model.decode(torch.zeros(1, *model.latent_shape)).dtype == torch.float32


def test_weights_decide_the_fingerprint(shapes_model):
    other = load("shapes-v1", device="cpu")
    assert other.fingerprint == shapes_model.fingerprint
    pipeline = StableDiffusionPipeline.from_pretrained(FOLDER).to(dtype=torch.float32)
    with torch.no_grad():
        pipeline.unet.conv_in.bias[0] += 1
    assert load(pipeline, device="cpu").fingerprint != shapes_model.fingerprint


def test_long_prompts_are_named(shapes_model):
    long = "a red circle to the left of a blue square above a green circle and more"
    assert shapes_model.too_long([PROMPTS[0], long]) == [long]


def test_picture_size(shapes_model):
    assert shapes_model.picture_size == (32, 32)


def test_no_pipeline_in_the_folder(tmp_path):
    with pytest.raises(UserError, match=r"model_index.json"):
        load(tmp_path)


def test_another_family(tmp_path):
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        norm_num_groups=4,
    )
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "ddpm")
    with pytest.raises(UserError, match="StableDiffusionPipeline"):
        load(tmp_path / "ddpm")


@pytest.mark.parametrize("name", ["gpu", "cpu:1", "cuda:x", ""])
def test_unknown_devices(name):
    with pytest.raises(UserError, match="cpu, cuda, or cuda:N"):
        pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there():
    with pytest.raises(UserError, match="no CUDA GPU"):
        pick_device("cuda")


def test_unknown_precision():
    with pytest.raises(UserError, match="float32, bfloat16, float16"):
        load("shapes-v1", precision="fp8")


def test_a_text_encoder_has_one_fingerprint_in_every_version_of_transformers() -> None:
    """Before 5 all of its names begin with text_model; ``make floor`` loads such an encoder."""

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = torch.nn.Linear(2, 3)

    class Older(torch.nn.Module):
        def __init__(self, whole: Whole) -> None:
            super().__init__()
            self.text_model = whole

    whole = Whole()
    assert weights_digest(whole) == weights_digest(Older(whole))
    report = {
        "missing_keys": ["text_model.embeddings.weight"],
        "unexpected_keys": ["embeddings.weight"],
    }
    assert _without_prefix(report)
    assert not _without_prefix({**report, "unexpected_keys": ["other.weight"]})
    assert not _without_prefix({"missing_keys": [], "unexpected_keys": []})
