"""How every system asks: head | pieces of the text | question | tail, in the form of the tokenizer's chat template."""

from dataclasses import dataclass

from transformers import PreTrainedModel, PreTrainedTokenizerBase

MARK = "\x00here\x00"


@dataclass(frozen=True)
class Form:
    """head and tail: what the template has before and after the words of the user. one_line: the answer ends with its line."""

    head: str
    tail: str
    one_line: bool

    def asked(self, question: str, instruction: str, after_text: bool) -> str:
        """Question and tail: what follows the pieces."""
        gap = "\n\n" if after_text else ""
        if self.one_line:
            return f"{gap}Question: {question}\n{instruction}\nAnswer:"
        return f"{gap}Question: {question}\n{instruction}{self.tail}"


def form_of(tokenizer: PreTrainedTokenizerBase) -> Form:
    """By the chat template; without one a plain form for base models."""
    if getattr(tokenizer, "chat_template", None):
        turn = [{"role": "user", "content": MARK}]
        text = str(tokenizer.apply_chat_template(turn, tokenize=False, add_generation_prompt=True))
        head, _, tail = text.partition(MARK)
        return Form(head, tail, one_line=False)
    return Form(str(tokenizer.bos_token or ""), "", one_line=True)


def end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Every token that ends a turn, by the tokenizer and both configurations of the model."""
    named = [tokenizer.eos_token_id, model.config.eos_token_id]
    if model.generation_config is not None:
        named.append(model.generation_config.eos_token_id)
    found = [token for some in named for token in (some if isinstance(some, list) else [some])]
    return {int(token) for token in found if token is not None}
