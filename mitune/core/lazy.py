"""Import the public names of a package on first use (PEP 562), so that importing the package stays
cheap."""

import importlib
import sys
from collections.abc import Callable, Mapping
from types import ModuleType
from typing import Any


def lazy(
    package: str, public: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` for ``package``.

    Args:
        package: its ``__name__``.
        public: maps each name to the module that defines it. A name may also be, or have been
            (``mitune.moved``), the name of a submodule, like ``mitune.load.load``. ``mitune.load``
            is then the function, whichever code imported the submodule first.
    """
    module = sys.modules[package]
    module.__class__ = _without_submodules(set(public))

    def find(name: str) -> Any:
        if name in public:
            value = getattr(importlib.import_module(public[name]), name)
            setattr(module, name, value)
            return value
        from importlib.util import find_spec  # imported here: the command line starts without it

        # A submodule that was not imported yet, such as mitune.scoring.estimate.
        if not name.startswith("_") and find_spec(f"{package}.{name}") is not None:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return find, lambda: sorted({*vars(module), *public})


def _without_submodules(names: set[str]) -> type[ModuleType]:
    """A module class that ignores the attribute which importing a submodule sets, for submodules in
    ``names``: the import system would replace the function of that name by the submodule."""

    class Package(ModuleType):
        def __setattr__(self, name: str, value: Any) -> None:
            if not (name in names and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    return Package
