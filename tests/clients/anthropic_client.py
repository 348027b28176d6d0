"""Drives a compiled model with the official anthropic package.

    python tests/clients/anthropic_client.py PROGRAM CHAT

CHAT is the same model with tests/server/chat_template.jinja.

Ends in "N passed, N failed, N skipped".
"""
import sys
import time

import anthropic

from server import DICTATED, Server, check, finish, refused

TOOLS = [{"name": "clock", "description": "The time.", "input_schema": {"type": "object", "properties": {}}}]
HI = [{"role": "user", "content": "Hi"}]


def test_answers(c):
    m = c.messages.create(model="any", max_tokens=50, messages=HI, tools=TOOLS, extra_body=DICTATED)
    check([b.type for b in m.content] == ["thinking", "text", "tool_use"], m)
    thinking, text, call = m.content
    check((thinking.thinking, text.text, call.name, call.input) == ("Paris", "city", "now", {}), m)
    check((m.role, m.type, m.model, m.stop_reason, m.stop_sequence) ==
          ("assistant", "message", "chatlm", "tool_use", None), m)
    n = c.messages.count_tokens(model="any", messages=HI, tools=TOOLS).input_tokens
    check(n == m.usage.input_tokens + m.usage.cache_read_input_tokens and n > 5, (n, m.usage))
    check(m.usage.output_tokens > m.usage.output_tokens_details.thinking_tokens > 0, m.usage)

    # The call goes back with its result, and the thinking with it.
    again = HI + [{"role": "assistant", "content": m.content},
                  {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "noon"},
                                               {"type": "text", "text": "So?"}]}]
    b = c.messages.create(model="any", max_tokens=4, messages=again, tools=TOOLS, system=[
        {"type": "text", "text": "Be brief.", "cache_control": {"type": "ephemeral"}}])
    check(b.stop_reason == "max_tokens" and b.usage.output_tokens == 4, b)
    b = c.messages.create(model="any", max_tokens=9, messages=HI, stop_sequences=[" city", "xyz"], extra_body=DICTATED)
    check((b.stop_reason, b.stop_sequence, b.content[0].thinking) == ("stop_sequence", " city", "Paris"), b)
    b = c.messages.create(model="any", max_tokens=9, messages=HI, thinking={"type": "disabled"},
                          tool_choice={"type": "none"}, tools=TOOLS,
                          extra_body=DICTATED | {"banned_tokens": [2, 3, 0]})
    check([x.type for x in b.content] == ["text"] and b.stop_reason == "end_turn", b)
    b = c.beta.messages.create(model="any", max_tokens=2, messages=HI, betas=["x-2026-01-01"],
                               extra_body={"container": None})
    check(b.usage.output_tokens == 2, b)
    # An answer that was begun goes on.
    b = c.messages.create(model="any", max_tokens=3, messages=HI + [
        {"role": "assistant", "content": "The city of"}], extra_body={"temperature": 0, "top_k": 1})
    check(b.content[0].type == "text", b)


def test_streams(c):
    with c.messages.stream(model="any", max_tokens=50, messages=HI, tools=TOOLS, extra_body=DICTATED) as stream:
        kinds = [e.type for e in stream]
        m = stream.get_final_message()
    check([b.type for b in m.content] == ["thinking", "text", "tool_use"] and m.stop_reason == "tool_use", m)
    check((m.content[0].thinking, m.content[1].text, m.content[2].input) == ("Paris", "city", {}), m)
    check(kinds.count("content_block_stop") == 3, kinds)
    raw = list(c.messages.create(model="any", max_tokens=50, messages=HI, tools=TOOLS, stream=True,
                                 extra_body=DICTATED))
    kinds = [(e.type, getattr(e, "index", None)) for e in raw]
    block = ["content_block_start", "content_block_delta", "content_block_stop"]
    check(kinds == [("message_start", None), (block[0], 0), (block[1], 0), (block[1], 0), (block[2], 0),
                    *[(k, 1) for k in block], *[(k, 2) for k in block], ("message_delta", None),
                    ("message_stop", None)], kinds)
    check([e.delta.type for e in raw if e.type == block[1]] ==
          ["thinking_delta", "signature_delta", "text_delta", "input_json_delta"], raw)
    check(raw[-2].usage.output_tokens == m.usage.output_tokens, raw[-2])
    # Greedy text is the same in one piece and in many.
    whole = c.messages.create(model="any", max_tokens=40, messages=HI, extra_body={"temperature": 0})
    with c.messages.stream(model="any", max_tokens=40, messages=HI, extra_body={"temperature": 0}) as stream:
        parts = stream.get_final_message()
    check(parts.content == whole.content and parts.stop_reason == whole.stop_reason, (parts, whole))


