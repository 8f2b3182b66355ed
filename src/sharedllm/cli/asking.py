"""What `sharedllm ask` reads by a policy, and prints of an answer. Imports torch, so the command imports this in its body."""

import torch
from torch import Tensor

from ..answering.ask import Answer, Written
from ..causal_lm import SharedLLMForCausalLM
from ..context.policies.base import SelectionPolicy
from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory
from ..model.config import SharedLLMConfig
from ..model.cross_attention import untrained
from ..utils.errors import UserError
from .answers import note_cut, note_read_on, say, show_found, show_sources
from .common import note


def selected(
    model: SharedLLMForCausalLM,
    opened: Memory,
    source: str,
    policy: SelectionPolicy,
    prompt: Tensor,
    batch_tokens: int | None,
) -> ContextMemory:
    """What a policy keeps of a text for a prompt (1, Q): all that is held, or if it depends on the question, of the text read again.

    Raises:
        UserError: several texts would have to be read again.
    """
    memory = opened.load()
    if not policy.needs_query:
        return memory
    if len(memory.sources[0]) > 1:
        raise UserError(f"--selection {policy.name} reads one text again, {source} holds several: use --budget.")
    # Lost chunks are left out.
    ids = memory.token_ids.long()
    held = torch.isin(torch.arange(ids.shape[1]) // memory.chunk_size, memory.chunk)[None]
    with torch.no_grad():
        return model.read(ids, held, query_ids=prompt, selection=policy, batch_tokens=batch_tokens)


def note_untrained(model: SharedLLMForCausalLM, name: str) -> None:
    """Say so if a model can't know what it reads."""
    if model.config.injection == "cross" and untrained(model):
        note(
            f"{name} is not trained: its cross-attention adds nothing, and the answer ignores the text. Train it, or extend "
            "the base without --paper.",
            style="yellow",
        )


def show(answer: Answer | Written, config: SharedLLMConfig) -> None:
    """Print an answer and, of one within a budget, what is to be known about it and its sources."""
    say(answer.text)
    note_cut(answer.cut)
    if not isinstance(answer, Answer):
        return
    if little := answer.too_little("--budget"):
        note(little, style="yellow")
    # Of a model that reads deeper it is known whether the text has the question's words, if it has any.
    if config.injection == "deep" and answer.found is None:
        note("Nothing in this question can be searched for: ask with a word of what you look for.", style="yellow")
    show_found(answer.found)
    show_sources(answer.sources, f"{answer.question} {answer.text}")
    note_read_on(int(answer.compared.read.sum()))
