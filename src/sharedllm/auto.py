"""transformers' Auto classes know our models as soon as they are there, without being imported for it."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Sequence
from types import ModuleType

# Once a module of transformers is loaded, the module of ours that registers with it is loaded too.
_REGISTERED_BY = {
    "transformers.models.auto.configuration_auto": "sharedllm.model.config",
    "transformers.models.auto.modeling_auto": "sharedllm.causal_lm",
}


def register_when_needed() -> None:
    """Have the Auto classes know our models: at once where they are loaded already, else as soon as they are."""
    for theirs, ours in _REGISTERED_BY.items():
        if theirs in sys.modules:
            importlib.import_module(ours)
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(importlib.abc.MetaPathFinder):
    """Finds those modules as Python does, and adds to what loading them does."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _REGISTERED_BY:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _REGISTERED_BY[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    """Loads a module as `loader` does, then imports another."""

    def __init__(self, loader: importlib.abc.Loader, then: str):
        self._loader, self._then = loader, then

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        importlib.import_module(self._then)

    def __getattr__(self, name: str) -> object:
        # What else is asked of a loader: the source of the module, its file.
        return getattr(self._loader, name)
