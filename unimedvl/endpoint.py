"""Language models behind any endpoint that speaks OpenAI's chat protocol, asked with patience."""

from __future__ import annotations

import base64
import email.utils
import hashlib
import http.client
import io
import json
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unimedvl.errors import ConfigError, DataError

if TYPE_CHECKING:
    from PIL import Image

Messages = Sequence[Mapping[str, Any]]

_LONGEST_WAIT = 300.0  # seconds that an endpoint may ask to wait
_PASSING = {408, 425, 429}  # HTTP statuses, besides 500 and above, of which another attempt may get rid
_OF_REQUEST = {400, 413, 415, 422}  # HTTP statuses that may be the fault of one request alone
_SHOWN = 200  # characters of an endpoint's own error message


class UnreachedError(DataError):
    """No reply after all attempts: nobody is there, or the endpoint is too busy."""


class RefusedError(ConfigError):
    """The endpoint refuses one request for what stands in it; others may pass."""


class UnusableError(DataError):
    """A reply that came, but not in the wanted form.

    Attributes:
        reply: as far as it could be read.
    """

    reply: Reply

    def __init__(self, problem: str, *, remedy: str = "ask again, or another model", where: str | None = None) -> None:
        super().__init__(problem, remedy=remedy, where=where)
        self.reply = Reply("")


class _BusyError(Exception):
    """No reply, but perhaps one later; ``wait``: seconds that the endpoint asks for."""

    def __init__(self, problem: str, wait: float = 0.0) -> None:
        super().__init__(problem)
        self.wait = wait


@dataclass(frozen=True)
class Reply:
    """What a model said.

    Attributes:
        model: what the endpoint says has answered, often with a version.
        fingerprint: the endpoint's ``system_fingerprint``, which changes with its weights or settings.
        prompt_tokens, completion_tokens: that were paid for; None if the endpoint does not tell.
        finish: why the text ends: ``stop``, ``length`` at the limit of tokens, or what else the endpoint says.
        attempts: requests that it took.
    """

    text: str
    model: str = ""
    fingerprint: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    finish: str = ""
    attempts: int = 1


@dataclass(frozen=True)
class Endpoint:
    """A model at an address.

    Attributes:
        url: up to the version, such as ``https://api.openai.com/v1``; ``/chat/completions`` is added.
        key_variable: environment variable with the key; none is sent where it is not set.
        timeout: seconds without a byte from the endpoint before a request is given up.
        attempts: requests for one reply, at most.
        pause: seconds before the second request, doubled before each further one.
        temperature: None leaves it to the endpoint; some reasoning models take no other than their own.
        max_tokens: of a reply; None leaves it to the endpoint.
        name: what messages call it.

    Raises:
        ConfigError: the address is not of the web, or a number cannot be.
    """

    url: str
    model: str
    key_variable: str = "OPENAI_API_KEY"
    timeout: float = 60.0
    attempts: int = 5
    pause: float = 1.0
    temperature: float | None = 0.0
    max_tokens: int | None = None
    name: str = "endpoint"

    def __post_init__(self) -> None:
        if not self.url.startswith(("http://", "https://")):
            raise ConfigError(
                f"{self.url!r} is no web address", where=f"{self.name}.url", remedy="give http(s)://HOST/v1"
            )
        if self.attempts < 1 or self.timeout <= 0 or self.pause < 0:
            asked = f"{self.attempts} attempts, timeout {self.timeout}, pause {self.pause}"
            raise ConfigError(asked, where=self.name, remedy="give at least 1 attempt and times above 0 seconds")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ConfigError(f"{self.max_tokens} tokens", where=f"{self.name}.max_tokens", remedy="give 1 or more")

    def key(self, messages: Messages, *, seed: int | None = None) -> str:
        """Tells what is asked apart: SHA-256 of model, sampling and messages; images count by their bytes."""
        asked = [self.model, self.temperature, self.max_tokens, seed, _by_content(messages)]
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()

    def ask(
        self, messages: Messages, *, seed: int | None = None, usable: Callable[[str], object] | None = None
    ) -> Reply:
        """Ask until there is a reply.

        Args:
            messages: as the protocol has them; :func:`image_part` makes the part that shows an image.
            seed: is sent along, to have several replies to the same messages.
            usable: raises UnusableError for a text that should be asked for again.

        Raises:
            RefusedError: the endpoint refuses this request.
            ConfigError: it refuses whatever is asked: an unknown model, a missing key, ...
            UnreachedError: it cannot be reached, or is too busy, after all attempts.
            UnusableError: the last reply still was unusable.
        """
        body = self._body(messages, seed)
        attempt = 0
        while True:
            attempt += 1
            wait = 0.0
            try:
                return self._once(body, attempt, usable)
            except UnusableError:
                if attempt == self.attempts:
                    raise
            except _BusyError as error:
                wait = error.wait
                if attempt == self.attempts or wait > _LONGEST_WAIT:
                    raise self._unreached(error, attempt) from error
            time.sleep(max(wait, self.pause * 2 ** (attempt - 1)))

    def _once(self, body: bytes, attempt: int, usable: Callable[[str], object] | None) -> Reply:
        sent, reply = self._sent(body), Reply("", attempts=attempt)
        try:
            reported = _object(sent)
            reply = replace(_without_text(reported), attempts=attempt)
            reply = replace(reply, text=_content(reported))
            if usable is not None:
                usable(reply.text)
        except UnusableError as error:
            told = UnusableError(error.problem, remedy=error.remedy, where=self.url)
            told.reply = reply
            raise told from error
        return reply

    def _unreached(self, error: _BusyError, attempts: int) -> UnreachedError:
        asks = f", and asks to wait {error.wait:.0f} seconds" if error.wait else ""
        problem = f"the {self.name} does not answer after {attempts} attempts: {error}{asks}"
        return UnreachedError(
            problem, where=self.url, remedy="run it again later; answers that are kept are not asked again"
        )

    def _body(self, messages: Messages, seed: int | None) -> bytes:
        body: dict[str, Any] = {"model": self.model, "messages": list(messages)}
        more = {"temperature": self.temperature, "max_tokens": self.max_tokens, "seed": seed}
        body |= {name: value for name, value in more.items() if value is not None}
        return json.dumps(body).encode()

    def _sent(self, body: bytes) -> bytes:
        """The endpoint's reply to one request."""
        request = urllib.request.Request(f"{self.url.rstrip('/')}/chat/completions", body, method="POST")
        request.add_header("Content-Type", "application/json")
        if key := os.environ.get(self.key_variable, "").strip():
            if not (key.isascii() and key.isprintable()):
                remedy = f"set {self.key_variable} to the key alone"
                raise ConfigError("the key holds characters that no key has", where=self.key_variable, remedy=remedy)
            request.add_unredirected_header("Authorization", f"Bearer {key}")  # not sent on to another host
        try:
            with urllib.request.urlopen(request, timeout=self.timeout) as reply:
                return reply.read()
        except urllib.error.HTTPError as error:
            with error:
                raise self._refused(error) from error
        except (OSError, http.client.HTTPException) as error:  # OSError: timeouts, refused and broken connections
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise _BusyError(f"{type(reason).__name__}: {reason}".rstrip(": ")) from error

    def _refused(self, error: urllib.error.HTTPError) -> Exception:
        """What an HTTP status other than success means: worth another attempt, or not."""
        if error.code in _PASSING or error.code >= 500:
            return _BusyError(f"HTTP {error.code} {error.reason}", _wait(error.headers.get("Retry-After")))
        try:
            said = " ".join(error.read().decode("utf-8", "replace").split())[:_SHOWN]
        except (OSError, http.client.HTTPException):
            said = ""
        kind = RefusedError if error.code in _OF_REQUEST else ConfigError
        remedy = f"check the url, the model and the key in {self.key_variable}"
        return kind(f"the {self.name} refuses: HTTP {error.code} {said or error.reason}", where=self.url, remedy=remedy)


