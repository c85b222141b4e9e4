"""An endpoint against a server on this machine; more of its faults are in the tests of the judge, which uses it."""

from __future__ import annotations

import base64
import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.unit.data.curation.fake_endpoint import FAULTS, serving, settings, text_of
from unimedvl.endpoint import (
    Endpoint,
    RefusedError,
    Reply,
    UnreachedError,
    UnusableError,
    image_part,
    user,
)
from unimedvl.errors import ConfigError, DataError


@pytest.fixture
def server():
    with serving(lambda messages: f"said {text_of(messages[-1])}") as server:
        yield server


@pytest.fixture
def endpoint(server):
    return Endpoint(**settings(server))


def test_a_reply_tells_who_said_it_and_what_it_cost(server, endpoint):
    reply = endpoint.ask([user("hello")])
    assert reply == Reply("said hello", "fake-1", "fp", 100, 20, "stop", 1)
    assert server.bodies == [{"model": "fake", "messages": [{"role": "user", "content": "hello"}], "temperature": 0.0}]


def test_sampling_is_sent(server, endpoint):
    replace(endpoint, temperature=None, max_tokens=7).ask([user("hello")], seed=3)
    (body,) = server.bodies
    assert (body["max_tokens"], body["seed"]) == (7, 3)
    assert "temperature" not in body


@pytest.mark.parametrize("fault", FAULTS)
def test_passing_faults_are_asked_again(server, endpoint, fault):
    server.fault = lambda text, before: fault if before == 0 else None
    reply = endpoint.ask([user("x")])
    assert (reply.text, reply.attempts) == ("said x", 2)


@pytest.mark.parametrize("fault", FAULTS)
def test_lasting_faults_are_an_error_of_one_line(server, endpoint, fault):
    server.fault = lambda text, before: fault
    with pytest.raises(UnusableError if fault in ("broken", "not an object") else UnreachedError) as told:
        endpoint.ask([user("x")])
    assert server.url in str(told.value)
    assert "\n" not in str(told.value)
    assert server.asked.total() == endpoint.attempts


@pytest.mark.parametrize(("status", "kind"), [("400", RefusedError), ("401", ConfigError)])
def test_refusals(server, endpoint, status, kind):
    server.fault = lambda text, before: status
    with pytest.raises(ConfigError, match=f"the endpoint refuses: HTTP {status}") as told:
        endpoint.ask([user("x")])
    assert type(told.value) is kind
    assert server.asked.total() == 1


def test_an_unusable_text_is_asked_for_again_and_handed_out_at_the_end(server, endpoint):
    def usable(text):
        if server.asked.total() < 2:
            raise UnusableError("not yet")

    assert endpoint.ask([user("x")], usable=usable).attempts == 2

    def never(text):
        raise UnusableError("never")

    with pytest.raises(UnusableError, match="never") as told:
        endpoint.ask([user("y")], usable=never)
    assert told.value.reply == Reply("said y", "fake-1", "fp", 100, 20, "stop", 3)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"url": "ftp://x"}, "no web address"),
        ({"attempts": 0}, "0 attempts"),
        ({"timeout": 0}, "timeout 0"),
        ({"pause": -1}, "pause -1"),
        ({"max_tokens": 0}, "0 tokens"),
    ],
)
def test_settings_that_cannot_be(change, told):
    with pytest.raises(ConfigError, match=told):
        Endpoint(**{"url": "http://localhost", "model": "m", **change})


def picture(value=0):
    return Image.fromarray(np.full((30, 2000, 3), value, np.uint8))


def test_an_image_travels_small_and_without_tags(tmp_path):
    exif = Image.Exif()
    exif[0x010E] = "DOE^JANE"
    picture().save(tmp_path / "x.png", exif=exif, icc_profile=b"a scanner of DOE, JANE")
    part = image_part(tmp_path / "x.png")
    kind, data = part["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    shown = Image.open(io.BytesIO(base64.b64decode(data)))
    assert shown.size == (1024, 15)
    assert not shown.getexif()
    assert not shown.info
    assert image_part(picture())["image_url"] == part["image_url"]


def test_an_image_that_is_none(tmp_path):
    (tmp_path / "x.png").write_bytes(b"no")
    with pytest.raises(DataError, match="x.png"):
        user("look", [tmp_path / "x.png"])


def test_keys_tell_questions_apart():
    endpoint = Endpoint("http://localhost", "m")
    keys = [
        endpoint.key([user("a")]),
        endpoint.key([user("b")]),
        endpoint.key([user("a")], seed=1),
        endpoint.key([{"role": "system", "content": "a"}]),
        endpoint.key([user("a", [picture(0)])]),
        endpoint.key([user("a", [picture(1)])]),
        endpoint.key([user("a", [picture(1), picture(0)])]),
        replace(endpoint, model="n").key([user("a")]),
        replace(endpoint, temperature=1.0).key([user("a")]),
        replace(endpoint, max_tokens=5).key([user("a")]),
    ]
    assert len(set(keys)) == len(keys)


def test_keys_do_not_depend_on_where_and_how_patiently_it_is_asked():
    endpoint = Endpoint("http://localhost", "m")
    other = replace(endpoint, url="http://elsewhere/v1", timeout=5, attempts=1, pause=0, key_variable="K")
    assert endpoint.key([user("a", [picture()])]) == other.key([user("a", [picture()])])
