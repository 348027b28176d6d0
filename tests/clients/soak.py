"""Many mixed requests, random cancels and malformed bodies against one server.

    python tests/clients/soak.py PROGRAM TEXT [REQUESTS [SEED]]

PROGRAM, run on DEVICE (cpu), is a model with tests/server/chat_template.jinja; half of the requests are
completions, the others chats, responses and Anthropic's messages. The server runs with --deterministic and
a cache too small for its batch. Python's own library is enough. Every answer is asked for twice, in company of others each time, and must be the same; in the
end every tenth is asked for once more, alone. Nothing may crash, grow or stay behind.
Ends in "N passed, N failed, N skipped".
"""
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request

from server import DICTATED

CLIENTS = 8
FIELDS = {
    "temperature": [0, 0.5, 1, 2], "top_p": [1, 0.9, 0.1], "top_k": [0, -1, 5, 40], "min_p": [0, 0.1],
    "typical": [1, 0.5], "tfs": [1, 0.9], "top_a": [0, 0.2], "top_n_sigma": [0, 1], "smoothing_factor": [0.3],
    "xtc_probability": [0, 0.5, 1], "xtc_random": [True, False], "repetition_penalty": [1, 1.2],
    "presence_penalty": [0, 1, -1], "frequency_penalty": [0, 0.5], "penalty_range": [-1, 0, 5],
    "repetition_decay": [0, 10], "dry_multiplier": [0, 0.8], "mirostat": [0, 1, 2], "adaptive_target": [1, 0.3],
    "skew": [0, 0.5], "max_temp": [0, 2], "temperature_last": [True], "stop": ["the", "\n", ["a b", "of"], [" "]],
    "banned_strings": [["the"], ["of the", "city"]], "min_tokens": [0, 4], "logprobs": [None, 0, 3], "n": [1, 3],
    "token_healing": [True, False], "loop_detect_window": [0, 32], "echo": [True], "logit_bias": [{"5": 3}],
    "banned_tokens": [[300, 301]], "allowed_tokens": [list(range(200, 900))], "ignore_eos": [True],
    "priority": [-1, 0, 3], "stream": [True, False],
    "regex_pattern": [r"[A-Z][a-z]{2,9}( [a-z]+){1,9}\.", r"\d{1,3}(,\d{3})*"],
    "grammar": ['root ::= "(" root ")" | [a-z ]+'],
    "json_schema": [{}, {"type": "array", "items": {"enum": ["the", "of", 1]}, "maxItems": 9},
                    {"type": "string", "maxLength": 30}],
}

# Of those, what other paths than completions do not take.
UNKNOWN = {"chat/completions": {"echo", "logprobs"}, "responses": {"echo", "logprobs", "stop", "n"},
           "messages": {"echo", "logprobs", "stop", "n"}}
LENGTH = {"completions": "max_tokens", "chat/completions": "max_tokens", "responses": "max_output_tokens",
          "messages": "max_tokens"}
SCHEMA = {"type": "object", "properties": {}}
TOOL = {"chat/completions": {"type": "function", "function": {"name": "clock", "parameters": SCHEMA}},
        "responses": {"type": "function", "name": "clock", "parameters": SCHEMA},
        "messages": {"name": "clock", "input_schema": SCHEMA}}
# What differs between two answers to one request.
OWN = {"id", "call_id", "created", "created_at", "usage", "index"}


def plain(answer):
    """An answer without what is new in each."""
    if isinstance(answer, dict):
        return {k: plain(v) for k, v in answer.items() if k not in OWN}
    return [plain(v) for v in answer] if isinstance(answer, list) else answer


def joined(events):
    """What the events of a stream say, wherever they were cut."""
    pieces, kept = {}, []
    for e in events:
        if e.get("type") in ("response.completed", "response.incomplete", "response.failed"):
            return plain(e["response"])
        for c in e.get("choices", []):
            for key, value in (c["delta"] if "delta" in c else {"text": c["text"]}).items():
                at = (c["index"], key)
                pieces[at] = pieces.get(at, "") + (value if isinstance(value, str) else json.dumps(plain(value)))
        if e.get("type") == "content_block_start":
            kept.append(plain(e["content_block"]))
        elif e.get("type") == "content_block_delta":
            at = (e["index"], e["delta"]["type"])
            pieces[at] = pieces.get(at, "") + next(v for k, v in e["delta"].items() if k != "type")
        elif e.get("type") == "message_delta":
            kept.append(e["delta"])
    return sorted(pieces.items()), kept


