"""What a compiled model writes under grammars, against judges of other people's: jsonschema, re, and
the official clients' own parsers.

    python tests/clients/constrained.py PROGRAM CHAT [SCHEMAS.jsonl]

CHAT is the same model with tests/server/chat_template.jinja. SCHEMAS: more of them, one {"schema"} a
line. Everything is drawn at a high temperature, so that the model says what it likes where it may.
"""
import concurrent.futures
import json
import re
import sys
import urllib.error
import urllib.request

import jsonschema
import openai
import pydantic

from server import Server, check, finish, refused

HOT = {"temperature": 1.5, "max_tokens": 700}


def post(server, path, **body):
    request = urllib.request.Request(server.url + path, json.dumps(body).encode(),
                                     {"Content-Type": "application/json", "Authorization": "Bearer key"})
    try:
        return json.load(urllib.request.urlopen(request))
    except urllib.error.HTTPError as e:
        return json.load(e)


def complete(server, **body):
    return post(server, "/v1/completions", **{"prompt": "The city of Paris"} | HOT | body)


def schema_format(schema):
    return {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}}


def judge(schema, text):
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind(schema, format_checker=kind.FORMAT_CHECKER).validate(json.loads(text))
        return None
    except (ValueError, jsonschema.ValidationError, RecursionError) as e:
        return e


# --- schemas ---------------------------------------------------------------------------------------

def record(**properties):
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}


TREE = {"$ref": "#/$defs/node", "$defs": {"node": record(value={"type": "integer"}, children={
    "type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/node"}})}}
