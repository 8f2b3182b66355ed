"""Selection policies: which child of a node stays fine. A policy is one file and one line here (see `base`)."""

from ...utils.registry import Registry

# Old configurations say "similarity".
POLICIES = Registry("selection={}", aliases={"similarity": "cosine"})
POLICIES.add("right", f"{__name__}.right:Right", "the part nearest to the running text")
POLICIES.add("cosine", f"{__name__}.cosine:Cosine", "the part most similar to the question")
