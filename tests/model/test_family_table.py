"""The table of families: refusals and reasons, and that the documentation matches the table."""

from pathlib import Path

import pytest
from helpers import EAGER, tiny_base
from transformers import AutoConfig

from sharedllm.model.families import FAMILIES, REFUSED, check_extendable, family_of, plain_family_of

DOCS = Path(__file__).parents[2] / "docs" / "families.md"


def rows() -> list[str]:
    """The two tables of the documentation, line by line."""
    supported = [f"| `{name}` | {entry.tested} |" for name, entry in sorted(FAMILIES.items())]
    reasons = {reason: [name for name in REFUSED if REFUSED[name] == reason] for reason in REFUSED.values()}
    return supported + [
        f"| {', '.join(f'`{name}`' for name in sorted(names))} | {reason} |" for reason, names in reasons.items()
    ]


def test_the_documentation_has_every_family():
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith("| ") and "`" in line]
    assert lines == rows(), "docs/families.md differs from the table: its rows should be\n" + "\n".join(rows())


def test_none_is_supported_and_refused():
    assert not FAMILIES.keys() & REFUSED.keys()


@pytest.mark.parametrize(
    "name", ["mamba2", "jamba", "qwen3_next", "deepseek_v3", "gemma3n_text", "llama4_text", "gemma3"]
)
def test_what_cannot_work_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match=f"model_type='{name}' can't be extended: it.*|.*some of its layers"):
        family_of(AutoConfig.for_model(name))


@pytest.mark.parametrize("name", ["gemma", "gemma2", "gemma3_text"])
def test_bases_that_read_in_both_directions_are_refused(name):
    settings = {"sliding_window": 64} if name != "gemma" else {}
    with pytest.raises(ValueError, match=f"this {name} can't be extended: use_bidirectional_attention"):
        family_of(tiny_base(name, use_bidirectional_attention=True, **settings).config)


def test_others_are_told_what_there_is():
    with pytest.raises(ValueError, match=r"model_type='gpt2' is not supported: use one of arcee, .*gemma3_text"):
        family_of(AutoConfig.for_model("gpt2"))


def test_a_model_of_which_the_text_model_is_loaded():
    with pytest.raises(ValueError, match="model_type='gemma3' can't be extended: it reads more than text"):
        check_extendable(AutoConfig.for_model("gemma3"))
    check_extendable(AutoConfig.for_model("llava"))  # its text model is a Llama


@pytest.mark.parametrize("name", ["gemma3_text", "granite", "smollm3", "cohere2", "glm"])
def test_simpler_systems_refuse_what_differs_by_layer(name):
    with pytest.raises(ValueError, match=f"CEPE can't be built on model_type='{name}'"):
        plain_family_of(tiny_base(name).config, "CEPE")
    assert plain_family_of(tiny_base("qwen3").config, "CEPE") is FAMILIES["qwen3"]


@pytest.mark.parametrize("name", EAGER)
def test_families_without_sdpa_say_so(name):
    assert "attention eager" in FAMILIES[name].tested
    with pytest.raises(ValueError, match="scaled_dot_product_attention"):
        tiny_base(name, attn_implementation="sdpa")