SCHEMAS = {
    "whole numbers": {"type": "integer"},
    "numbers": {"type": "array", "items": {"type": "number"}, "minItems": 3, "maxItems": 6},
    "whole within": {"type": "array", "items": {"type": "integer", "minimum": -17, "exclusiveMaximum": 2304},
                     "minItems": 8, "maxItems": 8},
    "real within": {"type": "array", "items": {"type": "number", "exclusiveMinimum": -0.75, "maximum": 12.125},
                    "minItems": 8, "maxItems": 8},
    "between fractions": {"type": "array", "items": {"type": "number", "minimum": 0.2345, "exclusiveMaximum": 0.235},
                          "minItems": 8, "maxItems": 8},
    "below zero": {"type": "array", "items": {"type": "number", "exclusiveMaximum": -3}, "minItems": 8, "maxItems": 8},
    "text": {"type": "string", "maxLength": 40},
    "text of length": {"type": "array", "items": {"type": "string", "minLength": 3, "maxLength": 9}, "maxItems": 9,
                       "minItems": 9},
    "constants": record(a={"const": "x\"\\\n"}, b={"enum": [1, "two", None, [3, {"four": 5.5}]]}, c={"const": 0.1}),
    "kinds": {"type": ["null", "boolean", "integer"]},
    "record": record(name={"type": "string", "maxLength": 20}, age={"type": "integer", "minimum": 0, "maximum": 150},
                     tags={"type": "array", "items": {"enum": ["a", "b", "c"]}, "maxItems": 4}),
    "optional": {"type": "object", "properties": {k: {"type": "boolean"} for k in "abcde"}, "required": ["b", "d"]},
    "not listed": {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a", "z"]},
    "others": {"type": "object", "properties": {"key": {"type": "integer"}, "keys": {"type": "null"}},
               "additionalProperties": {"type": "boolean"}},
    "map": {"type": "object", "additionalProperties": {"type": "integer"}, "minProperties": 1, "maxProperties": 3},
    "named": {"type": "object", "propertyNames": {"pattern": "^[a-z]{2,4}$"}, "additionalProperties": {"type": "null"},
              "maxProperties": 4},
    "pattern of names": {"type": "object", "patternProperties": {"^x-[0-9]+$": {"type": "boolean"}},
                         "additionalProperties": False, "maxProperties": 4},
    "tuple": {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string", "maxLength": 5}],
              "items": {"type": "boolean"}, "minItems": 1, "maxItems": 4},
    "old tuple": {"$schema": "http://json-schema.org/draft-07/schema#", "type": "array",
                  "items": [{"type": "null"}, {"type": "integer"}], "additionalItems": False},
    "recursion": TREE,
    "any of": {"type": "array", "minItems": 3, "maxItems": 5, "items": {"anyOf": [
        {"type": "integer"}, record(x={"type": "null"}), {"type": "array", "items": {"type": "boolean"}, "maxItems": 2}]}},
    "beside any of": {"type": "object", "properties": {"kind": {"type": "string"}, "n": {"type": "integer"}},
                      "required": ["kind"], "anyOf": [{"properties": {"kind": {"const": "a"}}, "required": ["n"]},
                                                      {"properties": {"kind": {"const": "b"}}}]},
    "one of": {"oneOf": [record(kind={"const": "circle"}, r={"type": "number"}),
                         record(kind={"const": "square"}, side={"type": "number"})]},
    "all of": {"allOf": [{"$ref": "#/$defs/a"}, {"properties": {"b": {"type": "integer", "maximum": 9}},
                                                 "required": ["b"]}],
               "$defs": {"a": {"type": "object", "properties": {"a": {"type": "null"}, "b": {"minimum": 3}},
                               "required": ["a"]}}},
    "patterns": record(id={"type": "string", "pattern": "^[A-Z]{2}-\\d{3,5}$"},
                       quote={"type": "string", "pattern": "^\"[^a-z]{1,4}\\\\\\t?$"},
                       part={"type": "string", "pattern": "(ab|cd)+$"}),
    "formats": record(**{f: {"type": "string", "format": f} for f in (
        "date", "time", "date-time", "duration", "uuid", "email", "hostname", "ipv4", "ipv6", "uri")}),
    "any object": {"type": "object"},
    "anything": True,
}


def test_schemas(server, schemas, seeds):
    """Every answer that has an end is valid, and most have one."""
    jobs = [(name, schema, seed) for name, schema in schemas.items() for seed in range(seeds)]
    done = {name: 0 for name in schemas}

    def run(job):
        return job, complete(server, json_schema=job[1], seed=job[2], n=4)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for (name, schema, seed), answer in pool.map(run, jobs):
            if "error" in answer:
                check(False, (name, answer))
                continue
            for choice in answer["choices"]:
                if choice["finish_reason"] == "length":
                    continue
                done[name] += 1
                problem = judge(schema, choice["text"])
                check(problem is None, (name, seed, choice["text"], problem))
    check(sum(done.values()) > 2 * seeds * len(schemas), done)


def test_more_schemas(server, path):
    """Schemas from elsewhere: refused with a place, or obeyed."""
    counts = {"refused": 0, "valid": 0, "cut": 0}
    schemas = [json.loads(line)["schema"] for line in open(path)]

    def run(schema):
        try:
            return schema, complete(server, json_schema=schema, seed=1, max_tokens=400, loop_detect_window=0)
        except Exception as e:
            return schema, {"error": {"message": repr(e)}}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for schema, answer in pool.map(run, schemas):
            if "error" in answer:
                counts["refused"] += 1
                check(answer["error"]["message"].startswith("json_schema: schema #"), answer)
            elif answer["choices"][0]["finish_reason"] == "length":
                counts["cut"] += 1
            else:
                counts["valid"] += 1
                text = answer["choices"][0]["text"]
                problem = judge(schema, text)
                check(problem is None, (json.dumps(schema)[:2000], text, problem))
    print(counts)


REFUSED = [
    ("#/properties/a/not", record(a={"not": {"type": "null"}})),
    ("#/items/uniqueItems", {"type": "array", "items": {"type": "array", "uniqueItems": True}}),
    ("#/$defs/x/if", {"$ref": "#/$defs/x", "$defs": {"x": {"if": {}, "then": {}}}}),
    ("#/format", {"type": "string", "format": "color"}),
    ("#/oneOf", {"oneOf": [{"type": "integer"}, {"type": "number"}]}),
    ("#/type", {"type": "text"}),
    ("#/$ref", {"$ref": "#/$defs/none"}),
    ("#/$ref", {"$ref": "http://example.com/schema"}),
    ("#/pattern", {"type": "string", "pattern": "(?=a)b"}),
    ("#/pattern", {"type": "string", "pattern": "(a)\\1"}),
    ("#/multipleOf", {"type": "number", "multipleOf": 0.3}),
    ("#/anyOf/1/minLength", {"anyOf": [{"type": "null"}, {"type": "string", "minLength": -1}]}),
    ("left recursion", {"$ref": "#"}),
    ("#/minimum", {"type": "integer", "minimum": 5, "maximum": 4}),
]


def test_refusals(server):
    for what, schema in REFUSED:
        answer = complete(server, response_format=schema_format(schema))
        message = answer.get("error", {}).get("message", "")
        check(what in message and "\n" not in message, (what, schema, answer))
        check(answer.get("error", {}).get("param") == "response_format", answer)
    for what, body in [
            ("grammar: line 2", {"grammar": "root ::= a\na = b"}), ("the rule a is not there", {"grammar": "root ::= a"}),
            ("left recursion", {"grammar": "root ::= root \"a\" | \"b\""}), ("root", {"grammar": "a ::= \"b\""}),
            ("regex_pattern: regular expression, byte 2", {"regex_pattern": "(a"}),
            ("exclude each other", {"regex_pattern": "a", "json_schema": {}}),
            ("steps", {"grammar": "root ::= \"" + "a" * 600000 + "\""}),
            ("nested too deeply", {"grammar": "root ::= " + "(" * 5000 + "\"a\"" + ")" * 5000}),
            ("a million", {"grammar": "root ::= \"a\"{1000000000}"}),
            ("more time or memory", {"grammar": "root ::= (([a-z]{1,9999}){1,9999}){90,9999} \"!\"", "max_tokens": 2000})]:
        answer = complete(server, **body)
        check(what in answer.get("error", {}).get("message", ""), (what, str(answer)[:500]))


# --- regular expressions and grammars ----------------------------------------------------------------

REGEXES = [r"[A-Z][a-z]{2,9}( [a-z]+){1,4}\.", r"(yes|no|maybe)", r"\d{4}-\d\d-\d\d", r"[^\W\d_]{3,6}", r"(a|ab)(c|bcd)(d*)",
           r"\w+@\w+\.(com|org)", r"[\u0400-\u04ff]{4}", r"(?:x{2,3}?|[y-z]+)\s\S{3}", r"\"[^\"]{0,20}\"", r"a{0}b{2,}c?"
           , r"(?P<n>[1-9]\d{0,2}|0)(,\d{3}){0,2}", r"[-+.\]\[]{3}\t\x41\u0042"]


def test_regexes(server, seeds):
    ended = 0
    for pattern in REGEXES:
        for choice in complete(server, regex_pattern=pattern, n=seeds, seed=5, max_tokens=200)["choices"]:
            if choice["finish_reason"] == "stop":
                ended += 1
                check(re.fullmatch(pattern, choice["text"], re.A), (pattern, choice["text"]))
    check(ended > len(REGEXES) * seeds * 0.7, ended)


ARITHMETIC = r"""
root  ::= sum "=" [0-9]+ # a comment
sum   ::= term (("+" | "-") term)*
term  ::= factor ("*" factor)*
factor ::= [1-9] [0-9]{0,2} |
           "(" sum ")"
"""


def test_grammars(server):
    for choice in complete(server, grammar=ARITHMETIC, n=16, seed=1, max_tokens=300)["choices"]:
        if choice["finish_reason"] == "stop":
            left, right = choice["text"].split("=")
            check(isinstance(eval(left), int) and right.isdigit(), choice)
    greedy = complete(server, grammar='root ::= "no" | "yes"', temperature=0)["choices"][0]
    check(greedy["text"] in ("yes", "no") and greedy["finish_reason"] == "stop", greedy)
    empty = complete(server, grammar='root ::= ""')["choices"][0]
    check(empty["text"] == "" and empty["finish_reason"] == "stop", empty)


# --- with everything else ----------------------------------------------------------------------------

def test_company(server):
    body = {"json_schema": SCHEMAS["record"], "seed": 11}
    alone = complete(server, **body)["choices"][0]["text"]
    check([c["text"] for c in complete(server, **body, n=3)["choices"]][0] == alone, "n = 3")
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="key", max_retries=0)
    stream = client.completions.create(model="x", prompt="The city of Paris", stream=True, seed=11,
                                       temperature=HOT["temperature"], max_tokens=HOT["max_tokens"],
                                       extra_body={"json_schema": SCHEMAS["record"]})
    check("".join(e.choices[0].text for e in stream) == alone, "a stream says the same")
    probabilities = complete(server, **body, logprobs=3)["choices"][0]
    check(probabilities["text"] == alone and len(probabilities["logprobs"]["tokens"]) > 5, probabilities)
    stopped = complete(server, **body, stop=["age"])["choices"][0]
    check(stopped["text"] == alone[:alone.index("age")], stopped)
    said = set()
    for seed in range(12):
        banned = complete(server, json_schema={"enum": ["paris", "roma", "rome"]}, seed=seed, banned_strings=["Ma", "RIS"])
        said.add(banned["choices"][0]["text"] if "choices" in banned else banned["error"]["message"])
    check('"rome"' in said and said <= {'"rome"', "no token is left that the request allows"}, said)
    nothing = complete(server, json_schema={"enum": ["paris"]}, banned_strings=["paris"])
    check("no token is left" in nothing.get("error", {}).get("message", ""), nothing)
    healed = complete(server, prompt="The capital of Fra", grammar='root ::= "nce is" | "nkfurt"', token_healing=True)
    check(healed["choices"][0]["text"] in ("nce is", "nkfurt"), healed)
    least = complete(server, regex_pattern="[a-z]{1,40}", min_tokens=6, temperature=0)
    check(least["usage"]["completion_tokens"] >= 6, least)
    sampled = complete(server, json_schema=SCHEMAS["record"], seed=2, top_k=20, top_p=0.9, min_p=0.01,
                       repetition_penalty=1.1, dry_multiplier=0.8, xtc_probability=0.5)["choices"][0]
    check(sampled["finish_reason"] == "length" or judge(SCHEMAS["record"], sampled["text"]) is None, sampled)
    one = complete(server, grammar='root ::= [ab]{40}', allowed_tokens=[], logit_bias={"64": 5}, ignore_eos=True)
    check(re.fullmatch("[ab]{40}", one["choices"][0]["text"]), one)


