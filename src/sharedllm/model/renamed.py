"""Names that parameters had before: what was saved with them still loads, and is saved with those of today."""

import re
from typing import Any

from transformers import PreTrainedModel
from transformers.core_model_loading import WeightRenaming

# Pattern of a part of a name → what stands there today.
RENAMED_WEIGHTS = {
    r"\.cross_attention\.reader\.": ".injection.projection.",
    r"\.cross_attention\.": ".injection.",
}


def todays_name(name: str) -> str:
    """A parameter's name of before, or of today, as it is today."""
    for pattern, today in RENAMED_WEIGHTS.items():
        name = re.sub(pattern, today, name)
    return name


class LoadsRenamed(PreTrainedModel):
    """A model that loads weights saved by the names of before."""

    @classmethod
    def from_pretrained(cls, *args, key_mapping: dict[str, str] | None = None, **kwargs):
        """As transformers has it; `key_mapping` counts beside the names of before."""
        loaded = super().from_pretrained(*args, key_mapping=RENAMED_WEIGHTS | (key_mapping or {}), **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        # transformers keeps what it renamed, to save by the names that it found.
        model._weight_conversions = [
            conversion
            for conversion in model._weight_conversions
            if not (isinstance(conversion, WeightRenaming) and conversion.source_patterns[0] in RENAMED_WEIGHTS)
        ]
        return loaded
