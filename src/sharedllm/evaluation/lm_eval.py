"""SharedLLM in the lm-evaluation-harness: all its tasks, contexts of any length, without truncation.

    python -m sharedllm.evaluation.lm_eval run --model sharedllm --model_args pretrained=tiny,budget=1024 --tasks …

is the harness's own command line, with the model that this module registers. Far text becomes a memory, and the end of
a text is the running text of at most W tokens, the window:

- Log-likelihoods: everything from a chunk border on that fits into the window, so that continuations of different
  lengths share the memory of their context. Text longer than a window is scored in blocks of W/2 tokens, each after at
  least as much running text; earlier text is appended to the memory, so the cost is linear.
- Rolling log-likelihoods treat the whole text as a continuation: blocks of W/2 tokens, starting with the first.
- Generation: the prompt's end, as much as fits into the window with the new tokens.

Every token is scored once, given everything before it. Borders are at multiples of the chunk size C, or of W/2 if a
chunk is longer than that.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from ..causal_lm import SharedLLMForCausalLM
from ..context.policies.base import get_policy
from ..memory.context_memory import ContextMemory, stack
from ..scoring import DEFAULT_SCORE
from ..scoring.base import get_score
from ..utils.errors import UserError, named_type, shown
from ..utils.model_names import checkpoint
from .pieces import Ids, Piece, border, in_order, left_pad, spans

try:
    from lm_eval.__main__ import cli_evaluate
    from lm_eval.api.registry import register_model
    from lm_eval.models.huggingface import HFLM
    from lm_eval.models.utils import normalize_gen_kwargs
except ImportError:
    raise UserError("lm_eval is not installed: pip install 'sharedllm[eval]'.") from None

# So many last tokens of the prompt are the question.
QUERY_TOKENS = 32
# Number of memories cached for later requests.
REMEMBERED = 2


@register_model("sharedllm")
class SharedLLMHarness(HFLM):
    """A SharedLLM as a model of the harness; everything else is as in `HFLM`."""

    def __init__(
        self,
        pretrained: str | Path | PreTrainedModel,
        *,
        budget: int | None = None,
        score: str = DEFAULT_SCORE,
        batch_tokens: int | None = None,
        device: str | None = None,
        rolling_as_hflm: bool = False,
        **kwargs: Any,
    ):
        """
        Args:
            pretrained: a model (pass its `tokenizer` too), a folder, a hub id, or the name of a bundled model.
            budget: keep every token, and select this many tokens for each question, the last 32 tokens of its prompt;
                None for the model's own tree.
            score: how the budget is spent, a name in `scoring.SCORES`.
            batch_tokens: most tokens run through the lower model at once.
            device: default: cuda if there is one, else cpu.
            rolling_as_hflm: as `HFLM` does, put the prefix token before the one that the tokenizer adds too, in rolling
                log-likelihoods: for comparisons with its numbers. By default the text begins once.
            kwargs: those of `HFLM`: tokenizer, dtype, batch_size, revision, ….

        Raises:
            UserError: not a SharedLLM, an unknown argument or score, a tokenizer without eos token, or an option that can't be followed.
        """
        get_score(score)
        if budget is not None and (not isinstance(budget, int) or budget < 1):
            raise UserError(f"budget={budget!r} must be a number of tokens, at least 1, or left out.")
        for name in ("max_length", "truncation"):
            if kwargs.get(name):
                raise UserError(f"{name}={kwargs[name]!r} would cut texts off, but all are read whole: leave it out.")
        if str(kwargs.get("batch_size", 1)).startswith("auto"):
            raise UserError("batch_size='auto' tries the longest input, and there is none: give a number.")
        if isinstance(pretrained, str | Path):
            pretrained = checkpoint(str(pretrained))
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            super().__init__(pretrained, backend="causal", device=device, **kwargs)
        except TypeError as error:
            # The harness passes on what it doesn't know, at last to the model. A SharedLLM refuses it with a line of its own.
            unknown = next((name for name in kwargs if f"unexpected keyword argument {name!r}" in str(error)), None)
            if unknown is None:
                raise
            raise UserError(f"{unknown}={kwargs[unknown]!r} is no argument of the model: leave it out.") from None
        if not isinstance(self.model, SharedLLMForCausalLM):
            raise UserError(
                f"pretrained is {named_type(self.model)}, not a SharedLLM: make one from it with `sharedllm extend` "
                "(merge adapters first)."
            )
        get_score(score, self.model.config)
        if self.eot_token_id is None:
            raise UserError("the tokenizer has no eos_token: pass one that has one as tokenizer=….")
        self.budget, self.score, self.batch_tokens = budget, score, batch_tokens
        self.rolling_as_hflm = rolling_as_hflm
        self._read_before = _Recent()
        self._selected_before = _Recent()

    @property
    def window(self) -> int:
        return int(self.model.config.window)

    @property
    def max_length(self) -> int:
        """No text is too long."""
        return sys.maxsize

    @property
    def max_gen_toks(self) -> int:
        """Default number of new tokens: as in `HFLM`, but never more than half the window."""
        return max(1, min(super().max_gen_toks, self.window // 2))

    def tok_batch_encode(
        self, strings: Sequence[str], padding_side: str = "left", left_truncate_len: int | None = None, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Left-padded ids (B, L) and mask (B, L), each text encoded as if it were alone; nothing is truncated."""
        return left_pad([tuple(self.tok_encode(text)) or (self.prefix_token_id,) for text in strings])

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        override_bs: int | None = None,
    ) -> list[tuple[float, bool]]:
        texts = []
        for strings, context, continuation in requests:
            if not context or not continuation:
                raise UserError(
                    f"the request {shown(strings)} has a context of {len(context):,} tokens and a continuation of "
                    f"{len(continuation)}: both need at least one."
                )
            text, query = (*context, *continuation), tuple(context[-QUERY_TOKENS:])
            places = spans(len(context), len(text), self.window, self.model.config.chunk_size)
            texts.append([Piece(text, *place, query) for place in places])
        answers: list[Any] = [None] * len(requests)
        for number, answer in self._scored(texts, disable_tqdm, "Running loglikelihood requests"):
            answers[number] = answer
            self.cache_hook.add_partial("loglikelihood", requests[number][0], answer)
        return answers

    def loglikelihood_rolling(self, requests: list, disable_tqdm: bool = False) -> list[float]:
        texts = []
        for request in requests:
            # The prefix token is what a tokenizer that adds one would add.
            adds = None if self.rolling_as_hflm else False
            text = (self.prefix_token_id, *self.tok_encode(request.args[0], add_special_tokens=adds))
            places = spans(1, len(text), self.window, self.model.config.chunk_size) if len(text) > 1 else []
            # There is no question, so trees grow to the right; a budget uses the preceding text as question.
            queries = [text[max(0, f - QUERY_TOKENS) : f] if self.budget else () for _, f, _ in places]
            texts.append([Piece(text, *place, query) for place, query in zip(places, queries, strict=True)])
        totals = [0.0] * len(requests)
        for number, (total, _) in self._scored(texts, disable_tqdm, "Running rolling loglikelihood requests"):
            totals[number] = total
            self.cache_hook.add_partial("loglikelihood_rolling", requests[number].args, total)
        return totals

    def generate_until(self, requests: list, disable_tqdm: bool = False) -> list[str]:
        for request in requests:
            options: Any = normalize_gen_kwargs(request.args[1], self.max_gen_toks)
            if not 0 < options["max_gen_toks"] < self.window:
                raise UserError(
                    f"max_gen_toks={options['max_gen_toks']} must be between 1 and {self.window - 1}, to fit into the "
                    f"window={self.window}: set it in the task's generation_kwargs or with `lm_eval --gen_kwargs`."
                )
            if "max_length" in options:
                raise UserError("max_length among the generation_kwargs counts prompt and padding: use max_gen_toks.")
        with self._computing():
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

    def _model_generate(self, context: Tensor, max_length: int, stop: list[str], **kwargs: Any) -> Tensor:
        mask, new_tokens = kwargs.pop("attention_mask").bool(), max_length - context.shape[1]
        prompts = [tuple(row[real].tolist()) for row, real in zip(context, mask, strict=True)]
        room = self.window - new_tokens
        starts = [border(len(prompt), room, self.model.config.chunk_size) for prompt in prompts]
        memory = self._memory(
            [p[:s] for p, s in zip(prompts, starts, strict=True)], [p[-QUERY_TOKENS:] for p in prompts]
        )
        running, running_mask = (
            t.to(self.device) for t in left_pad([p[s:] for p, s in zip(prompts, starts, strict=True)])
        )
        if self.model.generation_config.eos_token_id is None:
            kwargs.setdefault("eos_token_id", self.eot_token_id)
        output = super()._model_generate(
            running,
            max_length=running.shape[1] + new_tokens,
            stop=stop,
            attention_mask=running_mask,
            memory=memory,
            **kwargs,
        )
        return torch.cat([context, output[:, running.shape[1] :]], 1)

    def _scored(
        self, texts: list[list[Piece]], disable_tqdm: bool, label: str
    ) -> Iterator[tuple[int, tuple[float, bool]]]:
        """The number of each text with its sum of log-probabilities and whether all its tokens are the likeliest."""
        # Texts with a memory first, in alphabetical order, so that equal and growing contexts follow one another.
        order = sorted((n for n, pieces in enumerate(texts) if pieces), key=lambda n: in_order(texts[n][-1]))
        groups: list[list[tuple[int, Piece]]] = []
        for number in order:
            for piece in texts[number]:
                if groups and groups[-1][0][1].shares(piece):
                    groups[-1].append((number, piece))
                else:
                    groups.append([(number, piece)])
        parts: dict[int, list[tuple[float, bool]]] = {number: [] for number in order}
        bar = tqdm(total=len(order), disable=disable_tqdm or self.rank != 0, desc=label)
        with self._computing(), bar:
            for begin in range(0, len(groups), int(self.batch_size)):
                batch = groups[begin : begin + int(self.batch_size)]
                for group, log_probs in zip(batch, self._log_probs([g[0][1] for g in batch]), strict=True):
                    likeliest = log_probs.argmax(-1)
                    for number, piece in group:
                        targets = torch.tensor(piece.text[piece.first : piece.end], device=log_probs.device)
                        total = log_probs.gather(1, targets[:, None]).sum()
                        parts[number].append((float(total), bool((likeliest == targets).all())))
                        if len(parts[number]) == len(texts[number]):
                            sums, greedy = zip(*parts.pop(number), strict=True)
                            bar.update()
                            yield number, (sum(sums), all(greedy))

    def _log_probs(self, pieces: list[Piece]) -> list[Tensor]:
        """For each piece log-probabilities (n, V) at its n targets."""
        memory = self._memory([p.text[: p.start] for p in pieces], [p.query for p in pieces])
        ids, mask = (t.to(self.device) for t in left_pad([p.text[p.start : p.end - 1] for p in pieces]))
        counts = [p.end - p.first for p in pieces]
        logits = self.model(
            ids, attention_mask=mask, memory=memory, logits_to_keep=max(counts), use_cache=False
        ).logits.log_softmax(-1, dtype=self.softmax_dtype or torch.float32)
        return [row[-count:] for row, count in zip(logits, counts, strict=True)]

    def _memory(self, far: list[Ids], queries: list[Ids]) -> ContextMemory | None:
        """The memory of a batch; None if there is nothing far."""
        memories = [self._asked(text, query) if text else None for text, query in zip(far, queries, strict=True)]
        there = [memory for memory in memories if memory is not None]
        if not there:
            return None
        return stack([there[0].slice(0, 0) if memory is None else memory for memory in memories])

    def _asked(self, far: Ids, query: Ids) -> ContextMemory:
        """The part of one text's memory that the question sees."""
        if self.budget is None:
            return self._read(far, query)
        if (query, far) not in self._selected_before:
            memory = self._read(far, query)
            ids = torch.tensor([query], device=self.device)
            selected = self.model.select(memory, ids, budget=self.budget, score=self.score)
            self._selected_before.put((query, far), selected)
        return self._selected_before[query, far]

    def _read(self, far: Ids, query: Ids) -> ContextMemory:
        """The memory of one text, continued from the longest beginning of it that was read before."""
        policy = get_policy(self.model.config.selection)
        # Without a question, or if every token is kept, trees can only grow by position.
        asked = query if policy.needs_query and self.budget is None else ()
        options = {
            "selection": "right" if policy.needs_query and not asked else policy,
            "query_ids": torch.tensor([asked], device=self.device) if asked else None,
            "batch_tokens": self.batch_tokens,
        }
        before = [text for question, text in self._read_before if question == asked and far[: len(text)] == text]
        known = max(before, key=len, default=())
        rest = torch.tensor([far[len(known) :]], dtype=torch.long, device=self.device)
        if not known:
            memory = self.model.read(rest, keep_all=self.budget is not None, fingerprint=False, **options)
        elif len(known) < len(far):
            memory = self.model.append(self._read_before[asked, known], rest, **options)
        else:
            memory = self._read_before[asked, far]
        self._read_before.put((asked, far), memory)
        return memory

    @contextmanager
    def _computing(self) -> Iterator[None]:
        """No gradients, and the requested precision. Afterwards memories are forgotten, because weights may change."""
        mixed = self.mixed_precision_dtype
        try:
            with torch.no_grad(), torch.autocast(self.device.type, dtype=mixed, enabled=mixed is not None):
                yield
        finally:
            self._read_before.clear()
            self._selected_before.clear()


class _Recent(dict[tuple[Ids, Ids], ContextMemory]):
    """A cache of the most recent memories."""

    def put(self, key: tuple[Ids, Ids], memory: ContextMemory) -> None:
        self.pop(key, None)
        self[key] = memory
        while len(self) > REMEMBERED:
            del self[next(iter(self))]


def main() -> None:
    """The harness's command line, where a user's mistake is one line, as in ours."""
    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
