"""A served model scores answers as the model behind the server does; what goes wrong is said in one sentence."""

import socket
import threading
import time

import pytest

from completions_server import WORDS, CompletionsHandler, CompletionsServer, log_likelihood, next_words
from sinkd.errors import SinkdError
from sinkd.models.answer_span import answer_span
from sinkd.models.served import ServedModel

PROMPT = "a fine film . the sentiment is"
ANSWERS = [" positive", " negative"]
SECRET = "sk-never-shown"


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.01)
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)


def served(url, **settings):
    return ServedModel(url, "small", **{"timeout": 5.0, "retries": 1, **settings})


@pytest.mark.parametrize(
    ("way", "limit", "found"),
    [("prompt", 9, "prompt"), ("next token", 10**9, "next token"), ("next token", 5, "next token"),
     ("next token", 20, "next token"), ("chat", 10**9, "next token")],
)  # fmt: skip
def test_answers_of_one_token_score_the_same_in_every_way(way, limit, found):
    with CompletionsServer(way, limit) as server:
        model = served(server.url)
        prompt = next(f"{PROMPT} {i} times" for i in range(99) if limit > 5 or _in_first_five(f"{PROMPT} {i} times"))
        expected = [next_words(prompt)[answer] for answer in ANSWERS]
        assert model.probe(prompt, ANSWERS) == pytest.approx(expected)
        assert model.way == found
        sent = model.sent
        assert model.score(prompt, ANSWERS) == pytest.approx(expected)
        assert model.sent - sent == (2 if found == "prompt" else 1)


def _in_first_five(prompt):
    after = next_words(prompt)
    return set(ANSWERS) <= set(sorted(after, key=after.get)[-5:])


def test_answers_of_several_tokens():
    answers = [" very good", " very bad film", " good"]
    with CompletionsServer() as server:
        expected = [log_likelihood(PROMPT, answer) for answer in answers]
        assert served(server.url).probe(PROMPT, answers) == pytest.approx(expected)
    with CompletionsServer("chat") as server, pytest.raises(SinkdError, match="' very good' is not among the 7 most"):
        served(server.url).probe(PROMPT, answers)


def test_the_first_token_stands_for_an_answer_where_the_whole_vocabulary_is_listed(monkeypatch):
    monkeypatch.setattr("sinkd.models.served.LISTS", (len(WORDS) - 1, 3, 2))
    with CompletionsServer("chat") as server:
        model, after = served(server.url), next_words(PROMPT)
        assert model.probe(PROMPT, [" very good", " bad film"]) == pytest.approx([after[" very"], after[" bad"]])
        with pytest.raises(SinkdError, match="' very good' and ' very bad' begin with the same token ' very'"):
            model.score(PROMPT, [" very good", " very bad"])


@pytest.mark.parametrize(
    ("tokens", "answer", "rest", "expected"),
    [
        (["It", " is", " good", "."], " good", ".", [" good"]),
        (["It", " is", " good"], " good", "", [" good"]),  # the end of the text is not listed
        (["It", " is", " good", "</s>"], " good", "", [" good"]),
        (["It", " is", " good"], " good", " good", [" good"]),  # the server's own token is not listed
        (["It", " is", " good"], " good", ".", [" good"]),
        (["It", " is", " good", "\n"], " good", "\n", [" good"]),
        (["It", " is", " very", " good", " good"], " very good", " good", [" very", " good"]),
        (["It", " is", " g", "ood", ""], " good", "", [" g", "ood"]),
        (["<s>", "It", "is", "good", "."], " good", ".", ["good"]),  # sentencepiece's tokens lose their space
        (["▁It", "▁is", "▁good", "▁."], " good", " .", ["▁good"]),
        (["It", " is", " ", "good", "."], " good", ".", [" ", "good"]),
        (["It", " is \ufffd", "\ufffd", "good", "\ufffd"], "good", "”", ["good"]),
        (["It", " is good", "."], "good", ".", [" is good"]),  # a token of both
    ],
)
def test_an_answer_is_found_by_its_spelling(tokens, answer, rest, expected):
    assert tokens[answer_span(tokens, answer, rest)] == expected


def test_a_server_whose_echo_is_one_token_off_is_not_believed(monkeypatch, caplog):
    def one_off(self, asked, choice=CompletionsHandler.choice):
        made = choice(self, asked)
        if asked.get("echo"):
            logs = made["logprobs"]["token_logprobs"]
            logs[:] = [None, *logs[2:], logs[1]]
        return made

    with CompletionsServer() as server:
        monkeypatch.setattr(CompletionsHandler, "choice", one_off)
        after = next_words(PROMPT)
        assert served(server.url).probe(PROMPT, ANSWERS) == pytest.approx([after[answer] for answer in ANSWERS])
        assert "contradict those of next tokens" in caplog.text


def test_next_tokens_without_a_visible_character_are_not_compared(monkeypatch):
    def with_others(text):
        return {**next_words(text), "": 0.0, "\n": 0.0, "▁": 0.0}

    with CompletionsServer() as server:
        monkeypatch.setattr("completions_server.next_words", with_others)
        model = served(server.url)
        model.probe(PROMPT, ANSWERS)
        assert model.way == "prompt"


def test_tokens_that_do_not_spell_the_answer():
    with pytest.raises(SinkdError, match="do not spell the answer ' good'"):
        answer_span(["It", " is", " bad", "."], " good", ".")


def cut(handler):
    handler.connection.shutdown(socket.SHUT_RDWR)


