"""A denoiser run by TensorRT: one refittable engine for each shape, built from ONNX.

TensorRT is optional and imported where it is used. No machine of this project has had it:
docs/generation.md says which parts of this module were run.
"""

import hashlib
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mitune.core.errors import UserError
from mitune.models.protocol import Conditioning, count_rows
from mitune.runtime.compile.onnx import OUTPUT, export_onnx, inputs

MISSING = (
    "backend tensorrt is not installed: pip install 'mitune[tensorrt]' on a machine with an NVIDIA "
    "GPU; or use inductor"
)
_WORST = {torch.float32: 1e-2, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Relative error against torch above which an engine is refused. TensorRT 11.3's release notes
report refittable engines that drop a bias; TF32 and half precision stay well below these limits."""


class TensorRT:
    """Runs a denoiser as :data:`mitune.runtime.compile.inductor.Run`. The engine of a shape is
    built at its first call, or read from ``folder`` and given this network's weights.

    Args:
        network: its weights may change afterwards in place; call ``refit`` then.
        call: of its family, with the arguments ``(network, z, t, cond)``.
        folder: keeps the engines, by architecture, shape, GPU and version. Its files are TensorRT's
            own and must be as trusted as a program.

    Raises:
        UserError: tensorrt is not installed.
    """

    def __init__(self, network: Any, call: Callable[..., Tensor], folder: Path) -> None:
        if importlib.util.find_spec("tensorrt") is None:
            raise UserError(MISSING)
        self._network, self._call = network, call
        self._folder = folder
        self._engines: dict[tuple[torch.Size, ...], _Engine] = {}

    def __call__(self, z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        shape = z.shape, *(x.shape for x in cond.values())
        if shape not in self._engines:
            self._engines[shape] = self._build(z, t, cond)
        return self._engines[shape].run(z, t, cond)

    def refit(self) -> None:
        """Give every engine the network's weights as they are now."""
        for engine in self._engines.values():
            self._refit(engine)

    def _build(self, z: Tensor, t: Tensor, cond: Conditioning) -> "_Engine":
        import tensorrt

        kept = self._folder / f"{_key(self._network, z, cond, tensorrt.__version__)}.engine"
        example = z.clone(), t.clone(), {name: x.clone() for name, x in cond.items()}
        if kept.exists():
            engine = _Engine(tensorrt, kept.read_bytes(), example)
            self._refit(engine)  # it was built with other weights
            return engine
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "denoiser.onnx"
            export_onnx(self._network, self._call, path, *example)
            plan = _plan(tensorrt, path)
        self._folder.mkdir(parents=True, exist_ok=True)
        part = kept.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(plan)
        part.replace(kept)
        engine = _Engine(tensorrt, plan, example)
        self._check(engine)
        return engine

    def _refit(self, engine: "_Engine") -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "denoiser.onnx"
            export_onnx(self._network, self._call, path, *engine.example)
            engine.refit(path)
        self._check(engine)

    @torch.no_grad()
    def _check(self, engine: "_Engine") -> None:
        z, t, cond = engine.example
        expected = self._call(self._network, z, t, cond).float()
        got = engine.run(z, t, cond).float()
        error = float((got - expected).norm() / expected.norm())
        if not error <= _WORST[z.dtype]:
            raise RuntimeError(
                f"the TensorRT engine differs from torch by {error:.1e}, expected at most "
                f"{_WORST[z.dtype]:.0e}: use backend inductor, or another version of TensorRT"
            )


class _Engine:
    """One engine and its execution context; ``example`` holds arguments of its shape."""

    def __init__(self, trt: Any, plan: bytes, example: tuple[Tensor, Tensor, Conditioning]) -> None:
        self.example = example
        self._trt = trt
        self._logger = trt.Logger(trt.Logger.WARNING)
        self._runtime = trt.Runtime(self._logger)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise RuntimeError("TensorRT cannot read its engine; remove it from the cache folder")
        self._context = self._engine.create_execution_context()

    def run(self, z: Tensor, t: Tensor, cond: Conditioning) -> Tensor:
        given = [tensor.contiguous() for tensor in (z, t, *cond.values())]
        prediction = given[0].new_empty(count_rows(cond), *z.shape[1:])
        for name, tensor in zip((*inputs(cond), OUTPUT), (*given, prediction), strict=True):
            self._context.set_tensor_address(name, tensor.data_ptr())
        stream = torch.cuda.current_stream(z.device).cuda_stream if z.is_cuda else 0
        if not self._context.execute_async_v3(stream):
            raise RuntimeError("TensorRT did not run its engine; its own message says why")
        return prediction

    def refit(self, path: Path) -> None:
        """Take over the weights of an ONNX file of the same architecture and shape."""
        refitter = self._trt.Refitter(self._engine, self._logger)
        parser = self._trt.OnnxParserRefitter(refitter, self._logger)
        if not parser.refit_from_file(str(path)) or not refitter.refit_cuda_engine():
            raise RuntimeError(f"TensorRT did not take the new weights: {_errors(parser)}")


def _plan(trt: Any, path: Path) -> bytes:
    """Build a serialized engine from an ONNX file, in the precision that the file states."""
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    flag = trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    network = builder.create_network(1 << int(flag))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(path)):
        raise RuntimeError(f"TensorRT cannot read the denoiser's ONNX file: {_errors(parser)}")
    config = builder.create_builder_config()
    config.set_flag(trt.BuilderFlag.REFIT)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise RuntimeError("TensorRT cannot build the engine; its own message says why")
    return bytes(plan)


def _errors(parser: Any) -> str:
    return "; ".join(str(parser.get_error(i)) for i in range(parser.num_errors)) or "no message"


def _key(network: Any, z: Tensor, cond: Conditioning, version: str) -> str:
    device = torch.cuda.get_device_name(z.device) if z.is_cuda else str(z.device)
    processors = sorted(
        {type(p).__name__ for p in getattr(network, "attn_processors", {}).values()}
    )
    config = sorted((name, repr(value)) for name, value in dict(network.config).items())
    text = [(name, tuple(x.shape)) for name, x in cond.items()]
    facts = (config, processors, z.shape, text, z.dtype, device, version, torch.__version__)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:32]
