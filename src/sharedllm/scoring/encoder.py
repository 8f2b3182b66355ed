"""A sentence encoder: a small second model that embeds sentences, so that those which say alike are near each other.

It is optional. A model's folder may hold one; then sentences are embedded when a text is read, and a question is compared with
all of them. Encoders of the simplest form are known, such as all-MiniLM-L6-v2: a transformer whose last states are pooled, and
normalised (Reimers and Gurevych, EMNLP 2019). What is put before a question is what the encoder's files say, or nothing.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils.hub import cached_file

from ..memory.fingerprint import fingerprint_tensors, tokenizer_fingerprint
from ..model.backbone import SharedLLMModel
from ..utils.checkpoints import load_model, load_tokenizer
from ..utils.errors import UserError
from ..utils.hardware import default_device
from ..utils.model_names import checkpoint
from ..utils.text_files import check_text

# Where a model's folder holds its encoder.
FOLDER = "encoder"
# Tokens that are embedded at once, padding included.
_BATCH = 8_192
# Steps of a sentence-transformers model that are known, by the last part of their type.
_KNOWN = ("Transformer", "Pooling", "Normalize")


@dataclass(frozen=True)
class Form:
    """How an encoder makes one embedding of a text.

    pooling   the mean over its tokens' states, or the first token's
    question, text  what is put before a question, and before a sentence of a text
    """

    pooling: Literal["mean", "first"] = "mean"
    question: str = ""
    text: str = ""

    @classmethod
    def of(cls, name: str) -> "Form":
        """That of a folder or hub id; without the files of sentence-transformers the mean, and nothing put before.

        Raises:
            UserError: its embeddings are made in another way, or a file can't be read.
        """
        steps = [str(step.get("type")).rpartition(".")[2] for step in _json(name, "modules.json", list)]
        pooling = _json(name, "1_Pooling/config.json", dict)
        modes = [key.removeprefix("pooling_mode_") for key, on in pooling.items() if on is True and "mode" in key]
        modes += [pooling["pooling_mode"]] if isinstance(pooling.get("pooling_mode"), str) else []
        known: dict[str, Literal["mean", "first"]] = {
            "mean_tokens": "mean",
            "mean": "mean",
            "cls_token": "first",
            "cls": "first",
        }
        odd = [step for step in steps if step not in _KNOWN] + [mode for mode in modes if mode not in known]
        if odd or len(modes) > 1:
            raise UserError(
                f"the sentence encoder {name} makes embeddings by {', '.join(odd or modes)}: use one that takes the mean over "
                "all tokens, or the first token, such as sentence-transformers/all-MiniLM-L6-v2."
            )
        prompts = _json(name, "config_sentence_transformers.json", dict).get("prompts") or {}
        text = prompts.get("document") or prompts.get("passage") or ""
        return cls(known[modes[0]] if modes else "mean", prompts.get("query") or "", text)


class SentenceEncoder:
    """Embeds sentences and questions. operations: floating-point operations until now."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, form: Form | None = None):
        """
        Args:
            model: gives `last_hidden_state`, in the dtype of its checkpoint.
        """
        self.model, self.tokenizer, self.form = model.eval(), tokenizer, form or Form()
        known = asdict(self.form) | {"tokenizer": tokenizer_fingerprint(tokenizer)}
        self.settings = {"fingerprint": fingerprint_tensors(_used(model), known)}
        self.settings |= asdict(self.form)
        self.operations = 0.0
        self._longest = min(512, int(getattr(model.config, "max_position_embeddings", 512)))
        # What no embedding needs is not counted: tables of embeddings, and the pooler of the first token.
        used = {n: w for n, w in model.named_parameters() if w.ndim > 1 and "embed" not in n and "pooler" not in n}
        self._linear = 2.0 * sum(weight.numel() for weight in used.values())
        self._attention = 4.0 * model.config.num_hidden_layers * model.config.hidden_size

    @classmethod
    def load(cls, name: str, form: Form | None = None, **options: Any) -> "SentenceEncoder":
        """Load one. form: how it embeds; default: as its files say. options: as `subfolder`, of transformers.

        Raises:
            UserError: it can't be loaded, or embeds in a way that is not known.
        """
        tokenizer = load_tokenizer(name, **options)
        model = load_model(name, default_device(), auto=AutoModel, dtype="auto", **options)
        if form is not None:
            return cls(model, tokenizer, form)
        form, kinds = Form.of(name), model.config.architectures or []
        if any(kind.endswith("ForCausalLM") for kind in kinds):
            raise UserError(f"{name} is a language model ({kinds[0]}): name a sentence encoder.")
        # Where a tokenizer's files are missing, transformers makes one of nothing.
        if 2 * len(tokenizer) < model.config.vocab_size:
            raise UserError(f"the tokenizer of {name} is missing or cut short: copy the encoder's folder again.")
        try:
            encoder = cls(model, tokenizer, form)
            encoder.question("?")
        except Exception as error:  # whatever a model that is no encoder lacks
            raise UserError(f"{name} is no sentence encoder that can be used: {error}") from error
        return encoder

    @property
    def size(self) -> int:
        """E, coordinates of an embedding."""
        return int(self.model.config.hidden_size)

    @property
    def fingerprint(self) -> str:
        return self.settings["fingerprint"]

    def save(self, folder: Path) -> None:
        """Write model and tokenizer into a folder of a model's folder; `settings` go into that model's configuration."""
        self.model.save_pretrained(folder / FOLDER)
        self.tokenizer.save_pretrained(folder / FOLDER)

    def sentences(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Float[Tensor, "n E"]:
        """(n, E) embeddings of sentences, of length 1, in 16 bits, on the CPU. Of one with more tokens than the encoder takes only
        the beginning counts.

        progress: called with the number of tokens embedded since the last call.

        Raises:
            UserError: one contains half of a character.
        """
        for number, text in enumerate(texts):
            check_text(text, f"sentence {number}")
        return self._embed([self.form.text + text for text in texts], progress)

    def question(self, question: str) -> Float[Tensor, " E"]:
        """(E,) the embedding of a question.

        Raises:
            UserError: it contains half of a character.
        """
        check_text(question, "the question")
        return self._embed([self.form.question + question])[0]

    @torch.no_grad()
    def _embed(self, texts: Sequence[str], progress: Callable[[int], None] | None = None) -> Tensor:
        """Texts of similar length are embedded together."""
        if not texts:
            return torch.zeros(0, self.size, dtype=torch.float16)
        encoded: Any = self.tokenizer(list(texts), truncation=True, max_length=self._longest)
        lengths = torch.tensor([len(ids) for ids in encoded["input_ids"]])
        order, found = lengths.argsort(stable=True), None
        pad: Any = self.tokenizer.pad_token_id
        padding = {"input_ids": pad or 0}
        while len(order):
            count = int((torch.arange(1, len(order) + 1) * lengths[order] <= _BATCH).sum().clamp(min=1))
            rows, order = order[:count], order[count:]
            batch = {
                name: pad_sequence([torch.tensor(some[i]) for i in rows], True, padding.get(name, 0)).to(
                    self.model.device
                )
                for name, some in encoded.items()
            }
            states = self.model(**batch).last_hidden_state.float()
            mask = batch["attention_mask"][..., None]
            pooled = states[:, 0] if self.form.pooling == "first" else (states * mask).sum(1) / mask.sum(1)
            if found is None:
                found = torch.empty(len(texts), pooled.shape[1], dtype=torch.float16)
            found[rows] = normalize(pooled, dim=-1).half().cpu()
            if progress is not None:
                progress(int(lengths[rows].sum()))
        some = lengths.double()
        self.operations += float((self._linear * some + self._attention * some**2).sum())
        assert found is not None
        return found


def encoder_of(model: SharedLLMModel) -> SentenceEncoder | None:
    """The sentence encoder of a model, loaded when it is needed first; None if it has none.

    Raises:
        UserError: it can't be loaded, or is not the one that the model was made with.
    """
    settings = model.config.sentence_encoder
    if settings is None:
        return None
    if model.sentence_encoder is None:
        if not model.config.name_or_path:
            raise UserError("the model has no folder with its sentence encoder: give it with use_encoder(encoder).")
        name = checkpoint(model.config.name_or_path)
        fields: Any = {key: value for key, value in settings.items() if key != "fingerprint"}
        form = Form(**fields)
        inside, here = Path(name) / FOLDER, Path(name).is_dir()
        if here and not inside.is_dir():
            raise UserError(f"{name} lacks its sentence encoder, the folder {FOLDER}: copy the model's folder again.")
        of_hub = {} if here else {"subfolder": FOLDER}
        found = SentenceEncoder.load(str(inside) if here else name, form, **of_hub)
        if found.settings != settings:
            raise UserError(
                f"{inside} is not the sentence encoder that {name} was made with: copy the model's folder again."
            )
        model.sentence_encoder = found
    return model.sentence_encoder


def _json(name: str, file: str, kind: type[list] | type[dict]) -> Any:
    """What a file of a checkpoint says, an object or a list of objects; an empty one if there is no such file.

    Raises:
        UserError: it says something else.
    """
    path = cached_file(
        checkpoint(name),
        file,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return kind()
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, kind) or not all(isinstance(entry, dict) for entry in found if kind is list):
        raise UserError(f"the sentence encoder {name} has a damaged {file}: copy its folder again.")
    return found


def _used(model: PreTrainedModel) -> list[tuple[str, Tensor]]:
    """The weights by which an encoder is known; what pools its first token is not used, and random where a checkpoint has none."""
    return [(name, weight) for name, weight in sorted(model.state_dict().items()) if not name.startswith("pooler.")]
