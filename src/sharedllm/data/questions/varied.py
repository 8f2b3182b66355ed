"""Facts and questions for training in thousands of phrasings, so that the model learns recall instead of one sentence.

Most are composed: an attribute ("password") and forms of the fact, the question and the lead are drawn independently.
Some facts can't be composed ("was built in"); they are listed whole.
"""

import random

from .base import Quiz
from .vocabulary import digits, value, varied_keys

# Attributes of a key, by the kind of their values.
ATTRIBUTES = {
    "code": (
        "secret code",
        "code",
        "number",
        "password",
        "key",
        "pin",
        "account number",
        "telephone number",
        "magic number",
        "ticket number",
        "serial number",
        "combination",
        "registration",
        "answer",
    ),
    "count": (
        "price in crowns",
        "weight in pounds",
        "height in feet",
        "age",
        "room number",
        "rank",
        "score",
        "chapter",
    ),
    "year": ("year of birth", "year of foundation", "last year", "best year"),
    "word": (
        "password",
        "watchword",
        "emblem",
        "symbol",
        "treasure",
        "secret word",
        "favourite thing",
        "gift",
        "title",
    ),
    "colour": ("colour", "favourite colour", "colour of the door"),
    "person": ("owner", "guardian", "master", "heir", "maker", "best friend", "name", "first visitor"),
    "place": ("home", "birthplace", "hiding place", "home town", "destination", "last address"),
}
FACTS = (
    " The {attribute} of the {key} is {value}.",
    " The {attribute} of the {key} was {value}.",
    " Remember that the {attribute} of the {key} is {value}.",
    " Remember {value} as the {attribute} of the {key}.",
    " The {key} has the {attribute} {value}.",
    " The {key} got {value} as its {attribute}.",
    " For the {key} the {attribute} is {value}.",
    " As for the {key}, its {attribute} is {value}.",
    " Everybody knew that {value} was the {attribute} of the {key}.",
    " They chose {value} for the {attribute} of the {key}.",
    " If anybody asks for the {key}, the {attribute} is {value}.",
    " I was told that the {key} has {value} for its {attribute}.",
    " The {attribute} of the {key}: {value}.",
    " One thing to note about the {key} is its {attribute}, {value}.",
    " Long ago the {key} was given the {attribute} {value} by a stranger.",
    " Of the {key} they say that its {attribute} must be {value} and nothing else.",
)
QUESTIONS = (
    "What is the {attribute} of the {key}?",
    "What was the {attribute} of the {key}?",
    "Which {attribute} does the {key} have?",
    "Which {attribute} was given to the {key}?",
    "The {key} has which {attribute}?",
    "Can you tell me the {attribute} of the {key}?",
    "What does the text say about the {attribute} of the {key}?",
    "Do you remember the {attribute} of the {key}?",
    "As for the {key}, what is its {attribute}?",
    "What do you know about the {key}?",
)
LEADS = (
    "The {attribute} of the {key} is ",
    "The {attribute} of the {key} is ",
    "The {key} has the {attribute} ",
    "The {attribute} is ",
    "Its {attribute} is ",
    "It is ",
    "For the {key} it is ",
    "The answer is ",
    "",
)
# (kind of value, sentence, question, lead)
WHOLE = (
    ("year", " The {key} was built in {value}.", "When was the {key} built?", "The {key} was built in "),
    ("year", " In {value} somebody stole the {key}.", "In which year was the {key} stolen?", "That was in "),
    ("code", " To open the {key}, dial {value}.", "What must one dial to open the {key}?", "One has to dial "),
    ("code", " Somebody had written {value} on the {key}.", "What was written on the {key}?", "Somebody had written "),
    ("code", " Call {value} and ask for the {key}.", "Which number reaches the {key}?", "One has to call "),
    ("code", " Nobody finds the {key} without {value}.", "What does one need to find the {key}?", "One needs "),
    ("code", " The {key} lies in locker {value}.", "Which locker holds the {key}?", "It lies in locker "),
    ("count", " The {key} was sold for {value} crowns.", "How much did the {key} bring?", "In crowns it brought "),
    ("count", " Room {value} is kept for the {key}.", "Which room is kept for the {key}?", "It is room "),
    ("count", " No less than {value} people saw the {key}.", "How many people saw the {key}?", "Their number was "),
    ("count", " It is {value} miles to the {key}.", "How far is it to the {key}?", "The distance in miles is "),
    ("colour", " Last spring the {key} was painted {value}.", "Which colour has the {key}?", "It was painted "),
    ("colour", " The {key} turns {value} at night.", "What happens to the {key} at night?", "At night it turns "),
    ("word", " Say {value} and the {key} will obey.", "Which word does the {key} obey?", "It obeys the word "),
    ("word", " The {key} fears nothing but the {value}.", "What does the {key} fear?", "It fears the "),
    (
        "word",
        " Behind the {key} they hid the {value}.",
        "What did they hide behind the {key}?",
        "Behind it they hid the ",
    ),
    ("word", " The {key} was traded for the {value}.", "What was given for the {key}?", "For it they gave the "),
    ("person", " The {key} belongs to {value}.", "Who owns the {key}?", "The owner is "),
    ("person", " It was {value} who found the {key}.", "Who found the {key}?", "The {key} was found by "),
    ("person", " They call the {key} by the name of {value}.", "How do they call the {key}?", "They call it "),
    ("person", " Only {value} knows the {key}.", "Who knows the {key}?", "The only one is "),
    ("place", " You will find the {key} in {value}.", "Where can the {key} be found?", "You will find it in "),
    ("place", " The {key} came from {value} long ago.", "Where did the {key} come from?", "The {key} came from "),
    ("place", " From here the {key} goes to {value}.", "Where does the {key} go?", "It goes to "),
)


