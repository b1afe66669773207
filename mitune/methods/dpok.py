"""DPOK (Fan et al., NeurIPS 2023, arXiv 2305.16381): learn from rewards of the model's own pictures
by policy gradient, held near the model that it starts from by a divergence.

Each iteration draws pictures with the current adapter and has them rewarded. Then it takes some
steps on random (path, sampling step) pairs, down the gradient of

    -w A min(q, clip(q, 1 - c, 1 + c)) + k D      (the paper's section 4.2 and Algorithm 1)

with A the reward less its prompt's mean, in units of all rewards' deviation (the paper learns a
value function instead); q the ratio of the step's likelihoods now and when the path was drawn; and
D the divergence per element of the step from that of the model without the adapter, ||mu - mu_0||^2
/ 2 sigma^2.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.adapters import adapter as adapters
from mitune.adapters.model_card import CARD, card, of_adapter
from mitune.config.sampling import SamplerConfig
from mitune.config.training import TuneConfig
from mitune.core.errors import UserError
from mitune.core.files import atomic_write, file_lock, make_folder
from mitune.core.provenance import environment, versions
from mitune.methods.policy import Paths, drawn, log_prob, mean_of, noisy_steps
from mitune.methods.sampling.guided import Guided
from mitune.models.protocol import LatentModel
from mitune.training import checkpoint, manifest
from mitune.training.checkpoint import TrainState
from mitune.training.steps import CHECKPOINTS

Reward = Callable[[Sequence[str], Tensor], Tensor]
"""From B prompts and their latents ``[B, ...]`` to B rewards, higher is better."""


@dataclass(frozen=True, kw_only=True)
class DpokConfig:
    """Settings of DPOK; the paper's, except for the sizes of an iteration."""

    iterations: int = 100
    prompts: int = 4
    """Of an iteration, in the order of the list, again and again."""
    candidates: int = 4
    """Pictures of each prompt in an iteration, at least 2."""
    updates: int = 5
    """Optimizer steps of an iteration."""
    batch: int = 16
    """(path, sampling step) pairs of an optimizer step."""
    reward_weight: float = 10.0
    divergence_weight: float = 0.01
    clip: float = 1e-4
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    tuning: TuneConfig = field(default_factory=lambda: TuneConfig(lr=1e-5, rank=4, alpha=4))
    """The adapter and AdamW's numbers; what is about pairs and batches is not used."""

    def __post_init__(self) -> None:
        least = {"iterations": 1, "prompts": 1, "candidates": 2, "updates": 1, "batch": 1}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise UserError(f"{name} is {getattr(self, name)}: expected at least {low}")


