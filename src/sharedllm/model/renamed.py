"""Old parameter names: models saved with them still load, and are saved with the current names."""

import os
import re
from typing import Any

from transformers import PreTrainedModel
from transformers.core_model_loading import WeightRenaming

from ..utils.checkpoints import check_dtype

# Pattern of a part of a name → its replacement.
RENAMED_WEIGHTS = {
    r"\.cross_attention\.reader\.": ".injection.projection.",
    r"\.cross_attention\.": ".injection.",
}


def todays_name(name: str) -> str:
    """The current name of a parameter, given its old or current one."""
    for pattern, today in RENAMED_WEIGHTS.items():
        name = re.sub(pattern, today, name)
    return name


class LoadsRenamed(PreTrainedModel):
    """A model that also loads weights saved under old names."""

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike | None,
        *model_args: Any,
        key_mapping: dict[str, str] | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, whose arguments these are; `key_mapping` is applied in addition to the old names.

        Raises:
            UserError: there is no such dtype.
        """
        check_dtype(kwargs.get("dtype", kwargs.get("torch_dtype")))
        mapping = RENAMED_WEIGHTS | (key_mapping or {})
        loaded = super().from_pretrained(pretrained_model_name_or_path, *model_args, key_mapping=mapping, **kwargs)
        model: Any = loaded[0] if isinstance(loaded, tuple) else loaded
        # transformers remembers renamings, to save under the names that it found.
        model._weight_conversions = [
            conversion
            for conversion in model._weight_conversions
            if not (isinstance(conversion, WeightRenaming) and conversion.source_patterns[0] in RENAMED_WEIGHTS)
        ]
        return loaded
