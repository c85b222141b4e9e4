"""Kept replies: nothing is lost, nothing is asked twice, whatever the server does and whenever we are killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.unit.data.curation.fake_endpoint import FAULTS, serving, settings, text_of
from unimedvl.endpoint import Endpoint, RefusedError, Reply, UnreachedError, UnusableError, user
from unimedvl.errors import ConfigError, DataError
from unimedvl.replies import Cost, KeptReplies, Problem, all_answered, ask_checked, in_threads, kept_cost

ROOT = Path(__file__).parents[2]


@pytest.fixture
def server():
    with serving(lambda messages: f"said {text_of(messages[-1])}") as server:
        yield server


@pytest.fixture
def endpoint(server):
    return Endpoint(**settings(server))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "new" / "replies.jsonl"


def requests(count):
    return [[user(f"question {number}")] for number in range(count)]


def texts(replies):
    return [reply.text for reply in replies]


def test_order_is_kept_and_nothing_is_asked_twice(server, endpoint, path):
    server.delay = 0.02
    with KeptReplies(endpoint, path) as kept:
        first = kept.ask_all(requests(20), workers=4)
        assert kept.ask_all(requests(20), workers=4) == first
        assert kept.cost == Cost(asked=20, reused=20, prompt_tokens=2000, completion_tokens=400)
    assert texts(first) == [f"said question {number}" for number in range(20)]
    assert 1 < server.most_at_once <= 4
    with KeptReplies(endpoint, path) as later:
        assert later.ask_all(requests(20), workers=2) == first
        assert later.cost.asked == 0
    assert set(server.asked.values()) == {1}


def test_a_reply_is_on_disk_when_it_is_handed_out(endpoint, path):
    with KeptReplies(endpoint, path) as kept:
        kept.ask([user("a")])
        assert json.loads(path.read_text())["text"] == "said a"


def test_threads_that_ask_the_same_at_once_share_one_request(server, endpoint, path):
    server.delay = 0.15  # all eight are there before the first reply
    with KeptReplies(endpoint, path) as kept:
        gate = threading.Barrier(8)

        def ask(_):
            gate.wait()
            return kept.ask([user("same")])

        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(ask, range(8)))
        assert len({id(reply) for reply in replies}) == 1
    assert server.asked.total() == 1


def test_seeds_are_asked_apart(server, endpoint, path):
    for _ in range(2):
        with KeptReplies(endpoint, path) as kept:
            for seed in (None, 0, 1):
                kept.ask([user("same")], seed=seed)
    assert [body.get("seed") for body in server.bodies] == [None, 0, 1]


def test_threads_that_wait_for_a_failure_get_it_without_asking(server, endpoint, path):
    server.fault = lambda text, before: "500"
    server.delay = 0.1
    with KeptReplies(endpoint, path) as kept:
        replies = kept.ask_all([[user("same")]] * 6, workers=6)
    assert all(isinstance(reply, Problem) for reply in replies)
    assert server.asked.total() == endpoint.attempts


def test_every_fault_at_once_loses_nothing(server, endpoint, path):
    """Each question meets another fault, twice at most, of three attempts."""

    def fault(text, before):
        number = int(text.split()[-1])
        return FAULTS[(number + before) % len(FAULTS)] if before < number % 3 else None

    server.fault = fault
    with KeptReplies(endpoint, path) as kept:
        replies = kept.ask_all(requests(48), workers=8)
    assert texts(replies) == [f"said question {number}" for number in range(48)]
    assert [reply.attempts for reply in replies if isinstance(reply, Reply)] == [1 + n % 3 for n in range(48)]
    assert set(server.answered.values()) == {1}
    assert server.asked.total() == sum(1 + number % 3 for number in range(48))


def test_failures_are_problems_and_only_they_are_asked_in_the_next_run(server, endpoint, path):
    server.fault = lambda text, before: FAULTS[int(text.split()[-1]) % 8] if int(text.split()[-1]) % 5 == 0 else None
    with KeptReplies(endpoint, path) as kept:
        replies = kept.ask_all(requests(30), workers=4)
        assert kept.cost.failed == 6
    bad = [number for number, reply in enumerate(replies) if isinstance(reply, Problem)]
    assert bad == [0, 5, 10, 15, 20, 25]
    assert all(reply.text and "\n" not in reply.text for reply in replies)
    kinds = {number: reply.kind for number, reply in enumerate(replies) if isinstance(reply, Problem)}
    garbled = {n for n in kinds if FAULTS[n % 8] in ("broken", "not an object")}
    assert kinds == {n: "garbled" if n in garbled else "unreached" for n in bad}
    assert garbled == {5, 20}
    server.fault = lambda text, before: None
    before = server.asked.total()
    with KeptReplies(endpoint, path) as later:
        assert texts(later.ask_all(requests(30))) == [f"said question {number}" for number in range(30)]
        assert later.cost == Cost(6, 24, 0, 600, 120)
    assert server.asked.total() - before == 6
    assert set(server.answered.values()) == {1}


def test_a_refused_request_is_a_problem_a_refused_key_ends_the_run(server, endpoint, path):
    server.fault = lambda text, before: "400" if text == "question 3" else None
    with KeptReplies(endpoint, path) as kept:
        replies = kept.ask_all(requests(6), workers=2)
        assert [isinstance(reply, Problem) and reply.kind for reply in replies] == [
            *[False] * 3,
            "refused",
            *[False] * 2,
        ]
        server.fault = lambda text, before: "401"
        with pytest.raises(ConfigError, match="HTTP 401"):
            kept.ask_all(requests(500), workers=2)
        assert server.asked.total() < 50  # what had begun, and not the 500
        assert kept.ask([user("question 0")]) == replies[0]


def test_an_endpoint_that_is_gone_is_not_asked_forever(server, endpoint, path):
    server.fault = lambda text, before: "503"
    with KeptReplies(endpoint, path) as kept:
        replies = kept.ask_all(requests(60), workers=1)
    assert all(isinstance(reply, Problem) for reply in replies)
    assert "20 requests in a row" in replies[20].text
    assert server.asked.total() == 20 * endpoint.attempts


def test_a_success_ends_the_row_of_failures(server, endpoint, path):
    server.fault = lambda text, before: None if int(text.split()[-1]) % 19 == 18 else "503"
    with KeptReplies(endpoint, path) as kept:
        kept.ask_all(requests(57), workers=1)
    assert server.asked.total() == 3 * (18 * endpoint.attempts + 1)


@pytest.mark.parametrize("fault", ["broken", "503"])
def test_an_endpoint_that_gives_nothing_of_use_is_not_asked_forever(server, endpoint, path, fault):
    server.fault = lambda text, before: fault
    with KeptReplies(endpoint, path) as kept:
        kept.ask_all(requests(40), workers=4)
        with pytest.raises(UnreachedError, match="20 requests in a row got no usable reply"):
            kept.ask([user("one more")])
    assert server.asked.total() < 24 * endpoint.attempts


def test_a_model_that_takes_nothing_is_told(server, endpoint, path):
    """Refusals end the run where nothing else ever came, and only there."""
    server.fault = lambda text, before: "400"
    with KeptReplies(endpoint, path) as kept, pytest.raises(ConfigError, match="all of the first 20 requests"):
        kept.ask_all(requests(500), workers=2)
    assert server.asked.total() < 24
    server.fault = lambda text, before: None if text == "question 0" else "400"
    with KeptReplies(endpoint, path) as kept:
        replies = kept.ask_all(requests(40), workers=2)
    assert sum(isinstance(reply, Problem) for reply in replies) == 39


def test_the_cost_of_a_journal_is_that_of_all_runs(server, endpoint, path):
    assert kept_cost(path) == Cost()
    for count in (5, 8):
        with KeptReplies(endpoint, path) as kept:
            kept.ask_all(requests(count))
    with path.open("ab") as file:
        file.write(b'{"key": "torn')
    assert kept_cost(path) == Cost(asked=8, prompt_tokens=800, completion_tokens=160)
    assert path.read_bytes().endswith(b"torn")


CHILD = """
import json, sys
from pathlib import Path
from unimedvl.endpoint import Endpoint, user
from unimedvl.replies import KeptReplies
with KeptReplies(Endpoint(**json.loads(sys.argv[1])), Path(sys.argv[2])) as kept:
    kept.ask_all([[user(f"question {number}")] for number in range(40)], workers=4)