def dpok(
    model: LatentModel,
    prompts: Sequence[str],
    reward: Reward,
    out: Path | str,
    config: DpokConfig | None = None,
    *,
    reward_name: str,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Train an adapter by DPOK, or go on with the run in ``out``.

    Args:
        model: without an adapter; it has none afterwards either.
        prompts: texts.
        reward: of pictures.
        out: folder of the adapter, as of ``mitune.tune``.
        config: None takes the defaults.
        reward_name: tells the reward; a run goes on only with the same.
        progress: called with (iterations done, iterations in all, mean reward).

    Returns:
        ``out``.

    Raises:
        UserError: the folder holds another run, the sampler adds no noise, or a number is not
            valid.
    """
    config, folder = config or DpokConfig(), Path(out)
    about: dict[str, Any] = {"method": "dpok", "prompts": list(prompts), "reward": reward_name}
    about["config"] = asdict(config)
    about["model"] = {"fingerprint": model.fingerprint, "parts": dict(model.parts)}
    wanted: dict[str, Any] = json.loads(json.dumps(about))
    noisy_steps(model.schedule(config.sampler))  # refuse before anything is drawn
    if manifest.check(folder, wanted) and adapters.finished(folder):
        return folder
    make_folder(folder)
    try:
        adapters.attach(model, config.tuning)
        with file_lock(folder):
            if not manifest.check(folder, wanted):
                manifest.write(folder, wanted, environment(model.device), model.name)
            _run(model, prompts, reward, folder, config, progress)
    finally:
        adapters.detach(model)
    return folder


def _run(
    model: LatentModel,
    prompts: Sequence[str],
    reward: Reward,
    out: Path,
    config: DpokConfig,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    parameters = adapters.parameters(model)
    optimizer = torch.optim.AdamW(list(parameters.values()), fused=True, **config.tuning.adamw)
    state = TrainState(model=model, parameters=parameters, optimizer=optimizer)
    run, places = manifest.identity(manifest.settings_in(out)), out / CHECKPOINTS
    metadata: dict[str, Any] = {"model": model.name, "fingerprint": model.fingerprint, "run": run}
    metadata["mitune"] = versions()["mitune"]
    if there := checkpoint.find(places):
        checkpoint.restore(state, there[-1], run)
    start = adapters.without_adapter(model)
    while state.step < config.iterations:
        first = state.step * config.prompts
        texts = [prompts[(first + i) % len(prompts)] for i in range(config.prompts)]
        texts = [text for text in texts for _ in range(config.candidates)]
        given = (texts, model.schedule(config.sampler), config.sampler.guidance)
        guided, fixed = Guided(model, *given), Guided(start, *given)
        index = [state.step * config.candidates + i % config.candidates for i in range(len(texts))]
        seed = config.tuning.seed
        paths = drawn(guided, [(seed, text, i) for text, i in zip(texts, index, strict=True)])
        rewards = reward(texts, paths.states[-1].cpu()).double()
        apart = rewards.view(-1, config.candidates)
        advantage = (apart - apart.mean(dim=1, keepdim=True)).flatten()
        advantage = (advantage / rewards.std().clamp(min=1e-6)).float()
        draw = torch.Generator().manual_seed((seed << 20) + state.step)
        for _ in range(config.updates):
            optimizer.zero_grad()
            update(guided, fixed, paths, advantage, config, draw)
            torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.tuning.clip)
            optimizer.step()
        state.step += 1
        line = {"step": state.step, "reward": float(rewards.mean())}
        manifest.append_metrics(out, line)
        if state.step % config.tuning.checkpoint_every == 0:
            checkpoint.save(state, places, metadata, run, config.tuning.keep_checkpoints)
        if progress is not None:
            progress(state.step, config.iterations, line["reward"])
    atomic_write(out / CARD, card(out, of_adapter(model.pipeline)))
    adapters.save(model, out, metadata)


def update(
    guided: Guided,
    fixed: Guided,
    paths: Paths,
    advantage: Tensor,
    config: DpokConfig,
    draw: torch.Generator,
) -> None:
    """Add to the adapter's gradient that of the loss above for ``config.batch`` random pairs.

    Args:
        guided, fixed: of the same prompts, with the adapter and without it.
        paths: that ``guided`` took.
        advantage: ``[B]`` float32.
        config: of the run.
        draw: what the pairs are drawn with.
    """
    steps = noisy_steps(guided.schedule)
    chosen = torch.randint(len(steps) * len(advantage), (config.batch,), generator=draw)
    for step in sorted({steps[int(n)] for n in chosen // len(advantage)}):
        rows = chosen[torch.tensor([steps[int(n)] == step for n in chosen // len(advantage)])]
        rows = rows % len(advantage)
        sigma = float(guided.schedule.sigma[step])
        before, after = paths.states[step][rows], paths.states[step + 1][rows]
        with torch.enable_grad():
            mean = mean_of(guided.rows(rows), before, step)
            ratio = (log_prob(mean, after, sigma) - paths.log_probs[step][rows]).exp()
            own = advantage[rows]
            gain = torch.minimum(own * ratio, own * ratio.clamp(1 - config.clip, 1 + config.clip))
            with torch.no_grad():
                held = mean_of(fixed.rows(rows), before, step)
            divergence = (mean - held).square().flatten(1).mean(1) / (2 * sigma**2)
            loss = -config.reward_weight * gain + config.divergence_weight * divergence
            (loss.sum() / config.batch).backward()
