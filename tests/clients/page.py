"""Drives the server's page with headless Chromium.

    python tests/clients/page.py PROGRAM CHAT

CHAT is the same model with tests/server/chat_template.jinja. Where there is no Chromium, says so and
counts as skipped.

Ends in "N passed, N failed, N skipped".
"""
import json
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

from server import Server, check, finish


class Page:
    """A page of the server, and what happens around it."""

    def __init__(self, browser, server):
        self.errors, self.requests = [], []
        self.tab = browser.new_page()
        self.tab.set_default_timeout(60000)
        self.tab.on("console", lambda m: m.type in ("error", "warning") and self.errors.append(m.text))
        self.tab.on("pageerror", lambda e: self.errors.append(str(e)))
        self.tab.on("request", lambda r: self.requests.append(r))
        self.tab.goto(server.url + "/")
        self.answers = self.tab.locator(".answer")

    def say(self, text):
        """Types and sends; the answer that then begins."""
        answer = self.answers.nth(self.answers.count())
        self.tab.get_by_label("Your text").fill(text)
        self.tab.get_by_label("Your text").press("Enter")
        return answer

    def set(self, **settings):
        self.tab.locator("details").evaluate("e => e.open = true")
        for name, value in settings.items():
            self.tab.locator("#" + name).fill(str(value))

    def wait(self):
        """Until the answer is there."""
        expect(self.tab.locator("#send")).to_be_enabled(timeout=60000)

    def sent(self):
        """The bodies of what was asked for."""
        return [json.loads(r.post_data) for r in self.requests if r.method == "POST"]

    def close(self, server):
        foreign = [r.url for r in self.requests if not r.url.startswith(server.url)]
        check(not foreign, f"from elsewhere: {foreign}")
        check(not self.errors, self.errors)
        self.tab.close()


def test_text(browser, server):
    """A model without a template continues texts."""
    page = Page(browser, server)
    expect(page.tab).to_have_title("wikilm")
    check(not page.tab.locator("#chat").is_checked(), "no template, no chat")
    page.set(max_tokens=12, temperature=0)
    first = page.say("The city of Paris")
    page.wait()
    text = first.inner_text()
    check(text.strip().startswith("is the most populous city"), text)
    check("tokens/s" in page.tab.locator("#speed").inner_text(), "the speed")

    # A long one is seen to grow, and stops when it is told to.
    page.set(max_tokens=1900)
    before = server.metric("requests_cancelled_total")
    second = page.say(" <b>Then</b>")
    expect(page.tab.locator("#stop")).to_be_enabled()
    lengths = []
    for _ in range(3):
        more = lengths[-1] if lengths else 0
        page.tab.wait_for_function("n => document.querySelectorAll('.answer')[1].textContent.length > n", arg=more)
        lengths.append(len(second.inner_text()))
    page.tab.locator("#stop").click()
    page.wait()
    check(lengths == sorted(set(lengths)), lengths)
    page.tab.wait_for_timeout(300)
    check(server.metric("requests_cancelled_total") == before + 1 and server.metric("requests_running") == 0,
          "stopping cancels")
    stopped = second.inner_text()
    page.tab.wait_for_timeout(200)
    check(second.inner_text() == stopped, "it stays stopped")
    check(page.tab.locator("b").count() == 0 and "<b>Then</b>" in page.tab.locator("#log").inner_text(),
          "markup is text")

    # Another turn continues all of it.
    page.set(max_tokens=5)
    page.say(" And")
    page.wait()
    sent = page.sent()
    check(sent[2]["prompt"] == sent[1]["prompt"] + second.text_content() + " And", sent)
    check(sent[1]["prompt"] == "The city of Paris" + first.text_content() + " <b>Then</b>", sent)

    # What the server refuses is shown, stays to be sent again, and is no part of the text.
    page.set(max_tokens=100000)
    page.say("x")
    page.wait()
    check("maximum context length" in page.tab.locator(".error").inner_text(), "the refusal")
    check(page.tab.get_by_label("Your text").input_value() == "x", "what was refused is there again")
    page.set(max_tokens=1)
    page.say("y")
    page.wait()
    sent = page.sent()
    check(sent[4]["prompt"] == sent[3]["prompt"][:-1] + "y", sent)
    page.tab.locator("#clear").click()
    check(page.tab.locator("#log").inner_text() == "", "cleared")
    page.errors = [e for e in page.errors if "400" not in e]  # the browser's own note of the refusal
    page.close(server)


def test_chat(browser, server):
    page = Page(browser, server)
    expect(page.tab).to_have_title("chatlm")
    check(page.tab.locator("#chat").is_checked(), "a template, a chat")
    page.set(max_tokens=10, temperature=0)
    page.say("Hi")
    page.wait()
    thought = page.tab.locator(".thought").last.text_content()
    check(thought, "reasoning is shown")
    page.say("And?")
    page.wait()
    first, second = page.sent()
    check([m["role"] for m in second["messages"]] == ["user", "assistant", "user"], second)
    check(second["messages"][0] == first["messages"][0] and second["messages"][2]["content"] == "And?", second)
    check(page.answers.count() == 2, "two turns")
    page.close(server)


def test_key(browser, program):
    server = Server(program, "--api-key", "key")
    page = Page(browser, server)
    page.set(max_tokens=3, key="key")
    answer = page.say("The city")
    page.wait()
    check(answer.text_content(), "with the key")
    page.tab.close()
    server.stop()


def main():
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if not chromium:
        print("skipped: the page needs Chromium (Debian's package chromium)")
        print("0 passed, 0 failed, 1 skipped")
        return
    with sync_playwright() as p:
        browser = p.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        server = Server(sys.argv[1])
        test_text(browser, server)
        server.stop()
        server = Server(sys.argv[2])
        test_chat(browser, server)
        server.stop()
        test_key(browser, sys.argv[1])
        browser.close()
    finish()


main()
