"""Drives a compiled model with the official openai package.

    python tests/clients/openai_client.py PROGRAM CHAT EMBED

CHAT is the same model with tests/server/chat_template.jinja, EMBED one that is made for embeddings and has no
tokenizer.

Ends in "N passed, N failed, N skipped".
"""
import sys
import threading
import time

import openai

from server import DICTATED, TOOLS, Server, check, finish, refused


def connect(server):
    server.client = openai.OpenAI(base_url=server.url + "/v1", api_key="key", max_retries=0)
    return server


def test_plain(c, model):
    a = c.completions.create(model=model, prompt="The city of Paris", max_tokens=16, temperature=0)
    check(a.usage.completion_tokens == 16 and a.choices[0].finish_reason == "length", a)
    b = c.completions.create(model=model, prompt="The city of Paris", max_tokens=16, temperature=0, stream=True,
                             stream_options={"include_usage": True})
    events = list(b)
    text = "".join(e.choices[0].text for e in events if e.choices)
    check(text == a.choices[0].text, (text, a.choices[0].text))
    check(events[-1].usage.total_tokens == a.usage.total_tokens, events[-1])
    n = c.completions.create(model=model, prompt=["In", "On"], n=2, max_tokens=6, temperature=1, seed=3)
    check([x.index for x in n.choices] == [0, 1, 2, 3], n)
    again = c.completions.create(model=model, prompt=["In", "On"], n=2, max_tokens=6, temperature=1, seed=3)
    check([x.text for x in n.choices] == [x.text for x in again.choices], "a seed repeats")
    l = c.completions.create(model=model, prompt="The", max_tokens=3, logprobs=2, temperature=0).choices[0].logprobs
    check(len(l.tokens) == 3 and all(len(t) == 2 for t in l.top_logprobs), l)
    check(all(abs(max(t.values()) - p) < 1e-6 for t, p in zip(l.top_logprobs, l.token_logprobs)), l)
    check([m.id for m in c.models.list()] == ["wikilm"], "the list of models")
    check(c.models.retrieve("wikilm").id == "wikilm", "a model")
    refused(openai.NotFoundError, "no such model", lambda: c.models.retrieve("wiki"))
    x = c.completions.create(model=model, prompt="The", max_tokens=8, temperature=1,
                             extra_body={"min_p": 0.1, "dry_multiplier": 0.8, "xtc_probability": 0.3})
    check(x.usage.completion_tokens == 8, x)


def test_errors(server, model):
    c = server.client
    refused(openai.BadRequestError, "temperature",
            lambda: c.completions.create(model=model, prompt="x", temperature=-1))
    refused(openai.BadRequestError, "Unrecognized request argument",
            lambda: c.completions.create(model=model, prompt="x", extra_body={"wrong": 1}))
    try:
        c.completions.create(model=model, prompt="x", max_tokens=10000)
    except openai.BadRequestError as e:
        check(e.code == "context_length_exceeded", e)
    refused(openai.BadRequestError, "no chat template",
            lambda: c.chat.completions.create(model=model, messages=[{"role": "user", "content": "x"}]))
    refused(openai.InternalServerError, "embeddings", lambda: c.embeddings.create(model=model, input="x"))
    refused(openai.AuthenticationError, "API key", openai.OpenAI(
        base_url=server.url + "/v1", api_key="wrong", max_retries=0).models.list)


def test_leaving(server, model):
    before = server.metric("requests_cancelled_total")
    stream = server.client.completions.create(model=model, prompt="The", max_tokens=2000, stream=True,
                                              extra_body={"ignore_eos": True})
    for _ in zip(range(3), stream):
        pass
    stream.close()
    deadline = time.time() + 2
    while server.metric("requests_running") and time.time() < deadline:
        time.sleep(0.01)
    check(server.metric("requests_cancelled_total") == before + 1, "a client that leaves is noticed")