def needles(rng: random.Random, count: int) -> Quiz:
    """`count` facts of one form about different keys, with a question about one of them."""
    quizzes = crowd(rng, count)
    asked = quizzes[rng.randrange(count)]
    return Quiz(tuple(quiz.facts[0] for quiz in quizzes), asked.question, asked.answer, asked.lead)


def crowd(rng: random.Random, count: int) -> list[Quiz]:
    """`count` facts of one form about different keys, each with its own question, also of one form."""
    keys = varied_keys(rng, count)
    if rng.random() < 0.25:
        kind, fact, question, lead = rng.choice(WHOLE)
        attribute = ""
    else:
        kind, attribute = _attribute(rng)
        fact, question, lead = rng.choice(FACTS), rng.choice(QUESTIONS), rng.choice(LEADS)
    quizzes = []
    for key, given in zip(keys, [value(rng, kind) for _ in keys], strict=True):
        parts = {"attribute": attribute, "key": key}
        quizzes.append(
            Quiz((fact.format(value=given, **parts),), question.format(**parts), given, lead.format(**parts))
        )
    return quizzes


def _attribute(rng: random.Random) -> tuple[str, str]:
    """Kind and name of an attribute. Codes are as frequent as all words together, because they are the hardest to guess."""
    kind = rng.choices(list(ATTRIBUTES), (6, 2, 1, 4, 1, 2, 2))[0]
    return kind, rng.choice(ATTRIBUTES[kind])


# Things that a key has several of, by the kind of their values; singular and plural.
SEVERAL = {
    "code": (("number", "numbers"), ("code", "codes"), ("ticket", "tickets"), ("key", "keys"), ("mark", "marks")),
    "word": (("gift", "gifts"), ("sign", "signs"), ("password", "passwords"), ("treasure", "treasures")),
    "person": (("guest", "guests"), ("owner", "owners"), ("friend", "friends")),
    "place": (("home", "homes"), ("stop", "stops"), ("harbour", "harbours")),
}
VALUES_FACTS = (
    " One of the {things} of the {key} is {value}.",
    " The {key} has a {thing} {value}.",
    " Among the {things} of the {key} there is {value}.",
    " The {key} also had the {thing} {value}.",
    " Then {value} became a {thing} of the {key}.",
    " A {thing} of the {key}: {value}.",
)
VALUES_QUESTIONS = (
    "Which are the {things} of the {key}, in the order of the text?",
    "Which {things} does the {key} have, in the order of the text?",
    "What are all {things} of the {key}, in order?",
    "Name the {things} of the {key} one after the other.",
)
VALUES_LEADS = ("The {things} of the {key} are ", "The {things} are ", "They are ", "In order: ", "")


def several_values(rng: random.Random) -> Quiz:
    """Two to four values of one key, asked for in order."""
    (key,) = varied_keys(rng, 1)
    kind = rng.choices(list(SEVERAL), (6, 2, 1, 1))[0]
    thing, things = rng.choice(SEVERAL[kind])
    size, count = rng.randint(2, 5), rng.choice((2, 2, 3, 3, 3, 4))
    values = [digits(rng, size) if kind == "code" else value(rng, kind) for _ in range(count)]
    fact, question, lead = (
        rng.choice(forms).replace("{things}", things).replace("{thing}", thing).replace("{key}", key)
        for forms in (VALUES_FACTS, VALUES_QUESTIONS, VALUES_LEADS)
    )
    return Quiz(tuple(fact.replace("{value}", v) for v in values), question, ", ".join(values), lead)


QUERIES_QUESTIONS = (
    "What is the {attribute} of the {keys}?",
    "What is the {attribute} of each: the {keys}?",
    "Tell me the {attribute} of the {keys}.",
    "Which {attribute} belongs to the {keys}?",
)
QUERIES_LEADS = ("They are ", "One after the other: ", "The answers are ", "In this order: ", "")


def several_queries(rng: random.Random) -> Quiz:
    """The same attribute of two or three keys, asked for in an independent order."""
    keys = varied_keys(rng, rng.choice((2, 2, 3)))
    kind, attribute = _attribute(rng)
    size = rng.randint(2, 5)
    values = [digits(rng, size) if kind == "code" else value(rng, kind) for _ in keys]
    fact = rng.choice(FACTS)
    facts = [fact.format(attribute=attribute, key=k, value=v) for k, v in zip(keys, values, strict=True)]
    rng.shuffle(facts)
    question = rng.choice(QUERIES_QUESTIONS).format(attribute=attribute, keys=" and the ".join(keys))
    return Quiz(tuple(facts), question, ", ".join(values), rng.choice(QUERIES_LEADS))
