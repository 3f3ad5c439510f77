"""Chats -> answers of any OpenAI-compatible /chat/completions, a bounded number at once, or an error that says why not.

What may pass by itself (down, late, cut short, garbled, 429, 5xx) is asked again with exponential backoff, within bounds; what
will not (a refused key, a wrong address) is an error at once. A request that the endpoint refuses for what it says (too long,
a content filter) gets an answer without text, so that it does not stop the others. Redirects are not followed: a key must not
travel. Standard library only.
"""

import hashlib
import http.client
import ipaddress
import json
import os
import random
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeGuard
from urllib.parse import urlsplit

from farthing.config import EndpointConfig
from farthing.errors import EndpointError, RecipeError

MAX_ANSWER_BYTES = 16 << 20
MAX_TOKENS = 10**9
"""Of one answer; a larger figure is no count."""
READ_BYTES = 1 << 16
EXCERPT = 200
PASSING = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529})
"""HTTP statuses after which the same request may succeed."""
REFUSED = frozenset({400, 413, 422})
"""Statuses that say something about the one request, not about the endpoint."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What is asked once."""

    messages: tuple[tuple[str, str], ...]
    """(role, content)."""
    temperature: float
    max_tokens: int
    turn: int = 0
    """How often the same was asked before, and wants another answer: no part of what is sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, and how many tokens are to be paid for it."""

    text: str
    """Empty where the endpoint refused, or answered without text."""
    tokens_in: int
    tokens_out: int
    is_estimated: bool = False
    """The endpoint gave no usage: a token was counted for every byte, which is more than there were."""
    refusal: str = ""
    """Why the endpoint would not answer this one."""


class Passing(Exception):
    """What was wrong with one attempt that may be repeated; `wait_s`: for as long as the endpoint asks to wait."""

    def __init__(self, what: str, wait_s: float = 0.0, paid: Answer | None = None) -> None:
        super().__init__(what)
        self.wait_s, self.paid = wait_s, paid


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


