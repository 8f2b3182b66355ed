"""Registers our models with transformers' Auto classes, and our pipeline with its `pipeline`, by name: without importing
them before one is used."""

import importlib
import importlib.abc
import importlib.machinery
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

_TYPE, _CONFIG = "sharedllm", "SharedLLMConfig"
TASK = "sharedllm-question-answering"


def register_when_needed() -> None:
    """Register everything with the modules of transformers that are loaded already, and with the others as soon as they
    are."""
    for name, step in _STEPS.items():
        if name in sys.modules:
            step(sys.modules[name])
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def _add_name(configurations: ModuleType) -> None:
    """Tell transformers the name and module of our configuration, as for its own models.

    Nothing is imported here, because transformers may be in the middle of its own imports.
    """
    configurations.CONFIG_MAPPING_NAMES.setdefault(_TYPE, _CONFIG)
    configurations.CONFIG_MAPPING._modules.setdefault(_TYPE, _Module(_TYPE))


def _add_task(pipelines: ModuleType) -> None:
    """Tell transformers the name and place of our pipeline, as for its own tasks."""
    implementation = "sharedllm.integrations.pipeline.QuestionAnsweringPipeline"
    task = {"impl": implementation, "pt": (pipelines.AutoModelForCausalLM,), "type": "text"}
    pipelines.PIPELINE_REGISTRY.supported_tasks.setdefault(TASK, task)


# What is done to a module of transformers once it is loaded.
_STEPS = {"transformers.models.auto.configuration_auto": _add_name, "transformers.pipelines": _add_task}


class _Module(ModuleType):
    """Placeholder for our configuration's module until its first use; then everything is registered."""

    def __getattr__(self, name: str) -> Any:
        if name != _CONFIG:
            raise AttributeError(name)
        return getattr(importlib.import_module("sharedllm.causal_lm"), name)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds these modules of transformers as Python does, and adds a step to their loading."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in _STEPS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader, _STEPS[fullname])
        return spec


class _Loader(importlib.abc.Loader):
    """Loads a module as `loader` does, then does a step."""

    def __init__(self, loader: importlib.abc.Loader, step: Callable[[ModuleType], None]):
        self._loader, self._step = loader, step

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._step(module)

    def __getattr__(self, name: str) -> Any:
        # Everything else that a loader offers, such as the module's source.
        return getattr(self._loader, name)
