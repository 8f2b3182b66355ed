"""A retriever of LlamaIndex over a memory (extra `llama-index`)."""

import asyncio
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from ..causal_lm import SharedLLMForCausalLM
from ..memory.segments import Source
from ..utils.errors import UserError, named_type
from ..utils.extras import missing
from .finder import Finder

try:
    from llama_index.core.base.base_retriever import BaseRetriever
    from llama_index.core.callbacks.base import CallbackManager
    from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType, TextNode
except ModuleNotFoundError:
    raise missing("llama-index", "llama_index") from None


class SharedLLMRetriever(BaseRetriever):
    """Gives the pieces of a memory that a question needs, best first, as nodes of LlamaIndex.

    A node's metadata has "source", the document's name; "place", where in it, in words; "characters" and "tokens", the first
    and the one after the last. Prompts show source and place only.
    """

    def __init__(
        self,
        memory: Source | str | Path,
        model: SharedLLMForCausalLM | str | Path = "tiny",
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        k: int | None = None,
        budget: int | None = None,
        score: str | None = None,
        callback_manager: CallbackManager | None = None,
        verbose: bool = False,
    ):
        """
        Args:
            memory, model, tokenizer, k, budget, score: see `finder.Finder`. callback_manager, verbose: LlamaIndex's own.

        Raises:
            UserError: as `Finder`.
        """
        self._finder = Finder(memory, model, tokenizer, k=k, budget=budget, score=score)
        super().__init__(callback_manager=callback_manager, verbose=verbose)

    def retrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        return super().retrieve(_checked(str_or_query_bundle))

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[NodeWithScore]:
        return await super().aretrieve(_checked(str_or_query_bundle))

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return [
            NodeWithScore(
                node=TextNode(
                    id_=f"{found.document}#{found.tokens[0]}-{found.tokens[1]}",
                    text=found.text,
                    metadata={
                        "source": found.document,
                        "place": found.place,
                        "characters": list(found.characters),
                        "tokens": list(found.tokens),
                    },
                    excluded_llm_metadata_keys=["characters", "tokens"],
                    excluded_embed_metadata_keys=["characters", "tokens"],
                ),
                score=found.score,
            )
            for found in self._finder.find(query_bundle.query_str)
        ]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)


def _checked(question: QueryType) -> QueryType:
    """
    Raises:
        UserError: it is neither a text nor a query of LlamaIndex, of which LlamaIndex would not say so.
    """
    if not isinstance(question, str | QueryBundle):
        raise UserError(f"question={question!r} is {named_type(question)}: pass a text.")
    return question
