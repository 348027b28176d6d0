"""Holds the program's chat templates against Jinja, live, as transformers sets it up.

    python tests/clients/templates.py DRIVER [DIR...]

Renders the templates of tests/data/templates, and every *.jinja under the DIRs given, with the
conversations of tests/oracle/record_templates.py and those of a DIR's contexts.json
({"contexts": {name: request}}), each with and without add_generation_prompt.
"""
import glob
import json
import os
import subprocess
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "oracle"))
import record_templates as oracle  # noqa: E402


def gather(dirs):
    """(name, template, request) of everything there is."""
    conversations = dict(oracle.CONVERSATIONS)
    paths = glob.glob(os.path.join(ROOT, "data", "templates", "[!c]*.jinja")) + \
        glob.glob(os.path.join(ROOT, "data", "templates", "chatml.jinja"))
    for d in dirs:
        for path in glob.glob(os.path.join(d, "**", "contexts.json"), recursive=True):
            conversations.update(json.load(open(path, encoding="utf-8"))["contexts"])
        paths += glob.glob(os.path.join(d, "**", "*.jinja"), recursive=True)
    for path in sorted(paths):
        template = open(path, encoding="utf-8", newline="").read()
        for title, request in conversations.items():
            for prompt in (False, True):
                if prompt and request.get("continue_final_message"):
                    continue
                yield (f"{os.path.basename(path)}, {title}, {prompt}", template,
                       {"bos_token": "<s>", "eos_token": "</s>", **request, "add_generation_prompt": prompt})


def main():
    driver, dirs = sys.argv[1], sys.argv[2:]
    if not dirs:
        print("skipped: no directories with templates of models (TEMPLATES=DIR)")
    cases = list(gather(dirs))
    now = int(oracle.NOW.replace(tzinfo=oracle.datetime.timezone.utc).timestamp())
    lines = "".join(json.dumps({"template": t, "request": r, "now": now}) + "\n" for _, t, r in cases)
    run = subprocess.run([driver], input=lines.encode(), stdout=subprocess.PIPE, check=True,
                         env={**os.environ, "TZ": "UTC"})
    passed = failed = 0
    for (name, template, request), line in zip(cases, run.stdout.decode().split("\n")):
        found, expected = json.loads(line), oracle.render(template, request)
        same = found.get("text") == expected.get("text")
        if expected.get("error") is not None:
            same = same and found.get("error") == expected["error"]
        passed, failed = passed + same, failed + (not same)
        if not same and failed < 20:
            print(f"FAILED: {name}\n  found    {found!r:.2000}\n  expected {expected!r:.2000}")
    print(f"{passed} passed, {failed} failed, {0 if dirs else 1} skipped")
    return failed != 0


if __name__ == "__main__":
    sys.exit(main())
