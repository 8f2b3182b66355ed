"""A table of named things of one kind. Each is imported on first use, so listing the names is cheap."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from .errors import UserError


def load(target: str) -> Any:
    """Import the object that `package.module:name` names."""
    module, _, name = target.partition(":")
    return getattr(import_module(module), name)


@dataclass(eq=False)
class Registry(Mapping[str, Any]):
    """`registry[name]` is the entry; `registry.about[name]` is its line for help and tables.

    kind     how messages name an entry, with {} for the name: "task {}", "score={}"
    aliases  old name → current name
    """

    kind: str
    aliases: dict[str, str] = field(default_factory=dict)
    about: dict[str, str] = field(default_factory=dict)
    _entries: dict[str, Any] = field(default_factory=dict)
    _settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, name: str, entry: Any, about: str = "", /, **settings: Any) -> None:
        """Register an object, or a string `package.module:name` that says where it is.

        Args:
            settings: arguments for the class or function that the string names. A class is called even without any.

        Raises:
            UserError: the name is already taken.
        """
        if name in self._entries:
            raise UserError(f"{self.kind.format(repr(name))} already exists: choose another name.")
        self._entries[name], self._settings[name], self.about[name] = entry, settings, about

    def remove(self, name: str) -> None:
        """Remove an entry (for tests)."""
        del self._entries[name], self._settings[name], self.about[name]

    def __getitem__(self, name: str) -> Any:
        """
        Raises:
            KeyError: no such entry; `find` raises an error for users.
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
        """The entry for a name that a user gave.

        Raises:
            UserError: no entry of that name; lists the known ones.
        """
        self.check(name)
        return self[name]

    def check(self, name: str) -> None:
        """Refuse what `find` would, without importing the entry."""
        if name not in self:
            raise UserError(f"{self.kind.format(repr(name))} is not known: use one of {self.names}.")

    @property
    def names(self) -> str:
        """All names, for help and messages."""
        return ", ".join(self)
