"""The judge against a server on this machine that answers well, slowly, brokenly, or not at all."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import deque
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unimedvl import endpoint as module
from unimedvl.errors import ConfigError, DataError
from unimedvl.eval.judge import PROMPT, Judge, KeptJudge

ASKED = ("Which organ?", ("spleen", "the spleen"), "It is the spleen.")


def reply(content, **more):
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": content}}
    return {"model": "judge-2025-01", "system_fingerprint": "fp_7", "choices": [choice], **more}


class Server(ThreadingHTTPServer):
    """Gives its ``replies`` in turn: (status, headers, body, seconds to wait); the last one again and again."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies = deque()
        self.requests = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"

    def say(self, body, status=200, headers=(), wait=0.0):
        self.replies.append(
            (status, dict(headers), body if isinstance(body, bytes) else json.dumps(body).encode(), wait)
        )


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        server = cast(Server, self.server)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        server.requests.append((self.path, dict(self.headers), body, time.monotonic()))
        status, headers, content, wait = server.replies.popleft() if len(server.replies) > 1 else server.replies[0]
        time.sleep(wait)
        if status == 0:  # hang up without a word
            self.close_connection = True
            return
        try:
            self.send_response(status)
            for name, value in {"Content-Length": str(len(content)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            assert wait  # only a client that did not want to wait may have gone

    def log_message(self, *_):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def judge(server):
    return Judge(server.url, "judge", attempts=3, timeout=5, pause=0.01)


def test_a_judgement_tells_who_judged_what_how(server, judge, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", " secret\n")
    server.say(reply('{"right": true}'))
    said = judge.verdict(*ASKED)
    assert (said.verdict, said.reply, said.problem, said.attempts) == ("right", '{"right": true}', "", 1)
    assert (said.model, said.answered_by, said.fingerprint) == ("judge", "judge-2025-01", "fp_7")
    assert said.prompt_sha256 == hashlib.sha256(PROMPT.encode()).hexdigest()
    ((path, headers, body, _),) = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["temperature"]) == ("judge", 0.0)
    (message,) = body["messages"]
    assert message["role"] == "user"
    assert '"Which organ?"' in message["content"]
    assert '["spleen", "the spleen"]' in message["content"]
    assert '"It is the spleen."' in message["content"]


def test_no_key_no_temperature_and_a_slash(server, judge):
    server.say(reply('{"right": false}', system_fingerprint=None))
    said = replace(judge, url=server.url + "/", temperature=None).verdict(*ASKED)
    assert (said.verdict, said.fingerprint) == ("wrong", "")
    ((path, headers, body, _),) = server.requests
    assert path == "/v1/chat/completions"
    assert "Authorization" not in headers
    assert "temperature" not in body


@pytest.mark.parametrize(
    ("content", "verdict"),
    [
        ('{"right": true}', "right"),
        ('{"right": false, "why": "other organ {left}"}', "wrong"),
        ('```json\n{"right": true}\n```', "right"),
        ('Sure: {not json} {"right": false}. Done', "wrong"),
        ('<think>{"right": false}?</think>{"right": true}', "right"),
        ('{"right": true} {"right": true}', "right"),
        ([{"type": "text", "text": '{"right":'}, {"type": "text", "text": " true}"}], "right"),
        ('{"right": true} or {"right": false}', "unmatched"),
        ('{"right": "true"}', "unmatched"),
        ('{"right": 1}', "unmatched"),
        ('{"right": null}', "unmatched"),
        ('{"wrong": false}', "unmatched"),
        ('{"right": true', "unmatched"),
        ("right", "unmatched"),
        ("Yes, the answer is right.", "unmatched"),
        ("", "unmatched"),
        (None, "unmatched"),
        ([{"type": "image"}], "unmatched"),
    ],
)
def test_replies(server, judge, content, verdict):
    server.say(reply(content))
    said = judge.verdict(*ASKED)
    assert said.verdict == verdict
    assert bool(said.problem) == (verdict == "unmatched")
    assert len(server.requests) == said.attempts == (judge.attempts if verdict == "unmatched" else 1)
    assert said.answered_by == "judge-2025-01"


@pytest.mark.parametrize(
    "body",
    [b"", b"<html>busy</html>", b'{"choices": [', b"[]", b"null", b"\xff\xfe", b"{}", b'{"choices": []}',
     b'{"choices": null}', b'{"choices": [{"message": "x"}]}', b'{"error": {"message": "overloaded"}}'],
)  # fmt: skip
def test_broken_bodies_are_asked_again_and_not_guessed(server, judge, body):
    server.say(body)
    said = judge.verdict(*ASKED)
    assert (said.verdict, said.reply, said.attempts) == ("unmatched", "", 3)
    assert "reply" in said.problem
    server.replies.clear()
    server.say(body)
    server.say(reply('{"right": true}'))
    said = judge.verdict(*ASKED)
    assert (said.verdict, said.problem, said.attempts) == ("right", "", 2)


FAULTS = {
    "rate limit": {"status": 429},
    "request timeout": {"status": 408},
    "server error": {"status": 500},
    "overloaded": {"status": 503},
    "hangs up": {"status": 0},
    "torn body": {"headers": {"Content-Length": "999"}},
    "slow": {"wait": 0.6},
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_passing_faults_are_asked_again(server, judge, fault):
    server.say(reply('{"right": false}'), **fault)
    server.say(reply('{"right": true}'))
    said = replace(judge, timeout=0.3).verdict(*ASKED)  # shorter than the slow server takes
    assert (said.verdict, said.attempts) == ("right", 2)


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_lasting_faults_are_an_error_and_no_verdict(server, judge, fault):
    server.say(reply('{"right": true}'), **fault)
    with pytest.raises(DataError, match=f"after 3 attempts: .*{server.url}.*later") as told:
        replace(judge, timeout=0.3).verdict(*ASKED)
    assert "\n" not in str(told.value)
    assert len(server.requests) == 3


def test_nobody_there(server, judge):
    port = server.server_port + 1 if server.server_port < 65535 else server.server_port - 1
    with pytest.raises(DataError, match="ConnectionRefusedError"):
        replace(judge, url=f"http://127.0.0.1:{port}/v1").verdict(*ASKED)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 307])
def test_refusals_are_told_at_once_without_the_key(server, judge, status, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    server.say(b'{"error":\n "no such model"}', status=status)
    with pytest.raises(ConfigError, match=f'HTTP {status}.*"no such model".*OPENAI_API_KEY') as told:
        judge.verdict(*ASKED)
    assert len(server.requests) == 1
    assert "\n" not in str(told.value)
    assert "secret" not in str(told.value)


def test_a_key_that_is_none_is_told_without_it(judge, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret\nX-Other: 1")
    with pytest.raises(ConfigError, match="OPENAI_API_KEY") as told:
        judge.verdict(*ASKED)
    assert "secret" not in str(told.value)


def test_pauses_double(server, judge, monkeypatch):
    pauses = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))
    server.say(b"", status=500)
    with pytest.raises(DataError):
        replace(judge, attempts=5, pause=1.5).verdict(*ASKED)
    assert pauses == [1.5, 3.0, 6.0, 12.0]


@pytest.mark.parametrize(
    ("header", "pause"),
    [("7", 7), ("2.5", 2.5), ("0", 0.01), ("soon", 0.01), ("-3", 0.01), ("", 0.01), ("9" * 400, None)],
)
def test_retry_after_in_seconds(server, judge, monkeypatch, header, pause):
    pauses = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))
    server.say(b"", status=429, headers={"Retry-After": header})
    server.say(reply('{"right": true}'))
    if pause is None:
        with pytest.raises(DataError, match="asks to wait"):
            judge.verdict(*ASKED)
    else:
        assert judge.verdict(*ASKED).verdict == "right"
        assert pauses == [pause]


