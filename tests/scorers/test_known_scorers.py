"""Scorers by name: what is missing is said in one line; packages add their own."""

import pytest
import torch

from mitune.core.errors import UserError
from mitune.scorers import known
from mitune.scorers.known import KNOWN, find_scorer, find_scorers


def test_an_unknown_name_lists_the_known():
    with pytest.raises(UserError, match="scorer 'beauty' is not known: choose one of mi, clip"):
        find_scorer("beauty")


@pytest.mark.parametrize("name", [n for n in KNOWN if n not in ("image-reward", "soft-tifa")])
def test_missing_weights_are_named(name, tmp_path):
    weights = tmp_path / "none"
    with pytest.raises(UserError, match=f"needs the weights '{weights}'") as raised:
        find_scorer(f"{name}={weights}")
    assert "\n" not in str(raised.value)


def test_scorers_without_weights_of_their_own_ask_for_them():
    with pytest.raises(UserError, match="image-reward needs weights"):
        find_scorer("image-reward")
    with pytest.raises(UserError, match="expected soft-tifa=MODEL,QUESTIONS"):
        find_scorer("soft-tifa=model")
    with pytest.raises(UserError, match="scorer mi needs a model"):
        find_scorer("mi")


def test_a_name_is_given_once():
    with pytest.raises(UserError, match="scorer clip is given twice"):
        find_scorers(["clip=a", "mi", "clip=b"])


def test_a_package_brings_its_own(monkeypatch):
    class Bright:
        name, requires = "bright", "nothing"

        def score(self, images, prompts, /):
            return images.double().mean(dim=(1, 2, 3))

    class Entry:
        name = "bright"

        def load(self):
            return lambda weights: Bright()

    monkeypatch.setattr(known, "plug_ins", lambda: {"bright": Entry()})
    assert find_scorer("bright").score(torch.ones(2, 3, 4, 4), ["a", "b"]).tolist() == [1, 1]


def test_mi_is_the_score_of_the_model(shapes_model):
    from mitune.scoring.score import score

    images = torch.rand(2, 3, *shapes_model.picture_size)
    prompts = ["a", "b"]
    found = find_scorer("mi", shapes_model).score(images, prompts)
    torch.testing.assert_close(found, score(shapes_model, prompts, images).double())
