"""`sharedllm ask`: a question over a memory or a text file."""

import time
from typing import Annotated

import typer

from ..utils.errors import UserError
from .answers import choosing_line, note_cut, note_read_on, reading_line, say, show_found, show_sources
from .common import (
    BatchTokensOption,
    JsonOption,
    ModelOption,
    NewTokensOption,
    ScoreOption,
    SelectionOption,
    check_source,
    note,
    print_json,
    status_line,
)


def command(
    source: Annotated[str, typer.Argument(help="A memory, a corpus or its URI, a text file, or - for standard input.")],
    question: Annotated[str, typer.Argument(help="What to ask.")],
    model: ModelOption = "tiny",
    selection: SelectionOption = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Tokens to read, selected for the question. Default: the model's if every token was kept, else all.",
        ),
    ] = None,
    score: ScoreOption = None,
    max_new_tokens: NewTokensOption = None,
    instruction: Annotated[
        str | None, typer.Option(help="How to answer. Default: with as few words as possible, for chat models.")
    ] = None,
    batch_tokens: BatchTokensOption = None,
    json: JsonOption = False,
) -> None:
    """Ask a question over a memory or a text file; the answer is one line."""
    if budget is not None and selection is not None:
        raise UserError("--budget and --selection are both given: a budget selects by --score.")
    check_source(source)
    import torch

    from ..answering.ask import answer_over, ask, checked_score
    from ..answering.asked import checked_question, prompt_of
    from ..context.policies.base import get_policy
    from ..model.cross_attention import untrained
    from ..scoring.defaults import default_budget
    from .loading import config_of, load, open_source, tokens_behind

    checked_question(question)
    config = config_of(model)
    score = checked_score(config, score)
    policy = get_policy(selection or config.selection)
    loaded, tokenizer = load(model)
    started = time.perf_counter()  # as for `read`: without loading the model
    prompt = prompt_of(loaded, tokenizer, question, max_new_tokens, instruction)
    sources, found, little = [], None, None
    # Of a model that reads deeper it is known whether the text has the question's words, if it has any.
    knows_words = loaded.config.injection == "deep"
    # By default a question selects from a text that was or can be kept whole. Reading deeper is only possible for a
    # part of a text.
    chooses = selection is None and not policy.needs_query and loaded.config.encoding == "chunk"
    keep_all = budget is not None or chooses
    opened = open_source(loaded, tokenizer, source, batch_tokens, keep_all=keep_all)
    if budget is None and chooses and (opened.complete or loaded.config.injection == "deep"):
        budget = default_budget(loaded.config)
    if budget is not None:
        limits = {"budget": budget, "score": score, "max_new_tokens": max_new_tokens, "instruction": instruction}
        with status_line("choosing what to read, and answering …") as tell:
            told = {"progress": choosing_line(tell), "reading": reading_line(tell)}
            answered = ask(loaded, tokenizer, opened, question, **told, **limits)
        answer, memory, sources, found = answered, answered.memory, answered.sources, answered.found
        little = answered.too_little("--budget")
    else:
        memory = opened.load()
        if policy.needs_query:
            if len(memory.sources[0]) > 1:
                raise UserError(
                    f"--selection {policy.name} reads one text again, {source} holds several: use --budget."
                )
            # Which parts stay fine depends on the question: read the tokens again, except lost chunks.
            ids = memory.token_ids.long()
            held = torch.isin(torch.arange(ids.shape[1]) // memory.chunk_size, memory.chunk)[None]
            with torch.no_grad():
                memory = loaded.read(ids, held, query_ids=prompt, selection=policy, batch_tokens=batch_tokens)
        with status_line("answering …") as tell:
            answer = answer_over(loaded, tokenizer, memory, prompt, max_new_tokens, reading_line(tell))
    if loaded.config.injection == "cross" and untrained(loaded):
        note(
            f"{model} is not trained: its cross-attention adds nothing, and the answer ignores the text. Train it, or extend "
            "the base without --paper.",
            style="yellow",
        )
    chosen = (
        {"selection": policy.name}
        if budget is None
        else {"budget": budget, "score": score, "sources": sources, "found": found}
    )
    read = {"context_tokens": tokens_behind(memory), "selected_tokens": int(memory.kept[0])}
    if json:
        print_json(
            question=question,
            answer=answer.text,
            cut=answer.cut,
            **read,
            seconds=round(time.perf_counter() - started, 3),
            **chosen,
        )
        return
    say(answer.text)
    note_cut(answer.cut)
    if little is not None:
        note(little, style="yellow")
    if knows_words and budget is not None and found is None:
        note("Nothing in this question can be searched for: ask with a word of what you look for.", style="yellow")
    show_found(found)
    show_sources(sources)
    if budget is not None:
        note_read_on(int(answered.compared.read.sum()))
