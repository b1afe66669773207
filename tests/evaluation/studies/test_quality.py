"""The Fréchet distance and the diversity against closed forms."""

import pytest
import torch

import mitune
from mitune.evaluation.studies.quality import diversity, features, frechet_distance


def test_the_distance_of_two_normals_is_the_closed_form() -> None:
    """Samples with exact moments: diagonal covariances s and t give |m|^2 + sum (s - t)^2."""
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(500, 3, generator=generator, dtype=torch.float64)
    raw -= raw.mean(0)
    white = raw @ torch.linalg.inv(torch.linalg.cholesky(raw.T.cov())).T
    s, t, m = (torch.tensor(v).double() for v in ([1.0, 2.0, 0.5], [1.5, 1.0, 0.5], [0.3, 0, 1.0]))
    found = frechet_distance(white * s + m, white * t)
    assert found == pytest.approx(float(m.square().sum() + (s - t).square().sum()))
    turned = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=torch.float64))[0]
    assert frechet_distance((white * s + m) @ turned, (white * t) @ turned) == pytest.approx(found)
    assert frechet_distance(white * s, white * s) == pytest.approx(0, abs=1e-9)


def test_fewer_samples_than_features_give_a_finite_distance() -> None:
    one = torch.randn(4, 16, dtype=torch.float64)
    assert 0 <= frechet_distance(one, one + 1) < 100


def test_diversity_is_the_mean_distance_within_a_prompt() -> None:
    found = torch.tensor([[0.0, 0.0], [3.0, 4.0], [1.0, 1.0], [1.0, 1.0]]).double()
    assert diversity(found, 2).tolist() == [5.0, 0.0]
    assert diversity(found, 1).isnan().all()


def test_features_tell_pictures_apart_and_leave_no_hook() -> None:
    model = mitune.load("shapes-v1")
    vae = model.networks["vae"]
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    found = features(vae, pictures[[0, 0, 1]])
    assert found.dtype == torch.float64
    assert found.shape[0] == 3
    assert torch.equal(found[0], found[1])
    assert not torch.allclose(found[0], found[2])
    assert not vae.encoder.mid_block._forward_hooks
