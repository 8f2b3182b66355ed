"""YAML that people write: read without losing a key or ending in a traceback."""

from pathlib import Path
from typing import Any

import yaml

from ..utils.errors import UserError, refusal


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice; plain YAML readers keep the last one and lose the other."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        own = [key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        seen: list[Any] = []
        for key in own:
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is there twice", key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, what: str = "") -> Any:
    """What a YAML file holds.

    Args:
        what: says in an error what the file is, such as "the recipe".

    Raises:
        UserError: the file can't be read, or is not YAML; names it.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"can't read {what}{' ' if what else ''}{path}: {refusal(error)}.") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: byte {error.start}; convert it.") from None
    return parse_yaml(text, str(path))


def parse_yaml(text: str, where: str) -> Any:
    """What YAML text holds.

    Raises:
        UserError: it is not YAML, has a key twice, or a date that does not exist; begins with `where`.
    """
    try:
        return yaml.load(text, _Loader)
    # A date such as 2026-13-01 is a ValueError; brackets by the thousand are a RecursionError.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UserError(f"{where} is not YAML: {' '.join(str(error).split())}.") from None
