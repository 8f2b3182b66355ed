"""Conformity with OpenAI's API: the official client against a live server on this machine."""

import json

import pytest
from combined import rarely
from helpers import byte_tokenizer
from served import TEXT, TOOLS_TEMPLATE, clients_of, listening, small_model

from sharedllm.prompts import PromptForm
from sharedllm.serving.errors import ServingError
from sharedllm.serving.grammar import Grammar
from sharedllm.serving.messages import Tool
from sharedllm.serving.steering import byte_letters
from sharedllm.serving.tools import Call, CallForm

ASK = [{"role": "user", "content": "What jumps?"}]
COLOUR = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "blue"]}, "sure": {"type": "boolean"}},
    "required": ["colour", "sure"],
    "additionalProperties": False,
}
FORM = {"type": "json_schema", "json_schema": {"name": "colour", "schema": COLOUR, "strict": True}}
TOOLS = [
    {"type": "function", "function": {"name": name, "description": "Paints.", "parameters": COLOUR}}
    for name in ("paint", "print")
]


@pytest.fixture(scope="module")
def openai():
    """The official client. It takes a second to import, so that only a process that runs these tests does."""
    import openai

    return openai


@pytest.fixture(scope="module")
def client(openai, tmp_path_factory):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TOOLS_TEMPLATE
    with clients_of(small_model(), tokenizer, tmp_path_factory.mktemp("memories")) as start:
        served = start(key="hush")
        with (
            listening(served.app, lifespan="off") as port,
            openai.OpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="hush", max_retries=0) as made,
        ):
            yield made


def chat(client, **more):
    return client.chat.completions.create(**{"model": "small:notes", "messages": ASK, "max_tokens": 8} | more)


def test_memories_are_models(openai, client):
    assert [model.id for model in client.models.list()] == ["small", "small:notes"]
    assert client.models.retrieve("small:notes").owned_by == "sharedllm"
    said = chat(client)
    assert said.model == "small:notes" and said.model_extra["sharedllm"]["memory"] == "notes"
    assert said.choices[0].message.content and said.usage.total_tokens > said.usage.completion_tokens > 0
    assert chat(client, model="small", extra_body={"memory": "notes"}).choices == said.choices
    with pytest.raises(openai.NotFoundError, match="is a memory: use 'small:notes'") as refused:
        chat(client, model="notes")
    assert refused.value.param == "model"
    with pytest.raises(openai.NotFoundError, match="'gpt-4o' is not served"):
        client.models.retrieve("gpt-4o")
    with pytest.raises(openai.AuthenticationError):
        chat(client.with_options(api_key="wrong"))


def test_streams_say_the_same(client):
    # A null is as if the field were not sent; max_tokens of another number would be refused.
    asked = {"temperature": 0.8, "seed": 3, "max_tokens": None, "max_completion_tokens": 12}
    whole = chat(client, **asked)
    events = [*chat(client, **asked, stream=True, stream_options={"include_usage": True})]
    said = "".join(e.choices[0].delta.content or "" for e in events if e.choices)
    assert said == whole.choices[0].message.content and events[-1].usage == whole.usage
    with client.chat.completions.stream(
        model="small:notes", messages=ASK, max_tokens=80, response_format=FORM
    ) as stream:
        stream.until_done()
        said = stream.get_final_completion().choices[0].message.content
    assert said == chat(client, max_tokens=80, response_format=FORM).choices[0].message.content


def test_several_answers(client):
    said = chat(client, n=3, temperature=1.5, seed=1)
    texts = [choice.message.content for choice in said.choices]
    assert [choice.index for choice in said.choices] == [0, 1, 2] and len(set(texts)) == 3
    assert texts[0] == chat(client, temperature=1.5, seed=1).choices[0].message.content
    assert said.usage.completion_tokens == 24
    streamed = ["", "", ""]
    ends = []
    for event in chat(client, n=3, temperature=1.5, seed=1, stream=True):
        (choice,) = event.choices
        streamed[choice.index] += choice.delta.content or ""
        ends += [choice.index] if choice.finish_reason else []
    assert streamed == texts and ends == [0, 1, 2]


def test_stop(client):
    free = chat(client, max_tokens=24).choices[0].message.content
    said = chat(client, max_tokens=24, stop=[free[10:12], "never said"]).choices[0]
    assert (said.message.content, said.finish_reason) == (free[: free.index(free[10:12])], "stop")


