"""The server under test and the counting of checks, for the clients beside this file."""
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.request

passed = failed = 0


def check(condition, what):
    global passed, failed
    if condition:
        passed += 1
    else:
        failed += 1
        print("FAILED:", what)


def refused(kind, what, call):
    try:
        call()
        check(False, f"not refused: {what}")
    except kind as e:
        check(what in str(e), e)


def finish():
    print(f"{passed} passed, {failed} failed, 0 skipped")
    sys.exit(failed != 0)


class Server:
    """`PROGRAM serve` on a port of its own, with the metrics behind `key` where it has one."""

    def __init__(self, program, *options):
        self.process = subprocess.Popen([program, "serve", "--port", "0", "--device", os.environ.get("DEVICE", "cpu"), *options],
                                        stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"http://127.0.0.1:(\d+)", line):
                self.url = found[0]
                break
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def metric(self, name):
        request = urllib.request.Request(self.url + "/metrics", headers={"Authorization": "Bearer key"})
        text = urllib.request.urlopen(request).read().decode()
        return float(re.search(rf"^exlc:{name} (\S+)", text, re.M)[1])

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=20)


# Its answer is what this says, token by token: see tests/server/run.c.
DICTATED = {"temperature": 0, "presence_penalty": 100, "frequency_penalty": 100,
            "logit_bias": {"3163": 900, "4": 876, "1066": 852, "0": 828, "2": 804, "1364": 780, "3": 756, "1": 732}}
TOOLS = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}]
