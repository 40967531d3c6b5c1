"""A server that misbehaves in every way known to us, and what the endpoint backend makes of it."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from helpers.replies import texts
from helpers.serving import Faulty, completion, said, serving

from qilin_lib.errors import QilinError
from qilin_lib.evaluate import server as servers
from qilin_lib.evaluate.endpoint import EndpointBackend
from qilin_lib.evaluate.prompts import Prompt
from qilin_lib.evaluate.replies import ERROR, LENGTH, Reply
from qilin_lib.schema import Baseline

KEY = "sk-secret-0123456789abcdef"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Faulty]:
    monkeypatch.setattr(servers, "FIRST_WAIT", 0.01)
    monkeypatch.setenv("A_KEY", KEY)
    # A proxy where nobody listens: a server on this machine must be reached without it.
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(Faulty()) as faulty:
        yield faulty


@pytest.fixture
def backend(server: Faulty, tmp_path: Path) -> Callable[..., EndpointBackend]:
    def make(batch_size: int = 4, cache_dir: Path = tmp_path / "responses", **changes: Any) -> EndpointBackend:
        line = Baseline(model="m-1", endpoint=server.url, template="chat", api_key_env="A_KEY")
        return EndpointBackend(line.model_copy(update=changes), batch_size, cache_dir)

    return make


def ask(text: str, prefix: str = "") -> Prompt:
    return Prompt([{"role": "user", "content": text}], prefix, [], f"问：{text}\n答：{prefix}", 0, False)


def asks(count: int) -> list[Prompt]:
    return [ask(f"q{n}") for n in range(count)]


# --- what is sent, and in which order it comes back -------------------------------------------------------------------


def test_a_chunk_is_asked_once_concurrently_and_answered_in_order(server: Faulty, backend: Callable) -> None:
    def reply(request: dict, number: int) -> Any:
        time.sleep(0.4 - 0.04 * number)  # later ones are faster
        return 200, completion(f"Re: {said(request)}")

    server.reply = reply
    asked = backend(batch_size=3)
    assert texts(asked.generate([*asks(8), ask("q0")], 5)) == [f"Re: q{n}" for n in (*range(8), 0)]
    assert server.most == 3 and len(server.requests) == 8 and asked.usage()["cached"] == 1, "the same is asked once"


def test_a_chat_is_sent_as_messages_with_the_forced_beginning_as_its_last_line(
    server: Faulty, backend: Callable
) -> None:
    shots = [{"role": "user", "content": "一"}, {"role": "assistant", "content": "答案：A"}]
    last = {"role": "user", "content": "二"}
    asked = backend(endpoint=server.url.removesuffix("/v1") + "/")
    asked.generate([Prompt([*shots, last], "答案：", [], "", 1, False)], 7)
    (request,) = server.requests
    assert request["path"] == "/v1/chat/completions"
    assert request["body"] == {
        "model": "m-1",
        "messages": [*shots, {"role": "user", "content": "二\n答案："}],
        "max_tokens": 7,
        "temperature": 0,
        "top_p": 1,
        "seed": 1,
    }
    assert last["content"] == "二", "the caller's messages are left alone"
    assert asked.render([*shots, last], "答案：") == "user: 一\n\nassistant: 答案：A\n\nuser: 二\n答案：\n\nassistant: "


def test_plain_text_goes_to_completions_as_rendered(server: Faulty, backend: Callable) -> None:
    asked = backend(template="plain")
    messages = [
        {"role": "user", "content": "一"},
        {"role": "assistant", "content": "甲"},
        {"role": "user", "content": "二"},
    ]
    text = asked.render(messages, "答案：")
    assert text == "问：一\n答：甲\n问：二\n答：答案："
    assert texts(asked.generate([Prompt(messages, "答案：", [], text, 1, False)], 7)) == [f"Re: {text}"]
    assert server.requests[0]["path"] == "/v1/completions" and "messages" not in server.requests[0]["body"]


# --- the server's faults ----------------------------------------------------------------------------------------------


def test_after_429_every_thread_waits_as_long_as_the_server_asks(server: Faulty, backend: Callable) -> None:
    def reply(request: dict, number: int) -> Any:
        if number == 1:
            return 429, {"error": {"message": "slow down"}}, {"retry-after": "0.5"}
        time.sleep(0.4)
        return 200, completion(f"Re: {said(request)}")

    server.reply = reply
    asked = backend(batch_size=2)
    assert texts(asked.generate(asks(4), 5)) == [f"Re: q{n}" for n in range(4)]
    at = [request["at"] for request in server.requests]
    # The second thread may have sent its first request before the 429 came; all others wait.
    assert len(at) == 5 and min(at[2:]) - at[0] >= 0.45
    assert asked.usage()["requests"] == 5 and asked.usage()["retries"] == 1


def test_500_and_a_closed_connection_pass(server: Faulty, backend: Callable) -> None:
    faults = {1: (500, b"oops"), 2: None, 3: (503, {}), 4: (200, b"<html>starting</html>")}
    answer = completion("at last", error={"code": 0, "message": ""})
    server.reply = lambda request, number: faults.get(number, (200, answer))
    asked = backend()
    assert texts(asked.generate([ask("q")], 5)) == ["at last"]
    assert asked.usage()["retries"] == 4 and asked.usage()["requests"] == 5 == len(server.requests)


HOPELESS = {
    "500": ((500, b"<h1>oops</h1>"), servers.TRIES, "status 500 (<h1>oops</h1>)"),
    "429": ((429, {"error": {"message": "slow down"}}), servers.TRIES, "status 429 (slow down)"),
    "429 for an hour": ((429, {}, {"retry-after": "3600"}), 1, "a wait of 3600 s more passes the 300 s"),
    "quota": ((429, {"error": {"message": "pay", "code": "insufficient_quota"}}), 1, "quota is used up (pay)"),
    "401": ((401, {"error": {"message": f"no {KEY}"}}), 1, "status 401, the server refuses the key of A_KEY"),
    "403": ((403, {"error": {"message": f"not {KEY}"}}), 1, "may not use this model (not [key])"),
    "404": ((404, {"error": {"message": "no m-1"}}), 1, "no model of this name or no such path (no m-1)"),
    "no seed": ((400, {"error": {"message": "Unsupported parameter: 'seed'"}}), 1, "request: {its name: null}"),
    "html": ((200, b"<html>" + KEY.encode() * 20, {"content-type": "text/html"}), servers.TRIES, "no completion (<ht"),
    "no choices": ((200, {"choices": []}), servers.TRIES, 'no completion ({"choices": []})'),
    "deep": ((200, b"[" * 100_000), servers.TRIES, "no completion ([[[["),
    "the key": ((200, completion(f"you sent {KEY}")), 1, "holds the key of A_KEY, so it is not kept"),
    "closed": (None, servers.TRIES, "no connection (RemoteProtocolError: Server disconnected"),
    "405": ((405, b"Method not allowed"), 1, "status 405 (Method not allowed)"),
    "long": ((200, b" " * 300_000), servers.TRIES, "an answer of more than 200000 bytes"),
    "long fault": ((500, b"x" * 300_000), servers.TRIES, "an answer of more than 200000 bytes"),
    # OpenRouter begins a 200 before it knows whether the model's own host answers.
    "quota behind a 200": ((200, {"error": {"message": "pay", "code": 402}}), 1, "quota is used up (pay)"),
    "fault in a choice": ((200, {"choices": [{"message": {"content": ""}, "finish_reason": "error"}]}), 6, "no compl"),
}


@pytest.mark.parametrize("name", HOPELESS)
def test_a_fault_that_stays_is_one_sentence(
    name: str,
    server: Faulty,
    backend: Callable,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reply, tries, reason = HOPELESS[name]
    monkeypatch.setattr(servers, "LARGEST", 200_000)
    server.reply = lambda request, number: reply
    caplog.set_level(logging.DEBUG)
    asked = backend()
    with pytest.raises(QilinError) as raised:
        asked.generate([ask("头痛怎么办")], 5)
    message = str(raised.value)
    assert reason in message
    for part in (server.url, "model 'm-1'", f"tried {tries} time", "头痛怎么办", str(tmp_path / "responses"), "rerun"):
        assert part in message, part
    assert len(server.requests) == tries == asked.usage()["requests"]
    assert "\n" not in message and len(message) < 800
    everything = "".join(traceback.format_exception(raised.value)) + caplog.text + repr(asked)
    # Half of a key is still a leak.
    assert KEY[:12] not in everything
    assert list(tmp_path.rglob("*.json")) == []


def test_a_server_that_hangs_or_drips_ends_at_the_timeout(server: Faulty, backend: Callable) -> None:
    over = threading.Event()
    server.reply = lambda request, number: over.wait(20) and None
    asked, started = backend(timeout=0.2), time.monotonic()
    with pytest.raises(QilinError, match=r"no whole answer within the timeout of 0\.2 s; tried 6 times"):
        asked.generate([ask("q")], 5)
    over.set()
    # A byte every tenth of a second keeps any timeout between bytes from ending it.
    server.requests.clear()
    server.reply = lambda request, number: (200, [b" "] * 50 + [json.dumps(completion("late")).encode()])
    with pytest.raises(QilinError, match="no whole answer within the timeout"):
        asked.generate([ask("q")], 5)
    assert len(server.requests) == 6 and time.monotonic() - started < 20


def test_headers_that_drip_end_at_the_timeout_too(backend: Callable) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def drip() -> None:
            while listening.fileno() >= 0:
                with suppress(OSError), listening.accept()[0] as connection:
                    connection.sendall(b"HTTP/1.1 200 OK\r\nx-slow: ")
                    for _ in range(20):
                        time.sleep(0.1)
                        connection.sendall(b"x")

        threading.Thread(target=drip, daemon=True).start()
        asked = backend(endpoint=f"http://127.0.0.1:{listening.getsockname()[1]}/v1", timeout=0.3)
        started = time.monotonic()
        with pytest.raises(QilinError, match=r"no whole answer within the timeout of 0\.3 s; tried 6 times"):
            asked.generate([ask("q")], 5)
        assert time.monotonic() - started < 6


def test_nobody_there(backend: Callable) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        refused = backend(endpoint=f"http://127.0.0.1:{taken.getsockname()[1]}/v1")
        with pytest.raises(QilinError, match=r"no connection \(ConnectionRefusedError: .*\); tried 6 times"):
            refused.generate([ask("q")], 5)


def test_waiting_is_bounded_in_all(server: Faulty, backend: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "MAX_WAIT", 0.5)
    server.reply = lambda request, number: (429, {}, {"retry-after": "0.2"})
    with pytest.raises(QilinError, match="status 429.*passes the"):
        backend().generate([ask("q")], 5)
    assert len(server.requests) == 3


REFUSED = {
    "too long": (
        (400, {"error": {"message": "maximum context length is 4096 tokens", "code": "context_length_exceeded"}}),
        "status 400 with 5 new tokens asked for (maximum context length is 4096 tokens); take fewer shots or a model",
    ),
    "filter": ((400, {"error": {"message": "data_inspection_failed\ud83d"}}), "data_inspection_failed"),
    "null": ((200, completion(None)), "an answer without text (finish_reason stop)"),
    "no text": (
        (200, {"choices": [{"message": {"role": "assistant"}}]}),
        "an answer without text (finish_reason None)",
    ),
    "kept back": (
        (200, {"choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}]}),
        "an answer without text (finish_reason content_filter)",
    ),
    "by name": ((400, {"error": {"message": "m-1 may not answer this"}}), "m-1 may not answer this"),
    "by 403": ((403, {"error": {"message": "Input flagged by moderation", "code": 403}}), "status 403 with 5 new"),
    "moderated behind a 200": ((200, {"error": {"message": "flagged", "code": 400}}), "flagged"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_prompt_has_an_empty_reply_that_says_why_and_is_not_kept(
    name: str, server: Faulty, backend: Callable, tmp_path: Path
) -> None:
    fault, reason = REFUSED[name]
    server.reply = lambda request, number: fault if said(request) == "q1" else (200, completion(f"Re: {said(request)}"))
    asked = backend()
    replies = asked.generate(asks(4), 5)
    assert texts(replies) == ["Re: q0", "", "Re: q2", "Re: q3"] and asked.usage()["refused"] == 1
    assert [reply.finish for reply in replies] == ["stop", "error", "stop", "stop"] and reason in replies[1].error
    server.reply = lambda request, number: (200, completion(f"Re: {said(request)}"))
    assert texts(backend().generate(asks(4), 5)) == [f"Re: q{n}" for n in range(4)]
    assert len(server.requests) == 5 and KEY not in replies[1].error
    assert replies[1].error.encode("utf-8"), "a file can hold it"


def test_a_server_that_refuses_every_prompt_is_no_matter_of_the_prompts(server: Faulty, backend: Callable) -> None:
    server.reply = lambda request, number: (400, {"error": {"message": "bad prompt"}})
    with pytest.raises(QilinError, match=r"each of 20 prompts is refused: status 400 .*bad prompt.*kept in"):
        backend(batch_size=2).generate(asks(40), 5)
    assert len(server.requests) <= 22


def test_a_limit_by_another_name_is_sent_by_it(server: Faulty, backend: Callable) -> None:
    advice = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."

    def reply(request: dict, number: int) -> Any:
        known = "max_tokens" not in request["body"]
        return (200, completion("yes")) if known else (400, {"error": {"message": advice}})

    server.reply = reply
    assert texts(backend(batch_size=2).generate(asks(4), 5)) == ["yes"] * 4
    assert server.requests[-1]["body"]["max_completion_tokens"] == 5


def test_fields_of_a_request_are_the_users(server: Faulty, backend: Callable) -> None:
    extra = {"seed": None, "temperature": None, "chat_template_kwargs": {"enable_thinking": False}}
    asked = backend(request=extra, system="你是医生", stop=["问："])
    asked.generate([ask("头痛")], 5)
    body = server.requests[0]["body"]
    assert not {"seed", "temperature"} & body.keys() and body["stop"] == ["问："]
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert asked.fingerprint() != backend().fingerprint()


def test_a_server_that_can_goes_on_from_the_first_words(server: Faulty, backend: Callable) -> None:
    server.reply = lambda request, number: (200, completion("C。"))
    (reply,) = backend(prefill=True).generate([ask("q", "答案：")], 5)
    body = server.requests[0]["body"]
    assert body["messages"][-1] == {"role": "assistant", "content": "答案："} and body["continue_final_message"] is True
    assert reply.forced


@pytest.mark.parametrize("template", ["chat", "plain"])
def test_letters_are_scored_by_a_servers_log_probabilities(server: Faulty, backend: Callable, template: str) -> None:
    top = {"C": -0.5, " A": -1.5, "的": -4.0}
    # Not every server lists the likeliest first.
    listed = [{"token": token, "logprob": value} for token, value in {"C ": -9.0, **top}.items()]
    found = {"content": [{"top_logprobs": listed}], "top_logprobs": [{"C ": -9.0, **top}]}
    server.reply = lambda request, number: (200, {"choices": [{"logprobs": found}]})
    asked = backend(logprobs=True, template=template)
    assert asked.likelihood and asked.choice_logprobs([ask("q")], "ABCD") == [
        {"A": -1.5, "B": -4.0, "C": -0.5, "D": -4.0}
    ]
    (unknown,) = asked.choice_logprobs([ask("q")], "XY")
    assert unknown.finish == ERROR and "none of X, Y is among the 20 likeliest" in unknown.error


WITHOUT = {
    "by 400": (400, {"error": {"message": "Unsupported parameter: 'logprobs' is not supported with this model."}}),
    "by 403": (403, {"error": {"message": "You are not allowed to request logprobs"}}),
    "silently": (200, completion("C")),
}


@pytest.mark.parametrize("how", WITHOUT)
def test_a_server_that_gives_no_log_probabilities_writes_its_letters(
    server: Faulty, backend: Callable, capsys: pytest.CaptureFixture, how: str
) -> None:
    server.reply = lambda request, number: (
        WITHOUT[how] if "logprobs" in request["body"] else (200, completion("答案：C"))
    )
    asked = backend(logprobs=True)
    assert not asked.likelihood and texts(asked.generate([ask("q")], 5)) == ["答案：C"]
    assert not asked.likelihood and len(server.requests) == 2
    assert "m-1 gives no log-probabilities" in capsys.readouterr().out


WITHOUT_TOKENS = [[], None, [{"top_logprobs": []}], [{"top_logprobs": [{"token": "A", "logprob": None}]}]]


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ((400, {"error": {"message": "data_inspection_failed"}}), "data_inspection_failed"),
        *(((200, {"choices": [{"logprobs": {"content": one}}]}), "without log-prob") for one in WITHOUT_TOKENS),
    ],
)
def test_a_prompt_refused_while_letters_are_scored_is_one_item(
    server: Faulty, backend: Callable, reply: Any, reason: str
) -> None:
    found = {"content": [{"top_logprobs": [{"token": "A", "logprob": -0.1}]}]}
    server.reply = lambda request, number: (
        reply if said(request) == "bad" else (200, {"choices": [{"logprobs": found}]})
    )
    fine, refused = backend(logprobs=True).choice_logprobs([ask("q"), ask("bad")], "A")
    assert fine == {"A": -0.1} and refused.finish == ERROR and reason in refused.error


# --- the cache --------------------------------------------------------------------------------------------------------


def test_a_cached_answer_costs_nothing_and_every_setting_counts(
    server: Faulty, backend: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend().generate(asks(3), 5)
    again = backend(price_per_million_input=1.0, price_per_million_output=2.0)
    assert texts(again.generate(asks(3), 5)) == ["Re: q0", "Re: q1", "Re: q2"]
    assert again.usage() == dict.fromkeys(again.usage(), 0) | {"cached": 3} and len(server.requests) == 3
    prints = {again.fingerprint()}
    for n, other in enumerate([{"model": "m-2"}, {"template": "plain"}, {"endpoint": server.url + "/deeper"}], start=4):
        changed = backend(**other)
        changed.generate([ask("q0")], 5)
        prints.add(changed.fingerprint())
        assert len(server.requests) == n == len(prints) + 2, other
    monkeypatch.setenv("A_KEY", "sk-another-key")
    assert backend().fingerprint() == again.fingerprint()


@pytest.mark.parametrize("damaged", [lambda good: good[: len(good) // 2], lambda good: "", lambda good: "[]"])
def test_a_damaged_answer_is_asked_again(damaged: Callable, server: Faulty, backend: Callable, tmp_path: Path) -> None:
    backend().generate([ask("q")], 5)
    (path,) = (tmp_path / "responses").glob("*.json")
    good = path.read_text(encoding="utf-8")
    path.write_text(damaged(good), encoding="utf-8")
    assert texts(backend().generate([ask("q")], 5)) == ["Re: q"] and len(server.requests) == 2
    assert path.read_text(encoding="utf-8") == good


def test_a_folder_that_cannot_be_written_is_one_sentence(backend: Callable, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(QilinError, match="file/responses/.*cannot be"):
        backend(cache_dir=tmp_path / "file" / "responses").generate([ask("q")], 5)


# --- tokens, money, pace ----------------------------------------------------------------------------------------------


def test_tokens_and_cost_are_those_the_server_counted(server: Faulty, backend: Callable) -> None:
    server.reply = lambda request, number: (200, completion("a") if number < 4 else {**completion("a"), "usage": None})
    asked = backend(batch_size=1, price_per_million_input=0.5, price_per_million_output=1.5)
    asked.generate(asks(5), 5)
    expected = {"requests": 5, "retries": 0, "cached": 0, "prompt_tokens": 33, "completion_tokens": 9}
    expected |= {"unmetered": 2, "refused": 0, "cost": pytest.approx((33 * 0.5 + 9 * 1.5) / 1_000_000)}
    assert asked.usage() == expected
    absurd = completion("a") | {"usage": {"prompt_tokens": 10**400, "completion_tokens": 3}}
    server.reply = lambda request, number: (200, absurd)
    lying = backend(price_per_million_input=0.5, price_per_million_output=1.5)
    lying.generate([ask("r")], 5)
    assert lying.usage()["cost"] == 0 and lying.usage()["unmetered"] == 1
    assert backend(price_per_million_input=0.5).usage()["cost"] is None


def test_the_rate_limit_is_shared_by_the_threads(backend: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, at = backend(batch_size=8, requests_per_minute=600), []
    post = asked.server._post
    # Seen where requests start: how long one takes to the server depends on the machine.
    monkeypatch.setattr(asked.server, "_post", lambda *given: at.append(time.monotonic()) or post(*given))
    asked.generate(asks(8), 5)
    assert len(at) == 8 and max(at) - min(at) >= 0.65, "seven gaps of 0.1 s"


def test_a_refusal_is_an_answer_parts_are_their_text_broken_unicode_is_mended_and_a_thought_alone_is_cut(
    server: Faulty, backend: Callable
) -> None:
    refused = {"choices": [{"message": {"content": None, "refusal": "我不能回答"}}]}
    parts = completion([{"type": "text", "text": "多"}, {"type": "text", "text": "休息"}])
    message = {"role": "assistant", "reasoning_content": "先看A"}
    thought = {"choices": [{"message": message, "finish_reason": "length"}]}
    server.reply = lambda request, number: (200, [refused, completion("半\ud83d"), parts, thought][number - 1])
    for _ in range(2):
        *answers, last = backend(batch_size=1).generate(asks(4), 5)
        assert texts(answers) == ["我不能回答", "半?", "多休息"] and last == Reply("", LENGTH)


# --- the key, the address ---------------------------------------------------------------------------------------------


def test_the_key_is_sent_and_stands_nowhere_else(server: Faulty, backend: Callable, tmp_path: Path) -> None:
    asked = backend()
    asked.generate(asks(3), 5)
    assert [request["headers"]["Authorization"] for request in server.requests] == [f"Bearer {KEY}"] * 3
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) == 3 and not any(KEY.encode() in path.read_bytes() for path in written)
    assert KEY not in repr(asked) + str(asked.usage()) + asked.fingerprint()


def test_no_prompt_follows_a_redirect_to_another_server(server: Faulty, backend: Callable) -> None:
    with serving(Faulty()) as other:
        server.reply = lambda request, number: (307, {}, {"location": f"{other.url}/chat/completions"})
        with pytest.raises(QilinError, match=r"status 307, the server points to http://127.*tried 1 time "):
            backend().generate([ask("q")], 5)
        assert other.requests == []


def test_another_model_s_answers_are_told_and_kept_under_its_name(
    server: Faulty, backend: Callable, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    server.reply = lambda request, number: (200, completion("yes", model="m-0"))
    assert texts(backend().generate(asks(3), 5)) == ["yes"] * 3
    assert capsys.readouterr().out.count("m-1 is answered by 'm-0'") == 1
    assert all('"m-0"' in path.read_text(encoding="utf-8") for path in tmp_path.rglob("*.json"))


def test_a_missing_key_names_its_variable_and_this_machine_needs_none(
    server: Faulty, backend: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("A_KEY", "  ")
    with pytest.raises(QilinError, match=r"https://api\.example\.com/v1 wants a key: set the .* variable A_KEY"):
        backend(endpoint="https://api.example.com")
    with pytest.raises(QilinError, match="wants a key"):
        backend(endpoint="http://127.0.0.1.example.com/v1")
    assert backend(endpoint="http://[::1]:8000/v1").url
    assert texts(backend().generate([ask("q")], 5)) == ["Re: q"]
    assert server.requests[0]["headers"]["Authorization"] == f"Bearer {servers.PLACEHOLDER}"
    monkeypatch.setenv("A_KEY", "sk-not-ascii-密")
    with pytest.raises(QilinError, match="A_KEY holds no key") as raised:
        backend()
    assert "sk-not" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"template": "baichuan"}, "nearest valid: 'chat'"),
        ({"endpoint": "http:///v1"}, "no URL of a server"),
        ({"endpoint": "http://localhost:many/v1"}, "no URL of a server"),
    ],
)
def test_what_cannot_be_an_endpoint_is_refused_before_anything_is_sent(
    changes: dict, reason: str, server: Faulty, backend: Callable
) -> None:
    with pytest.raises(QilinError, match=reason):
        backend(**changes)
    assert server.requests == []
