"""The extension modules, and nothing else: metadata and packages are in pyproject.toml.

MITUNE_BUILD_CPP, MITUNE_BUILD_CUDA and MITUNE_BUILD_HOST take auto (the default), 0 or 1. With auto
a part that cannot be built is left out and one line says why; with 1 it fails the installation. The
package works without them, on its torch reference.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# A CPU feature of the machine that builds must not leak into the binary: the kernels are compiled
# for several instruction sets and pick one when loaded. No contraction, so that all of them, and
# the torch reference, give the same bits.
COMPILE_ARGS = [
    "-std=c++17",
    "-O3",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
]
# For Ampere and Hopper, and by way of PTX for what comes after. Contraction would change the noise.
NVCC_ARGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-Icsrc",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90,code=[sm_90,compute_90]",
    "-Xptxas=-v",  # registers and spills, which tests/kernels/test_cuda_build.py reads
    "-Xcompiler=-fPIC,-fvisibility=hidden",
]
CUDA_MODULE = "mitune_kernels._cuda"
# Oldest torch whose stable ABI the binary may use; a newer one loads it as it is.
TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020a000000000000")


def setting(name: str) -> str:
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name}={value!r}: expected auto, 0 or 1")
    return value


CPP = setting("MITUNE_BUILD_CPP")
CUDA = setting("MITUNE_BUILD_CUDA")
HOST = setting("MITUNE_BUILD_HOST")
HOST_MODULE = "mitune._host"


def toolkit_of(nvcc: str) -> Path:
    """The folder of the toolkit, by nvcc's own word: what is on the path may be a link or a script
    that starts it."""
    command = [nvcc, "--dryrun", "-c", "csrc/cuda_kernels.cu", "-o", "cuda_kernels.o"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    found = re.search(r"^#\$ TOP=(.*)$", said, re.MULTILINE)
    if found is None:
        raise SystemExit(f"{nvcc} does not say where its toolkit is: no TOP= in {nvcc} --dryrun")
    return Path(found[1].strip())


HOME = os.environ.get("CUDA_HOME")
NVCC = shutil.which("nvcc", path=f"{HOME}/bin" if HOME else None)
if CUDA == "1" and NVCC is None:
    raise SystemExit(
        "MITUNE_BUILD_CUDA=1: nvcc is not found; install the CUDA toolkit, or set CUDA_HOME to it"
    )


class BuildExtensions(build_ext):
    """Builds against the installed torch, imported only here: metadata must not need it."""

    def build_extensions(self) -> None:
        try:
            import torch
            from torch.utils.cpp_extension import include_paths, library_paths
        except ImportError as error:
            for name, value in (("CPP", CPP), ("CUDA", CUDA)):
                if value == "1":
                    raise SystemExit(
                        f"MITUNE_BUILD_{name}=1: torch cannot be imported ({error}); install torch "
                        "first and build with pip install --no-build-isolation"
                    ) from error
            print(f"mitune: compiled kernels left out: torch cannot be imported ({error})")
            self.extensions = [e for e in self.extensions if e.name == HOST_MODULE]
            super().build_extensions()
            return
        if CUDA == "auto" and (NVCC is None or torch.version.cuda is None):
            reason = "nvcc is not found" if NVCC is None else "this torch is built without CUDA"
            print(f"mitune: CUDA kernels left out: {reason}; MITUNE_BUILD_CUDA=1 insists")
            self.extensions = [e for e in self.extensions if e.name != CUDA_MODULE]
        for extension in self.extensions:
            if extension.name == HOST_MODULE:  # knows no torch
                continue
            # As system headers: their warnings are not ours.
            extension.extra_compile_args += [f"-isystem{path}" for path in include_paths()]
            extension.library_dirs += library_paths()
        super().build_extensions()

    def build_extension(self, extension: Extension) -> None:
        if extension.name == CUDA_MODULE:
            # The host's compiler cannot; and torch's CUDAExtension needs a torch built with CUDA.
            kernels = Path(self.build_temp) / "cuda_kernels.o"
            kernels.parent.mkdir(parents=True, exist_ok=True)
            self.spawn([NVCC, *NVCC_ARGS, "-c", "csrc/cuda_kernels.cu", "-o", str(kernels)])
            extension.extra_objects = [str(kernels)]
            # Static: one binary then serves a torch with CUDA 12 and one with CUDA 13.
            extension.libraries += ["cudart_static", "rt", "pthread", "dl"]
            extension.library_dirs.append(str(toolkit_of(NVCC) / "lib64"))
        super().build_extension(extension)


def extension(module: str, sources: list[str], headers: list[str], setting: str) -> Extension:
    """A plain library of torch operations, loaded by path; no Python symbol is used."""
    return Extension(
        module,
        sources=[f"csrc/{name}" for name in sources],
        depends=[f"csrc/{name}" for name in headers],
        include_dirs=["csrc"],
        libraries=["torch_cpu", "c10"],
        define_macros=[TORCH_TARGET],
        extra_compile_args=list(COMPILE_ARGS),
        language="c++",
        optional=setting == "auto",
        py_limited_api=True,
    )


def host_extension() -> list[Extension]:
    """The host-side module, of pybind11 alone; none where that is missing."""
    try:
        import pybind11
    except ImportError as error:
        if HOST == "1":
            raise SystemExit(
                f"MITUNE_BUILD_HOST=1: pybind11 cannot be imported ({error}); install it first and "
                "build with pip install --no-build-isolation"
            ) from error
        print(f"mitune: host extension left out: pybind11 cannot be imported ({error})")
        return []
    return [
        Extension(
            HOST_MODULE,
            sources=["csrc/host.cpp"],
            extra_compile_args=[
                *("-std=c++17", "-O2", "-fvisibility=hidden", "-Wall", "-Wextra"),
                f"-isystem{pybind11.get_include()}",
            ],
            libraries=["dl", "pthread"],
            language="c++",
            optional=HOST == "auto",
        )
    ]


extensions = []
if CPP != "0":
    sources = ["ops.cpp", "renoise.cpp", "step.cpp", "noise.cpp"]
    headers = ["kernels.h", "noise.h", "rows.h"]
    extensions.append(extension("mitune_kernels._cpp", sources, headers, CPP))
if CUDA != "0":
    headers = ["kernels.h", "noise.h", "cuda_kernels.h", "cuda_kernels.cu"]
    extensions.append(extension(CUDA_MODULE, ["cuda_ops.cpp"], headers, CUDA))

if HOST != "0":
    extensions += host_extension()

# The kernels' libraries serve every Python; pybind11's module serves the one it is built for.
of_every_python = all(each.py_limited_api for each in extensions)
setup(
    ext_modules=extensions,
    cmdclass={"build_ext": BuildExtensions},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if of_every_python else {},
)
