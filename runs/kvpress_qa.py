"""Answer the questions of `sharedllm qa --prompts` with the cache compressed by kvpress, in an environment of its own.

    python -m venv kv && kv/bin/pip install torch==2.13.0 kvpress==0.5.5    # it needs an older transformers than sharedllm
    sharedllm qa MODEL --base BASE --data DATA --set nq --length 8K -o OUT --prompts PROMPTS
    kv/bin/python runs/kvpress_qa.py BASE PROMPTS/nq-8192.jsonl REPLIES --press SnapKV,ExpectedAttention,KVzip --keep 512
    sharedllm qa MODEL … --set nq --length 8K -o OUT --system replies:REPLIES/SnapKV.jsonl

As in kvpress's own pipeline the text is read whole, once, with full attention, and compressed before any question is known;
then every question reads what is left. Run it again to resume.
"""

import argparse
import json
import time
from pathlib import Path

import kvpress  # pyright: ignore[reportMissingImports]
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("base")
    options.add_argument("prompts", type=Path)
    options.add_argument("replies", type=Path)
    options.add_argument("--press", default="SnapKV,ExpectedAttention,KVzip", help="Names without 'Press'.")
    options.add_argument("--keep", type=int, default=512, help="Tokens of the text that are left.")
    chosen = options.parse_args()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(chosen.base, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    tokenizer = AutoTokenizer.from_pretrained(chosen.base)
    chosen.replies.mkdir(parents=True, exist_ok=True)
    for name in chosen.press.split(","):
        path = chosen.replies / f"{name}.jsonl"
        done = finished(path)
        for line in chosen.prompts.read_text().splitlines():
            text = json.loads(line)
            left = [question for question in text["questions"] if question["id"] not in done]
            if left:
                answer(model, tokenizer, name, chosen.keep, text, left, path)


def finished(path: Path) -> set[str]:
    """Questions that have a reply. What a killed run had of its last line is cut off."""
    if not path.is_file():
        return set()
    whole = path.read_text(encoding="utf-8").rpartition("\n")[0]
    path.write_text(whole + "\n" if whole else "", encoding="utf-8")
    return {json.loads(line)["question"] for line in whole.splitlines()}


@torch.no_grad()
def answer(model, tokenizer, name: str, keep: int, text: dict, questions: list[dict], path: Path) -> None:
    ids = torch.tensor([text["ids"]])
    press = getattr(kvpress, f"{name}Press")(compression_ratio=max(0.0, 1 - keep / ids.shape[1]))
    begin, cache = time.perf_counter(), DynamicCache()
    with press(model):
        model.model(input_ids=ids, past_key_values=cache)
    read = time.perf_counter() - begin
    lengths = [cache.get_seq_length(layer) for layer in range(len(cache))]
    print(f"{path.stem}, {text['text']}: {ids.shape[1]:,} tokens read in {read:.0f} s", flush=True)
    for question in questions:
        begin = time.perf_counter()
        new = written(
            model, cache, ids.shape[1], torch.tensor([question["ids"]]), text["new_tokens"], set(text["ends"])
        )
        for layer, length in zip(cache.layers, lengths, strict=True):
            layer.keys, layer.values = layer.keys[:, :, :length], layer.values[:, :, :length]
        row = {
            "question": question["id"],
            "reply": tokenizer.decode(new, skip_special_tokens=True),
            # Some presses mask what they drop, each head its own share, and leave the cache as long as it was.
            "kept": min(keep, ids.shape[1]),
            "context": min(keep, ids.shape[1]) + len(question["ids"]),
            "seconds": {"answer": round(time.perf_counter() - begin, 3)},
            "read": round(read, 2),
        }
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def written(model, cache, before: int, prompt: torch.Tensor, most: int, ends: set[int]) -> list[int]:
    """Greedy decoding. before: tokens of the text as it was read, for the positions of what follows."""
    positions = torch.arange(before, before + prompt.shape[1])[None]
    new: list[int] = []
    while True:
        token = int(model(input_ids=prompt, past_key_values=cache, position_ids=positions).logits[0, -1].argmax())
        if token in ends:
            return new
        new.append(token)
        if len(new) == most:
            return new
        prompt, positions = torch.tensor([[token]]), positions[:, -1:] + 1


if __name__ == "__main__":
    main()
