"""Clients that people use with OpenAI's API, unchanged, against a live server on this machine: LangChain, LlamaIndex, llm."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from helpers import byte_tokenizer
from served import TOOLS_TEMPLATE, clients_of, listening, small_model

pytestmark = pytest.mark.slow
QUESTION = "What jumps?"
COLOUR = {
    "title": "colour",
    "description": "Paints.",
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOLS_TEMPLATE
    with clients_of(small_model(), tokenizer, tmp_path_factory.mktemp("memories")) as start:
        served = start(key="hush", waiting=16)
        with listening(served.app, lifespan="off") as port:
            yield f"http://127.0.0.1:{port}/v1"


@pytest.fixture(scope="module")
def expected(url):
    """What the official client is answered."""
    from openai import OpenAI

    with OpenAI(base_url=url, api_key="hush") as client:
        said = client.chat.completions.create(
            model="small:notes", messages=[{"role": "user", "content": QUESTION}], max_tokens=20
        )
    return said.choices[0].message.content


def test_langchain(url, expected):
    langchain_openai = pytest.importorskip("langchain_openai")
    chat = langchain_openai.ChatOpenAI(base_url=url, api_key="hush", model="small:notes", max_tokens=20, max_retries=0)
    said = chat.invoke(QUESTION)
    assert said.content == expected and said.usage_metadata["output_tokens"] > 0
    assert "".join(part.content for part in chat.stream(QUESTION)) == expected
    assert [m.content for m in chat.batch([QUESTION, QUESTION])] == [expected] * 2

    async def later():
        answer = await chat.ainvoke([("system", "Be brief."), ("human", QUESTION)])
        await chat.root_async_client.close()
        return answer.content

    assert asyncio.run(later())
    narrow = chat.bind(extra_body={"budget": 10})
    assert narrow.invoke(QUESTION).content != expected
    painted = chat.with_structured_output(COLOUR, method="json_schema").bind(max_tokens=80).invoke(QUESTION)
    assert painted["colour"] in ("red", "blue") and isinstance(painted["sure"], bool)
    (call,) = chat.bind_tools([COLOUR], tool_choice="colour").bind(max_tokens=200).invoke(QUESTION).tool_calls
    assert call["name"] == "colour" and call["args"]["colour"] in ("red", "blue")


def test_langchain_with_our_retriever(url, expected):
    """A chain that finds pieces with our retriever and asks our server."""
    langchain_openai = pytest.importorskip("langchain_openai")
    from langchain_core.output_parsers import StrOutputParser
    from langchain_core.prompts import ChatPromptTemplate
    from langchain_core.runnables import RunnableLambda, RunnablePassthrough

    from sharedllm.integrations.langchain import SharedLLMRetriever

    model, tokenizer = small_model(), byte_tokenizer()
    memory = model.read(tokenizer("The Aurora has two masts. " * 4, return_tensors="pt").input_ids, keep_all=True)
    found = SharedLLMRetriever(memory, model, tokenizer, score="bm25", k=1)
    chat = langchain_openai.ChatOpenAI(base_url=url, api_key="hush", model="small", max_tokens=5, max_retries=0)
    prompt = ChatPromptTemplate.from_template("{text}\n{question}")
    text = found | RunnableLambda(lambda documents: documents[0].page_content)
    chain = {"text": text, "question": RunnablePassthrough()} | prompt | chat | StrOutputParser()
    assert isinstance(chain.invoke("How many masts has the Aurora?"), str)


def test_llama_index(url, expected):
    library = pytest.importorskip("llama_index.llms.openai_like")
    like = library.OpenAILike(
        api_base=url, api_key="hush", model="small:notes", is_chat_model=True, max_tokens=20, max_retries=0
    )
    assert like.complete(QUESTION).text == expected
    assert "".join(part.delta or "" for part in like.stream_complete(QUESTION)) == expected


def test_llm(url, expected, tmp_path):
    pytest.importorskip("llm")
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: notes\n  model_name: small:notes\n  api_base: {url}\n  api_key_name: ours\n"
    )
    (tmp_path / "keys.json").write_text(json.dumps({"ours": "hush"}))
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}

    def llm(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "llm", *arguments],
            env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "notes" in llm("models")
    assert llm("-m", "notes", QUESTION, "-o", "max_tokens", "20").strip() == expected.strip()
    assert llm("-m", "notes", QUESTION, "-o", "max_tokens", "20", "--no-stream").strip() == expected.strip()
