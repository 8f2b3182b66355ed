"""What a text is searched for where a question goes on with the one before it."""

from ..scoring.words import names_of, said, words_of

# Words that stand for somebody or something said before, and words with which a question goes on with the one before it. Other
# languages are not known: there questions stand alone.
_OTHERS = frozenset("he she it they him her them his its their hers theirs this these those".split())
_GOES_ON = frozenset("and but or so then for from with without by at in on to of since until after before how".split())


def sought(question: str, earlier: tuple[str, str] | None) -> str:
    """What a text is searched for in a conversation: the question, or if it goes on with the earlier question and answer, these too.

    It goes on with them if none of its words carries a subject ("Why?"), or if it has no name and only few such words, and
    says "she" or "it" ("And when did she die?"), or begins as a part of a sentence ("For how much?").
    """
    words, own = said(question), len(words_of(question))
    refers, begins = not _OTHERS.isdisjoint(words), bool(words) and words[0] in _GOES_ON
    # Every question begins with a capital letter.
    named = names_of(question.strip()[:1].lower() + question.strip()[1:])
    goes_on = own == 0 or (not named and own <= (3 if refers else 1 if begins else 0))
    return " ".join((*earlier, question)) if goes_on and earlier is not None else question
