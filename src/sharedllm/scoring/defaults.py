"""The default score of a question, and the default number of tokens that it selects: both are decided here and nowhere else."""

from typing import Any

# Found as many answers as the oracle score at every length and budget (docs/recall).
DEFAULT_SCORE = "focus"
# What `default_score` says for chats, for help texts.
CHAT_SCORES = "that of ask; once turns are searched too, attention, or bm25 if the model has no joint attention"
# What `default_budget` says, for help texts.
BUDGET = "the window; for a model that `sharedllm extend` made 512, or a quarter of its window if that is less"


def default_score(config: Any, chat: bool = False) -> str:
    """The name of the score that decides how a budget is spent.

    A model that reads pieces deeper ranks them by words, and by heads and meaning too if its configuration names any. Others use
    `focus`, but not over the turns of a chat: for a repeated question it would find the question's first occurrence there.

    Args:
        config: the model's `SharedLLMConfig`. chat: the text to search holds earlier turns.
    """
    if config.injection == "deep":
        return "hybrid" if config.selection_heads or config.meaning_layers or config.sentence_encoder else "bm25"
    if chat:
        return "attention" if config.injection == "joint" else "bm25"
    return DEFAULT_SCORE


def default_budget(config: Any) -> int:
    """Default number of tokens read for a question: a window of them; of pieces that are read deeper some, always less
    than half the window.

    512: on even ids in 32K tokens Qwen2.5-Coder-0.5B answers NQ, HotpotQA and FairytaleQA as well with it as with 1,024.

    Args:
        config: the model's `SharedLLMConfig`.
    """
    return max(1, min(512, config.window // 4)) if config.injection == "deep" else config.window
