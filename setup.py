"""The extension modules, and nothing else: metadata and packages are in pyproject.toml.

MITUNE_BUILD_CPP and MITUNE_BUILD_CUDA take auto (the default), 0 or 1. With auto a part that cannot
be built is left out and one line says why; with 1 it fails the installation. The package works
without either, on its torch reference.
"""

import os

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
# Oldest torch whose stable ABI the binary may use; a newer one loads it as it is.
TORCH_TARGET = ("TORCH_TARGET_VERSION", "0x020b000000000000")


def setting(name: str) -> str:
    value = os.environ.get(name, "auto")
    if value not in ("auto", "0", "1"):
        raise SystemExit(f"{name}={value!r}: expected auto, 0 or 1")
    return value


CPP = setting("MITUNE_BUILD_CPP")
CUDA = setting("MITUNE_BUILD_CUDA")

if CUDA == "1":
    raise SystemExit(
        "MITUNE_BUILD_CUDA=1: this version has no CUDA sources yet; unset it, or set it to auto"
    )


class BuildExtensions(build_ext):
    """Builds against the installed torch, imported only here: metadata must not need it."""

    def build_extensions(self) -> None:
        if CUDA == "auto":
            print("mitune: CUDA kernels left out: this version has no CUDA sources yet")
        try:
            from torch.utils.cpp_extension import include_paths, library_paths
        except ImportError as error:
            if CPP == "1":
                raise SystemExit(
                    f"MITUNE_BUILD_CPP=1: torch cannot be imported ({error}); install torch first "
                    "and build with pip install --no-build-isolation"
                ) from error
            print(f"mitune: C++ kernels left out: torch cannot be imported ({error})")
            self.extensions = []
            return
        for extension in self.extensions:
            # As system headers: their warnings are not ours.
            extension.extra_compile_args += [f"-isystem{path}" for path in include_paths()]
            extension.library_dirs += library_paths()
        super().build_extensions()


setup(
    ext_modules=[
        Extension(
            "mitune_kernels._cpp",
            sources=["csrc/ops.cpp", "csrc/renoise.cpp", "csrc/step.cpp", "csrc/noise.cpp"],
            depends=["csrc/kernels.h", "csrc/rows.h"],
            include_dirs=["csrc"],
            libraries=["torch_cpu", "c10"],
            define_macros=[TORCH_TARGET],
            extra_compile_args=COMPILE_ARGS,
            language="c++",
            optional=CPP == "auto",
            # A plain library of torch operations, loaded by path; no Python symbol is used.
            py_limited_api=True,
        )
    ]
    if CPP != "0"
    else [],
    cmdclass={"build_ext": BuildExtensions},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
