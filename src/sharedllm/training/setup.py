"""Preparing a run: tokenizer, tokens, model."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from ..causal_lm import SharedLLMForCausalLM
from ..data.shard_writer import build_shards
from ..data.shards import TokenStore, check_tokenizer
from ..data.sources import documents
from ..model.config import SharedLLMConfig
from ..systems.trained import import_models, system_of_type, trained_systems
from ..utils.checkpoints import load_config, load_tokenizer
from ..utils.errors import UserError
from ..utils.model_names import checkpoint
from ..utils.scratch import whole_folder
from .limits import check_running
from .recipe import Recipe

SPECIAL = {"bos_token": "<|bos|>", "eos_token": "<|eos|>", "pad_token": "<|pad|>"}
TOKENIZER_CHARACTERS = 50_000_000


def make_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The recipe's tokenizer, the base's, or one trained on the recipe's text.

    Raises:
        UserError: it can't be loaded, none is named, or it is not the base's.
    """
    named = recipe.data.tokenizer
    if isinstance(named, int):
        folder = Path(recipe.data.folder) / f"tokenizer-{named}"
        if not folder.is_dir():
            train_tokenizer(recipe, named, folder)
        named = str(folder)
    if named is None and recipe.base is None:
        raise UserError(
            "data.tokenizer is missing: name a tokenizer's folder, or a size to train one of, such as 4096."
        )
    tokenizer = load_tokenizer(named or recipe.base or "")
    if named is not None and recipe.base is not None:
        _check_same_vocabulary(recipe, tokenizer)
    return tokenizer


