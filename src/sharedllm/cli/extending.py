"""Extends a base for `sharedllm extend`, measures how deep it has to read, and writes the result."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from ..answering.asked import least_window
from ..causal_lm import SharedLLMForCausalLM
from ..context.pieces import piece_size
from ..context.spaces import without_space
from ..context.stops import KINDS, stops
from ..model.base_config import check_base, positions_of
from ..model.config import SharedLLMConfig
from ..prompts import PromptForm
from ..scoring.encoder import SentenceEncoder
from ..utils.checkpoints import NoModel, load_model, load_tokenizer
from ..utils.errors import UserError, no_room
from ..utils.files import write_text
from ..utils.hardware import default_device, inference_dtype
from ..utils.model_names import is_gguf
from ..utils.prose import library_prose
from ..utils.scratch import whole_folder
from ..utils.text_files import read_text
from .common import note, progress_bar
from .injections import DEFAULTS
from .loading import quiet

# A model that reads deeper what a question selects; its chunks are read in pieces, so they may be long.
DEEP = {"injection": "deep", "injection_map": None, "overlap": 0} | {
    field: DEFAULTS["deep"][field] for field in ("encoding", "chunk_size")
}
# Characters of the text for measuring heads, some 20,000 tokens: with fewer, hardly a depth is too shallow. Sentences in
# other words are as hard to find in half of it, and take as long to read.
CHARACTERS, REWORDED = 80_000, 40_000
# The share of the best depth's result that a shallower depth has to reach.
SHARE = 0.85


def needed_tokenizer(base: str) -> PreTrainedTokenizerBase:
    """The base's tokenizer, which is needed to measure it.

    Raises:
        UserError: there is no tokenizer.
    """
    try:
        return load_tokenizer(base)
    except NoModel:
        raise
    except UserError:
        raise UserError(f"{base} has no tokenizer, which is needed to measure it: add one, or use --paper.") from None


def tokenizer_of(base: str, output: Path) -> PreTrainedTokenizerBase | None:
    """The base's tokenizer, or None with a line on stderr."""
    try:
        return load_tokenizer(base)
    except NoModel:
        raise
    except UserError:
        note(f"{base} has no tokenizer: add one to {output} before reading text.", style="yellow")
        return None


def save(
    model: SharedLLMForCausalLM, tokenizer: PreTrainedTokenizerBase | None, card: str | None, output: Path
) -> None:
    """Write a model's folder, whole or not at all. card: the text of its README.md.

    Raises:
        UserError: it can't be written.
    """
    try:
        with whole_folder(output) as folder:
            model.save_pretrained(folder)
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            if card is not None:
                write_text(folder / "README.md", card)
    except (OSError, SafetensorError) as error:
        said = no_room(output, error) or f"{output} can't be written ({error}); nothing of it is left."
        raise UserError(said) from error


def adapted(
    base: str, adapter: Path, output: Path
) -> tuple[SharedLLMForCausalLM, PreTrainedTokenizerBase | None, str | None]:
    """A base with an adapter added to its weights, its tokenizer, and the adapter's card."""
    from ..training.adapter import load_adapter

    quiet()
    model, card = load_adapter(base, adapter), adapter / "README.md"
    return model, tokenizer_of(base, output), card.read_text(encoding="utf-8") if card.is_file() else None


def check_sizes(base: str, config: PreTrainedConfig, settings: dict[str, Any], lower_layers: int | None) -> None:
    """
    Args:
        config: of the base. settings: as for `extended`.

    Raises:
        UserError: the base has fewer positions than the window, or fewer layers; or a chunk is too small for a piece.
    """
    most, window, chunk = positions_of(config), settings["window"], settings["chunk_size"]
    if window is not None and most is not None and window > most:
        raise UserError(
            f"--window {window} is longer than the {most} positions of {base}: leave it out, or scale the base's positions in "
            "its config.json (rope_parameters)."
        )
    layers: int = config.get_text_config().num_hidden_layers
    if lower_layers is not None and not 1 <= lower_layers <= layers:
        raise UserError(f"--lower-layers {lower_layers} must be between 1 and the base's {layers} layers.")
    # With an overlap pieces may cross the border of a chunk.
    pieces = settings["injection"] == "deep" and not settings["overlap"]
    if pieces and chunk < (least := piece_size(window or config.get_text_config().max_position_embeddings)):
        raise UserError(
            f"--chunk-size {chunk} is less than a piece, of {least} tokens or more, in which the text is read and selected: give "
            f"at least {least}, or leave it out."
        )


def extended(
    base: str,
    settings: dict[str, Any],
    lower_layers: int | None,
    questions: str,
    data: str | None,
    encoder: str | None,
    output: Path,
) -> tuple[SharedLLMForCausalLM, PreTrainedTokenizerBase | None, dict]:
    """An extended base, its tokenizer, and what was measured. All that needs no weights is checked before they are loaded.

    Args:
        settings: of `SharedLLMConfig`; others as the options of `sharedllm extend`.
    """
    quiet()
    deep, window = settings["injection"] == "deep", settings["window"]
    if (known := check_base(base)) is not None:
        check_sizes(base, known, settings, lower_layers)
    tokenizer = needed_tokenizer(base) if deep else tokenizer_of(base, output)
    if (
        window is not None
        and tokenizer is not None
        and window < (least := least_window(tokenizer, settings["injection"]))
    ):
        raise UserError(
            f"--window {window} is too small for a question of one word and its answer: give at least {least}, or leave it out."
        )
    sentences = SentenceEncoder.load(encoder) if encoder is not None else None
    settings = settings | {"sentence_encoder": None if sentences is None else sentences.settings}
    loaded = load_model(base, default_device(), dtype="auto")
    if known is None:
        check_sizes(base, loaded.config, settings, lower_layers)
    if is_gguf(base):
        note(f"{base} is dequantised to bfloat16")
    if deep and tokenizer is not None:
        text = (read_text(data) if data is not None else library_prose(CHARACTERS))[: 2 * CHARACTERS]
        model, measured = measured_depth(
            loaded, tokenizer, text, settings, lower_layers, questions, needed=data is not None
        )
    else:
        through = DEFAULTS[settings["injection"]]["lower_layers"] if lower_layers is None else lower_layers
        model, measured = SharedLLMForCausalLM.from_base(loaded, **settings, lower_layers=through), {}
    if sentences is not None:
        model.use_encoder(sentences)
    return model, tokenizer, measured