@pytest.mark.parametrize(("seconds", "least", "most"), [(60, 30, 60), (-60, 0.01, 0.01)])
def test_retry_after_as_a_date(server, judge, monkeypatch, seconds, least, most):
    pauses = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=pauses.append))
    date = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=seconds), usegmt=True)
    server.say(b"", status=503, headers={"Retry-After": date})
    server.say(reply('{"right": true}'))
    assert judge.verdict(*ASKED).verdict == "right"
    assert least <= pauses[0] <= most  # some of the minute has passed when it is read


def test_a_real_wait_is_waited(server, judge):
    server.say(b"", status=429, headers={"Retry-After": "1"})
    server.say(reply('{"right": true}'))
    judge.verdict(*ASKED)
    (*_, first), (*_, second) = server.requests
    assert second - first >= 1


def test_too_long_a_wait_is_told(server, judge):
    server.say(b"", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(DataError, match="after 1 attempts.*wait 3600 seconds"):
        judge.verdict(*ASKED)


def test_an_empty_answer_is_not_sent(server, judge):
    for answer in ("", " \n", "<think>The spleen", "<|im_end|>"):
        said = judge.verdict("Which organ?", ["spleen"], answer)
        assert (said.verdict, said.attempts, said.problem) == ("unmatched", 0, "the answer is empty")
    assert not server.requests


@given(st.text(), st.lists(st.text(), min_size=1), st.text())
def test_values_stay_inside_their_json(question, truths, answer):
    judge = Judge("http://localhost", "m", prompt="{question}\x00{truths}\x00{answer}")
    content = judge._message(question, truths, answer)["content"]
    assert [json.loads(part) for part in content.split("\x00")] == [question, truths, answer]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"url": "file:///etc/passwd"}, "no web address"),
        ({"url": "api.openai.com/v1"}, "no web address"),
        ({"prompt": "Is {answer} right?"}, "no {truths} in the prompt"),
        ({"prompt": "Is it {truths}?"}, "no {answer} in the prompt"),
        ({"attempts": 0}, "0 attempts"),
        ({"timeout": 0}, "timeout 0"),
        ({"pause": -1}, "pause -1"),
    ],
)
def test_settings_that_cannot_be(change, told):
    with pytest.raises(ConfigError, match=told):
        Judge(**{"url": "http://localhost", "model": "m", **change})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "judged.jsonl"