def image_part(source: str | Path | bytes | Image.Image, side: int = 1024) -> dict[str, Any]:
    """An image as a part of a message: a PNG without the file's tags, at most ``side`` pixels wide and high.

    Raises:
        DataError: it cannot be read.
    """
    from unimedvl.imaging import read_image

    image = read_image(source).image.copy()
    image.thumbnail((side, side))
    image.info.clear()
    held = io.BytesIO()
    image.save(held, "PNG", compress_level=1)  # a fifth of the time of the default, and hardly larger
    data = base64.b64encode(held.getvalue()).decode()
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}


def user(text: str, images: Sequence[str | Path | bytes | Image.Image] = ()) -> dict[str, Any]:
    """A user's message: images first, then the text.

    Raises:
        DataError: an image cannot be read.
    """
    if not images:
        return {"role": "user", "content": text}
    return {"role": "user", "content": [*map(image_part, images), {"type": "text", "text": text}]}


def _by_content(value: Any) -> Any:
    """Messages with the bytes of images replaced by their SHA-256."""
    if isinstance(value, Mapping):
        return {key: _by_content(item) for key, item in value.items()}
    if isinstance(value, str):
        found = re.match(r"data:[^,]{0,99};base64,", value)
        return f"image {hashlib.sha256(value[found.end() :].encode()).hexdigest()}" if found else value
    return [_by_content(item) for item in value] if isinstance(value, Sequence) else value


def _wait(header: str | None) -> float:
    """Seconds of a ``Retry-After`` header, which holds a number or a date; 0 for anything else."""
    text = (header or "").strip()
    if re.fullmatch(r"\d+(?:\.\d+)?", text):
        return float(text)
    try:
        until = email.utils.parsedate_to_datetime(text)
    except (TypeError, ValueError):
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
    return max(0.0, (until - datetime.now(timezone.utc)).total_seconds())


def _object(body: bytes) -> dict[str, Any]:
    try:
        reported = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnusableError("the endpoint's reply is not JSON") from error
    if not isinstance(reported, dict):
        raise UnusableError("the endpoint's reply is no JSON object")
    return reported


def _without_text(reported: Mapping[str, Any]) -> Reply:
    """All but the text; what is missing or of another kind is left empty."""
    usage = reported.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    tokens = [usage.get(name) for name in ("prompt_tokens", "completion_tokens")]
    prompt, completion = (value if isinstance(value, int) else None for value in tokens)
    try:
        finish = str(reported["choices"][0]["finish_reason"] or "")
    except (KeyError, IndexError, TypeError):
        finish = ""
    model, fingerprint = (str(reported.get(name) or "") for name in ("model", "system_fingerprint"))
    return Reply("", model, fingerprint, prompt, completion, finish)


def _content(reported: Mapping[str, Any]) -> str:
    """Text of the first choice; some endpoints give it in parts."""
    try:
        content = reported["choices"][0]["message"]["content"]
        parts = content if isinstance(content, list) else [{"text": content}]
        return "".join(part["text"] for part in parts if "text" in part)
    except (KeyError, IndexError, TypeError) as error:
        raise UnusableError("the endpoint's reply holds no text") from error
