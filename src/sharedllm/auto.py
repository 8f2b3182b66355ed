"""Registers our models with transformers' Auto classes by name, without importing them before one is loaded."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Any

_CONFIGURATIONS = "transformers.models.auto.configuration_auto"
_TYPE, _CONFIG = "sharedllm", "SharedLLMConfig"


def register_when_needed() -> None:
    """Register our models with the Auto classes: at once if these are loaded already, else as soon as they are."""
    if _CONFIGURATIONS in sys.modules:
        _add_name(sys.modules[_CONFIGURATIONS])
    elif not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _add_name(configurations: ModuleType) -> None:
    """Tell transformers the name and module of our configuration, as for its own models.

    Nothing is imported here, because transformers may be in the middle of its own imports.
    """
    configurations.CONFIG_MAPPING_NAMES.setdefault(_TYPE, _CONFIG)
    configurations.CONFIG_MAPPING._modules.setdefault(_TYPE, _Module(_TYPE))


class _Module(ModuleType):
    """Placeholder for our configuration's module until its first use; then everything is registered."""

    def __getattr__(self, name: str) -> Any:
        if name != _CONFIG:
            raise AttributeError(name)
        return getattr(importlib.import_module("sharedllm.causal_lm"), name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds transformers' configuration module as Python does, and adds a step to its loading."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != _CONFIGURATIONS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    """Loads that module as `loader` does, then adds our name."""

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        _add_name(module)

    def __getattr__(self, name: str) -> Any:
        # Everything else that a loader offers, such as the module's source.
        return getattr(self._loader, name)