def test_log_probabilities(client):
    said = chat(client, logprobs=True, top_logprobs=3).choices[0]
    tokens = said.logprobs.content
    assert bytes(b for token in tokens for b in token.bytes).decode("utf-8", "replace") == said.message.content
    for token in tokens:
        best = [one.logprob for one in token.top_logprobs]
        # Without sampling the likeliest token is the one that is chosen.
        assert len(best) == 3 and best == sorted(best, reverse=True) and token.logprob == best[0] < 0
    streamed = [
        t
        for e in chat(client, logprobs=True, stream=True)
        if e.choices[0].logprobs
        for t in e.choices[0].logprobs.content
    ]
    assert [(t.token, t.logprob) for t in streamed] == [(t.token, t.logprob) for t in tokens]
    assert all(not token.top_logprobs for token in streamed)
    plain = client.completions.create(model="small:notes", prompt="The fox", max_tokens=10, logprobs=2).choices[0]
    found = plain.logprobs
    assert "".join(found.tokens) == plain.text and found.text_offset[0] == 0 and len(found.token_logprobs) == 10
    assert all(max(top.values()) == value for top, value in zip(found.top_logprobs, found.token_logprobs, strict=True))


def test_penalties_and_bias_change_the_answer(client):
    free = chat(client, max_tokens=24).choices[0].message.content
    for penalty in ({"frequency_penalty": 2}, {"presence_penalty": 2}):
        held = chat(client, max_tokens=24, **penalty).choices[0].message.content
        assert len(set(held)) > len(set(free)), penalty
    assert chat(client, frequency_penalty=0, presence_penalty=0, max_tokens=24).choices[0].message.content == free
    token = byte_tokenizer()("Z").input_ids[0]
    assert chat(client, logit_bias={str(token): 100}).choices[0].message.content == "Z" * 8
    (byte,) = chat(client, logprobs=True).choices[0].logprobs.content[0].bytes
    first = byte_tokenizer().convert_tokens_to_ids({code: letter for letter, code in byte_letters().items()}[byte])
    other = chat(client, logit_bias={str(first): -100}, logprobs=True).choices[0].logprobs.content
    assert all(token.bytes != [byte] for token in other)


@pytest.mark.slow
def test_json_by_schema(client):
    for more in ({}, {"temperature": 3.0, "seed": 5}, {"frequency_penalty": 2}):
        said = chat(client, response_format=FORM, max_tokens=80, **more).choices[0]
        value = json.loads(said.message.content)
        assert value["colour"] in ("red", "blue") and isinstance(value["sure"], bool) and len(value) == 2
        assert said.finish_reason == "stop"
    ends = {str(byte_tokenizer().encode("}")[0]): 100}
    anything = chat(client, response_format={"type": "json_object"}, logit_bias=ends).choices[0].message.content
    assert isinstance(json.loads(anything), dict)
    cut = chat(client, response_format=FORM, max_tokens=5).choices[0]
    assert cut.message.content == '{"col' and cut.finish_reason == "length"
    text = "".join(
        e.choices[0].delta.content or "" for e in chat(client, response_format=FORM, max_tokens=80, stream=True)
    )
    assert json.loads(text) == json.loads(chat(client, response_format=FORM, max_tokens=80).choices[0].message.content)


NESTED = {"type": "object", "properties": {"inner": {"$ref": "#"}}, "required": ["inner"]}
LIST_OF_ITSELF = {"type": "array", "items": {"$ref": "#"}, "minItems": 1}


@pytest.mark.parametrize("schema", [NESTED, LIST_OF_ITSELF, {"$ref": "#"}], ids=["object", "array", "itself"])
def test_a_schema_without_end_is_refused(openai, client, schema, capfd):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="asks for itself without end") as refused:
            chat(client, response_format=form, stream=stream)
        assert refused.value.param == "response_format"
    assert capfd.readouterr().err == ""


def test_that_a_schema_has_no_end_may_show_in_the_answer(client):
    """After any text the object begins again: the answer is cut off, and says so."""
    endless = NESTED | {
        "properties": {"text": {"type": "string"}, **NESTED["properties"]},
        "required": ["text", "inner"],
    }
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": endless}}
    said = chat(client, response_format=form, max_tokens=20).choices[0]
    assert said.message.content.startswith('{"text": "') and said.finish_reason == "length"


