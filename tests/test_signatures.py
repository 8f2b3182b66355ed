"""Public signatures say what they take. Nothing is passed on by *args or **kwargs but where transformers asks for it."""

import dataclasses
import inspect
from inspect import Parameter

import pytest
from transformers import PreTrainedConfig

import sharedllm
from sharedllm.model.config import SharedLLMConfig
from sharedllm.model.settings import Settings

TRANSFORMERS = "transformers calls it with keywords of its own, which the base may know"
# Method → why it may take what it does not name.
ALLOWED = {
    "SharedLLMForCausalLM.__init__": "refused, with the name that is meant: transformers passes on what is misspelt",
    "SharedLLMForCausalLM.forward": TRANSFORMERS,
    "SharedLLMForCausalLM.from_base": "the keywords are named and typed by `Settings`, and unknown ones are refused",
    "SharedLLMForCausalLM.extended_config": "the keywords are named and typed by `Settings`, and unknown ones are refused",
    "SharedLLMForCausalLM.from_pretrained": TRANSFORMERS,
    "SharedLLMForCausalLM.save_pretrained": "all of it is for transformers' own, after the sentence encoder is saved",
    "SharedLLMForCausalLM.continuous_batching_context_manager": "refused, whatever it is given",
    "SharedLLMForCausalLM.generate_batch": "refused, whatever it is given",
    "SharedLLMForCausalLM.init_continuous_batching": "refused, whatever it is given",
    "SharedLLMForCausalLM.generate": "GenerationMixin turns keywords into fields of a GenerationConfig",
    "SharedLLMForCausalLM.prepare_inputs_for_generation": TRANSFORMERS,
    "SentenceEncoder.load": "options, as `subfolder`, are for transformers' own",
    "SharedLLMConfig.from_dict": TRANSFORMERS,
    "SharedLLMConfig.get_config_dict": TRANSFORMERS,
    "SharedLLMModel.__init__": "refused, with the name that is meant: transformers passes on what is misspelt",
    "SharedLLMModel.forward": TRANSFORMERS,
    "SharedLLMModel.from_pretrained": TRANSFORMERS,
}
PUBLIC = [name for name in sharedllm.__all__ if callable(getattr(sharedllm, name))]


def ours(kind: type) -> dict[str, object]:
    """The constructor and the public methods of a class that this package defines, inherited ones too."""
    members = {}
    for cls in reversed(kind.__mro__):
        if cls.__module__.startswith("sharedllm"):
            members |= {name: member for name, member in vars(cls).items() if callable(inspect.unwrap(plain(member)))}
    return {name: member for name, member in members.items() if name == "__init__" or not name.startswith("_")}


def plain(member: object) -> object:
    return member.__func__ if isinstance(member, classmethod | staticmethod) else member


def unnamed(function: object) -> list[str]:
    """Parameters that take whatever is not named."""
    parameters = inspect.signature(plain(function)).parameters.values()
    return [p.name for p in parameters if p.kind in (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)]


def test_what_takes_more_than_it_names_is_listed():
    found = set()
    for name in PUBLIC:
        public = getattr(sharedllm, name)
        members = {f"{name}.{n}": m for n, m in ours(public).items()} if inspect.isclass(public) else {name: public}
        found |= {label for label, member in members.items() if unnamed(member)}
    assert found == ALLOWED.keys()


@pytest.mark.parametrize("name", PUBLIC)
def test_every_parameter_and_result_has_a_type(name):
    public = getattr(sharedllm, name)
    members = ours(public) if inspect.isclass(public) else {name: public}
    for label, member in members.items():
        if inspect.isclass(member):
            continue
        signature = inspect.signature(plain(member))
        untyped = [
            p.name
            for p in signature.parameters.values()
            if p.annotation is Parameter.empty and p.name not in ("self", "cls") and f"{name}.{label}" not in ALLOWED
        ]
        assert untyped == [], f"{name}.{label}"
        assert signature.return_annotation is not Parameter.empty or label == "__init__", f"{name}.{label}"


def test_settings_are_the_fields_of_the_configuration():
    own = {f.name for f in dataclasses.fields(SharedLLMConfig)} - {f.name for f in dataclasses.fields(PreTrainedConfig)}
    token_ids = {"bos_token_id", "eos_token_id", "pad_token_id"}
    inherited = {"tie_word_embeddings"} & {f.name for f in dataclasses.fields(SharedLLMConfig)}
    assert Settings.__annotations__.keys() == (own - {"text_config"}) | token_ids | inherited


def test_the_arguments_of_model_and_language_model_are_the_same():
    for name in ("read", "append"):
        inner, outer = (
            inspect.signature(getattr(c, name)) for c in (sharedllm.SharedLLMModel, sharedllm.SharedLLMForCausalLM)
        )
        assert inner == outer, name