def _check_same_vocabulary(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> None:
    """A chat model's tokenizer may add tokens to its base's, but must not change any."""
    try:
        own = load_tokenizer(recipe.base or "").get_vocab()
    except ValueError:
        return  # The base has no tokenizer: only sizes can be compared, see `make_model`.
    here = tokenizer.get_vocab()
    if other := next((token for token, number in own.items() if here.get(token) != number), None):
        raise UserError(
            f"data.tokenizer={recipe.data.tokenizer} is not the tokenizer of {recipe.base}: {other!r} has number "
            f"{here.get(other)} in the one and {own[other]} in the other; leave data.tokenizer out."
        )


def train_tokenizer(recipe: Recipe, size: int, folder: Path) -> None:
    """Train a byte-level BPE in which every digit is a token, on the same amount of text from every document."""
    domains = recipe.domain_weights()
    lengths = {name: [len(d.text) for d in _documents(recipe, name)] for name in domains}

    def pieces():
        for name, weight in domains.items():
            share = max(1, int(TOKENIZER_CHARACTERS * weight) // len(lengths[name]))
            for document in _documents(recipe, name):
                start = max(0, (len(document.text) - share) // 2)
                yield document.text[start : start + share]

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(pieces(), trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, padding_side="left", **SPECIAL)
    with whole_folder(folder) as temporary:
        tokenizer.save_pretrained(temporary)


def _documents(recipe: Recipe, domain: str):
    return documents(recipe.data.sources[domain].files, text_field=recipe.data.text_field)


def make_stores(
    recipe: Recipe, tokenizer: PreTrainedTokenizerBase, say=lambda text: None
) -> tuple[dict[str, TokenStore], dict[str, TokenStore]]:
    """Training and validation tokens of each domain, tokenised now if necessary.

    Raises:
        UserError: a source can't be read, or the folder holds tokens of other text or another tokenizer.
    """
    training, validation = {}, {}
    for name, source in recipe.data.sources.items():
        folder = Path(recipe.data.folder) / name
        field, share = recipe.data.text_field, 0.0 if source.validation else recipe.data.validation_share
        report = _Report(name, say)
        build_shards(source.files, tokenizer, folder, validation=share, text_field=field, progress=report)
        report.end()
        training[name] = TokenStore(folder, "train")
        if source.validation:
            held_out = Path(recipe.data.folder) / f"{name}-validation"
            report = _Report(held_out.name, say)
            build_shards(source.validation, tokenizer, held_out, text_field=field, progress=report)
            report.end()
            validation[name] = TokenStore(held_out, "train")
        elif share:
            validation[name] = TokenStore(folder, "validation")
    for store in (*training.values(), *validation.values()):
        check_tokenizer(store, tokenizer)
    return training, validation


class _Report:
    """Reports the beginning of a domain, and the number of its tokens: every five million, and at the end if any were made now."""

    def __init__(self, domain: str, say):
        self.domain, self.say, self.tokens = domain, say, 0

    def __call__(self, tokens: int) -> None:
        before, self.tokens = self.tokens, self.tokens + tokens
        if before == 0:
            self.say(f"tokenising {self.domain} …")
        if before // 5_000_000 != self.tokens // 5_000_000:
            self.say(f"tokenising {self.domain}: {self.tokens:,} tokens")

    def end(self) -> None:
        if self.tokens:
            self.say(f"tokenised {self.domain}: {self.tokens:,} tokens")


def make_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model: new, a base, a base extended to the recipe's system, or an extended model to train further.

    It is in fp32, or in the checkpoint's dtype if what is frozen will get another one.

    Raises:
        UserError: it can't be loaded, or `model` holds settings that do not apply.
    """
    torch.manual_seed(recipe.seed)
    if recipe.base is None:
        return _new_base(recipe, tokenizer)
    name = checkpoint(recipe.base)
    config = _config(recipe)
    try:
        # What trains is put into fp32 later, when it is known; the checkpoint's own dtype loses nothing until then.
        dtype = torch.float32 if recipe.frozen == "float32" else "auto"
        model = AutoModelForCausalLM.from_pretrained(name, config=config, dtype=dtype)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load the base {name}: {str(error).splitlines()[0]}") from None
    if len(tokenizer) > (size := model.get_input_embeddings().weight.shape[0]):
        raise UserError(
            f"the tokenizer has {len(tokenizer):,} tokens, {recipe.base} only {size:,}: name the base's own."
        )
    kind = _extending(recipe, config)
    return model if kind is None else kind.from_base(model, **recipe.model)


def check_model(recipe: Recipe) -> None:
    """Refuse what `make_model` would, as far as configurations alone tell, before anything is trained.

    Raises:
        UserError: as `make_model`.
    """
    if recipe.base is None:
        return
    config = _config(recipe)
    kind = _extending(recipe, config)
    if kind is not None:
        with torch.device("meta"):
            base = AutoModelForCausalLM.from_config(config)
        config = kind.extended_config(base, **recipe.model)
    if recipe.windowed:
        check_running(recipe, config.window)


def _config(recipe: Recipe) -> PreTrainedConfig:
    """The configuration of the recipe's base, changed where it is the base's own that the recipe changes."""
    name = checkpoint(recipe.base or "")
    import_models()
    config = load_config(recipe.base or "", "base")
    try:
        if isinstance(config, SharedLLMConfig) and recipe.model:
            config = _changed(config, recipe)
        elif not trained_systems()[recipe.system].model and recipe.model:
            config = _rescaled(config, recipe.model)
    except (OSError, ValueError) as error:
        raise UserError(f"can't load the base {name}: {str(error).splitlines()[0]}") from None
    extended = system_of_type(config.model_type)
    if extended and (recipe.stage == "base" or extended != recipe.system):
        raise UserError(
            f"base={recipe.base} is already a trained {extended}: train it with stage extend, system {extended}."
        )
    if recipe.stage == "base" and recipe.model:
        raise UserError(f"model={recipe.model} can't change {recipe.base}: leave it out, or start from another base.")
    return config


def _extending(recipe: Recipe, config: PreTrainedConfig) -> Any:
    """The class that extends a base of this configuration; None if it is trained as it is."""
    system = trained_systems()[recipe.system]
    as_it_is = recipe.stage == "base" or system_of_type(config.model_type) or not system.model
    return None if as_it_is else system.model_class()


# Settings of a SharedLLM that change no weight's shape, so they may change when training continues.
_READING = ("window", "chunk_size", "strides", "overlap", "selection", "split_noise", "key_position", "score_scaling")


def _changed(config: SharedLLMConfig, recipe: Recipe) -> SharedLLMConfig:
    """The configuration of a SharedLLM to train further, with the recipe's settings for reading a context."""
    fixed = sorted(set(recipe.model) - set(_READING))
    if fixed:
        raise UserError(
            f"model.{fixed[0]} can't change in {recipe.base}, a SharedLLM already: change {', '.join(_READING)}."
        )
    return SharedLLMConfig(**config.to_dict() | recipe.model)


def _rescaled(config: PreTrainedConfig, changes: dict[str, Any]) -> PreTrainedConfig:
    """A base's configuration with changed fields; scaled positions get the window that they scale."""
    changes = dict(changes)
    if "rope_parameters" in changes:
        original = {"original_max_position_embeddings": config.max_position_embeddings}
        changes["rope_parameters"] = dict(config.rope_parameters) | original | changes["rope_parameters"]
    unknown = sorted(set(changes) - set(config.to_dict()))
    if unknown:
        raise UserError(f"model.{unknown[0]} is not a field of the base's configuration.")
    return type(config)(**config.to_dict() | changes)


def _new_base(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    settings = dict(recipe.model)
    family = settings.pop("family", "llama")
    special = {f"{n}_token_id": getattr(tokenizer, f"{n}_token_id") for n in ("bos", "eos", "pad")}
    try:
        config = AutoConfig.for_model(family, vocab_size=len(tokenizer), **special | settings)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, TypeError, KeyError) as error:
        raise UserError(f"model={recipe.model} does not define a base: {str(error).splitlines()[0]}") from None


def decoder_layers(model: nn.Module) -> nn.ModuleList:
    """The layers of the whole language model; for a SharedLLM those of the upper model."""
    return model.model.upper.layers if isinstance(model, SharedLLMForCausalLM) else model.get_decoder().layers