class Endpoint:
    """One model at one address."""

    def __init__(self, config: EndpointConfig) -> None:
        self.config, self._key = config, read_key(config)
        self.num_retries = 0
        self.num_lost = 0
        """Requests whose answer was late or unreadable: whoever serves them may bill them, and their tokens are not known."""
        self._spoilt: list[Answer] = []
        self._late: list[tuple[int, Answer]] = []
        self._lock, self._stop = threading.Lock(), threading.Event()
        proxies = [urllib.request.ProxyHandler({})] if is_this_machine(config.base_url) else []
        self._opener = urllib.request.build_opener(_NoRedirect(), *proxies)

    def key_of(self, chat: Chat) -> str:
        """sha256 of all that decides the answer."""
        body = self._body(chat) | ({"turn": chat.turn} if chat.turn else {})
        text = json.dumps(body, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def take_spoilt(self) -> list[Answer]:
        """Answers since the last call that came with a usage to pay and were of no use."""
        with self._lock:
            taken, self._spoilt = self._spoilt, []
        return taken

    def take_late(self) -> list[tuple[int, Answer]]:
        """(place, answer) of what was under way when whoever asked stopped listening."""
        taken, self._late = self._late, []
        return taken

    def answers(self, chats: Sequence[Chat]) -> Generator[tuple[int, Answer]]:
        """(place, answer) as they come. EndpointError where a chat has none after all retries; every answer that was under way
        has been yielded by then. Closed before its end it waits for what is under way, for `take_late`."""
        self._stop.clear()
        todo = iter(enumerate(chats))
        running: dict[Future[Answer], int] = {}
        failed: EndpointError | None = None
        with ThreadPoolExecutor(self.config.concurrency, "endpoint") as pool:
            try:
                while True:
                    # only as many as can be under way: an error or Ctrl-C then leaves no queue behind
                    free = self.config.concurrency - len(running) if failed is None else 0
                    for place, chat in islice(todo, free):
                        running[pool.submit(self._complete, chat)] = place
                    if not running:
                        break
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        try:
                            answer = future.result()
                        except EndpointError as error:
                            failed = failed or error
                            self._stop.set()
                            del running[future]
                            continue
                        place = running.pop(future)
                        yield place, answer
            finally:
                self._stop.set()
                self._late += [(running[f], f.result()) for f in wait(running).done if f.exception() is None]
        if failed is not None:
            raise failed

    def _complete(self, chat: Chat) -> Answer:
        c = self.config
        for attempt in range(c.max_retries + 1):
            try:
                return self._ask(chat)
            except Passing as error:
                problem = error
                self._count(error)
            if attempt == c.max_retries or self._stop.is_set():
                break
            with self._lock:
                self.num_retries += 1
            backoff = c.backoff_s * 2**attempt * random.uniform(0.5, 1.0)
            self._stop.wait(min(max(backoff, problem.wait_s), c.max_backoff_s))
        raise EndpointError(
            f"{c.model} at {c.base_url} gave no answer in {attempt + 1} attempts; the last: {problem}. What it has answered is "
            "kept, and not paid for again: once it works, the same command goes on; see timeout_s and max_retries"
        )

    def _count(self, error: Passing) -> None:
        with self._lock:
            if error.paid is not None:
                self._spoilt.append(error.paid)

    def _body(self, chat: Chat) -> dict[str, Any]:
        messages = [{"role": role, "content": content} for role, content in chat.messages]
        limit: dict[str, int] = {self.config.length_key: chat.max_tokens}
        return {"model": self.config.model, "messages": messages, "temperature": chat.temperature, **limit, **self.config.extra}

    def _ask(self, chat: Chat) -> Answer:
        """One attempt. Passing, or EndpointError for what will not pass."""
        headers = {"Content-Type": "application/json", "User-Agent": "farthing"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = json.dumps(self._body(chat)).encode()
        request = urllib.request.Request(f"{self.config.base_url}/chat/completions", data, headers)
        deadline = time.monotonic() + self.config.timeout_s
        try:
            with self._opener.open(request, timeout=self.config.timeout_s) as response:
                return self._read_answer(_read(response, deadline), chat)
        except urllib.error.HTTPError as error:
            return self._refused(error, deadline)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            if isinstance(reason, TimeoutError):
                self._lose()
                raise Passing(f"no whole answer within {self.config.timeout_s:g} s") from None
            raise Passing(self._hide(f"{type(reason).__name__}: {reason}")) from None

    def _read_answer(self, data: bytes, chat: Chat) -> Answer:
        """The text and usage in a body. Passing where it is not what the interface says; what it says it used is paid all the
        same."""
        try:
            found = json.loads(data)
        except (ValueError, RecursionError):
            found = None
        usage = found.get("usage") if isinstance(found, dict) else None
        try:
            content = found["choices"][0]["message"]["content"]
        except (TypeError, KeyError, IndexError):
            content = b""
        if isinstance(content, str | None):
            return paid(usage, content or "", chat)
        if not isinstance(usage, dict):
            self._lose()
        shown = self._hide(" ".join(data[:EXCERPT].decode("utf-8", "replace").split()))
        raise Passing(f"a garbled answer: {shown!r}", paid=paid(usage, "", chat) if isinstance(usage, dict) else None)

    def _refused(self, error: urllib.error.HTTPError, deadline: float) -> Answer:
        with error:
            try:
                said = _read(error, deadline)[:EXCERPT].decode("utf-8", "replace")
            except (Passing, OSError, http.client.HTTPException):
                said = ""
        what = self._hide(f"HTTP {error.code} {' '.join(said.split())}".strip())
        if error.code in PASSING:
            raise Passing(what, retry_after(error.headers.get("Retry-After"))) from None
        if error.code in REFUSED:
            return Answer("", 0, 0, refusal=what)
        hint = "correct base_url or model"
        if error.code in (401, 403):
            name = self.config.api_key_env
            hint = f"check the key in {name}" if name else "it wants a key: name the variable that holds it in api_key_env"
        raise EndpointError(f"{self.config.model} at {self.config.base_url} refuses: {what}; {hint}") from None

    def _lose(self) -> None:
        with self._lock:
            self.num_lost += 1

    def _hide(self, text: str) -> str:
        return text.replace(self._key, "***") if self._key else text


def _read(response: Any, deadline: float) -> bytes:
    """The body, within the deadline however slowly it drips."""
    parts: list[bytes] = []
    size = 0
    while part := response.read1(READ_BYTES):
        parts.append(part)
        size += len(part)
        if size > MAX_ANSWER_BYTES:
            raise Passing(f"an answer of more than {MAX_ANSWER_BYTES:,} bytes")
        if time.monotonic() > deadline:
            raise TimeoutError
    return b"".join(parts)


def read_key(config: EndpointConfig) -> str:
    """The key in the environment; RecipeError, which does not show it, where it is missing or cannot be one."""
    name = config.api_key_env
    if not name:
        return ""
    key = os.environ.get(name, "").strip()
    if not key:
        raise RecipeError(f"api_key_env names {name}, and that variable is not set; export {name}=... before the run")
    if not key.isascii() or not key.isprintable() or " " in key:
        raise RecipeError(f"what {name} holds cannot be a key: it has spaces, or characters that no header can carry")
    return key


def is_this_machine(url: str) -> bool:
    """Such an address is never asked for by way of a proxy."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def paid(usage: Any, text: str, chat: Chat) -> Answer:
    """The answer with the tokens that the endpoint says it used; where it does not say, more than it can have used."""
    num_in, num_out = (usage.get(f"{way}_tokens") if isinstance(usage, dict) else None for way in ("prompt", "completion"))
    if is_count(num_in) and is_count(num_out):
        return Answer(text, num_in, num_out)
    num_bytes = sum(len(content.encode("utf-8", "replace")) for _, content in chat.messages)
    return Answer(text, num_bytes, chat.max_tokens, is_estimated=True)


def is_count(value: Any) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < MAX_TOKENS


def retry_after(header: str | None) -> float:
    """Seconds; 0 where the header is missing, or is a date."""
    try:
        return max(0.0, float(header or 0))
    except ValueError:
        return 0.0