def cut_in_the_middle(handler):
    handler.wfile.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n{"choices"')
    handler.wfile.flush()
    handler.connection.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize(
    "fault",
    [
        lambda handler: handler.reply({"error": {"message": "slow down"}}, 429, Retry_After=0.02),
        lambda handler: handler.reply(b"oops", 500, Content_Type="text/plain"),
        lambda handler: handler.reply({"error": {"message": "loading model"}}, 503),
        lambda handler: time.sleep(0.4),
        cut,
        cut_in_the_middle,
    ],
)
def test_a_fault_that_passes_is_tried_again(fault):
    with CompletionsServer(faults=[fault]) as server:
        model = served(server.url, timeout=0.2)
        assert model.probe(PROMPT, ANSWERS) == pytest.approx([log_likelihood(PROMPT, answer) for answer in ANSWERS])
        assert model.way == "prompt" and not server.faults


def test_the_server_decides_how_long_to_wait():
    def wait(handler):
        handler.reply({"error": {"message": "slow down"}}, 429, Retry_After=0.3)

    with CompletionsServer(faults=[wait]) as server:
        started = time.monotonic()
        served(server.url).probe(PROMPT, ANSWERS)
        assert time.monotonic() - started > 0.3


def repeated(status, content=b"{}", **headers):
    return [lambda handler: handler.reply(content, status, **headers)] * 20


def choice(**logprobs):
    def reply(handler):
        handler.reply(b'{"choices": [{"text": " the", "logprobs": %s}]}' % logprobs["raw"])

    return [reply] * 20


@pytest.mark.parametrize(
    ("faults", "sentence"),
    [
        (repeated(500, b"oops", Content_Type="text/plain"), "did not accept a request (Error code: 500)"),
        (repeated(429, {"error": {"message": "quota"}}, Retry_After=999), "did not accept a request (Error code: 429"),
        (repeated(401, {"error": {"message": f"wrong key {SECRET}"}}), "refuses the key; set OPENAI_API_KEY"),
        (repeated(404, {"error": {"message": "no"}}), "has no model small, or no completions API"),
        (repeated(200, b"<html>hello</html>", Content_Type="text/html"), "does not speak the OpenAI completions API"),
        (repeated(200, b"hello"), "does not speak the OpenAI completions API"),
        ([lambda handler: time.sleep(0.5)] * 9, "gave no answer within 0.2 s; raise --teacher_timeout"),
        ([cut] * 9, "there is no connection to"),
        (choice(raw=b'{"top_logprobs": [{" positive": NaN, " negative": -1}]}'), "log-probability nan for the answer"),
        (choice(raw=b'{"top_logprobs": [{" positive": null, " negative": -1}]}'), "log-probability None for the"),
        (choice(raw=b'{"top_logprobs": [{" good": -1, " negative": -1}]}'), "' positive' is not among the 2 most"),
        (choice(raw=b"null"), "gives no log-probabilities of small, of a prompt or of the next token"),
    ],
)
def test_a_fault_that_lasts_is_one_sentence_without_the_key(faults, sentence):
    with CompletionsServer(faults=faults) as server, pytest.raises(SinkdError) as error:
        served(server.url, timeout=0.2).probe(PROMPT, ANSWERS)
    assert sentence in str(error.value)
    assert SECRET not in str(error.value) and "\n" not in str(error.value)


def test_an_absent_server_and_another_protocol():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"

        def greet():
            for _ in range(3):
                connection, _ = listener.accept()
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
                connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(SinkdError, match="there is no connection to"):
            served(url).identity()
    with pytest.raises(SinkdError, match=r"there is no connection to .*Connection refused"):
        served(url).identity()


def test_the_model_is_looked_for_before_anything_is_sent():
    with CompletionsServer() as server:
        assert served(server.url).identity() == '{"id": "small"}'
        assert server.keys == [f"Bearer {SECRET}"]
        with pytest.raises(SinkdError, match="has no model large; --teacher_model can be small"):
            ServedModel(server.url, "large").identity()
        assert server.prompts == []


@pytest.mark.parametrize("key", [f"{SECRET}\nmore", f"{SECRET} more", f"{SECRET}é"])
def test_a_malformed_key_is_refused_and_not_quoted(monkeypatch, key):
    monkeypatch.setenv("OPENAI_API_KEY", key)
    with pytest.raises(SinkdError, match=r"^OPENAI_API_KEY is no key") as error:
        served("http://127.0.0.1:8080/v1")
    assert SECRET not in str(error.value)


def test_white_space_around_a_key_is_no_part_of_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f" {SECRET}\n")
    with CompletionsServer() as server:
        served(server.url).identity()
        assert server.keys == [f"Bearer {SECRET}"]


def test_requests_are_counted_with_their_repetitions():
    with CompletionsServer(faults=repeated(500)[:1]) as server:
        with pytest.raises(SinkdError, match="2 requests were sent, as many as --teacher_max_requests allows"):
            served(server.url, max_requests=2).probe(PROMPT, ANSWERS)
        assert len(server.prompts) == 1


def test_the_client_is_an_extra(monkeypatch):
    monkeypatch.setattr("sinkd.models.served.find_spec", lambda name: None)
    with pytest.raises(SinkdError, match="install it with"):
        served("http://127.0.0.1:8080/v1")


@pytest.mark.parametrize(
    ("url", "sentence"),
    [
        ("127.0.0.1:8080", "give an address such as"),
        ("ftp://host/v1", "give an address such as"),
        (f"http://user:{SECRET}@host/v1", "contains a user, a password or a query"),
        (f"http://host/v1?key={SECRET}", "contains a user, a password or a query"),
    ],
)
def test_addresses_that_are_refused(url, sentence):
    with pytest.raises(SinkdError, match=sentence) as error:
        ServedModel(url, "small")
    assert SECRET not in str(error.value)
