"""Settings of all tests, and fixtures that several files use: small models on disk, and the command line.

One thread, so that tiny models run fast and results repeat; no deadlines, for busy machines.
"""

import pytest
import torch
from helpers import byte_tokenizer, tiny_base
from hypothesis import settings

from sharedllm.cli import main

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A random base over bytes, with a window of 64."""
    folder = tmp_path_factory.mktemp("models") / "base"
    byte_tokenizer().save_pretrained(folder)
    tiny_base("llama", vocab_size=256).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(base_folder):
    folder = base_folder.parent / "model"
    arguments = ["--chunk-size", "16", "--ratios", "4,2,1", "--lower-layers", "2", "--encoding", "chunk"]
    with pytest.raises(SystemExit, match="0"):
        main(["extend", str(base_folder), "-o", str(folder), *arguments])
    return folder


@pytest.fixture
def run(capsys):
    """Run a command; returns exit code, stdout and stderr."""

    def call(*arguments) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(a) for a in arguments])
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
