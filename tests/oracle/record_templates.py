"""Records what Jinja, set up as Hugging Face's transformers does it, makes of the templates of
tests/data/templates/cases.jinja and of small chat templates with the conversations below.

    python tests/oracle/record_templates.py          writes tests/data/templates/recorded.json

Recorded with Python 3.11, jinja2 3.1.6, transformers 5.23.0. A text that cannot be rendered is
recorded as "error": the message, or null where only the failure matters.
"""
import datetime
import json
import os
import re
import sys

import transformers.utils.chat_template_utils as chat

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "data", "templates")
NOW = datetime.datetime(2025, 7, 10, 12, 0, 0)


class FixedTime(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return NOW


chat.datetime = FixedTime

CONTEXT = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi, I'm \"Zoë\" — 你好 😀"},
        {"role": "assistant", "content": " ok "},
    ],
    "tools": [{"type": "function", "function": {
        "name": "get_weather", "description": "Weather <now> & later",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                       "required": ["city"]}}}],
    "numbers": [3, 1, 2], "words": ["beta", "Alpha", "gamma"], "text": "The quick brown fox", "empty": "",
    "people": [{"name": "Bob", "age": 7, "tags": ["x"]}, {"name": "alice", "age": 30, "tags": []},
               {"name": "Carl", "age": 7}],
    "map": {"b": 1, "a": [1, 2.5, None, True], "c d": {"e": "f"}}, "none": None, "yes": True, "no": False,
    "pi": 3.14159, "big": 1e30, "small": 1.5e-07, "whole": 4.0, "seven": 7, "zero": 0, "negative": -7,
    "nested": [[1, [2, 3]], [4]], "lines": "one\ntwo\n\nthree\r\nfour", "unicode": "Straße ÀÉÎ İI ΑΣ ﬁne",
    "quotes": "it's \"q\" \\ \n\t\u0001\u007f\u00a0é", "bos_token": "<s>", "eos_token": "</s>",
}

SYSTEM = {"role": "system", "content": "You are a pirate."}
TURNS = [{"role": "user", "content": "Hello!"}, {"role": "assistant", "content": "Ahoy  "},
         {"role": "user", "content": "  Who\nare you? "}]
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2}}}]}
ANSWER = {"role": "tool", "name": "get_weather", "tool_call_id": "call_1", "content": "{\"temp\": 3.5}"}
CONVERSATIONS = {
    "one turn": {"messages": TURNS[:1], "add_generation_prompt": True},
    "no prompt": {"messages": TURNS[:1]},
    "system": {"messages": [SYSTEM] + TURNS, "add_generation_prompt": True},
    "turns": {"messages": TURNS[:2]},
    "empty content": {"messages": [{"role": "user", "content": ""}], "add_generation_prompt": True},
    "no messages": {"messages": []},
    "parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "What is"}, {"type": "image"},
                                                        {"type": "text", "text": "this?"}]}]},
    "unicode": {"messages": [{"role": "user", "content": "你好 😀 ﬁ \u2028 <|im_end|> {{ x }}"}]},
    "none content": {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": None}]},
    "tools": {"messages": TURNS[:1], "tools": CONTEXT["tools"], "add_generation_prompt": True},
    "tool call": {"messages": TURNS[:1] + [CALL, ANSWER], "tools": CONTEXT["tools"], "add_generation_prompt": True},
    "reasoning": {"messages": [TURNS[0], {"role": "assistant", "content": "<think>hm</think>Yes.",
                                         "reasoning_content": "hm"}, TURNS[2]], "enable_thinking": False},
    "wrong roles": {"messages": [TURNS[1], TURNS[0]]},
    "documents": {"messages": TURNS[:1], "documents": [{"title": "A", "text": "alpha"}, {"title": "B", "text": "beta"}]},
    "continue": {"messages": TURNS[:2], "continue_final_message": True},
    "continue parts": {"messages": [TURNS[0], {"role": "assistant", "content": [{"type": "text", "text": "So "}]}],
                       "continue_final_message": True},
}


def render(template, request):
    request = json.loads(json.dumps(request))
    continues = request.pop("continue_final_message", False)
    messages = request.pop("messages", [])
    try:
        if not continues:  # as render_jinja_template calls it, without its renaming of reasoning fields
            compiled = chat._compile_jinja_template(template)
            variables = {"tools": None, "documents": None, "add_generation_prompt": False, **request}
            return {"text": compiled.render(messages=messages, **variables)}
        texts, _ = chat.render_jinja_template([messages], chat_template=template, continue_final_message=True, **request)
        return {"text": texts[0]}
    except Exception as e:
        own = type(e).__name__ == "TemplateError"
        return {"error": str(e) if own else None, "python": f"{type(e).__name__}: {e}"[:200]}


def read_cases(path):
    """The templates of a file whose parts are separated by lines '#### title'."""
    parts = re.split(r"(?m)^#### (.*)\n", open(path, encoding="utf-8", newline="").read())
    return list(zip(parts[1::2], parts[2::2]))


def main():
    out = []
    for title, text in read_cases(os.path.join(HERE, "cases.jinja")):
        whole = title.startswith("whole ")  # one template; otherwise a template a line
        for i, template in enumerate([text] if whole else text.splitlines()):
            # the file has one line for each, and the characters it could not hold as escapes
            if title.startswith("escaped "):
                template = template.encode("ascii").decode("unicode_escape")
            if template:
                out.append({"name": f"{title} {i + 1}", "template": template, "request": "context", **render(template, CONTEXT)})
    chats = sorted(n for n in os.listdir(HERE) if n.endswith(".jinja") and n != "cases.jinja")
    for name in chats:
        template = open(os.path.join(HERE, name), encoding="utf-8", newline="").read()
        for title, request in CONVERSATIONS.items():
            request = {"bos_token": "<s>", "eos_token": "</s>", **request}
            out.append({"name": f"{name}, {title}", "template": name, "request": title, **render(template, request)})
    requests = {"context": CONTEXT, **{k: {"bos_token": "<s>", "eos_token": "</s>", **v} for k, v in CONVERSATIONS.items()}}
    with open(os.path.join(HERE, "recorded.json"), "w", encoding="utf-8") as f:
        json.dump({"now": int(NOW.replace(tzinfo=datetime.timezone.utc).timestamp()), "requests": requests, "cases": out},
                  f, ensure_ascii=False, indent=1)
        f.write("\n")
    print(len(out), "cases,", sum("error" in c for c in out), "of them errors")


if __name__ == "__main__":
    sys.exit(main())
