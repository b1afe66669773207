"""What ``mitune.runtime.compile.tensorrt`` asks of TensorRT, done by onnxruntime on the CPU.

It shows that files, names, addresses and refits are handed over rightly. It shows nothing of
TensorRT itself, which no machine of this project has. An engine here holds one ONNX file; as in
TensorRT, a refit takes the initializers of another one and leaves the graph alone.
"""

import ctypes
import types

import numpy as np
import onnx
import onnxruntime


class Builder:
    def __init__(self, logger):
        self.logger = logger

    def create_network(self, flags):
        assert flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return types.SimpleNamespace(model=None)

    def create_builder_config(self):
        flags = []
        return types.SimpleNamespace(flags=flags, set_flag=flags.append)

    def build_serialized_network(self, network, config):
        assert config.flags == [BuilderFlag.REFIT]
        built.append(network.model)
        return network.model.SerializeToString()


class OnnxParser:
    num_errors = 0

    def __init__(self, network, logger):
        self.network = network

    def parse_from_file(self, path):
        self.network.model = onnx.load(path)
        return True


class Runtime:
    def __init__(self, logger):
        self.logger = logger

    def deserialize_cuda_engine(self, plan):
        return Engine(onnx.load_from_string(plan)) if plan != b"broken" else None


class Engine:
    def __init__(self, model):
        self.model = model
        self.load()

    def load(self):
        self.session = onnxruntime.InferenceSession(
            self.model.SerializeToString(), providers=["CPUExecutionProvider"]
        )

    def create_execution_context(self):
        return Context(self)


class Context:
    def __init__(self, engine):
        self.engine = engine
        self.addresses = {}

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        session = self.engine.session
        given = {i.name: self._array(i.name, i.shape, i.type) for i in session.get_inputs()}
        (output,) = session.get_outputs()
        (result,) = session.run(None, given)
        self._array(output.name, result.shape, output.type)[:] = result
        return True

    def _array(self, name, shape, kind):
        dtype = {"tensor(float)": np.float32, "tensor(float16)": np.float16}[kind]
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = (ctypes.c_byte * size).from_address(self.addresses[name])
        return np.frombuffer(raw, dtype=dtype).reshape(shape)


class Refitter:
    def __init__(self, engine, logger):
        self.engine = engine

    def refit_cuda_engine(self):
        self.engine.load()
        return True


class OnnxParserRefitter:
    num_errors = 1

    def __init__(self, refitter, logger):
        self.engine = refitter.engine

    def get_error(self, i):
        return "the initializers have other names"

    def refit_from_file(self, path):
        new = {tensor.name: tensor for tensor in onnx.load(path).graph.initializer}
        own = self.engine.model.graph.initializer
        if new.keys() != {tensor.name for tensor in own}:
            return False
        for tensor in own:
            tensor.CopyFrom(new[tensor.name])
        return True


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = 1


class BuilderFlag:
    REFIT = "refit"


class Logger:
    WARNING = "warning"

    def __init__(self, level):
        self.level = level


built: list[onnx.ModelProto] = []
__version__ = "0.fake"
