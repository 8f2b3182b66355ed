"""Selection policies: which child of a node stays fine. One policy is one file and one line here (see `base`)."""

from ...utils.registry import Registry

POLICIES = Registry("selection={}")
POLICIES.add("right", f"{__name__}.right:Right", "what is nearest")
POLICIES.add("similarity", f"{__name__}.similarity:Similarity", "what is most similar to the question")