class Soak:
    def __init__(self, program, text, requests, seed):
        self.text, self.requests, self.rng = text, requests, random.Random(seed)
        self.lock, self.answers, self.counts = threading.Lock(), {}, {"same": 0, "alone": 0, "refused": 0, "left": 0}
        self.failures = []
        self.server = subprocess.Popen(
            [program, "serve", "--port", "0", "--device", os.environ.get("DEVICE", "cpu"), "--deterministic", "--chunk", "256",
             "--cache-tokens", "8192"], stderr=subprocess.PIPE, text=True)
        for line in self.server.stderr:
            if found := re.search(r"127.0.0.1:(\d+)", line):
                self.port = int(found[1])
                break
        threading.Thread(target=self.server.stderr.read, daemon=True).start()

    def body(self):
        rng = self.rng
        start = rng.randrange(len(self.text) - 6000) if rng.random() < 0.6 else 0
        text = self.text[start:start + rng.choice([1, 10, 80, 600, 3000])]
        path = rng.choice(["completions"] * 3 + sorted(UNKNOWN))
        body = {"seed": rng.randrange(1000), LENGTH[path]: rng.choice([0, 1, 5, 30, 60])}
        if path == "completions":
            body["prompt"] = text
        else:
            body["input" if path == "responses" else "messages"] = [{"role": "user", "content": text}]
            if rng.random() < 0.3:
                body["tools"] = [TOOL[path]]
            if rng.random() < 0.2:
                body |= DICTATED
        for name in rng.sample(sorted(FIELDS), rng.randrange(6)):
            if name not in UNKNOWN.get(path, ()):
                body[name] = rng.choice(FIELDS[name])
        return "/v1/" + path, json.dumps(body).encode()

    def post(self, path, data):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data)
        text = urllib.request.urlopen(request, timeout=900).read().decode()
        lines = [line[6:] for line in text.split("\n") if line.startswith("data: {")]
        return joined([json.loads(line) for line in lines]) if lines else plain(json.loads(text))

    def leave(self, path, data, wait):
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(b"POST %s HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" %
                      (path.encode(), len(data)) + data)
            time.sleep(wait)

    def one(self, what, path, data, wait):
        try:
            if what == "leave":
                self.leave(path, data, wait)
                key = "left"
            else:
                answer = self.post(path, data)
                with self.lock:
                    if self.answers.setdefault((path, data), answer) != answer:
                        self.failures.append((path, data[:300], self.answers[path, data], answer))
                key = "alone" if what == "alone" else "same"
        except urllib.error.HTTPError as e:
            error = json.load(e)["error"]
            key = "refused"
            if e.code != 400 or not error["message"]:
                with self.lock:
                    self.failures.append((e.code, error, path, data[:300]))
        with self.lock:
            self.counts[key] += 1

    def worker(self, jobs):
        for what, path, data, wait in jobs:
            try:
                self.one(what, path, data, wait)
            except Exception as e:  # noqa: BLE001: whatever it is, it is a failure to report
                with self.lock:
                    self.failures.append((repr(e), path, data[:300]))

    def memory(self):
        with open(f"/proc/{self.server.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])

    def run(self):
        jobs = []
        for _ in range(self.requests // 2):
            (path, data), kind = self.body(), self.rng.random()
            if kind < 0.1:
                broken = bytearray(data)
                broken[self.rng.randrange(len(broken))] ^= 1 << self.rng.randrange(8)
                jobs.append(("ask", path, bytes(broken), 0))
            if kind > 0.85:
                jobs.append(("leave", path, data, self.rng.random() * 0.2))
            else:
                jobs += [("ask", path, data, 0)] * 2
        self.rng.shuffle(jobs)
        parts, sizes = 8, []
        for part in range(parts):
            mine = jobs[part * len(jobs) // parts:(part + 1) * len(jobs) // parts]
            threads = [threading.Thread(target=self.worker, args=(mine[i::CLIENTS],)) for i in range(CLIENTS)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            sizes.append(self.memory())
            print(sum(self.counts.values()), "requests,", len(self.failures), "failures,", sizes[-1], "KiB", flush=True)
        for i, (path, data) in enumerate(sorted(self.answers)):
            if i % 10 == 0:
                self.one("alone", path, data, 0)
        state = json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/cache"))
        checks = {
            "no failures": not self.failures,
            "nothing runs, waits or holds pages": not (state["running"] or state["queued"] or state["pages_used"]),
            # Pages of the cache are touched one after the other, so that it grows at first.
            f"memory is flat: {sizes} KiB": sizes[-1] < sizes[parts // 2 - 1] + 8192,
            "SIGTERM ends it": (self.server.send_signal(signal.SIGTERM), self.server.wait(timeout=20))[1] == 0,
        }
        print(len(jobs), "requests:", self.counts, "memory", sizes, "KiB, cache", state)
        for failure in self.failures[:5]:
            print("FAILED:", failure)
        for what, good in checks.items():
            if not good:
                print("FAILED:", what)
        failed = sum(not good for good in checks.values())
        print(f"{len(checks) - failed} passed, {failed} failed, 0 skipped")
        return failed != 0


if __name__ == "__main__":
    with open(sys.argv[2], encoding="utf-8") as f:
        soak = Soak(sys.argv[1], f.read(), int(sys.argv[3]) if len(sys.argv) > 3 else 400,
                    int(sys.argv[4]) if len(sys.argv) > 4 else 1)
    sys.exit(soak.run())
