"""Random schemas and regular expressions, and what is written for them, against jsonschema and re.

    python tests/clients/grammars.py DRIVER [SECONDS] [SEED]

DRIVER is build/grammar_driver. Whatever it writes or accepts for a schema must be valid under it, and
whatever it writes must be able to end. What is valid and not accepted is counted: all that is written
in the documented form must be accepted.
"""
import json
import random
import re
import subprocess
import sys
import time

import jsonschema

FAILED = 0


class Driver:
    def __init__(self, path):
        self.process = subprocess.Popen([path], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def ask(self, **request):
        self.process.stdin.write((json.dumps(request) + "\n").encode())
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            sys.exit(f"the driver died of {json.dumps(request)}")
        return json.loads(line)


def report(what, *details):
    global FAILED
    FAILED += 1
    if FAILED < 20:
        print(what, *(d if isinstance(d, str) else json.dumps(d) for d in details), file=sys.stderr)


# --- schemas ---------------------------------------------------------------------------------------

NAMES = ["a", "b", "ab", "", "é", "k\"", "x y"]
PATTERNS = ["^[a-c]{1,3}$", "a|b", "^a", "b$", "^\\S+$", "^[^\\S]$", "^(ab|a)+c?$", "^[^a-y]*$", "\\d{2}", "^.$", "[\"\\\\]",
            "^\\w{0,4}$", "^(a?b?){2}$", "x{0}", "^[\\s]{1,2}$", "^a|b$", "^[\u00e0-\u00ff]+$", "^a*|c$"]
FORMATS = ["date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid"]


class Maker:
    """Random schemas, and values near them."""

    def __init__(self, seed):
        self.random = random.Random(seed)

    def some(self, *chances):
        return self.random.choice(chances)

    def number(self):
        r = self.random
        return self.some(0, 1, -1, 2, 0.5, -0.25, 10, 99, 100, -7, 1e-7, 1.5e-9, 123456.789, 1e15, -1e15, 0.1 + 0.2, 2 / 3, 1.0,
                         r.randint(-1000, 1000), r.uniform(-3, 3), round(r.uniform(-99, 99), 2), r.uniform(-1, 1) * 10 ** r.randint(-12, 15))

    def text(self):
        return "".join(self.some("a", "b", "c", "1", "2", " ", "\n", "é", "\"", "\\", "x", "\u200b", "\u0663", "😀")
                       for _ in range(self.random.randint(0, 4)))

    def value(self, depth=0):
        kind = self.random.randint(0, 7 if depth < 2 else 5)
        if kind == 0:
            return None
        if kind == 1:
            return self.some(True, False)
        if kind < 4:
            return self.number()
        if kind < 6:
            return self.text()
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        return {self.some(*NAMES): self.value(depth + 1) for _ in range(self.random.randint(0, 3))}

    def number_keywords(self):
        s = {}
        for key in "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum":
            if not self.random.randint(0, 2):
                s[key] = self.number()
        if not self.random.randint(0, 9):
            s["multipleOf"] = 1
        return s

    def string_keywords(self):
        s, kind = {}, self.random.randint(0, 5)
        if kind in (0, 1):
            s["minLength"] = self.random.randint(0, 3)
        if kind in (1, 2):
            s["maxLength"] = self.random.randint(0, 4)
        if kind in (3, 4):
            s["pattern"] = self.some(*PATTERNS)
        if kind == 5 and not self.random.randint(0, 2):
            s["format"] = self.some(*FORMATS)
        return s

    def array_keywords(self, depth):
        s = {}
        if self.random.randint(0, 2):
            s["items"] = self.schema(depth + 1)
        if not self.random.randint(0, 2):
            s["prefixItems"] = [self.schema(depth + 1) for _ in range(self.random.randint(1, 3))]
        if not self.random.randint(0, 2):
            s["minItems"] = self.random.randint(0, 3)
        if not self.random.randint(0, 2):
            s["maxItems"] = self.random.randint(0, 4)
        if not self.random.randint(0, 9):
            s["unevaluatedItems"] = False
        return s

    def object_keywords(self, depth):
        s = {}
        if self.random.randint(0, 4):
            s["properties"] = {self.some(*NAMES): self.schema(depth + 1) for _ in range(self.random.randint(0, 4))}
        if self.random.randint(0, 1):
            s["required"] = list({self.some(*NAMES) for _ in range(self.random.randint(0, 2))})
        if not self.random.randint(0, 2):
            s["additionalProperties"] = self.schema(depth + 1)
        if not self.random.randint(0, 6):
            s["patternProperties"] = {self.some(*PATTERNS): self.schema(depth + 1)}
        if not self.random.randint(0, 8):
            s["propertyNames"] = self.some({"pattern": self.some(*PATTERNS)}, {"maxLength": 2}, {"enum": ["a", "zz"]}, True)
        if not self.random.randint(0, 5):
            s["minProperties"] = self.random.randint(0, 2)
        if not self.random.randint(0, 5):
            s["maxProperties"] = self.random.randint(0, 3)
        if not self.random.randint(0, 9):
            s["unevaluatedProperties"] = False
        return s

    def schema(self, depth=0):
        r = self.random
        if depth > 3 or not r.randint(0, 11):
            return self.some(True, False, {}, {"type": "null"}, {"type": "integer"}, {"const": 1}, {"type": "string"})
        s = {}
        kinds = r.sample(["object", "array", "string", "number", "integer", "boolean", "null"], self.some(1, 1, 1, 1, 2, 3))
        if r.randint(0, 4):
            s["type"] = kinds[0] if len(kinds) == 1 and r.randint(0, 3) else kinds
        elif not r.randint(0, 3):
            kinds = []
        for kind in kinds:
            if kind == "object":
                s |= self.object_keywords(depth)
            if kind == "array":
                s |= self.array_keywords(depth)
            if kind == "string":
                s |= self.string_keywords()
            if kind in ("number", "integer"):
                s |= self.number_keywords()
        if not r.randint(0, 6):
            s["enum"] = [self.value() for _ in range(r.randint(1, 4))]
        if not r.randint(0, 14):
            s["const"] = self.value()
        for key in "anyOf", "allOf", "oneOf":
            if not r.randint(0, 8):
                s[key] = [self.schema(depth + 1) for _ in range(r.randint(1, 3))]
        if not r.randint(0, 14):
            s["$ref"] = self.some("#/$defs/d", "#/$defs/e", "#")
        if not r.randint(0, 14):
            s["title"] = s["x-unknown"] = "t%d" % r.randint(0, 9)
        return s

    def whole(self):
        s = self.schema()
        if isinstance(s, dict):
            s["$defs"] = {"d": self.schema(1), "e": self.schema(1)}
        return s


def written(value, r):
    """The text of a value with some of the white space that is documented, its members in their order."""
    def space():
        return r.choice(["", "", " ", "\n", "\n  ", "\n\t"])

    if isinstance(value, list):
        return "[" + space() + ("," + space()).join(written(v, r) for v in value) + (space() if value else "") + "]"
    if isinstance(value, dict):
        pairs = [json.dumps(k, ensure_ascii=False) + ":" + space() + written(v, r) for k, v in value.items()]
        return "{" + space() + ("," + space()).join(pairs) + (space() if value else "") + "}"
    return json.dumps(value, ensure_ascii=False)


def judge(schema):
    kind = jsonschema.Draft202012Validator
    return kind(schema, format_checker=kind.FORMAT_CHECKER)


def is_valid(validator, text):
    try:
        return validator.is_valid(json.loads(text))
    except RecursionError:
        return None


def test_schema(driver, maker, counts):
    schema = maker.whole()
    texts = [written(maker.value(), maker.random) for _ in range(25)]
    answer = driver.ask(schema=schema, check=texts, walks=8, seed=maker.random.randint(0, 1 << 30))
    if "error" in answer:
        counts["refused"] += 1
        if "\n" in answer["error"] or not answer["error"]:
            report("an error of several lines", schema, answer["error"])
        return
    validator = judge(schema)
    for text in answer["texts"]:
        try:
            good = is_valid(validator, text)
        except ValueError as e:
            report("no JSON", schema, text, str(e))
            continue
        counts["valid"] += 1
        if good is False:
            report("written, and not valid", schema, text)
    for text in answer["stuck"]:
        report("nothing can follow", schema, text)
    for text, accepted in zip(texts, answer["accepted"]):
        good = is_valid(validator, text)
        counts["accepted"] += accepted == 1
        counts["left out"] += accepted != 1 and good is True
        if accepted == 1 and good is False:
            report("accepted, and not valid", schema, text)


# --- regular expressions ---------------------------------------------------------------------------

def expression(r, depth=0):
    kind = r.randint(0, 9)
    if depth > 3 or kind < 4:
        return r.choice(["a", "b", "c", ".", "\\d", "\\w", "\\s", "\\S", "\\W", "\\D", "[ab]", "[^a]", "[a-c1-3]", "[^\\w]", "[^\\S]",
                         "[\\d-]", "\\x61", "\\u00e9", "é", "\\.", "[]a]", "[^]a]", "\\n", "-", "{", "[\\b]", "a"])
    if kind < 6:
        return "".join(expression(r, depth + 1) for _ in range(r.randint(0, 3)))
    if kind == 6:
        return r.choice(["(", "(?:", "(?P<n%d>" % r.randint(0, 1 << 30)]) + "|".join(
            expression(r, depth + 1) for _ in range(r.randint(1, 3))) + ")"
    return "(?:" + expression(r, depth + 1) + ")" + r.choice(["*", "+", "?", "{2}", "{0,2}", "{1,}", "*?", "{2,3}?", "{0}"])


def test_regex(driver, r, counts):
    inner = expression(r)
    begins, ends = r.choice(["", "^"]), r.choice(["", "$"])
    if "|" not in re.sub(r"\(.*\)", "", inner):
        inner = begins + inner + ends
    try:
        whole = re.compile(inner, re.A)
    except re.error:
        return
    texts = ["".join(r.choice("aabbc1 \n.-é{_\u2028]") for _ in range(r.randint(0, 6))) for _ in range(40)]
    seed = r.randint(0, 1 << 30)
    full = driver.ask(regex=inner, check=texts, walks=6, seed=seed)
    part = driver.ask(search=inner, check=texts, walks=6, seed=seed)
    if "error" in full or "error" in part:
        counts["refused"] += 1
        return
    exact = re.compile(inner.replace("$", "\\Z") if inner.endswith("$") else inner, re.A)
    for answer, match in (full, whole.fullmatch), (part, exact.search):
        for text in answer["texts"]:
            if len(text) > 15: # which may take re an eternity
                continue
            counts["valid"] += 1
            if not match(text):
                report("written, and no match", inner, text)
        for text in answer["stuck"]:
            report("nothing can follow", inner, text)
        for text, accepted in zip(texts, answer["accepted"]):
            # The dot and \S leave out what is an end of line or white space to somebody else.
            if (accepted == 1) != bool(match(text)) and (accepted == 1 or not re.search("[\u2028]", text)):
                report("accepted" if accepted == 1 else "not accepted", inner, text)
            counts["accepted"] += accepted == 1


def main():
    driver, seconds = Driver(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 10
    seed = int(sys.argv[3]) if len(sys.argv) > 3 else 1
    counts = {kind: {"refused": 0, "valid": 0, "accepted": 0, "left out": 0} for kind in ("schemas", "expressions")}
    end, cases = time.time() + seconds, 0
    while time.time() < end:
        seed += 1
        cases += 2
        test_schema(driver, Maker(seed), counts["schemas"])
        test_regex(driver, random.Random(seed), counts["expressions"])
    print(counts, file=sys.stderr)
    print(f"{cases - FAILED} passed, {FAILED} failed, 0 skipped")
    sys.exit(FAILED > 0)


main()
