"""A table of things of one kind by name. Each is imported when it is first asked for, so that names cost nothing."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .errors import UserError


def load(target: str) -> Any:
    """What `package.module:name` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


@dataclass(eq=False)
class Registry(Mapping[str, Any]):
    """`registry[name]` is the thing itself; `registry.about[name]` its line for help and tables.

    kind     what a message calls it, with {} for the name: "task {}", "score={}"
    aliases  spellings of before, by the name of today
    """

    kind: str
    aliases: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    _entries: dict[str, Any] = field(default_factory=dict)
    _settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, entry: Any, about: str = "", /, **settings: Any) -> None:
        """Register a thing, or a text `package.module:name` that says where it is.

        Args:
            settings: with these a class or function that the text names is called, a class also without any.

        Raises:
            UserError: the name is taken.
        """
        if name in self._entries:
            raise UserError(f"{self.kind.format(repr(name))} is there already: give it another name.")
        self._entries[name], self._settings[name], self.about[name] = entry, settings, about

    def remove(self, name: str) -> None:
        """Take a thing out again, as tests do."""
        del self._entries[name], self._settings[name], self.about[name]

    def __getitem__(self, name: str) -> Any:
        """
        Raises:
            KeyError: there is no such thing; `find` says so to users.
        """
        name = self.aliases.get(name, name)
        entry = self._entries[name]
        if isinstance(entry, str):
            found = load(entry)
            settings = self._settings[name]
            entry = self._entries[name] = found(**settings) if settings or isinstance(found, type) else found
        return entry

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return name in self._entries or name in self.aliases

    def find(self, name: str) -> Any:
        """The thing of a name that a user gave.

        Raises:
            UserError: there is none of that name; lists those that there are.
        """
        if name not in self:
            raise UserError(f"{self.kind.format(repr(name))} is not known: use one of {self.names}.")
        return self[name]

    @property
    def names(self) -> str:
        """All names, for help and messages."""
        return ", ".join(self)
