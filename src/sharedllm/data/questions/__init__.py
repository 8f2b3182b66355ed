"""Questions over long documents with checkable answers. A kind of question is one file and one line here (see
`base.QuestionTask`).

Training, validation, `sharedllm questions` and the evaluation's tasks all use this name.
"""

from ...utils.registry import Registry

QUESTIONS = Registry("task {}", aliases={"many_needles": "keys-4", "multi_value": "values", "multi_query": "queries"})

_add = QUESTIONS.add
_add("passkey", f"{__name__}.needle:Passkey", "one fact of five digits in one fixed phrasing")
_add("needle", f"{__name__}.needle:Needle", "one fact in varied phrasings")
for _keys in (4, 16, 64):
    about = f"one of {_keys} facts of the same form"
    _add(f"keys-{_keys}", f"{__name__}.needle:Keys", about, name=f"keys-{_keys}", distractors=_keys - 1)
_add("values", f"{__name__}.needle:Values", "three values of one key, in order")
_add("queries", f"{__name__}.needle:Queries", "the values of two keys")
_add("variables", f"{__name__}.tracking:Variables", "a value passed on one to four times")
for _hops in (1, 2, 3, 4):
    about = f"a value passed on {_hops} times"
    _add(f"hops-{_hops}", f"{__name__}.tracking:Variables", about, name=f"hops-{_hops}", hops=_hops, least=_hops)
_add("counting", f"{__name__}.tracking:Counting", "how many times something happened")
for _moves in (1, 3):
    about = f"where one of three people is after {_moves} moves"
    _add(f"moves-{_moves}", f"{__name__}.moving:Moves", about, name=f"moves-{_moves}", people=3, moves=_moves)
_add("follows", f"{__name__}.quoting:Follows", "the sentence after a sentence of the text")
_add("quotation", f"{__name__}.quoting:Quotation", "how a sentence of the text continues")

# The kinds that `questions` means in a recipe. Their number and order decide which one a seed draws, so don't change
# them without need.
MIX = ("needle", "keys-4", "values", "queries", "variables", "counting", "follows", "quotation")
