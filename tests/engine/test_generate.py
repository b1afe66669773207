"""The engine: against the closed form, against a plain loop over diffusers' own scheduler, and its
invariances."""

import math
from dataclasses import replace

import gaussian
import pytest
import torch
from diffusers import DDPMScheduler
from kernel_oracles import IMPLS, device_of
from mitune_kernels import normal

from mitune.bench.proxies import Operations
from mitune.config.sampling import SamplerConfig
from mitune.core.errors import UserError
from mitune.diffusion.noise import candidate_keys
from mitune.diffusion.schedule import Schedule
from mitune.engine.engine import Engine
from mitune.engine.policies import Unpruned
from mitune.engine.prompt_encoder import PromptEncoder
from mitune.engine.request import Request
from mitune.engine.stream import generate, pool
from mitune.runtime.prepared import Prepared
from mitune.worlds.shapes_v1.prompts import prompts

PROMPTS = prompts("train")[:4]
SHORT = SamplerConfig(steps=6, guidance=2.0)


def run(model, slots, **changes):
    given = {"candidates": 3, "sampler": SHORT, "seed": 3, "slots": slots}
    made = list(generate(model, PROMPTS, **(given | changes)))
    return {(c.prompt_index, c.index): c for c in made}


def test_score_along_fifty_steps_is_the_mutual_information():
    """The whole engine in the Gaussian world, sampling from the model itself (guidance 1)."""
    count = 1500
    schedule = Schedule.from_diffusers(gaussian.scheduler(), 50)
    engine = Engine(
        gaussian.Denoiser(),
        schedule,
        schedule.weights(),
        guidance=1.0,
        seed=0,
        null={"p": gaussian.NULL},
        latent_shape=(gaussian.D, 1, 1),
        slots=256,
        device=torch.device("cpu"),
    )
    texts = [str(i) for i in range(count)]
    made = list(engine.run(pool(texts, 1), PromptEncoder(gaussian.encode, texts)))
    assert len(made) == count
    scores = torch.tensor([c.score for c in made])
    assert float(scores.mean()) == pytest.approx(gaussian.TRUE_MI, rel=0.03)
    # And what it sampled has the right law. The chain is linear in z - sqrt(abar) p, so its
    # variance follows by recursion; 50 steps leave it at 0.073, infinitely many would at 0.1.
    p, _ = gaussian.pairs(2048)
    error = torch.stack([c.latent.flatten() - p[int(c.prompt)] for c in made])
    variance = 1.0
    for t, a, b, sigma in zip(
        schedule.timesteps.long(), schedule.a, schedule.b, schedule.sigma, strict=True
    ):
        abar = schedule.process.squared_signal[t]
        slope = (1 - abar).sqrt() / (abar * gaussian.S2 + 1 - abar)
        variance = float((a + b * slope) ** 2 * variance + sigma**2)
    assert float(error.var()) == pytest.approx(variance, rel=0.03)
    assert abs(float(error.mean())) < 0.01


def test_it_is_the_plain_loop_over_diffusers_scheduler(exact_model, monkeypatch):
    """Algorithm 2 as a plain loop, with the scheduler object and our noise."""
    made = run(exact_model, 7)
    native = DDPMScheduler.from_config(exact_model.scheduler.config)
    native.set_timesteps(SHORT.steps)
    abar = native.alphas_cumprod.double()
    for p, c in ((0, 0), (2, 2), (3, 1)):
        key = candidate_keys([(3, PROMPTS[p], c)])
        z = normal(key, torch.tensor([0]), exact_model.latent_shape).double()
        cond = exact_model.encode_prompts([PROMPTS[p]])
        null = exact_model.encode_null()
        terms = []
        for i, t in enumerate(native.timesteps):
            with torch.no_grad():
                eps_c = exact_model(z, t[None], cond)
                eps_u = exact_model(z, t[None], null)
            beta = 1 - abar[t] / abar[t - 1]
            kappa = beta * 1000 / (2 * (1 - beta) * (1 - abar[t]))
            terms.append(kappa * (eps_c - eps_u).double().square().sum())
            noise = normal(key, torch.tensor([i + 1]), exact_model.latent_shape).double()
            monkeypatch.setattr(
                "diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *a, n=noise, **k: n
            )
            guided = eps_u + SHORT.guidance * (eps_c - eps_u)
            z = native.step(guided, t, z).prev_sample
        # The engine's latents and diffusers' coefficients are float32, of relative error 6e-8; six
        # steps were seen to amplify it to 2e-6.
        torch.testing.assert_close(made[p, c].latent.double(), z[0], rtol=1e-5, atol=1e-5)
        assert made[p, c].score == pytest.approx(float(torch.stack(terms).mean()), rel=1e-5)


