"""The client of teachers and judges against a server that is down, slow, garbled, overloaded, and then works."""

import socket
import time
from typing import Any

import pytest

from farthing.config import EndpointConfig
from farthing.endpoint import Answer, Chat, Endpoint
from farthing.errors import EndpointError, RecipeError
from tests.endpoint_server import Reply, answer, asked, serving, status

KEY = "sk-very-secret-0815"


def config(url: str, **changed: Any) -> EndpointConfig:
    quick = {"base_url": url, "model": "m", "backoff_s": 0.01, "max_backoff_s": 0.05, "max_retries": 3, "timeout_s": 5.0}
    return EndpointConfig.model_validate(quick | changed)


def chat(text: str = "hello") -> Chat:
    return Chat((("user", text),), 0.5, 7)


def ask(endpoint: Endpoint, *texts: str) -> list[Answer]:
    found = dict(endpoint.answers([chat(text) for text in texts]))
    return [found[i] for i in range(len(texts))]


def echo(_: int, body: dict[str, Any]) -> Reply:
    return answer(f"echo {asked(body)}")


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def test_what_is_sent_and_what_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", f" {KEY}\n")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")  # nothing on this machine goes by way of a proxy
    with serving(echo) as server:
        endpoint = Endpoint(config(f"{server.url}/", api_key_env="MY_KEY", extra={"reasoning": "low"}))
        assert ask(endpoint, "hello") == [Answer("echo hello", 10, 5)]
    said = {"messages": [{"role": "user", "content": "hello"}], "temperature": 0.5, "max_tokens": 7}
    assert server.requests == [{"model": "m", **said, "reasoning": "low"}]
    assert server.headers[0]["path"] == "/v1/chat/completions"
    assert server.headers[0]["Authorization"] == f"Bearer {KEY}"


def test_answers_keep_their_places_and_requests_their_number() -> None:
    with serving(echo) as server:
        server.delay_s = 0.02
        texts = [str(n) for n in range(12)]
        assert [a.text for a in ask(Endpoint(config(server.url, concurrency=3)), *texts)] == [f"echo {n}" for n in range(12)]
    assert 1 < server.most_at_once <= 3


