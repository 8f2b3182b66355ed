"""`sharedllm info`: what a model or a memory is."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..memory.file import open_memory, read_header
from ..store import MemoryStore
from .common import JsonOption, is_file, is_memory, load, print_json


def command(
    source: Annotated[str, typer.Argument(help="A memory, a model's folder, or the name of a bundled model.")] = "tiny",
    json: JsonOption = False,
) -> None:
    """Describe a model or a memory."""
    describe = describe_model
    if is_memory(source):
        describe = describe_file if is_file(source) else describe_memory
    values = describe(source)
    if json:
        print_json(**values)
        return
    table = Table(title=Text(source), show_header=False, title_justify="left")
    for name, value in values.items():
        table.add_row(name.replace("_", " "), f"{value:,}" if type(value) is int else Text(str(value)))
    Console().print(table)


def describe_memory(name: str) -> dict:
    store = MemoryStore.open(name, verify=False)
    manifest = store.manifest
    return {
        "kind": "memory",
        "documents": len(manifest.documents),
        "tokens": store.tokens,
        "chunk_size": manifest.chunk_size,
        "kept_tokens": store.kept,
        "complete": manifest.complete,
        "injected_layers": manifest.pairs,
        "storage": manifest.storage,
        "bytes": store.nbytes,
        "fingerprint": manifest.fingerprint,
        "sources": [
            {"name": d.name, "tokens": d.tokens, "characters": d.characters, "finished": d.finished}
            for d in manifest.documents
        ],
    }


def describe_file(name: str) -> dict:
    memory = open_memory(name)
    return {
        "kind": "memory file",
        "texts": len(memory),
        "tokens": int(memory.lengths.sum()),
        "chunk_size": memory.chunk_size,
        "kept_tokens": int(memory.kept.sum()),
        "complete": memory.complete,
        "injected_layers": len(memory.keys),
        "storage": read_header(name)["storage"],
        "bytes": Path(name).stat().st_size,
        "fingerprint": memory.fingerprint,
        "sources": [source for text in memory.sources for source in text],
    }


def describe_model(name: str) -> dict:
    model, tokenizer = load(name)
    config = model.config
    sizes = [config.chunk_size // 2**level for level in range(1, config.height + 1)]
    nodes = [*zip(sizes, config.strides, strict=True), (sizes[-1], config.strides[-1])]
    return {
        "kind": "model",
        "family": config.text_config.model_type,
        "parameters": sum(p.numel() for p in model.parameters()),
        "layers": config.text_config.num_hidden_layers,
        "lower_layers": config.lower_layers,
        "window": config.window,
        "chunk_size": config.chunk_size,
        "tree": " | ".join(f"{tokens} / {stride}" for tokens, stride in nodes),
        "injection": config.injection,
        "injection_map": config.injection_map,
        "encoding": config.encoding,
        "lower_weights": config.lower_weights,
        "selection": config.selection,
        "vocabulary": len(tokenizer),
        "fingerprint": model.fingerprint(),
    }