def test_an_error_of_the_grammar_is_no_end(openai, client, monkeypatch):
    monkeypatch.setattr(Grammar, "_trial", lambda self: None)
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": NESTED}}
    with pytest.raises(openai.BadRequestError, match="asks for itself without end"):
        chat(client, response_format=form)
    with pytest.raises(openai.APIError, match="asks for itself without end"):
        [*chat(client, response_format=form, stream=True)]


@pytest.mark.parametrize("schema", [{}, True], ids=str)
def test_a_schema_that_allows_anything(client, schema):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    more = {"logit_bias": {str(byte_tokenizer().encode("7")[0]): 60}}
    said = chat(client, response_format=form, max_tokens=12, **more).choices[0].message.content
    assert said.strip() and set(said.strip()) == {"7"}
    form = {"format": {"type": "json_schema", "name": "x", "schema": schema}}
    assert client.responses.create(model="small", input="Who?", text=form, max_output_tokens=8).usage.output_tokens > 0


def test_a_schema_that_allows_nothing(openai, client):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": False}}
    with pytest.raises(openai.BadRequestError, match="the schema false allows no answer: send one that allows some"):
        chat(client, response_format=form)
    form = {"format": {"type": "json_schema", "name": "x", "schema": False}}
    with pytest.raises(openai.BadRequestError, match="the schema false allows no answer"):
        client.responses.create(model="small", input="Who?", text=form)
    for missing in ({}, {"schema": None}):
        with pytest.raises(openai.BadRequestError, match="schema"):
            chat(client, response_format={"type": "json_schema", "json_schema": {"name": "x", **missing}})


@pytest.mark.parametrize("choice", ["required", *rarely({"type": "function", "function": {"name": "print"}})], ids=str)
def test_a_tool_is_called(client, choice):
    said = chat(client, tools=TOOLS, tool_choice=choice, max_tokens=120).choices[0]
    (call,) = said.message.tool_calls
    assert (
        said.finish_reason == "tool_calls" and call.function.name in ("paint", "print") and said.message.content is None
    )
    assert choice == "required" or call.function.name == "print"
    assert set(json.loads(call.function.arguments)) == {"colour", "sure"}
    events = [*chat(client, tools=TOOLS, tool_choice=choice, max_tokens=120, stream=True)]
    streamed = [call for e in events for call in e.choices[0].delta.tool_calls or []]
    assert [one.function.arguments for one in streamed] == [call.function.arguments]
    assert events[-1].choices[0].finish_reason == "tool_calls"
    result = {"role": "tool", "tool_call_id": call.id, "content": "done"}
    after = chat(client, messages=[*ASK, said.message, result], tools=TOOLS)
    assert after.choices[0].message.content and after.usage.prompt_tokens > said.message.model_dump_json().count("{")


def test_a_stop_does_not_cut_a_tool_that_has_to_be_called(client):
    forced = {"tools": TOOLS, "tool_choice": "required", "max_tokens": 120}
    free, said = (chat(client, **forced, **more).choices[0] for more in ({}, {"stop": ["}", '"']}))
    assert said.finish_reason == "tool_calls" and said.message.content is None
    (call,), (same,) = free.message.tool_calls, said.message.tool_calls
    assert same.function == call.function


def test_tools_that_are_not_called_are_text(client):
    said = chat(client, tools=TOOLS).choices[0]
    assert said.message.tool_calls is None and said.message.content and said.finish_reason == "length"
    none = chat(client, tools=TOOLS, tool_choice="none").choices[0].message.content
    assert none == chat(client).choices[0].message.content