def parameters(model: SharedLLMForCausalLM) -> int:
    return sum(p.numel() for p in model.parameters())


def measured_line(config: SharedLLMConfig, encoder: str | None) -> str:
    """What was measured for a model with injection deep."""
    heads = ", ".join(f"{layer}:{head}" for layer, head, _ in config.selection_heads or []) or "none, words alone"
    return (
        f"reads through {config.lower_layers} of {config.get_text_config().num_hidden_layers} layers; heads that select: {heads}; "
        f"layers that compare meanings: {config.meaning_layers or 'none'}"
        + (f"; or the sentence encoder {encoder}" if encoder else "")
    )


def measured_depth(
    base: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    text: str,
    settings: dict,
    lower_layers: int | None,
    questions: str,
    needed: bool,
) -> tuple[SharedLLMForCausalLM, dict]:
    """The base, extended to the depth that it needs, and the measurements; also the depth at which it knows what is said in
    other words.

    What reading and questions cost together is linear in the depth, so one of two depths is the cheapest: the shallowest
    that selects well, or all layers, which leave nothing to do for a question (docs/real/choices.md).

    Args:
        settings: those of `DEEP`, and others of `SharedLLMConfig`.
        questions: "few" or "many", so many that they select more tokens than the text has.
        needed: False to go on without measurements where the base's tokens or window are too small for the text.
    """
    from ..diagnosis.meaning import measure_meaning
    from ..diagnosis.posed import TooLittle, pose, pose_reworded
    from ..diagnosis.shallow import measure_shallow

    vocabulary = base.config.get_text_config().vocab_size
    every = torch.arange(min(len(tokenizer), vocabulary))
    # With an overlap chunks are read whole.
    found = stops(tokenizer, every)
    marks = {kind: every[getattr(found, kind)].tolist() or None for kind in KINDS}
    if settings["overlap"] or not marks["closing"]:
        marks = dict.fromkeys(marks)
    prefix = PromptForm.of(tokenizer).head()[0].tolist() or None
    bare = without_space(tokenizer, len(every)) or None if marks["closing"] else None
    settings = settings | {"prefix": prefix, "bare": bare} | marks
    given = settings.pop("injection_map")
    layers = base.config.num_hidden_layers if questions == "many" else lower_layers
    # Deeper heads find nothing more.
    third = max(1, base.config.num_hidden_layers // 3)
    most = third if layers is None else min(layers, third)
    tried = SharedLLMForCausalLM.from_base(base, **settings, **_through(most, base)).eval()
    try:
        posed = pose(tried.config, tokenizer, text)
    except TooLittle:
        if needed:
            raise
        note("no sentence fits into a piece of the window: not measured, and words alone select", style="yellow")
        return SharedLLMForCausalLM.from_base(base, **settings, **_through(layers or min(most, 4), base)), {}
    reworded = pose_reworded(tried.config.window, tokenizer, text[:REWORDED])
    size = posed.tokens + len(posed.asked) + reworded.tokens
    with torch.no_grad(), _fast(base), progress_bar("measuring the base", size) as advance:
        shallow = measure_shallow(tried, tokenizer, posed, advance)
        meaning = measure_meaning(tried, tokenizer, reworded, range(1, third + 1), advance)
    depth = shallow.choose(SHARE) if layers is None else shallow.depths[-1]
    layers = layers or depth.layers
    through = _through(layers, base) | ({"injection_map": given} if given is not None else {})
    kept = {upper for _, upper in through["injection_map"]}
    heads = [head for head in depth.heads if head[0] in kept]
    model = SharedLLMForCausalLM.from_base(
        base, **settings, **through, selection_heads=heads or None, meaning_layers=meaning.choose()
    )
    by_depth = {each.layers: round(each.found, 3) for each in shallow.depths}
    measured = {"lower_layers": layers, "selection_heads": heads, "found_by_depth": by_depth}
    measured |= {
        "meaning_layers": meaning.choose(),
        "found_by_meaning": {d: round(f, 3) for d, f in meaning.found.items()},
    }
    return model, measured | {"found_by_words": round(shallow.words, 3), "questions": shallow.questions}


@contextmanager
def _fast(model: PreTrainedModel) -> Iterator[None]:
    """A model's weights in the dtype in which this machine runs it, and in their own again afterwards, to the bit: many CPUs
    emulate products in bf16, and take an hour for a minute's work."""
    own = {weight: weight.dtype for weight in model.parameters()}
    dtype = inference_dtype(model.device)
    wider = [w for w, d in own.items() if isinstance(dtype, torch.dtype) and torch.promote_types(d, dtype) == dtype]
    try:
        for weight in wider:
            weight.data = weight.data.to(dtype)
        yield
    finally:
        for weight in wider:
            weight.data = weight.data.to(own[weight])


def _through(layers: int, base: PreTrainedModel) -> dict:
    """Settings to read through so many layers. The keys of the next layer, if any, are kept too, because heads may use
    them."""
    most = min(layers, base.config.num_hidden_layers - 1)
    return {"lower_layers": layers, "injection_map": [[i, i] for i in range(most + 1)]}
