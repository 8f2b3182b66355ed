"""The library bm25s, imported here alone.

Where JAX is installed, bm25s starts it at import, to sort scores that we don't have sorted; JAX then takes three quarters
of a GPU's memory from the model. So it does not see JAX.
"""

import sys

_JAX = ("jax", "jax.lax")
_there = {name: sys.modules[name] for name in _JAX if name in sys.modules}
# None makes an import fail as if the module were not installed.
sys.modules.update(dict.fromkeys(_JAX))  # pyright: ignore[reportCallIssue, reportArgumentType]
try:
    from bm25s import BM25, tokenize
finally:
    for _name in _JAX:
        del sys.modules[_name]
    sys.modules.update(_there)

__all__ = ["BM25", "tokenize"]