TROUBLE: dict[str, tuple[Reply, ...]] = {
    "overloaded": (status(429, "slow down", Retry_After="0.01"), status(503), status(500, "oops")),
    "a date to wait for": (status(429, "", Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"),),
    "garbled": (status(200, "<html>"), (200, b"\xff\xfe", {}), status(200, "[1, 2]")),
    "without choices": (status(200, '{"choices": []}'), status(200, '{"choices": [{"message": {"content": 7}}]}')),
    "deep": (status(200, "[" * 100_000),),
    "cut short": ((0, b'{"choices": [', {}),),
}


@pytest.mark.parametrize("name", TROUBLE)
def test_trouble_that_passes_is_got_over(name: str) -> None:
    replies = TROUBLE[name]
    with serving(lambda n, body: replies[n] if n < len(replies) else echo(n, body)) as server:
        endpoint = Endpoint(config(server.url))
        assert ask(endpoint, "hello")[0].text == "echo hello"
    assert endpoint.num_retries == len(replies)


def test_trouble_that_does_not_pass_is_an_error_that_says_what_and_how_often() -> None:
    with serving(lambda n, body: status(503, "overloaded")) as server, pytest.raises(EndpointError) as error:
        ask(Endpoint(config(server.url, max_retries=2)), "hello")
    assert len(server.requests) == 3
    assert "no answer in 3 attempts" in str(error.value)
    assert "HTTP 503 overloaded" in str(error.value)
    assert "same command goes on" in str(error.value)


def test_a_server_that_is_down() -> None:
    started = time.monotonic()
    with pytest.raises(EndpointError, match="ConnectionRefusedError"):
        ask(Endpoint(config(f"http://127.0.0.1:{free_port()}/v1")), "hello")
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("how", ["delay_s", "drip_s"])
def test_a_late_answer_counts_as_none_however_it_is_late(how: str) -> None:
    """`drip`: a byte now and then, each in time."""
    with serving(echo) as server:
        setattr(server, how, 0.4 if how == "delay_s" else 0.02)
        endpoint = Endpoint(config(server.url, timeout_s=0.2, max_retries=1))
        with pytest.raises(EndpointError, match=r"no whole answer within 0\.2 s"):
            ask(endpoint, "hello")
    assert endpoint.num_lost == 2, "somebody may bill what was on its way"


def test_an_endless_answer_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farthing.endpoint.MAX_ANSWER_BYTES", 1000)
    with serving(lambda n, body: answer("x" * 2000)) as server, pytest.raises(EndpointError, match="more than 1,000 bytes"):
        ask(Endpoint(config(server.url, max_retries=0)), "hello")


@pytest.mark.parametrize(("code", "hint"), [(401, "check the key in MY_KEY"), (403, "MY_KEY"), (404, "base_url or model")])
def test_what_will_not_pass_is_not_repeated_and_hides_the_key(monkeypatch: pytest.MonkeyPatch, code: int, hint: str) -> None:
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(lambda n, body: status(code, f"no: {KEY}")) as server, pytest.raises(EndpointError, match=hint) as error:
        ask(Endpoint(config(server.url, api_key_env="MY_KEY")), "hello")
    assert len(server.requests) == 1
    assert KEY not in str(error.value)
    assert error.value.__cause__ is None
    assert "***" in str(error.value)


def test_a_redirect_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The key would go with it."""
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(echo) as elsewhere, serving(lambda n, body: status(307, "", Location=elsewhere.url)) as server:
        with pytest.raises(EndpointError, match="HTTP 307"):
            ask(Endpoint(config(server.url, api_key_env="MY_KEY")), "hello")
        assert elsewhere.requests == []


def test_one_request_that_is_refused_does_not_stop_the_others() -> None:
    def behave(n: int, body: dict[str, Any]) -> Reply:
        return status(400, "too long") if asked(body) == "bad" else echo(n, body)

    with serving(behave) as server:
        good, bad = ask(Endpoint(config(server.url)), "good", "bad")
    assert good.text == "echo good"
    assert (bad.text, bad.tokens_in, bad.refusal) == ("", 0, "HTTP 400 too long")


def test_answers_that_were_under_way_come_before_the_error() -> None:
    def behave(n: int, body: dict[str, Any]) -> Reply:
        if asked(body) == "bad":
            return status(404)
        time.sleep(0.1)
        return echo(n, body)

    with serving(behave) as server:
        answers = Endpoint(config(server.url, concurrency=3)).answers([chat(t) for t in ("a", "bad", "b", "c", "d")])
        found = [(place, one.text) for place, one in (next(answers), next(answers))]
        with pytest.raises(EndpointError):
            next(answers)
    assert sorted(found) == [(0, "echo a"), (2, "echo b")]
    assert len(server.requests) == 3


def test_answers_that_were_under_way_when_nobody_listens_any_more_are_kept() -> None:
    def behave(n: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.0 if asked(body) == "a" else 0.1)
        return echo(n, body)

    with serving(behave) as server:
        endpoint = Endpoint(config(server.url, concurrency=3))
        answers = endpoint.answers([chat(t) for t in ("a", "b", "c", "d", "e")])
        assert next(answers)[0] == 0
        answers.close()
        assert sorted((place, one.text) for place, one in endpoint.take_late()) == [(1, "echo b"), (2, "echo c")]
        assert endpoint.take_late() == []
    assert len(server.requests) == 3


def test_tokens_are_what_the_endpoint_says_or_more_than_there_can_have_been() -> None:
    replies = [answer("four", 12, 3), answer(None, 12, 0), (200, b'{"choices": [{"message": {"content": "four"}}]}', {})]
    with serving(lambda n, body: replies[n]) as server:
        endpoint = Endpoint(config(server.url))
        found = [ask(endpoint, "hé")[0] for _ in replies]
    assert found[:2] == [Answer("four", 12, 3), Answer("", 12, 0)]
    assert found[2] == Answer("four", 3, 7, is_estimated=True), "3 bytes in, and as many out as were allowed"


def test_an_answer_that_is_of_no_use_is_paid_for() -> None:
    garbled: Reply = (200, b'{"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}', {})
    with serving(lambda n, body: garbled if n == 0 else echo(n, body)) as server:
        endpoint = Endpoint(config(server.url))
        ask(endpoint, "hello")
    assert [(a.tokens_in, a.tokens_out) for a in endpoint.take_spoilt()] == [(9, 4)]
    assert endpoint.take_spoilt() == []


USAGES: list[Any] = [{}, {"prompt_tokens": "9"}, {"prompt_tokens": -1, "completion_tokens": 1}, {"prompt_tokens": 1e9}, None]


@pytest.mark.parametrize("usage", USAGES)
def test_a_usage_that_is_none_is_estimated(usage: Any) -> None:
    with serving(lambda n, body: answer("x", usage=usage)) as server:
        assert ask(Endpoint(config(server.url)), "hello")[0].is_estimated


def test_keys_tell_what_decides_the_answer_and_nothing_else() -> None:
    endpoint = Endpoint(config("http://127.0.0.1:1/v1"))
    elsewhere = Endpoint(config("http://127.0.0.1:2/v1", timeout_s=1.0))
    assert endpoint.key_of(chat()) == elsewhere.key_of(chat())
    said = (("user", "hello"),)
    others = [chat("other"), Chat(said, 0.6, 7), Chat(said, 0.5, 8), Chat((("system", "hello"),), 0.5, 7)]
    keys = {endpoint.key_of(each) for each in [chat(), *others]} | {Endpoint(config("http://x/v1", model="n")).key_of(chat())}
    assert len(keys) == 6


@pytest.mark.parametrize(("value", "message"), [(None, "is not set"), ("  ", "is not set"), ("two words", "cannot be a key")])
def test_a_key_that_is_none(monkeypatch: pytest.MonkeyPatch, value: str | None, message: str) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("MY_KEY", value)
    with pytest.raises(RecipeError, match=message) as error:
        Endpoint(config("http://127.0.0.1:1/v1", api_key_env="MY_KEY"))
    assert "two words" not in str(error.value)


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8000", "ftp://x/v1", "https://me:secret@host/v1", "http://host/v1?key=secret", "http://host/ v1", "http://"],
)
def test_an_address_that_is_none_or_holds_a_secret(url: str) -> None:
    with pytest.raises(ValueError, match="base_url must be"):
        config(url)


def test_keys_of_the_body_that_are_ours() -> None:
    with pytest.raises(ValueError, match="extra may not hold max_tokens"):
        config("http://127.0.0.1:1/v1", extra={"max_tokens": 3})
