"""A pipeline of transformers: a text is read once, and many questions are asked over it.

`auto` registers it as "sharedllm-question-answering".
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Pipeline

from ..answering.ask import checked_score
from ..answering.reading import read_document
from ..answering.together import ask_together
from ..causal_lm import SharedLLMForCausalLM
from ..context.policies.base import without_query
from ..documents import open_document
from ..documents.opening import Opened
from ..memory.context_memory import ContextMemory
from ..memory.interface import Memory
from ..store import is_memory
from ..utils.errors import UserError, at_least_one, named_type
from ..utils.text import tokenize
from .finder import open_own

OPTIONS = ("question", "questions", "budget", "score", "max_new_tokens", "instruction", "return_sources")
# What is returned for several questions, by the field of `Reply`; of these, what has another name for one.
FIELDS = {"answers": "text", "cut": "cut", "sources": "sources"}
SINGLE = {"answers": "answer"}


class QuestionAnsweringPipeline(Pipeline):
    """Questions over texts of any length.

        pipe = pipeline("sharedllm-question-answering", model=bundled_model())
        pipe(text, questions=["Who is the captain?", "What is the code?"])   # {"answers": ["…", "…"], "cut": [False, False]}
        pipe(text, question="Who is the captain?")                           # {"answer": "…", "cut": False}

    Its arguments are those of kvpress's "kv-press-text-generation", where both have them.
    """

    model: Any  # a SharedLLMForCausalLM, as `_sanitize_parameters` checks
    tokenizer: Any
    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_video_processor = _load_feature_extractor = False

    def __call__(self, context: str | Path | Memory | list, **options: Any) -> Any:
        """
        Args:
            context: a text; a document or a memory on disk as a `Path`, not as a text; a memory that `read` or `open_memory` gave; or a
                list of these, which gives a list of results.
            question: one question, for {"answer": …, "cut": …}. questions: a list of them, for {"answers": […], "cut": […]}. An
                answer is cut if it had to end at `max_new_tokens`.
            budget: most tokens of the text read for a question. score: how they are chosen. Defaults: the model's.
            max_new_tokens: longest answer, see `answering.asked.answer_length`. instruction: how to answer, see `answering.ask.ask`.
            return_sources: add "sources", for each question the parts of the text that were read whole, best first.

        Raises:
            UserError: an empty context, the name of a file as a text, no question, an unknown option, or a memory of another
                model or of several texts.
        """
        if isinstance(context, list) and not context:
            raise UserError("context=[] holds no text: pass one, or a list of some.")
        if options.get("batch_size") not in (None, 1):
            raise UserError(f"batch_size={options['batch_size']}: texts are read one after the other; leave it out.")
        return super().__call__(context, **options)

    def _sanitize_parameters(self, **options: Any) -> tuple[dict, dict, dict]:
        """Options for the three steps; only those that were given, so that a call keeps those of `pipeline()`."""
        if unknown := sorted(set(options) - set(OPTIONS)):
            name = unknown[0]
            raise UserError(
                f"{name}={options[name]!r}: no such option of this pipeline; it takes {', '.join(OPTIONS)}."
            )
        if not isinstance(self.model, SharedLLMForCausalLM):
            raise UserError(
                f"model is an ordinary {type(self.model).__name__}: make a SharedLLM from it with `sharedllm extend`."
            )
        for name in ("budget", "max_new_tokens"):
            if options.get(name) is not None:
                options[name] = at_least_one(name, options[name])
        if options.get("score") is not None:
            checked_score(self.model.config, options["score"])
        limits = {
            name: options[name] for name in ("budget", "score", "max_new_tokens", "instruction") if name in options
        }
        asked, after = {}, {}
        if "question" in options or "questions" in options:
            asked = {"questions": _questions(options.get("question"), options.get("questions"))}
            after = {"single": options.get("questions") is None}
        if "return_sources" in options:
            after["return_sources"] = bool(options["return_sources"])
        return asked, limits, after

    def preprocess(self, context: Any, questions: Sequence[str] = ()) -> dict[str, Any]:
        """The ids of a text, or an opened memory; and the questions."""
        if not questions:
            raise UserError("questions is missing: pass question=TEXT, or questions=[TEXT, …].")
        if isinstance(context, Path) and is_memory(context):
            context = open_own(self.model, self.tokenizer, context)
        elif isinstance(context, Path):
            opened = open_document(str(context))
            return {"questions": list(questions), "ids": tokenize(self.tokenizer, opened.text()), "document": opened}
        if hasattr(type(context), "segments"):  # of the class: a memory that keeps a tree has none
            if context.texts != 1:
                raise UserError(f"the memory holds {context.texts} texts: pass one of them, index_select([0]).")
            return {"questions": list(questions), "memory": context}
        if not isinstance(context, str):
            raise UserError(
                f"context is {named_type(context)}: pass a text, a Path, or a memory of read() or open_memory()."
            )
        if not context.strip():
            raise UserError("context is empty: pass the text to read.")
        if _names_a_file(context):
            raise UserError(
                f"context={context!r} is the name of a file here, not a text: pass Path({context!r}) to read that file."
            )
        return {"questions": list(questions), "ids": tokenize(self.tokenizer, context)}

    def _forward(
        self,
        inputs: dict[str, Any],
        budget: int | None = None,
        score: str | None = None,
        max_new_tokens: int | None = None,
        instruction: str | None = None,
    ) -> dict[str, Any]:
        """Read the text, unless it is a memory, and answer the questions: "answers", and for each its "cut" and "sources"."""
        memory = inputs["memory"] if "memory" in inputs else self._read(inputs["ids"], inputs.get("document"))
        limits = {"budget": budget, "score": score, "max_new_tokens": max_new_tokens, "instruction": instruction}
        said = ask_together(self.model, self.tokenizer, memory, inputs["questions"], **limits)
        return {name: [getattr(each, field) for each in said] for name, field in FIELDS.items()}

    def _read(self, ids: Tensor, document: Opened | None) -> ContextMemory:
        """Every token is kept where the model can, so that each question selects; else the tree's."""
        config = self.model.config
        keep_all = config.encoding == "chunk"
        if document is None:
            return self.model.read(ids, keep_all=keep_all, selection=without_query(config.selection))
        return read_document(self.model, ids, document, keep_all=keep_all)

    def postprocess(
        self, outputs: dict[str, Any], single: bool = False, return_sources: bool = False
    ) -> dict[str, Any]:
        """{"answer": …, "cut": …} for `question`, {"answers": […], "cut": […]} for `questions`."""
        found = {name: outputs[name] for name in FIELDS if return_sources or name != "sources"}
        return {SINGLE.get(name, name): of[0] for name, of in found.items()} if single else found


def _names_a_file(text: str) -> bool:
    """Whether a text is the name of a document or memory that is there; of a folder, any word may be."""
    try:
        return Path(text).is_file() or (Path(text).is_dir() and is_memory(text))
    except (OSError, ValueError):  # no file can have that name
        return False


def _questions(question: Any, questions: Any) -> list[str]:
    """
    Raises:
        UserError: both are given, there is none, or one is no text.
    """
    if question is not None and questions is not None:
        raise UserError("question and questions are both given: pass one of them.")
    if questions is None:
        questions = [question]
    if isinstance(questions, str) or not isinstance(questions, Sequence):
        raise UserError(f"questions is {named_type(questions)}: pass a list, or one text as question.")
    if not questions:
        raise UserError("questions=[] asks nothing: pass at least one.")
    for each in questions:
        if not isinstance(each, str):
            raise UserError(f"question={each!r} is {named_type(each)}: pass a text.")
        if not each.strip():
            raise UserError("question='' is empty: ask something.")
    return list(questions)