def test_the_responses_api_in_plain_text(openai, client):
    said = client.responses.create(model="small:notes", input="What jumps?", max_output_tokens=8)
    assert said.output_text == chat(client).choices[0].message.content
    assert (said.status, said.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert (said.usage.output_tokens, said.model_extra["sharedllm"]["memory"]) == (8, "notes")
    turns = [
        *ASK,
        {"role": "assistant", "content": "A fox."},
        {"role": "user", "content": [{"type": "input_text", "text": "Is it quick?"}]},
    ]
    other = client.responses.create(model="small:notes", input=turns, instructions="Be brief.", max_output_tokens=5)
    assert other.output_text and other.usage.input_tokens > said.usage.input_tokens
    events = [*client.responses.create(model="small:notes", input="What jumps?", max_output_tokens=8, stream=True)]
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == said.output_text
    assert [e.sequence_number for e in events] == [*range(len(events))]
    assert events[0].type == "response.created" and events[-1].response.output_text == said.output_text
    form = {"format": {"type": "json_schema", "name": "colour", "schema": COLOUR}}
    shaped = client.responses.create(model="small", input="Who?", text=form)
    assert set(json.loads(shaped.output_text)) == {"colour", "sure"}
    assert shaped.to_dict()["text"] == form and said.to_dict()["text"] == {"format": {"type": "text"}}
    with pytest.raises(openai.BadRequestError, match="previous_response_id is not supported: leave it out") as refused:
        client.responses.create(model="small", input="?", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


@pytest.mark.parametrize(
    ("field", "value"),
    [("audio", {"voice": "alloy", "format": "wav"}), ("modalities", ["audio"]), ("prediction", {"type": "content", "content": "x"}), ("reasoning_effort", "high"), ("store", True), ("metadata", {"a": "b"}), ("web_search_options", {"search_context_size": "low"}), ("verbosity", "low"), ("functions", [{"name": "f"}])],
)  # fmt: skip
def test_what_is_not_there_is_refused_by_name(openai, client, field, value):
    with pytest.raises(openai.BadRequestError, match=f"{field} is not supported: leave it out") as refused:
        chat(client, **{field: value})
    assert refused.value.param == field


@pytest.mark.parametrize(("field", "value"), [("echo", True), ("suffix", "x"), ("best_of", 2)])
def test_what_plain_completions_lack(openai, client, field, value):
    with pytest.raises(openai.BadRequestError, match=f"{field} is not supported"):
        client.completions.create(model="small", prompt=TEXT[:20], **{field: value})


MISTRAL = (
    "{% if tools %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}{% for m in messages %}"
    "{% if m.tool_calls %}[TOOL_CALLS][{% for c in m.tool_calls %}"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}, "id": "{{ c.id }}"}'
    "{% endfor %}]{% elif m.role == 'user' %}[INST]{{ m.content }}[/INST]{% else %}{{ m.content }}{% endif %}{% endfor %}"
)
LLAMA = (
    "{% if tools %}{% for t in tools %}{{ t | tojson }}{% endfor %}{% endif %}{% for m in messages %}<{{ m.role }}>"
    '{% if m.tool_calls %}{"name": "{{ m.tool_calls[0].function.name }}", "parameters": {{ m.tool_calls[0].function.arguments | tojson }}}'
    "{% else %}{{ m.content }}{% endif %}<eot>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
PYTHONIC = (
    "{% if tools %}{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for c in m.tool_calls or [] %}[{{ c.function.name }}(){% endfor %}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.mark.parametrize(
    ("template", "form", "text", "said"),
    [
        (TOOLS_TEMPLATE, CallForm("<tool_call>\n", "name", "arguments", False), 'Well.\n<tool_call>\n{"name": "paint", "arguments": {"a": 1}}\n</tool_call>', "Well."),
        (MISTRAL, CallForm("[TOOL_CALLS]", "name", "arguments", True), '[TOOL_CALLS][{"name": "paint", "arguments": {"a": 1}}]', ""),
        (MISTRAL, CallForm("[TOOL_CALLS]", "name", "arguments", True), '[{"name": "paint", "arguments": "{\\"a\\": 1}"}]', ""),
        (LLAMA, CallForm("", "name", "parameters", False), '{"name": "paint", "parameters": {"a": 1}}', ""),
    ],
)  # fmt: skip
def test_calls_are_read_in_the_templates_own_form(template, form, text, said):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    found, tools = CallForm.of(PromptForm.of(tokenizer)), [Tool(**tool) for tool in TOOLS]
    assert found == form
    assert found.read(text, tools) == (said, [Call("paint", '{"a": 1}')])
    for other in (
        text.replace("paint", "erase"),
        "No call.",
        'As in {"name": "paint", "arguments": {}, "parameters": {}}.',
        "{" * 50,
    ):
        assert found.read(other, tools) == (other, [])


@pytest.mark.parametrize(
    ("template", "message"),
    [(PYTHONIC, "a form that is not JSON"), ("{{ messages[0].content }}", "takes none"), (None, "no chat template")],
)
def test_templates_without_calls_are_refused(template, message):
    tokenizer = byte_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ServingError, match=message) as refused:
        CallForm.of(PromptForm.of(tokenizer))
    assert refused.value.field == "tools"
