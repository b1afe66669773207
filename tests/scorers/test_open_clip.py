"""open_clip's weights in transformers' class, against the network as open_clip writes it."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mitune.core.errors import UserError
from mitune.scorers.open_clip import read_model

WIDTH, HEADS, DEPTH, VOCABULARY, EMBED = 32, 2, 2, 49408, 16


class Block(nn.Module):
    """A residual block of open_clip, by torch's own attention."""

    def __init__(self):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attn = nn.MultiheadAttention(WIDTH, HEADS, batch_first=True)
        self.mlp = nn.ModuleDict({"c_fc": nn.Linear(WIDTH, 64), "c_proj": nn.Linear(64, WIDTH)})

    def forward(self, x, mask=None):
        seen = self.ln_1(x)
        x = x + self.attn(seen, seen, seen, need_weights=False, attn_mask=mask)[0]
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


class Transformer(nn.Module):
    def __init__(self):
        super().__init__()
        self.resblocks = nn.ModuleList(Block() for _ in range(DEPTH))

    def forward(self, x, mask=None):
        for block in self.resblocks:
            x = block(x, mask)
        return x


class Visual(nn.Module):
    def __init__(self):
        super().__init__()
        self.class_embedding = nn.Parameter(torch.randn(WIDTH))
        self.positional_embedding = nn.Parameter(torch.randn(5, WIDTH))
        self.conv1 = nn.Conv2d(3, WIDTH, 16, 16, bias=False)
        self.ln_pre, self.ln_post = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.transformer = Transformer()
        self.proj = nn.Parameter(torch.randn(WIDTH, EMBED) / math.sqrt(WIDTH))

    def forward(self, pixels):
        x = self.conv1(pixels).flatten(2).transpose(1, 2)
        first = self.class_embedding.expand(len(x), 1, -1)
        x = self.ln_pre(torch.cat([first, x], dim=1) + self.positional_embedding)
        return self.ln_post(self.transformer(x)[:, 0]) @ self.proj


class OpenClip(nn.Module):
    def __init__(self):
        super().__init__()
        self.visual = Visual()
        self.token_embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.positional_embedding = nn.Parameter(torch.randn(77, WIDTH))
        self.transformer = Transformer()
        self.ln_final = nn.LayerNorm(WIDTH)
        self.text_projection = nn.Parameter(torch.randn(WIDTH, EMBED) / math.sqrt(WIDTH))
        self.logit_scale = nn.Parameter(torch.tensor(2.0))

    def text(self, ids):
        mask = torch.full((77, 77), -math.inf).triu(1)
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding, mask)
        last = ids.argmax(dim=1)  # the end of the text has the highest number
        return self.ln_final(x)[torch.arange(len(ids)), last] @ self.text_projection


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    network = OpenClip().eval()
    for parameter in network.parameters():  # no norm or bias at its trivial start
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    return network


@torch.no_grad()
@pytest.mark.parametrize("wrapped", [True, False])
def test_both_embeddings_are_those_of_open_clip(network, tmp_path, wrapped):
    path = tmp_path / "weights.pt"
    weights = network.state_dict()
    torch.save({"state_dict": weights} if wrapped else weights, path)
    model = read_model(path, text_head=WIDTH // HEADS, vision_head=WIDTH // HEADS)
    pixels = torch.randn(2, 3, 32, 32)
    ids = torch.zeros(2, 77, dtype=torch.long)
    ids[0, :4] = torch.tensor([49406, 320, 736, 49407])
    ids[1, :3] = torch.tensor([49406, 9, 49407])
    out = model(input_ids=ids, pixel_values=pixels)
    for found, expected in (
        (out.image_embeds, network.visual(pixels)),
        (out.text_embeds, network.text(ids)),
    ):
        torch.testing.assert_close(found, F.normalize(expected, dim=1), atol=1e-5, rtol=0)
    assert torch.equal(model.logit_scale, network.logit_scale)


def test_other_files_are_refused(network, tmp_path):
    path = tmp_path / "weights.pt"
    weights = network.state_dict()
    del weights["visual.ln_post.bias"]
    torch.save(weights, path)
    with pytest.raises(UserError, match=r"is not a checkpoint of open_clip \(KeyError"):
        read_model(path, text_head=16, vision_head=16)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="is not a checkpoint of open_clip"):
        read_model(path)


def test_nothing_but_tensors_is_unpickled(tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    path = tmp_path / "weights.pt"
    torch.save(Evil(), path)
    with pytest.raises(UserError):
        read_model(path)
    assert not (tmp_path / "written").exists()
