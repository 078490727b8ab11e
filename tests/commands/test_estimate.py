"""What a run will need, counted by hand."""

from dataclasses import replace

from dreamer_cli.commands import estimate as module
from dreamer_cli.commands.assemble import build_agent, build_learner
from dreamer_cli.config import resolve
from tests.small import EVERYTHING


def test_disk_and_time(monkeypatch):
    cfg = resolve(presets=["debug"], settings=["run.keep=2", "run.steps=1000", "run.compile=true"]).config
    compiled = []

    def learner(cfg, agent):
        compiled.append(cfg.run.compile)
        return build_learner(cfg, agent)

    monkeypatch.setattr(module, "build_learner", learner)
    numbers = module.estimate(cfg, EVERYTHING, module.torch.device("cpu"))
    assert compiled == [False]
    counts, dynamics = numbers["parameters"], build_agent(cfg, EVERYTHING, "cpu").world.dynamics
    shape, dtype = dynamics.latent.packed
    latent = 4 * dynamics.core.size + shape[0] * dtype.itemsize
    records = min(numbers["replay"]["capacity"], 1125)
    checkpoint = 4 * (3 * counts["total"] + counts["critic"]) + records * latent
    stored = records * (numbers["replay"]["bytes_per_record"] - latent)
    # Two that are kept, the best, and the one being written.
    assert numbers["disk"] == {"run_bytes": stored + 4 * checkpoint, "checkpoint_bytes": checkpoint}
    assert numbers["eta"]["seconds"] > 0
    assert replace(cfg).run.compile
