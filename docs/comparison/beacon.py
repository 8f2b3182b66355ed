"""What Activation Beacon's beginning and its short window cost before any training: losses on the validation texts of training.

python docs/comparison/beacon.py build/tokens-tiny     # after runs/compare_tiny.sh has made the tokens; writes beacon.json
"""

import json
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy

from sharedllm.cli.loading import load_any
from sharedllm.data.shards import TokenStore
from sharedllm.systems.beacon import BeaconForCausalLM
from sharedllm.training.validate import choose_targets
from sharedllm.utils.hardware import environment

WINDOW, TARGETS = 512, 256
NEW_LINE = 201


@torch.no_grad()
def loss(model, ids: torch.Tensor) -> float:
    """Mean loss of the last `TARGETS` tokens, or of all but the first where there are no more."""
    logits, first = model(ids).logits[:, :-1], max(0, ids.shape[1] - TARGETS - 1)
    return round(cross_entropy(logits[:, first:].flatten(0, 1).float(), ids[:, 1 + first :].flatten()).item(), 3)


def main(tokens: Path) -> None:
    base, found = load_any("base")[0].float().eval(), {}
    for domain in ("books", "code", "proofs"):
        rows = choose_targets(TokenStore(tokens / f"{domain}-validation"), WINDOW, 4 * WINDOW, 20, 1)
        ids = torch.from_numpy(rows.running).long()
        found[domain] = {"base, 512 tokens": loss(base, ids), "base, the last 256 alone": loss(base, ids[:, -TARGETS:])}
        for name, token in (("end of text", None), ("new line", NEW_LINE)):
            beacon = BeaconForCausalLM.from_base(base, window=WINDOW, initial_token=token).eval()
            found[domain][f"beacons begin as {name}, untrained"] = loss(beacon, ids)
    content = {"environment": environment(), "losses": found}
    (Path(__file__).parent / "beacon.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