def test_refusals(server, c):
    bad = anthropic.BadRequestError

    def create(**more):
        return lambda: c.messages.create(**{"model": "any", "max_tokens": 5, "messages": HI} | more)

    for what, more in [
            ("at least one message", {"messages": []}),
            ("role", {"messages": [{"role": "tool", "content": "x"}]}),
            ("'image'", {"messages": [{"role": "user", "content": [{"type": "image"}]}]}),
            ("tool_use_id", {"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}),
            ("tool_use in", {"messages": [{"role": "user", "content": [{"type": "tool_use"}]}]}),
            ("with 'wrong'", {"messages": [{"role": "user", "content": [{"type": "text", "text": "", "wrong": 1}]}]}),
            ("'web_search_20250305'", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
            ("input_schema", {"tools": [{"name": "x"}]}),
            ("tool_choice", {"tools": TOOLS, "tool_choice": {"type": "some"}}),
            ("thinking", {"thinking": {"type": "sometimes"}}),
            ("#/not", {"output_config": {"format": {"type": "json_schema", "schema": {"not": {}}}}}),
            ("stop_sequences", {"stop_sequences": [""]}),
            ("system", {"system": [{"type": "image"}]}),
            ("temperature", {"extra_body": {"temperature": -1}}),
            ("Unrecognized", {"extra_body": {"n": 2}}),
            ("maximum context length", {"max_tokens": 5000})]:
        refused(bad, what, create(**more))
    try:
        create(messages=[])()
    except bad as e:
        check(e.body["type"] == "error" and e.body["error"]["type"] == "invalid_request_error", e.body)
    wrong = anthropic.Anthropic(base_url=server.url, api_key="wrong", max_retries=0)
    try:
        wrong.messages.create(model="any", max_tokens=5, messages=HI)
        check(False, "a wrong key")
    except anthropic.AuthenticationError as e:
        check(e.body["error"]["type"] == "authentication_error", e.body)
    bearer = anthropic.Anthropic(base_url=server.url, auth_token="key", max_retries=0)
    check([m.id for m in bearer.models.list()] == ["chatlm"], "the list of models")


def test_leaving(server, c):
    before = server.metric("requests_cancelled_total")
    stream = c.messages.create(model="any", max_tokens=1500, messages=HI, stream=True, extra_body={"ignore_eos": True})
    for _ in zip(range(4), stream):
        pass
    stream.close()
    deadline = time.time() + 2
    while server.metric("requests_running") and time.time() < deadline:
        time.sleep(0.01)
    check(server.metric("requests_cancelled_total") == before + 1, "a client that leaves is noticed")


def main():
    server = Server(sys.argv[1])
    c = anthropic.Anthropic(base_url=server.url, api_key="any", max_retries=0)
    refused(anthropic.BadRequestError, "no chat template",
            lambda: c.messages.create(model="any", max_tokens=5, messages=HI))
    server.stop()
    server = Server(sys.argv[2], "--api-key", "key")
    c = anthropic.Anthropic(base_url=server.url, api_key="key", max_retries=0)
    test_answers(c)
    test_streams(c)
    test_refusals(server, c)
    test_leaving(server, c)
    check(server.stop() == 0, "SIGTERM ends it with status 0")
    finish()


main()