def same(one, other):
    """The same candidate to float32's last bits. With a float64 UNet only a value that lies on the
    border of two float32 numbers can differ, and by one in the last place (6e-8)."""
    assert one.score == pytest.approx(other.score, rel=1e-6)
    torch.testing.assert_close(one.latent, other.latent, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("slots", [1, 64])
def test_the_number_of_slots_does_not_matter(exact_model, slots):
    seven, other = run(exact_model, 7), run(exact_model, slots)
    assert seven.keys() == other.keys()
    for key, candidate in seven.items():
        same(other[key], candidate)


def test_a_rerun_is_the_same_to_the_bit(exact_model):
    first, second = run(exact_model, 7), run(exact_model, 7)
    assert list(first) == list(second)
    for key, candidate in first.items():
        assert second[key].score == candidate.score
        assert torch.equal(second[key].latent, candidate.latent)
        assert torch.equal(second[key].terms, candidate.terms)


def test_slots_may_be_at_different_timesteps(exact_model):
    """Candidates let in one at a time, a tick apart, come out as they do together."""
    together = run(exact_model, 4, candidates=1)
    schedule = Schedule.from_diffusers(exact_model.scheduler, SHORT.steps)
    prepared = Prepared(exact_model)
    engine = Engine(
        prepared,
        schedule,
        schedule.weights(),
        guidance=SHORT.guidance,
        seed=3,
        null=prepared.encode_null(),
        latent_shape=exact_model.latent_shape,
        slots=4,
        device=torch.device("cpu"),
    )
    encoder = PromptEncoder(prepared.encode_prompts, PROMPTS)
    mixed = False
    for entry in engine._entries(pool(PROMPTS[:4], 1), encoder, lambda p: Unpruned()):
        engine._refill(iter([entry]))
        engine._tick()
        mixed |= len({entry.done for entry in engine._seats if entry}) > 1
    made = list(engine.run([], encoder))
    assert mixed
    assert len(made) == 4
    for candidate in made:
        expected = together[candidate.prompt_index, 0]
        same(candidate, expected)


@pytest.mark.parametrize(("guidance", "passes"), [(1.0, 1), (2.0, 2)])
def test_unscored_pictures_are_the_scored_ones(exact_model, monkeypatch, guidance, passes):
    sampler = replace(SHORT, guidance=guidance)
    scored = run(exact_model, 5, sampler=sampler)
    rows = set()
    denoise = Prepared.__call__

    def counted(self, z, t, cond):
        made = denoise(self, z, t, cond)
        rows.add(len(made))
        return made

    monkeypatch.setattr(Prepared, "__call__", counted)
    pictures = run(exact_model, 5, sampler=sampler, scored=False)
    assert rows == {5 * passes}
    assert pictures.keys() == scored.keys()
    for key, candidate in pictures.items():
        torch.testing.assert_close(candidate.latent, scored[key].latent, rtol=1e-5, atol=1e-5)
        assert math.isnan(candidate.score)
        assert bool(candidate.terms.isnan().all())


def test_a_candidate_does_not_depend_on_the_list(exact_model):
    alone = next(generate(exact_model, [PROMPTS[3]], candidates=1, sampler=SHORT, seed=3, slots=1))
    same(alone, run(exact_model, 7)[3, 0])


def test_seeds_and_indices_make_different_candidates(exact_model):
    made = run(exact_model, 7)
    other = run(exact_model, 7, seed=4)
    assert made[0, 0].score != made[0, 1].score
    assert made[0, 0].score != other[0, 0].score


def test_terms_add_up_to_the_score(exact_model):
    for convention in ("paper", "reference"):
        sampler = SamplerConfig(steps=20, guidance=1.0, convention=convention)
        made = run(exact_model, 8, candidates=1, sampler=sampler)
        weights = Schedule.from_diffusers(exact_model.scheduler, 20).weights(convention)
        for candidate in made.values():
            expected = float((weights * candidate.terms[:, 0].double()).sum())
            assert candidate.score == pytest.approx(expected, rel=1e-5)
            assert bool((candidate.terms[:, 0] > 0).all())


def test_guidance_moves_the_sample_and_not_the_meaning_of_the_score(exact_model):
    """The first step's term is taken before guidance has moved anything."""
    plain = run(exact_model, 5, sampler=SamplerConfig(steps=6, guidance=1.0))
    guided = run(exact_model, 5, sampler=SamplerConfig(steps=6, guidance=5.0))
    assert float(plain[0, 0].terms[0, 0]) == pytest.approx(
        float(guided[0, 0].terms[0, 0]), rel=1e-6
    )
    assert not torch.allclose(plain[0, 0].latent, guided[0, 0].latent)


@pytest.mark.parametrize("scheduler", ["ddim", "euler"])
def test_other_solvers_draw_pictures_too(shapes_model, scheduler):
    from mitune.worlds.shapes_v1 import oracle

    sampler = SamplerConfig(steps=10, guidance=2.0, scheduler=scheduler)
    made = generate(shapes_model, PROMPTS, candidates=2, sampler=sampler, slots=8)
    made = sorted(made, key=lambda c: (c.prompt_index, c.index))
    pictures = shapes_model.decode(torch.stack([c.latent for c in made]))
    verdicts = oracle.score([c.prompt for c in made], pictures)
    assert sum(v.colours for v in verdicts) / len(verdicts) > 0.6


def test_half_precisions_rank_nearly_as_float64(exact_model):
    from joint_model import joint_model

    from mitune.evaluation.correlation import spearman

    half = joint_model("bfloat16")
    assert half.fingerprint == exact_model.fingerprint
    given = {"candidates": 6, "sampler": SamplerConfig(steps=6, guidance=1.0)}
    pools = [run(m, 24, **given) for m in (exact_model, half)]
    pools.append(run(exact_model, 24, precision="bf16-mixed", **given))
    exact, *others = [torch.tensor([made[key].score for key in sorted(made)]) for made in pools]
    assert min(float(spearman(exact, scores)) for scores in others) > 0.9
    # Of the first steps' terms, before a path parts, from where it is off by any amount. Mixed over
    # plain: 0.29, and 0.26 and 0.34 as other processors round.
    exact, *others = [torch.cat([made[key].terms[:3, 0] for key in sorted(made)]) for made in pools]
    errors = [float((terms / exact - 1).abs().median()) for terms in others]
    assert 0 < errors[1] < errors[0] / 2


def still_model():
    """A denoiser that costs no operation after its first call: one prediction, in memory of its
    own."""
    held = []

    def denoise(z, t, cond):
        if not held:
            held.append(z.clone())
        return held[0]

    return denoise


def fill(engine, model, prompts):
    encoder = PromptEncoder(model.encode_prompts, prompts)
    engine._refill(engine._entries(pool(prompts, 1), encoder, lambda p: Unpruned()))


def test_the_host_is_not_asked_between_model_calls(exact_model, monkeypatch):
    """No .item(), .tolist(), .cpu() or bool() of a tensor inside a tick: on a GPU each would wait
    for the device."""
    asked = []
    for name in ("item", "tolist", "cpu", "__bool__", "numpy"):
        original = getattr(torch.Tensor, name)

        def spy(self, *args, original=original, name=name, **kwargs):
            asked.append(name)
            return original(self, *args, **kwargs)

        monkeypatch.setattr(torch.Tensor, name, spy)
    schedule = Schedule.from_diffusers(exact_model.scheduler, 6)
    engine = Engine(
        still_model(),
        schedule,
        schedule.weights(),
        guidance=1.0,
        seed=3,
        null=exact_model.encode_null(),
        latent_shape=exact_model.latent_shape,
        slots=4,
        device=torch.device("cpu"),
        implementation="reference",
    )
    fill(engine, exact_model, PROMPTS[:4])
    asked.clear()
    for _ in range(5):
        engine._tick()
    # The op looks at a table once; and on the CPU alone, where nothing has to be waited for, at the
    # range of its index.
    assert asked == ["__bool__"] + ["tolist"] * 5


@pytest.mark.parametrize("implementation", IMPLS)
@pytest.mark.parametrize("guidance", [1.0, 7.5])
@pytest.mark.parametrize("scored", [True, False])
def test_a_tick_is_the_model_and_one_operation(exact_model, implementation, guidance, scored):
    schedule = Schedule.from_diffusers(exact_model.scheduler, 6)
    engine = Engine(
        still_model(),
        schedule,
        schedule.weights(),
        guidance=guidance,
        seed=3,
        null=exact_model.encode_null(),
        latent_shape=exact_model.latent_shape,
        input_dtype=torch.bfloat16,
        slots=3,
        device=device_of(implementation),
        scored=scored,
        implementation=implementation,
    )
    fill(engine, exact_model, PROMPTS[:2])
    engine._tick()
    with Operations() as counted:
        for _ in range(5):
            engine._tick()
    assert counted.names == [f"mitune::step_out_{implementation}"] * 5
    assert engine._slots._index.tolist() == [-1, -1, -1]


def test_a_stream_of_part_of_the_pool(exact_model):
    work = [Request(prompt=PROMPTS[1], prompt_index=1, index=2)]
    made = list(generate(exact_model, PROMPTS, sampler=SHORT, seed=3, slots=2, requests=work))
    assert [(c.prompt_index, c.index) for c in made] == [(1, 2)]
    same(made[0], run(exact_model, 7)[1, 2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backend": "inductor"}, "backend is 'inductor' and the model was prepared with 'eager'"),
        ({"attention": "math"}, "attention is 'math' and the model was prepared with 'sdpa'"),
        ({"precision": "bfloat16"}, "precision is 'bfloat16' and .* with 'float64'"),
    ],
)
def test_a_prepared_model_runs_as_it_was_prepared(exact_model, changes, message):
    prepared = Prepared(exact_model, attention="sdpa")
    with pytest.raises(UserError, match=message):
        list(generate(prepared, PROMPTS[:1], candidates=1, sampler=SHORT, **changes))
    same = {"backend": "eager", "attention": "sdpa", "precision": "float64"}
    for given in ({}, same):
        assert list(generate(prepared, PROMPTS[:1], candidates=1, sampler=SHORT, **given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompts": []}, "prompt list is empty"),
        ({"candidates": 0}, "candidates is 0"),
        ({"slots": 0}, "slots is 0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments(exact_model, changes, message):
    given = {"prompts": PROMPTS, "candidates": 2, "slots": 2, "seed": 0, "sampler": SHORT} | changes
    with pytest.raises(UserError, match=message):
        list(generate(exact_model, **given))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"guidance": float("nan")}, "guidance is nan"),
        ({"scheduler": "heun"}, "choose one of ddpm, ddim, euler"),
        ({"convention": "mine"}, "choose one of paper, reference"),
        ({"eta": -1.0}, "eta is -1"),
    ],
)
def test_bad_samplers(changes, message):
    with pytest.raises(UserError, match=message):
        SamplerConfig(**changes)
