"""Where modules went when packages were laid out by what they do (0.2): importing one by its former
name gives the module itself and a DeprecationWarning. To be removed with 0.3."""

import importlib
import warnings
from collections.abc import Sequence
from importlib.abc import InspectLoader, Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType

MOVED = {
    "align": "methods.align",
    "allocator": "runtime.malloc",
    "attention": "runtime.attention",
    "build": "methods.build",
    "caches": "core.caches",
    "candidate": "engine.candidate",
    "capturing": "runtime.cuda_graphs",
    "choices": "config.choices",
    "commands": "cli.commands",
    "commands.give": "cli.commands.export",
    "commands.given": "cli.commands.given",
    "commands.judge": "cli.commands.score",
    "commands.make": "cli.commands.align",
    "commands.measure": "cli.commands.bench",
    "commands.repeat": "cli.commands.repeat",
    "commands.watching": "cli.commands.watching",
    "compiling": "runtime.compile.inductor",
    "convolutions": "runtime.convolutions",
    "cores": "runtime.cpu_workers",
    "defaults": "cli.defaults",
    "denoiser": "models.protocol",
    "doctor": "cli.doctor",
    "environment": "core.environment",
    "errors": "core.errors",
    "estimate": "scoring.estimate",
    "export": "adapters.export",
    "export.folder": "adapters.export.folder",
    "export.formats": "adapters.export.formats",
    "export.layers": "adapters.export.layers",
    "export.merge": "adapters.export.whole_model",
    "export.write": "adapters.export.write",
    "families.backends": "runtime.backends",
    "families.loading": "models.loading",
    "families.onnx_export": "runtime.compile.onnx",
    "families.pairs": "runtime.cfg_batch",
    "families.prepared": "runtime.prepared",
    "families.tensorrt_engine": "runtime.compile.tensorrt",
    "families.upsampling": "runtime.upsampling",
    "generate": "engine",
    "generate.audit": "selection.audit",
    "generate.candidates": "engine.stream",
    "generate.engine": "engine.engine",
    "generate.policies": "engine.policies",
    "generate.prune": "selection.prune",
    "generate.settle": "selection.recheck",
    "generate.slots": "engine.slots",
    "half": "runtime.mixed_precision",
    "identity": "core.identity",
    "images": "core.images",
    "lazy": "core.lazy",
    "noise": "diffusion.noise",
    "options": "cli.options",
    "options.model": "cli.options.model",
    "options.sampling": "cli.options.pool",
    "preset": "config.preset",
    "process": "core.process",
    "products": "runtime.compile.onednn",
    "progress": "core.progress",
    "prompts": "core.prompts",
    "provenance": "core.provenance",
    "reading": "core.reading",
    "real": "methods.real",
    "report.picture": "evaluation.pictures",
    "sampler": "config.sampling",
    "schedule": "diffusion.schedule",
    "score": "scoring.score",
    "sets.files": "core.files",
    "shapes": "worlds.shapes_v1",
    "shapes.model": "worlds.shapes_v1.model",
    "shapes.networks": "worlds.shapes_v1.networks",
    "shapes.oracle": "worlds.shapes_v1.oracle",
    "shapes.preset": "worlds.shapes_v1.preset",
    "shapes.pretrain": "worlds.shapes_v1.pretrain",
    "shapes.pretrain.__main__": "worlds.shapes_v1.pretrain.__main__",
    "shapes.pretrain.text": "worlds.shapes_v1.pretrain.text",
    "shapes.pretrain.unet": "worlds.shapes_v1.pretrain.denoiser",
    "shapes.pretrain.vae": "worlds.shapes_v1.pretrain.vae",
    "shapes.prompts": "worlds.shapes_v1.prompts",
    "shapes.scene": "worlds.shapes_v1.scene",
    "solvers": "diffusion.solvers",
    "steering": "selection.steering",
    "tuning": "training",
    "tuning.adapter": "adapters.adapter",
    "tuning.adapter_config": "adapters.adapter_config",
    "tuning.adapter_file": "adapters.adapter_file",
    "tuning.batches": "training.batches",
    "tuning.captured": "training.captured",
    "tuning.card": "adapters.model_card",
    "tuning.checkpoint": "training.checkpoint",
    "tuning.config": "config.training",
    "tuning.fit": "training.batch_size",
    "tuning.full": "adapters.full",
    "tuning.gradient": "training.gradient",
    "tuning.interrupt": "training.interrupt",
    "tuning.loop": "training.loop",
    "tuning.loss": "training.loss",
    "tuning.merge": "adapters.merge",
    "tuning.merged": "training.merged",
    "tuning.mixing": "training.mixing",
    "tuning.names": "adapters.names",
    "tuning.network": "adapters.network",
    "tuning.plain": "training.plain",
    "tuning.processes": "training.processes",
    "tuning.record": "training.manifest",
    "tuning.shards": "training.shards",
    "tuning.trackers": "training.trackers",
    "tuning.watch": "training.callbacks",
}
"""Former name below ``mitune`` to today's."""

OF_SCHEDULE = {
    "alphas_cumprod": "squared_signal",
    "kappa": "mi_weight",
    "least_t": "least_t",
    "num_train_timesteps": "num_train_timesteps",
    "prediction": "prediction",
}
"""Former attributes of ``mitune.Schedule``, and those of its process that replace them."""

GONE = ("families",)
"""Packages whose modules went to several others."""


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        if package != "mitune":
            return None
        if name in GONE:
            return ModuleSpec(fullname, None, is_package=True)  # empty: a namespace
        today = MOVED.get(name) or _of_family(name) or _within(name)
        if today is None:
            return None
        own = _spec(f"mitune.{today}")
        many = own.submodule_search_locations is not None
        return ModuleSpec(fullname, _Loader(own.name), is_package=many)


def _of_family(name: str) -> str | None:
    """Where a module of ``mitune.families`` is that belongs to one family, which says so itself."""
    if not name.startswith("families."):
        return None
    known = importlib.import_module("mitune.models.family").families()  # by its name: it is above
    return next((family.moved[name] for family in known if name in family.moved), None)


def _within(name: str) -> str | None:
    """``from mitune.tuning import adapter`` looks for ``training.adapter``, as what it was given
    for ``mitune.tuning`` says of itself: where that is, if it is no submodule there."""
    package, _, module = name.rpartition(".")
    for former, today in MOVED.items():
        if today == package and MOVED.get(f"{former}.{module}", name) != name:
            return MOVED[f"{former}.{module}"]
    return None


class _Loader(Loader):
    def __init__(self, name: str) -> None:
        self._name = name

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        warnings.warn(f"{spec.name} is {self._name} now", DeprecationWarning, stacklevel=2)
        module = importlib.import_module(self._name)
        self._spec = module.__spec__
        return module

    def get_code(self, fullname: str) -> CodeType | None:
        """For ``python -m``."""
        loader = _spec(self._name).loader
        assert isinstance(loader, InspectLoader)
        return loader.get_code(self._name)

    def exec_module(self, module: ModuleType) -> None:
        module.__spec__ = self._spec  # which the import system has just set to the former name's


def _spec(name: str) -> ModuleSpec:
    from importlib.util import find_spec  # here, as a start of the command line needs none

    found = find_spec(name)
    assert found is not None
    return found


def find_by_former_names() -> None:
    """Have imports look here first: nothing else has these names."""
    import sys

    sys.meta_path.insert(0, _Finder())
