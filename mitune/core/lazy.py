"""Public names of a package that are imported on first use (PEP 562), so that importing the package
stays cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def lazy(
    package: str, public: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` of ``package``.

    Args:
        package: its ``__name__``.
        public: name to the module that defines it. A name may be that of a submodule as well, as
            ``mitune.load.load`` is, or have been one (``mitune.moved``): ``mitune.load`` is then
            the function, whoever imported the submodule first.
    """
    module = sys.modules[package]
    module.__class__ = _without_submodules(set(public))

    def find(name: str) -> Any:
        if name in public:
            value = getattr(importlib.import_module(public[name]), name)
            setattr(module, name, value)
            return value
        from importlib.util import find_spec  # here, as a start of the command line needs none

        # A submodule that nobody imported so far, such as mitune.scoring.estimate.
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted({*vars(module), *public})


def _without_submodules(names: set[str]) -> type[ModuleType]:
    """The class of a module on which importing a submodule of one of ``names`` leaves no attribute:
    the import system would put the submodule where the function of that name belongs."""

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if not (name in names and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    return Package