OTHER = ("Which organ?", ("spleen",), "liver")


def test_nothing_is_asked_twice(server, judge, path):
    server.say(reply('{"right": true}'))
    server.say(reply('{"right": false}'))
    with KeptJudge(judge, path) as kept:
        first = kept.verdict(*ASKED)
        assert kept.verdict(*ASKED) == first
        other = kept.verdict(*OTHER)
    assert (first.verdict, other.verdict) == ("right", "wrong")
    with KeptJudge(judge, path) as later:
        assert later.verdict(*ASKED) == first
        assert later.verdict("Which organ?", ["spleen"], "liver") == other
    assert len(server.requests) == 2
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(line["answer"], line["verdict"]) for line in lines] == [("It is the spleen.", "right"), ("liver", "wrong")]


def test_a_judgement_is_on_disk_when_it_is_handed_out(server, judge, path):
    server.say(reply('{"right": true}'))
    with KeptJudge(judge, path) as kept:
        said = kept.verdict(*ASKED)
        with KeptJudge(judge, path) as other:
            assert other.verdict(*ASKED) == said
    assert len(server.requests) == 1


def test_whatever_changes_the_question_is_asked(server, judge, path):
    server.say(reply('{"right": true}'))
    question, truths, answer = ASKED
    asked = [
        (judge, ASKED),
        (replace(judge, model="other"), ASKED),
        (replace(judge, prompt=PROMPT + " Be strict."), ASKED),
        (judge, ("Which?", truths, answer)),
        (judge, (question, truths[:1], answer)),
        (judge, (question, truths, "spleen")),
    ]
    for each, values in asked:
        with KeptJudge(each, path) as kept:
            kept.verdict(*values)
    assert len(server.requests) == len(asked)


def test_unusable_replies_are_kept_too(server, judge, path):
    server.say(reply("maybe"))
    for _ in range(2):
        with KeptJudge(judge, path) as kept:
            assert kept.verdict(*ASKED).reply == "maybe"
    assert len(server.requests) == judge.attempts


def test_a_fault_is_not_kept(server, judge, path):
    server.say(b"", status=500)
    with KeptJudge(judge, path) as kept:
        with pytest.raises(DataError):
            kept.verdict(*ASKED)
        server.replies.clear()
        server.say(reply('{"right": true}'))
        assert kept.verdict(*ASKED).verdict == "right"


@pytest.mark.parametrize("cut", [1, 20, 200])
def test_a_torn_last_line_is_dropped_and_asked_again(server, judge, path, cut):
    server.say(reply('{"right": true}'))
    with KeptJudge(judge, path) as kept:
        kept.verdict(*ASKED)
        kept.verdict(*OTHER)
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with KeptJudge(judge, path) as later:
        later.verdict(*ASKED)
        assert len(server.requests) == 2
        later.verdict(*OTHER)
    assert len(server.requests) == 3
    assert path.read_bytes() == whole


@pytest.mark.parametrize("line", ["{}", "[]", "torn", '{"key": "a", "verdict": "maybe"}'])
def test_a_line_that_is_no_judgement_is_told(judge, tmp_path, line):
    path = tmp_path / "judged.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"no judgement .*judged.jsonl, line 1"):
        KeptJudge(judge, path)
