"""The cost of importing the package, and registration with transformers in either import order."""

import subprocess
import sys

import pytest

import sharedllm


def python(code: str) -> str:
    """The output of a fresh process."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_import_loads_neither_torch_nor_transformers():
    heavy = "print([m for m in ('torch', 'transformers', 'numpy', 'typer') if m in sys.modules])"
    assert python(f"import sys, sharedllm; sharedllm.__version__, sharedllm.__all__; {heavy}") == "[]\n"


def test_public_names():
    assert set(sharedllm.__all__) <= set(dir(sharedllm))
    assert all(
        getattr(sharedllm, name).__module__.startswith("sharedllm.") for name in sharedllm.__all__ if name[0] != "_"
    )
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = sharedllm.Nothing


def test_the_auto_classes_of_this_process_know_the_models():
    from transformers import AutoConfig, AutoModelForCausalLM

    folder = sharedllm.bundled_model()
    assert AutoConfig.from_pretrained(folder).model_type == "sharedllm"
    assert type(AutoModelForCausalLM.from_pretrained(folder)) is sharedllm.SharedLLMForCausalLM


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import sharedllm; from transformers import AutoModelForCausalLM, AutoConfig",
        "from transformers import AutoModelForCausalLM, AutoConfig; import sharedllm",
        "from transformers import AutoConfig; import sharedllm; from transformers import AutoModelForCausalLM",
        "import sharedllm; from transformers import AutoTokenizer, AutoConfig, AutoModelForCausalLM",
        "from sharedllm.utils.checkpoints import load_model; from transformers import AutoModelForCausalLM, AutoConfig",
        "import sharedllm; from transformers import AutoModelForSequenceClassification as _, AutoModelForCausalLM, AutoConfig",
        "import sharedllm; from transformers import LlamaForCausalLM, AutoConfig, AutoModelForCausalLM",
        "import sharedllm.prompts; from transformers import AutoModelForCausalLM, AutoConfig; import sharedllm",
    ],
)
def test_the_auto_classes_know_the_models(imports):
    code = (
        f"{imports}\n"
        "import sharedllm\n"
        "from pathlib import Path\n"
        "folder = Path(sharedllm.__file__).parent / 'bundled' / 'tiny'\n"
        "print(AutoConfig.from_pretrained(folder).model_type, type(AutoModelForCausalLM.from_pretrained(folder)).__name__)"
    )
    assert python(code).splitlines()[-1] == "sharedllm SharedLLMForCausalLM"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [
        "import sharedllm; from transformers import pipeline",
        "from transformers import pipeline; import sharedllm",
    ],
)
def test_pipelines_know_the_task_without_its_libraries(imports):
    code = (
        f"{imports}\n"
        "import sys\n"
        "from transformers.pipelines import PIPELINE_REGISTRY\n"
        "task = PIPELINE_REGISTRY.check_task('sharedllm-question-answering')[1]\n"
        "print(task['impl'], 'sharedllm.integrations' in sys.modules)"
    )
    assert python(code) == "sharedllm.integrations.pipeline.QuestionAnsweringPipeline False\n"
