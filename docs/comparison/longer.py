"""Losses on the validation texts while CEPE, Beacon and the paper's settings are trained on more tokens.

python docs/comparison/longer.py add NAME RUN     # NAME's curve in longer/validation.json is that of RUN/log.jsonl
python docs/comparison/longer.py tables           # fills in the tables of README.md
"""

import json
import sys
from pathlib import Path

HERE = Path(__file__).parent
PAGE, CURVES = HERE / "README.md", HERE / "longer" / "validation.json"
TOKENS_A_STEP = 8192
DOMAINS, LENGTHS = ("books", "code", "proofs"), ("512", "2048")
# Rows that a curve is shown with, at every so many millions of tokens.
SHOWN = {
    "cepe-10M": (1, ("ours at 0.5M", "the base's window alone")),
    "cepe-10M-3e-4": (1, ("the base's window alone",)),
    "beacon-new-line": (0.5, ("Beacon at 0.5M, a new line",)),
    "paper-16M": (1, ("ours at 0.5M", "the base's window alone")),
}


def curves() -> dict:
    return json.loads(CURVES.read_text(encoding="utf-8"))


def add(name: str, run: Path) -> None:
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    curve = [
        {
            "step": line["step"],
            "tokens": (line["step"] + 1) * TOKENS_A_STEP,
            "validation": {domain: line["validation"][domain] for domain in DOMAINS},
        }
        for line in lines
        if "validation" in line
    ]
    CURVES.write_text(json.dumps(curves() | {name: curve}) + "\n", encoding="utf-8")


def table(name: str) -> str:
    found = curves()
    every, beside = SHOWN[name]
    columns = [f"{domain} {length}" for domain in DOMAINS for length in LENGTHS]
    lines = [f"| tokens | {' | '.join(columns)} |", f"|--:|{'--:|' * len(columns)}"]
    last = found[name][-1]["tokens"]
    rows = {}
    for point in found[name]:
        millions = point["tokens"] / 1e6
        if point["tokens"] == last or min(millions % every, every - millions % every) < 0.01 or millions < 0.6:
            rows[f"{millions:.1f}M"] = point["validation"]
    for what, losses in (rows | {what: found["beside"][what] for what in beside}).items():
        shown = (f"{losses[domain][length]:.3f}" for domain in DOMAINS for length in LENGTHS)
        lines.append(f"| {what} | {' | '.join(shown)} |")
    return "\n".join(lines)


def tables() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name in SHOWN:
        before, start, rest = page.partition(f"<!-- longer: {name} -->\n")
        if start:
            _, end, after = rest.partition("<!-- end -->")
            page = f"{before}{start}{table(name)}\n{end}{after}"
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    add(sys.argv[2], Path(sys.argv[3])) if sys.argv[1] == "add" else tables()