def test_preemption(program):
    """So little cache that sequences give up their pages and are computed again."""
    server = Server(program, "--max-context", "2048", "--max-batch", "8", "--cache-tokens", "2048")
    schema = {"type": "array", "items": SCHEMAS["record"], "minItems": 12, "maxItems": 14}
    for choice in complete(server, json_schema=schema, seed=4, n=8, max_tokens=900)["choices"]:
        check(choice["finish_reason"] == "length" or judge(schema, choice["text"]) is None, choice)
    server.stop()


# --- chats ---------------------------------------------------------------------------------------------

class Point(pydantic.BaseModel):
    x: int
    label: str = pydantic.Field(max_length=12)


TOOLS = [{"type": "function", "function": {"name": "move", "parameters": record(
    x={"type": "integer"}, to={"enum": ["left", "right"]})}},
    {"type": "function", "function": {"name": "clock"}}]
HELLO = [{"role": "user", "content": "Hi"}]
CALM = {"enable_thinking": False}


def test_chats(server):
    c = openai.OpenAI(base_url=server.url + "/v1", api_key="key", max_retries=0)
    common = {"model": "x", "messages": HELLO, "temperature": 1.2, "max_tokens": 400}
    for seed in range(6):
        a = c.chat.completions.parse(**common, seed=seed, response_format=Point, extra_body=CALM).choices[0]
        check(isinstance(a.message.parsed, Point), a)
        r = c.responses.parse(model="x", input="Hi", text_format=Point, temperature=1.2,
                              reasoning={"effort": "none"}, extra_body={"seed": seed})
        check(isinstance(r.output_parsed, Point), r)
    thinking = json.load(urllib.request.urlopen(urllib.request.Request(
        server.url + "/tokenize", json.dumps({"text": "</think>", "add_bos_token": False}).encode(),
        {"Authorization": "Bearer key"})))["tokens"]
    seen = 0
    for seed in range(12):
        t = c.chat.completions.create(**common, seed=seed, response_format=schema_format(SCHEMAS["record"]),
                                      logit_bias={str(thinking[0]): 18}).choices[0]
        if t.finish_reason == "stop":
            seen += 1
            check(judge(SCHEMAS["record"], t.message.content) is None, t)
    check(seen > 6, f"{seen} of 12 thought to an end")
    for seed in range(6):
        t = c.chat.completions.create(**common, seed=seed, tools=TOOLS, tool_choice="required",
                                      parallel_tool_calls=False, extra_body=CALM).choices[0]
        check(t.finish_reason == "tool_calls" and len(t.message.tool_calls) == 1, t)
        for call in t.message.tool_calls or []:
            arguments = json.loads(call.function.arguments)
            check(call.function.name in ("move", "clock"), call)
            if call.function.name == "move":
                check(judge(TOOLS[0]["function"]["parameters"], call.function.arguments) is None, call)
            check(isinstance(arguments, dict), call)
        named = common | {"seed": seed, "tools": TOOLS, "extra_body": CALM, "parallel_tool_calls": False,
                          "tool_choice": {"type": "function", "function": {"name": "move"}}}
        t = c.chat.completions.create(**named).choices[0]
        check([x.function.name for x in t.message.tool_calls] == ["move"], t)
        with c.chat.completions.stream(**named) as stream:
            final = stream.get_final_completion().choices[0]
        check([x.function.arguments for x in final.message.tool_calls] ==
              [x.function.arguments for x in t.message.tool_calls], final)
        both = c.chat.completions.create(**common, seed=seed, tools=TOOLS, extra_body=CALM,
                                         response_format=schema_format({"const": "no call"})).choices[0].message
        check(both.content == '"no call"' or both.tool_calls, both)


def main():
    plain = Server(sys.argv[1], "--max-batch", "8")
    test_refusals(plain)
    test_schemas(plain, SCHEMAS, 3)
    test_regexes(plain, 8)
    test_grammars(plain)
    test_company(plain)
    if len(sys.argv) > 3:
        test_more_schemas(plain, sys.argv[3])
    plain.stop()
    test_preemption(sys.argv[1])
    chat = Server(sys.argv[2], "--max-batch", "8")
    test_chats(chat)
    chat.stop()
    finish()


main()
