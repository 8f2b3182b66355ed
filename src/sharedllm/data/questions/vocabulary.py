"""Hundreds of thousands of keys and values for training, made by combination; none is a key of another split."""

import random

from ..synthetic import ADJECTIVES, NOUNS, needle_keys

# None of these is in ADJECTIVES or NOUNS, so a pair with one of them can't occur in another split.
MORE_ADJECTIVES = (
    "amber bitter brave broad busy careful cheerful clever cold copper curious damp dark deep dusty eager early empty "
    "fierce fine flat fresh grand grey hasty high huge hungry jolly keen kind late lazy light lively long loud lucky marble "
    "mild modern naked neat nervous new northern painted plain polite poor pretty purple quick rare red rough round royal "
    "sharp short shy slow small smooth soft southern spotted steep strange strong sweet tall tame thick thin tiny warm white"
).split()
MORE_NOUNS = (
    "apple arrow baker barn bear beaver bell bench bird blanket boat bone book bottle bowl box brook brother brush bucket "
    "butcher button cabin camel camp carpet carriage cat cattle cave chain chair cloak clock coat coin corner cottage cousin "
    "crown cup dancer deer dog donkey door dragon dress drum duke eye fence field fiddle fish flag flower flute forge fountain "
    "fox gate ghost giant glass glove goat goose hat hawk hen hill hunter inn judge jug knife knight ladder lake lamb lamp leaf "
    "lion lizard lock market mason meadow merchant miller miner monk moon mule nail nest oak otter owl ox painter parrot "
    "path peasant pencil pigeon pine pipe plate pond poet pony potter prince rabbit raven ring road robin rock roof rope saddle "
    "sheep shepherd shield shoe shop singer sister skull smith snake spear spider spoon squirrel star stone stork stove "
    "swan sword table tailor teacher tent thief tiger tinker torch tower town traveller tree trout trumpet tunnel turtle vase "
    "village violin wagon wall watch weaver well whale wheel whistle willow wood wren yard"
).split()
COLOURS = (
    "red blue green yellow black white brown grey pink purple orange crimson scarlet violet golden silver amber ivory turquoise "
    "maroon olive beige indigo emerald"
).split()
STARTS = "Bar Bel Cor Dan El Fen Gar Hal Jor Kel Lan Mar Nor Or Pen Ros Sal Tam Ul Ver Wil Yar".split()
MIDDLES = ["", "", "a", "e", "i", "o", "an", "er", "in", "or", "el"]
PERSON_ENDS = "da dric ga lia lo mund na ric ris ta ton vin wyn".split()
PLACE_ENDS = "bourne bury by field ford ham haven leigh mere mouth port stead ton ville wick worth".split()
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"


def digits(rng: random.Random, count: int = 5) -> str:
    return "".join(rng.choice("0123456789") for _ in range(count))


def varied_keys(rng: random.Random, count: int) -> list[str]:
    """Different keys that can follow "the"."""
    found: list[str] = []
    while len(found) < count:
        key = _key(rng)
        if key not in found:
            found.append(key)
    return found


def _key(rng: random.Random) -> str:
    form = rng.random()
    if form < 0.4:
        return rng.choice(needle_keys("train"))
    if form < 0.75:
        adjectives, nouns = rng.choice(
            ((ADJECTIVES, MORE_NOUNS), (MORE_ADJECTIVES, NOUNS), (MORE_ADJECTIVES, MORE_NOUNS))
        )
        return f"{rng.choice(adjectives)} {rng.choice(nouns)}"
    if form < 0.9:
        return f"{rng.choice(NOUNS + MORE_NOUNS)} of {_place(rng)}"
    return rng.choice(MORE_NOUNS)


def value(rng: random.Random, kind: str) -> str:
    """A value of a kind: code, count, year, word, colour, person or place."""
    return VALUES[kind](rng)


def _code(rng: random.Random) -> str:
    if rng.random() < 0.1:
        return f"{rng.choice(LETTERS)}{rng.choice(LETTERS)}{digits(rng, rng.randint(2, 4))}"
    return digits(rng, rng.choice((3, 4, 5, 5, 5, 6, 7)))


def _word(rng: random.Random) -> str:
    form = rng.random()
    if form < 0.7:
        return rng.choice(NOUNS + MORE_NOUNS)
    if form < 0.85:
        return rng.choice(MORE_NOUNS) + rng.choice(MORE_NOUNS)
    return f"{rng.choice(MORE_ADJECTIVES)} {rng.choice(MORE_NOUNS)}"


def _person(rng: random.Random) -> str:
    return rng.choice(STARTS) + rng.choice(MIDDLES) + rng.choice(PERSON_ENDS)


def _place(rng: random.Random) -> str:
    return rng.choice(STARTS) + rng.choice(MIDDLES) + rng.choice(PLACE_ENDS)


VALUES = {
    "code": _code,
    "count": lambda rng: str(rng.randint(2, 999)),
    "year": lambda rng: str(rng.randint(1100, 2099)),
    "word": _word,
    "colour": lambda rng: rng.choice(COLOURS),
    "person": _person,
    "place": _place,
}
