"""Many mixed requests, random cancels and malformed bodies against one server.

    python tests/clients/soak.py PROGRAM TEXT [REQUESTS [SEED]]

The server runs with --deterministic and a cache too small for its batch. Every answer is asked for
twice, in company of others each time, and must be the same; nothing may crash, grow or stay behind.
Ends in "N passed, N failed, N skipped".
"""
import json
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
}


class Soak:
    def __init__(self, program, text, requests, seed):
        self.text, self.requests, self.rng = text, requests, random.Random(seed)
        self.lock, self.answers, self.counts = threading.Lock(), {}, {"same": 0, "refused": 0, "left": 0}
        self.failures = []
        self.server = subprocess.Popen(
            [program, "serve", "--port", "0", "--device", "cpu", "--deterministic", "--chunk", "256",
             "--cache-tokens", "8192"], stderr=subprocess.PIPE, text=True)
        for line in self.server.stderr:
            if found := re.search(r"127.0.0.1:(\d+)", line):
                self.port = int(found[1])
                break
        threading.Thread(target=self.server.stderr.read, daemon=True).start()

    def body(self):
        rng = self.rng
        start = rng.randrange(len(self.text) - 6000) if rng.random() < 0.6 else 0
        body = {"prompt": self.text[start:start + rng.choice([1, 10, 80, 600, 3000])], "seed": rng.randrange(1000),
                "max_tokens": rng.choice([0, 1, 5, 30, 60])}
        for name in rng.sample(sorted(FIELDS), rng.randrange(6)):
            body[name] = rng.choice(FIELDS[name])
        return body

    def post(self, data):
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}/v1/completions", data)
        text = urllib.request.urlopen(request, timeout=300).read().decode()
        if text.startswith("data: "):
            pieces = {}
            for line in text.split("\n"):
                if line.startswith("data: {"):
                    for c in json.loads(line[6:])["choices"]:
                        pieces[c["index"]] = pieces.get(c["index"], "") + c["text"]
            return [pieces[i] for i in sorted(pieces)]
        return [c["text"] for c in json.loads(text)["choices"]]

    def leave(self, data, wait):
        with socket.create_connection(("127.0.0.1", self.port)) as s:
            s.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(data) + data)
            time.sleep(wait)

    def one(self, what, data, wait):
        try:
            if what == "leave":
                self.leave(data, wait)
                key = "left"
            else:
                answer = self.post(data)
                with self.lock:
                    if self.answers.setdefault(data, answer) != answer and what == "ask":
                        self.failures.append((data[:300], self.answers[data], answer))
                key = "same"
        except urllib.error.HTTPError as e:
            error = json.load(e)["error"]
            key = "refused"
            if e.code != 400 or not error["message"]:
                with self.lock:
                    self.failures.append((e.code, error, data[:300]))
        with self.lock:
            self.counts[key] += 1

    def worker(self, jobs):
        for what, data, wait in jobs:
            try:
                self.one(what, data, wait)
            except Exception as e:  # noqa: BLE001: whatever it is, it is a failure to report
                with self.lock:
                    self.failures.append((repr(e), data[:300]))

    def memory(self):
        with open(f"/proc/{self.server.pid}/status") as f:
            return int(re.search(r"VmRSS:\s+(\d+)", f.read())[1])

    def run(self):
        jobs = []
        for _ in range(self.requests // 2):
            data, kind = json.dumps(self.body()).encode(), self.rng.random()
            if kind < 0.1:
                broken = bytearray(data)
                broken[self.rng.randrange(len(broken))] ^= 1 << self.rng.randrange(8)
                jobs.append(("ask", bytes(broken), 0))
            if kind > 0.85:
                jobs.append(("leave", data, self.rng.random() * 0.2))
            else:
                jobs += [("ask", data, 0)] * 2
        self.rng.shuffle(jobs)
        parts, sizes = 4, []
        for part in range(parts):
            mine = jobs[part * len(jobs) // parts:(part + 1) * len(jobs) // parts]
            threads = [threading.Thread(target=self.worker, args=(mine[i::CLIENTS],)) for i in range(CLIENTS)]
            for t in threads:
                t.start()
            for t in threads:
                t.join()
            sizes.append(self.memory())
        state = json.load(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/cache"))
        checks = {
            "no failures": not self.failures,
            "nothing runs, waits or holds pages": not (state["running"] or state["queued"] or state["pages_used"]),
            # Pages of the cache are touched one after the other, so that it grows at first.
            f"memory is flat: {sizes} KiB": sizes[-1] < sizes[1] + 8192,
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
