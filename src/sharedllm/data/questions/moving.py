"""Where a person is: people move about, and only the last move of one of them matters."""

import random
from dataclasses import dataclass

from .base import Quiz, Split

# People and places of the splits; a place goes with any verb.
PEOPLE = {
    "train": ("Agnes", "Bertram", "Clara", "Dorothea", "Edgar", "Felix", "Greta", "Hugo"),
    "validation": ("Ines", "Jasper", "Klara", "Lorenz"),
    "test": ("Matilda", "Norbert", "Ottilie", "Quentin", "Rosalind", "Sebastian"),
}
PLACES = {
    "train": ("kitchen", "garden", "library", "stable", "cellar", "chapel", "attic", "courtyard"),
    "validation": ("bakery", "orchard", "workshop", "tower"),
    "test": ("mill", "harbour", "armoury", "vineyard", "dairy", "greenhouse"),
}
VERBS = ("went to", "walked to", "hurried to", "returned to")


@dataclass(frozen=True)
class Moves:
    """`people` persons make `moves` moves each; the question is where one of them is in the end."""

    name: str = "moves"
    people: int = 3
    moves: int = 2

    def make(self, rng: random.Random, text: str, split: Split) -> Quiz:
        names = rng.sample(PEOPLE[split], self.people)
        routes = [rng.sample(PLACES[split], self.moves) for _ in names]
        # Each person's moves keep their order.
        order = [index for index in range(len(names)) for _ in range(self.moves)]
        rng.shuffle(order)
        left = [list(route) for route in routes]
        facts = tuple(f" {names[i]} {rng.choice(VERBS)} the {left[i].pop(0)}." for i in order)
        asked = rng.randrange(len(names))
        return Quiz(facts, f"Where is {names[asked]} now?", routes[asked][-1], f"{names[asked]} is in the ")