"""


def test_a_killed_process_goes_on_with_the_rest(server, path):
    server.hold = 12
    patient = {**settings(server), "timeout": 60}
    child = subprocess.Popen([sys.executable, "-c", CHILD, json.dumps(patient), str(path)], cwd=ROOT)
    try:
        deadline = time.monotonic() + 120
        # Twelve replies are kept, and four more requests are under way.
        while not (path.exists() and path.read_bytes().count(b"\n") == 12 and server.asked.total() == 16):
            assert child.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
    finally:
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    with path.open("ab") as file:
        file.write(b'{"key": "torn')
    server.hold = None
    with KeptReplies(Endpoint(**patient), path) as kept:
        replies = kept.ask_all(requests(40), workers=4)
        assert kept.cost == Cost(asked=28, reused=12, prompt_tokens=2800, completion_tokens=560)
    assert texts(replies) == [f"said question {number}" for number in range(40)]
    with KeptReplies(Endpoint(**patient), path) as kept:
        assert kept.ask_all(requests(40)) == replies
    assert server.asked.total() == 16 + 28
    assert len(server.answered) == 40
    assert set(server.answered.values()) == {1}


def test_two_processes_do_not_share_a_journal(server, endpoint, path):
    pytest.importorskip("fcntl")
    with KeptReplies(endpoint, path):
        child = subprocess.run(
            [sys.executable, "-c", CHILD, json.dumps(settings(server)), str(path)],
            cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert "another process keeps its replies here" in child.stderr
    assert server.asked.total() == 0
    with KeptReplies(endpoint, path) as kept:
        kept.ask([user("a")])


@pytest.mark.parametrize("line", ["{}", "[]", "torn", '{"key": "a"}', '{"key": "a", "text": "b", "other": 1}'])
def test_a_line_that_is_no_reply_is_told(endpoint, path, line):
    path.parent.mkdir()
    path.write_text(f"{line}\n")
    with pytest.raises(DataError, match=r"replies.jsonl, line 1"):
        KeptReplies(endpoint, path)


def test_a_full_disk_ends_the_run(endpoint, path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("unimedvl.replies.append", full)
    with KeptReplies(endpoint, path) as kept, pytest.raises(ConfigError, match="No space left.*replies.jsonl"):
        kept.ask_all(requests(3))


def test_costs():
    cost = Cost(asked=1200, reused=3, failed=1, prompt_tokens=2_000_000, completion_tokens=500_000)
    assert cost.price(3, 12) == pytest.approx(12)
    assert cost.summary() == "1,200 asked, 3 known before, 1 failed; 2,000,000 tokens in, 500,000 out"
    assert cost.summary(3, 12).endswith("; 12.0000 at 3 and 12 a million")


def test_replies_without_token_counts_are_told(path):
    class Silent(Endpoint):
        def ask(self, messages, **_):
            return Reply("x")

    with KeptReplies(Silent("http://localhost", "m"), path) as kept:
        kept.ask([user("a")])
        assert "(1 replies do not tell)" in kept.cost.summary()


def test_a_fault_is_named_until_it_is_gone():
    asked = []

    def ask(messages):
        asked.append(messages[:])
        return Reply("x" * len(asked))

    assert ask_checked(ask, [user("q")], lambda text: "" if len(text) == 3 else f"{len(text)} of 3") == Reply("xxx")
    assert [len(messages) for messages in asked] == [1, 3, 5]
    assert asked[2][1] == {"role": "assistant", "content": "x"}
    assert "1 of 3" in asked[2][2]["content"]
    assert "2 of 3" in asked[2][4]["content"]


def test_rounds_end():
    found = ask_checked(lambda messages: Reply("x"), [user("q")], lambda text: "bad", rounds=2)
    assert found == Problem("bad (after 2 replies)", "faulty")


def test_a_reply_at_the_limit_of_tokens_is_no_reply():
    found = ask_checked(lambda messages: Reply("x", finish="length"), [user("q")], lambda text: "")
    assert isinstance(found, Problem)
    assert "cut off" in found.text


@pytest.mark.parametrize(
    ("error", "kind"),
    [(UnusableError("babble", remedy="ask"), "garbled"), (RefusedError("no", remedy="go"), "refused")],
)
def test_what_concerns_one_request_is_a_problem(error, kind):
    def ask(messages):
        raise error

    assert ask_checked(ask, [user("q")], lambda text: "") == Problem(str(error), kind)


@pytest.mark.parametrize("error", [UnreachedError("gone", remedy="wait"), ConfigError("no key", remedy="set it")])
def test_what_concerns_the_endpoint_is_an_error(error):
    def ask(messages):
        raise error

    with pytest.raises(type(error), match=error.problem):
        ask_checked(ask, [user("q")], lambda text: "")


def test_items_without_a_reply_end_the_work_when_the_others_are_done():
    done = []

    def work(number):
        if number % 3 == 0:
            raise UnreachedError(f"{number} is gone", where="there", remedy="wait")
        done.append(number)
        return -number

    with pytest.raises(UnreachedError, match=r"^3 of 7 pairs got no reply: 0 is gone \(there\); start the same again"):
        all_answered(work, range(7), 2, "pairs")
    assert sorted(done) == [1, 2, 4, 5]
    assert all_answered(work, [4, 2, 1], 2, "pairs") == [-4, -2, -1]
    assert all_answered(work, [], 2, "pairs") == []


def test_work_in_threads_ends_at_an_exception():
    done = []

    def work(number):
        if number == 2:
            raise ValueError(number)
        time.sleep(0.01)
        done.append(number)
        return number

    with pytest.raises(ValueError, match="2"):
        in_threads(work, range(1000), 2)
    assert len(done) < 20
    assert in_threads(work, [5, 4, 3], 3) == [5, 4, 3]
    with pytest.raises(ConfigError, match="0 workers"):
        in_threads(work, [1], 0)