def test_crowd(server, model):
    """64 clients at once get what each gets alone."""
    def ask(i):
        r = server.client.completions.create(model=model, prompt=f"Number {i} of the city of", max_tokens=5 + i % 20,
                                             temperature=i % 2, seed=i, stream=False)
        return r.choices[0].text

    alone = [ask(i) for i in range(64)]
    crowd = [None] * 64

    def work(i):
        crowd[i] = ask(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(64)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    check(crowd == alone, [i for i in range(64) if crowd[i] != alone[i]])


def test_chat(c):
    messages = [{"role": "user", "content": "Hi"}]
    a = c.chat.completions.create(model="chatlm", messages=messages, tools=TOOLS, **DICTATED).choices[0]
    call = a.message.tool_calls[0]
    check(a.finish_reason == "tool_calls" and a.message.content == "city", a)
    check(a.message.reasoning_content == "Paris", a)
    check(call.function.name == "now" and call.function.arguments == "{}" and call.type == "function", a)
    # The call goes back with its result.
    messages += [a.message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "noon"}]
    b = c.chat.completions.create(model="chatlm", messages=messages, tools=TOOLS, max_tokens=4)
    check(b.usage.completion_tokens == 4 and b.choices[0].finish_reason == "length", b)
    content, reasoning, calls, reasons = "", "", [], []
    for event in c.chat.completions.create(model="chatlm", messages=messages[:1], tools=TOOLS, stream=True, **DICTATED):
        delta = event.choices[0].delta
        content += delta.content or ""
        reasoning += getattr(delta, "reasoning_content", None) or ""
        calls += delta.tool_calls or []
        reasons.append(event.choices[0].finish_reason)
    check((content, reasoning) == ("city", "Paris"), (content, reasoning))
    check([(x.index, x.function.name, x.function.arguments) for x in calls] == [(0, "now", "{}")], calls)
    check(reasons[-1] == "tool_calls" and not any(reasons[:-1]), reasons)
    with c.chat.completions.stream(model="chatlm", messages=messages[:1], tools=TOOLS, **DICTATED) as stream:
        final = stream.get_final_completion().choices[0].message
    check(final.content == "city" and final.tool_calls[0].function.name == "now", final)
    refused(openai.BadRequestError, "tool_choice", lambda: c.chat.completions.create(
        model="chatlm", messages=messages[:1], tool_choice="required"))


ITEMS = [{"type": "function", "name": "clock", "parameters": {"type": "object", "properties": {}}, "strict": False}]


