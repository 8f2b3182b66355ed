"""The machine as far as it matters here: versions, processor and its bf16, kernels, a compiler, memory, disk, GPU, extras."""

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants

from ..model.kernels import kernel
from ..utils.extras import EXTRAS, absent, command
from ..utils.hardware import environment, fast_bf16, free_memory, inference_dtype, peak_operations, total_memory
from ..utils.version import __version__

# Matrices of this size take some hundredths of a second, also where bf16 is emulated.
_SIZE = 512
# Attentions of a model of 7B with grouped heads, as (queries, keys, what a query sees).
_HEADS, _GROUPS, _DIM = 32, 8, 128
ATTENTIONS: dict[str, tuple[tuple[int, ...], tuple[int, ...], Any]] = {
    "read a chunk": ((1, _HEADS, 1024, _DIM), (1, _GROUPS, 1024, _DIM), "own"),
    "read a prompt beside a memory": ((1, _HEADS, 512, _DIM), (1, _GROUPS, 512, _DIM), "spans"),
    "write a token beside a memory": ((1, _HEADS, 1, _DIM), (1, _GROUPS, 512, _DIM), "spans"),
    "attend to a memory alone": ((1, _HEADS, 512, _DIM), (1, _GROUPS, 512, _DIM), "all"),
}
# Settings of the environment that change what happens here.
SETTINGS = ("SHAREDLLM_DEVICE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Everything about this machine. Folders below the home folder begin with ~, so that a report names nobody."""
    return {
        "versions": versions(),
        "processor": processor(),
        "gpu": gpus(),
        "device": str(device),
        "kernels": kernels(device),
        "compiler": compiler(),
        "memory": {"total": total_memory(), "free": free_memory(torch.device("cpu"))},
        "disk": disks(),
        "environment": {name: _short(os.environ[name]) for name in SETTINGS if name in os.environ},
        "extras": extras(),
    }


def versions() -> dict[str, str]:
    """Of this package, of Python and of the libraries that it always needs."""
    needed = ("torch", "transformers", "tokenizers", "safetensors", "huggingface_hub", "numpy")
    found = {"sharedllm": __version__, "python": platform.python_version()}
    found |= {name: _version(name) for name in needed}
    return found | {"system": platform.platform(), "folder": _short(str(Path(__file__).parent.parent))}


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def processor() -> dict[str, Any]:
    """Its name, cores and threads, and operations per second in float32 and bf16, measured."""
    cpu = torch.device("cpu")
    rates = {
        str(dtype).removeprefix("torch."): peak_operations(cpu, dtype, 0.2, _SIZE)
        for dtype in (torch.float32, torch.bfloat16)
    }
    known = environment()
    used = inference_dtype(cpu)
    return {
        "name": known["cpu"],
        "cores": known["cores"],
        "threads": known["threads"],
        "gflops": {name: round(rate / 1e9, 1) for name, rate in rates.items()},
        "bf16_instructions": fast_bf16(),
        "checkpoints_are_loaded_in": "float32" if used is torch.float32 else "their own dtype",
    }


def gpus() -> list[dict[str, Any]]:
    """Each GPU's name, bytes of memory in all and free, and compute capability; the last one only for CUDA."""
    if torch.cuda.is_available():
        found = []
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            capability = ".".join(map(str, torch.cuda.get_device_capability(index)))
            found.append(
                {"name": torch.cuda.get_device_name(index), "total": total, "free": free, "capability": capability}
            )
        return found
    if torch.backends.mps.is_available():
        return [{"name": "Apple GPU (mps)"}]
    return []


def kernels(device: torch.device) -> dict[str, str]:
    """Which kernel of `model.kernels` each kind of attention uses on a device, without gradients."""
    with torch.no_grad():
        return {
            what: kernel("sdpa", queries, keys, device, seen=seen) for what, (queries, keys, seen) in ATTENTIONS.items()
        }


def compiler() -> str | None:
    """The C++ compiler that `torch.compile` would use on a CPU; None if there is none. Nothing here needs one."""
    names = [os.environ.get("CXX", ""), *(("cl",) if sys.platform == "win32" else ("c++", "g++", "clang++"))]
    return next((_short(found) for name in names if name and (found := shutil.which(name))), None)


def disks() -> dict[str, dict[str, Any]]:
    """Bytes in all and free where memories, temporary files and the models of the Hugging Face hub are written."""
    places = {
        "here": Path.cwd(),
        "temporary files": Path(tempfile.gettempdir()),
        "models of the hub": Path(constants.HF_HUB_CACHE),
    }
    found = {}
    for name, path in places.items():
        there = next((p for p in (path, *path.parents) if p.exists()), path)
        usage = shutil.disk_usage(there)
        found[name] = {"folder": _short(str(path)), "total": usage.total, "free": usage.free}
    return found


def extras() -> dict[str, dict[str, Any]]:
    """For each extra what it adds, which of its libraries are missing, and the command that installs them."""
    return {
        name: {"about": extra.about, "missing": absent(name), "install": command(name)}
        for name, extra in EXTRAS.items()
    }


def _short(path: str) -> str:
    home = str(Path.home())
    return "~" + path[len(home) :] if path == home or path.startswith(home + os.sep) else path
