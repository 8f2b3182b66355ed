"""bm25s is imported without JAX, which would take a GPU's memory from the model."""

import os
import subprocess
import sys

PROGRAM = """
import sys
from sharedllm.utils.bm25 import BM25
assert "jax" not in sys.modules, "JAX was started"
import jax.lax
index = BM25()
index.index([["a", "b"], ["b"]], show_progress=False)
print(index.get_scores(["a"]).tolist())
"""


def test_jax_is_not_started_and_can_be_imported_afterwards(tmp_path):
    (tmp_path / "jax").mkdir()
    (tmp_path / "jax" / "__init__.py").write_text("")
    (tmp_path / "jax" / "lax.py").write_text("def top_k(scores, k):\n    raise SystemExit('JAX was started')\n")
    paths = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=os.environ | {"PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    assert done.stdout.startswith("[0.") and done.stdout.strip().endswith(", 0.0]")