def test_responses(c):
    r = c.responses.create(model="chatlm", input="Hi", tools=ITEMS, instructions="Be brief.", metadata={"a": "b"},
                           extra_body=DICTATED)
    check([x.type for x in r.output] == ["reasoning", "message", "function_call"], r)
    thought, said, call = r.output
    check((r.output_text, thought.content[0].text, call.name, call.arguments) == ("city", "Paris", "now", "{}"), r)
    check((r.status, r.metadata, r.instructions, r.tools[0].name) == ("completed", {"a": "b"}, "Be brief.", "clock"), r)
    check(r.usage.total_tokens == r.usage.input_tokens + r.usage.output_tokens, r.usage)
    check(0 < r.usage.output_tokens_details.reasoning_tokens < r.usage.output_tokens, r.usage)
    # What came goes back, with the call's result.
    items = [{"role": "user", "content": "Hi"}, *[x.model_dump(exclude_none=True) for x in r.output],
             {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}]
    n = c.responses.input_tokens.count(model="chatlm", input=items, tools=ITEMS).input_tokens
    again = c.responses.create(model="chatlm", input=items, tools=ITEMS, max_output_tokens=4)
    check((again.status, again.incomplete_details.reason) == ("incomplete", "max_output_tokens"), again)
    check((again.usage.output_tokens, again.usage.input_tokens) == (4, n) and n > r.usage.input_tokens, (again, n))
    # Greedy text is the same in one piece and in many.
    whole = c.responses.create(model="chatlm", input="Hi", max_output_tokens=30, temperature=0)
    raw = list(c.responses.create(model="chatlm", input="Hi", max_output_tokens=30, temperature=0, stream=True))
    check(raw[-1].type == "response.incomplete", raw[-1])
    check([x.model_dump(exclude={"id"}) for x in raw[-1].response.output] ==
          [x.model_dump(exclude={"id"}) for x in whole.output], (raw[-1], whole))

    with c.responses.stream(model="chatlm", input="Hi", tools=ITEMS, extra_body=DICTATED) as stream:
        kinds = [e.type for e in stream]
        final = stream.get_final_response()
    check(final.output_text == "city" and final.output[2].arguments == "{}", final)
    begin, end = ["output_item.added", "content_part.added"], ["content_part.done", "output_item.done"]
    check(kinds == ["response." + k for k in [
        "created", "in_progress",
        *begin, "reasoning_text.delta", "reasoning_text.done", *end,
        *begin, "output_text.delta", "output_text.done", *end,
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed"]], kinds)
    raw = list(c.responses.create(model="chatlm", input="Hi", tools=ITEMS, stream=True, extra_body=DICTATED))
    check([e.sequence_number for e in raw] == list(range(len(raw))), raw)

    for what, more in [
            ("not stored", {"previous_response_id": "resp_1"}), ("not stored", {"conversation": "conv_1"}),
            ("not stored", {"background": True}), ("truncation", {"truncation": "auto"}),
            ("output_text.logprobs", {"include": ["message.output_text.logprobs"]}),
            ("json_schema.schema", {"text": {"format": {"type": "json_schema", "name": "x"}}}),
            ("'web_search'", {"tools": [{"type": "web_search"}]}),
            ("tool_choice", {"tools": ITEMS, "tool_choice": "any"}),
            ("'input_image'", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            ("'item_reference'", {"input": [{"type": "item_reference", "id": "x"}]}),
            ("call_id", {"input": [{"type": "function_call_output", "output": "x"}]}),
            ("role", {"input": [{"role": "tool", "content": "x"}]}),
            ("expected a text", {"input": []}), ("Unrecognized", {"extra_body": {"messages": []}})]:
        refused(openai.BadRequestError, what,
                lambda: c.responses.create(**{"model": "chatlm", "input": "Hi"} | more))
    refused(openai.NotFoundError, "not stored", lambda: c.responses.retrieve("resp_1"))


def test_embeddings(c):
    a = c.embeddings.create(model="x", input=[[5, 6, 7], [5, 6]])  # the client asks for base64
    b = c.embeddings.create(model="x", input=[5, 6, 7], encoding_format="float", dimensions=8)
    whole, part = a.data[0].embedding, b.data[0].embedding
    check(len(a.data) == 2 and [x.index for x in a.data] == [0, 1] and len(whole) > 8, a)
    check(abs(sum(x * x for x in whole) - 1) < 1e-5 and abs(sum(x * x for x in part) - 1) < 1e-5, "lengths")
    scale = sum(x * x for x in whole[:8]) ** 0.5
    check(all(abs(x / scale - y) < 1e-5 for x, y in zip(whole, part)), (whole[:8], part))
    check((a.usage.prompt_tokens, b.usage.total_tokens) == (5, 3), (a.usage, b.usage))
    refused(openai.BadRequestError, "tokenizer", lambda: c.embeddings.create(model="x", input="text"))
    refused(openai.BadRequestError, "maximum context", lambda: c.embeddings.create(model="x", input=[1] * 100000))


def main():
    server = connect(Server(sys.argv[1], "--api-key", "key"))
    test_plain(server.client, "wikilm")
    test_errors(server, "wikilm")
    test_leaving(server, "wikilm")
    test_crowd(server, "wikilm")
    check(server.stop() == 0, "SIGTERM ends it with status 0")
    server = connect(Server(sys.argv[2]))
    test_chat(server.client)
    test_responses(server.client)
    server.stop()
    server = connect(Server(sys.argv[3]))
    test_embeddings(server.client)
    server.stop()
    finish()


main()
