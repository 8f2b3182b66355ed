"""A retriever of LangChain over a memory (extra `langchain`)."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..memory.segments import Source
from ..utils.errors import UserError
from ..utils.extras import missing
from .finder import Finder

try:
    from langchain_core.callbacks import CallbackManagerForRetrieverRun
    from langchain_core.documents import Document
    from langchain_core.retrievers import BaseRetriever
    from pydantic import PrivateAttr
except ModuleNotFoundError:
    raise missing("langchain", "langchain_core") from None


class SharedLLMRetriever(BaseRetriever):
    """Gives the pieces of a memory that a question needs, best first, as documents of LangChain.

    `page_content` is the text. `metadata` has "source", the document's name; "place", where in it, in words; "score";
    "characters" and "tokens", the first and the one after the last.
    """

    _finder: Finder = PrivateAttr()

    def __init__(
        self,
        memory: Source | str | Path,
        model: SharedLLMForCausalLM | str | Path = "tiny",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        k: int | None = None,
        budget: int | None = None,
        score: str | None = None,
        **options: Any,
    ):
        """
        Args:
            memory, model, tokenizer, k, budget, score: see `finder.Finder`.
            options: of LangChain's own: tags, metadata, name.

        Raises:
            UserError: as `Finder`; an unknown option.
        """
        if unknown := sorted(set(options) - set(BaseRetriever.model_fields)):
            raise UserError(
                f"{unknown[0]}={options[unknown[0]]!r}: no such option; use k, budget, score, tags, metadata or name."
            )
        super().__init__(**options)
        self._finder = Finder(memory, model, tokenizer, k=k, budget=budget, score=score)

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [
            Document(
                id=f"{found.document}#{found.tokens[0]}-{found.tokens[1]}",
                page_content=found.text,
                metadata={
                    "source": found.document,
                    "place": found.place,
                    "score": found.score,
                    "characters": list(found.characters),
                    "tokens": list(found.tokens),
                },
            )
            for found in self._finder.find(query)
        ]
