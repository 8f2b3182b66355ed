"""Average the weights of two models; the mean often keeps what either has learnt (Wortsman et al., arXiv 2203.05482).

python -m sharedllm.training.average A B -o DIR [--share 0.5]
"""

from pathlib import Path
from typing import Annotated

import torch
import typer
from transformers import AutoModelForCausalLM, PreTrainedModel

from ..utils.checkpoints import load_tokenizer
from ..utils.errors import UserError
from ..utils.model_names import checkpoint
from ..utils.scratch import whole_folder


@torch.no_grad()
def average(first: PreTrainedModel, second: PreTrainedModel, share: float) -> PreTrainedModel:
    """The first model with (1 − share) of its own weights and `share` of the second's, summed in fp32.

    Raises:
        UserError: the share is outside 0 … 1, or the models' weights differ in name or shape.
    """
    if not 0 <= share <= 1:
        raise UserError(f"share={share} must be between 0 (the first model) and 1 (the second).")
    ours, theirs = first.state_dict(), second.state_dict()
    other = sorted({n for n in ours | theirs if n not in ours or n not in theirs or ours[n].shape != theirs[n].shape})
    if other:
        raise UserError(
            f"the models differ in {other[0]} and {len(other) - 1} other weights: average models trained from one base."
        )
    for name, tensor in ours.items():
        tensor.copy_(torch.lerp(tensor.float(), theirs[name].float(), share))
    return first


def command(
    first: Annotated[
        str, typer.Argument(help="Folder, hub id, or name of a bundled model; provides configuration and dtype.")
    ],
    second: Annotated[str, typer.Argument(help="A model of the same architecture, trained from the same weights.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder to write.")],
    share: Annotated[float, typer.Option(help="Share of the second model.")] = 0.5,
) -> None:
    """Write the mean of two models."""
    if output.exists():
        raise UserError(f"{output} already exists: name another folder.")
    models = [AutoModelForCausalLM.from_pretrained(checkpoint(name), dtype="auto") for name in (first, second)]
    with whole_folder(output) as folder:
        average(models[0], models[1], share).save_pretrained(folder)
        load_tokenizer(first).save_pretrained(folder)
    print(f"wrote {output}")


if __name__ == "__main__":
    typer.run(command)
