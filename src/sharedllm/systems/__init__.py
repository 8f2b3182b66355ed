"""The systems that are compared: SharedLLM and other ways of reading a long text with a short window, all over one base.

A system is one file or folder here and one entry below. Evaluation, benchmark, training, their help and their figures
use only that entry. Everything is imported on first use.
"""

from ..utils.registry import Registry
from .entry import Part, System, Trained

__all__ = ["SYSTEMS", "Part", "System", "Trained", "add_system"]

SYSTEMS = Registry("system {}")
_OURS, _BEACON, _CEPE = f"{__name__}.sharedllm", f"{__name__}.beacon", f"{__name__}.cepe"
_ASKED = "sharedllm.evaluation.qa.text_systems"


def add_system(system: System) -> None:
    """Register a system."""
    SYSTEMS.add(system.name, system, system.about)


for _system in (
    System(
        "sharedllm",
        "the far context read into a memory",
        "#0b6e99",
        needs="model",
        variants="sharedllm:POLICY, sharedllm@4/2/1: another policy, other strides; asked: sharedllm:SCORE",
        evaluated=f"{_OURS}.evaluated:shared",
        timed=f"{_OURS}.timed:TimedShared",
        answering=f"{_OURS}.answering:AnsweringShared",
        asked=f"{_ASKED}:shared",
        trained=Trained(
            "sharedllm.causal_lm:SharedLLMForCausalLM",
            "sharedllm",
            (
                Part("gates", "the gates of cross-attention", "injection.gate"),
                Part(
                    "cross_attention",
                    "cross-attention and its key and value projections, without the gates",
                    ".injection.",
                ),
                Part("lower_model", "the lower model: its own layers, or, if weights are shared, the bottom layers"),
                Part("bottom_layers", "the base's layers below M"),
                Part("top_layers", "the base's layers from M on"),
                Part("embeddings", "token embedding, final norm and head"),
            ),
            windowed=True,
        ),
    ),
    System(
        "int8",
        "sharedllm with its memory in 8 bits, as with storage int8 and memory_dtype int8",
        "#5aa9c4",
        needs="model",
        evaluated=f"{_OURS}.evaluated:int8",
    ),
    System(
        "whole",
        "sharedllm with all M layers run whole, to show what its shortcut saves",
        "#8fb8c9",
        needs="model",
        timed=f"{_OURS}.timed:TimedWhole",
    ),
    System(
        "budget",
        "everything read and kept; the question selects",
        "#3f8f5b",
        needs="model",
        variants="budget:SCORE@TOKENS",
        evaluated=f"{_OURS}.evaluated:budget",
        timed=f"{_OURS}.timed:TimedBudget",
    ),
    System(
        "focus",
        "the same; the question's words select",
        "#8fbf9f",
        needs="model",
        timed=f"{_OURS}.timed:TimedFocus",
    ),
    System(
        "deep",
        "everything read through the bottom layers; what the question selects is read deeper",
        "#1f4e79",
        needs="model",
        timed=f"{_OURS}.timed:TimedDeep",
    ),
    System(
        "empty",
        "the same trained model without its memory",
        "#8fb8c9",
        needs="model",
        evaluated=f"{_OURS}.evaluated:empty",
    ),
    System(
        "window",
        "the base with the window alone, without the far context",
        "#7a8793",
        evaluated=f"{__name__}.window:window",
        timed=f"{__name__}.window:TimedWindow",
        answering=f"{__name__}.window:AnsweringWindow",
    ),
    System(
        "streaming",
        "the base with sinks and recent tokens (StreamingLLM)",
        "#c8553d",
        evaluated=f"{__name__}.streaming:streaming",
        timed=f"{__name__}.streaming:TimedStreaming",
    ),
    System(
        "bm25",
        "the base with the best pieces by BM25 in half of its window",
        "#e0a030",
        evaluated=f"{__name__}.retrieval:bm25",
    ),
    System(
        "bm25-same",
        "the model of sharedllm without its memory, with the best pieces by BM25 in half of its window",
        "#b07a10",
        needs="model",
        evaluated=f"{__name__}.retrieval:bm25",
    ),
    System(
        "full",
        "the base over everything, with unscaled positions",
        "#444444",
        evaluated=f"{__name__}.full:full",
        timed=f"{__name__}.full:TimedFull",
        asked=f"{_ASKED}:full",
    ),
    System("pi", "the base over everything, with interpolated positions", "#7b5ea7", evaluated=f"{__name__}.full:full"),
    System("ntk", "the base over everything, NTK-aware positions", "#a05195", evaluated=f"{__name__}.full:full"),
    System("yarn", "the base over everything, YaRN positions", "#3f8f5b", evaluated=f"{__name__}.full:full"),
    System(
        "tuned",
        "the base over everything, trained on longer samples",
        "#2b2b2b",
        needs="trained",
        evaluated=f"{__name__}.full:full",
        trained=Trained(),
    ),
    System(
        "cepe",
        "the far context through a small encoder and cross-attention (CEPE)",
        "#d1495b",
        needs="trained",
        evaluated=f"{_CEPE}.evaluated:cepe",
        timed=f"{_CEPE}.timed:TimedCepe",
        trained=Trained(
            f"{_CEPE}:CepeForCausalLM",
            "sharedllm_cepe",
            (
                Part("cross_attention", "cross-attention in every layer", ".injection."),
                Part("encoder", "the encoder of CEPE", "encoder"),
            ),
            windowed=True,
        ),
    ),
    System(
        "cepe-states",
        "cepe that keeps its encoder's states and projects them in every pass, which takes less memory",
        "#e89aa5",
        needs="trained",
        timed=f"{_CEPE}.timed:TimedCepeStates",
    ),
    System(
        "beacon",
        "the far context condensed into beacons (Activation Beacon)",
        "#b8860b",
        needs="trained",
        evaluated=f"{_BEACON}.evaluated:beacon",
        timed=f"{_BEACON}.timed:TimedBeacon",
        trained=Trained(
            f"{_BEACON}:BeaconForCausalLM",
            "sharedllm_beacon",
            (Part("beacon", "the beacons' projections and embedding of Activation Beacon", "beacon"),),
        ),
    ),
    System("closed", "the base with the question alone", "#a8b0b8", asked=f"{_ASKED}:closed"),
    System("wrong", "the base with pieces that the question is not about", "#7a8793", asked=f"{_ASKED}:wrong"),
    System("oracle-text", "the base with the pieces that hold the answer", "#3f8f5b", asked=f"{_ASKED}:pieces"),
    System(
        "bm25-text", "the base with the best pieces by BM25, in the text's order", "#c8553d", asked=f"{_ASKED}:pieces"
    ),
    System("bm25-text-rank", "the same with the best piece last", "#d99a8c", asked=f"{_ASKED}:pieces"),
    System(
        "bm25-few-text",
        "the same without pieces that score much less than the best one",
        "#8f3b2a",
        asked=f"{_ASKED}:pieces",
    ),
    System(
        "minilm-text",
        "the base with the best pieces by a sentence encoder, in the text's order",
        "#7b5ea7",
        asked=f"{_ASKED}:pieces",
    ),
    System(
        "minilm-sentences-text",
        "the base with the pieces of the best sentences by a sentence encoder, in the text's order",
        "#5b4b8a",
        asked=f"{_ASKED}:pieces",
    ),
    System("minilm-text-rank", "the same with the best piece last", "#b9a7cf", asked=f"{_ASKED}:pieces"),
    System(
        "both-few-text",
        "the base with the best pieces by words and a sentence encoder, without those that score much less",
        "#2f6f9f",
        asked=f"{_ASKED}:pieces",
    ),
    System(
        "same-pieces-text",
        "the base with exactly the pieces that sharedllm selected, as text",
        "#e0a030",
        variants="same-pieces-text:SYSTEM: the pieces of another system",
        asked=f"{_ASKED}:same_pieces",
    ),
    System(
        "replies",
        "a system outside the package, by its replies in a file",
        "#777777",
        variants="replies:FILE: made from what `sharedllm qa --prompts` writes",
        asked="sharedllm.evaluation.qa.outside:replies",
    ),
):
    add_system(_system)
