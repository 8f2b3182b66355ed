"""`sharedllm info`: describe a model or a memory."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..utils.errors import UserError
from ..utils.files import is_uri
from ..utils.text_files import harmless, some
from .common import JsonOption, check_model, check_source, note_repair, print_json

# How pieces of a text end, by the tokens that the model's settings name.
_ENDS = {
    "parting": "with paragraphs",
    "closing": "with sentences",
    "pausing": "with clauses",
    "breaking": "before headings",
    "heading": "before headings",
    "numeric": "with no full stop before a digit",
}


def command(
    source: Annotated[
        str, typer.Argument(help="A memory, a corpus, a model's folder, or the name of a bundled model.")
    ] = "tiny",
    json: JsonOption = False,
) -> None:
    """Describe a model or a memory."""
    if Path(source).suffix == ".memory" or Path(source).is_dir():
        check_source(source)
    elif not is_uri(source) and not Path(source).exists():
        check_model(source)
    elif Path(source).is_file() and Path(source).suffix != ".gguf":
        raise UserError(
            f"{source} is a file: name a memory, a corpus, a model's folder, or a .gguf file. `sharedllm read {source} -o "
            "NEW.memory` makes a memory of a text."
        )
    from ..store import is_memory

    values = (describe_memory if is_memory(source) else describe_model)(source)
    if json:
        print_json(**values)
        return
    table = Table(title=Text(harmless(source)), show_header=False, title_justify="left")
    for name, value in values.items():
        if name in ("damaged", "embedded", "meanings_bytes", "model", "pieces_end") and not value:
            continue
        table.add_row(name.replace("_", " "), Text(_shown(value)))
    Console().print(table)
    if values.get("damaged"):
        note_repair(source)


def _shown(value: Any) -> str:
    """A value for display: numbers with commas, pairs as in --injection-map, one source per line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, list):
        return harmless(str(value))
    if value and isinstance(value[0], dict):
        return "\n".join(harmless(_source(source)) for source in value)
    return ", ".join(":".join(map(str, entry)) if isinstance(entry, list | tuple) else str(entry) for entry in value)


def _source(source: dict[str, Any]) -> str:
    """A document of a memory in one line, or what of it is lost."""
    if "reason" in source:
        return f"{source['document']}: tokens {source['start']:,}–{source['end']:,} are lost: {source['reason']}"
    sizes = [some(source[f"{unit}s"], unit) for unit in ("token", "character") if source.get(f"{unit}s") is not None]
    rest = "it lacks its beginning, read it with --sync" if source.get("part_of") else "continue with read --append"
    cut_off = [] if source.get("finished", True) else [f"incomplete: {rest}"]
    return f"{source['name']}: " + ", ".join([*sizes, *cut_off])


def describe_memory(name: str) -> dict:
    from ..store import look, open_memory
    from ..store.meanings import meanings_bytes

    label, memory = look(name), open_memory(name, verify=False)
    finished = all(document.get("finished", True) for document in memory.contents)
    return {
        "kind": label.kind,
        "texts": memory.texts,
        "documents": len(memory.contents),
        "tokens": memory.tokens,
        "chunk_size": memory.chunk_size,
        "kept_tokens": int(memory.kept.sum()),
        # Every token of every document can be read: as far as shows without reading every byte, which `memory check` does.
        "complete": memory.complete and not memory.damaged and finished,
        "injected_layers": memory.pairs,
        "storage": label.storage,
        "embedded": _embedded(memory),
        "bytes": memory.nbytes,
        # Beside the blocks: what questions had read deeper.
        "meanings_bytes": meanings_bytes(Path(name)),
        "model": label.model,
        "fingerprint": memory.fingerprint,
        "sources": memory.contents,
        "damaged": [vars(lost) for lost in memory.damaged],
    }


def _embedded(memory: Any) -> bool | None:
    """Whether a sentence encoder's sentences are kept for every part that a question selects from. None: of a corpus, which may
    have too many to look at, and of a memory that no question selects from, or that holds nothing to read."""
    from ..memory.interface import Searched

    if isinstance(memory, Searched) or not memory.complete or not memory.nbytes:
        return None
    return all(segment.embedded is not None for segment in memory.segments)


def describe_model(name: str) -> dict:
    from .loading import load

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
        "pieces_end": ", ".join(dict.fromkeys(end for kind, end in _ENDS.items() if getattr(config, kind))) or None,
        "sentence_encoder": config.sentence_encoder is not None,
        "vocabulary": len(tokenizer),
        "fingerprint": model.fingerprint(),
    }
