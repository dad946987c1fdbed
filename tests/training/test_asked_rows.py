"""Rows that a server has answered are never asked again, whatever ended the run before."""

import threading
import time

import pytest

from completions_server import CompletionsServer, log_likelihood
from sinkd.errors import SinkdError
from sinkd.models.served import ServedModel
from sinkd.tasks.label_prompt import Question
from sinkd.training.asked_rows import AskedRows

ANSWERS = [" positive", " negative"]
QUESTIONS = {row: Question(f"film {row} is", ANSWERS) for row in range(20)}


@pytest.fixture
def server():
    pytest.importorskip("openai")
    with CompletionsServer("next token") as server:
        yield server


def asked_rows(folder, server, concurrency=4, **settings):
    model = ServedModel(server.url, "small", timeout=5.0, retries=0, **settings)
    return AskedRows(folder, model, concurrency)


def ask(rows, questions=QUESTIONS):
    answered = []
    rows.ask(questions, lambda: answered.append(1))
    return len(answered)


def scores(rows):
    return {row: rows[AskedRows.key(question)] for row, question in QUESTIONS.items()}


EXPECTED = {row: [log_likelihood(prompt, answer) for answer in answers] for row, (prompt, answers) in QUESTIONS.items()}


def test_rows_are_asked_once_and_at_a_time_as_many_as_wanted(server, tmp_path):
    server.delay = 0.02
    rows = asked_rows(tmp_path, server)
    assert ask(rows) == 20
    assert scores(rows) == {row: pytest.approx(logs) for row, logs in EXPECTED.items()}
    assert 2 <= server.busiest <= 4
    sent = len(server.prompts)
    again = asked_rows(tmp_path, server)
    assert ask(again) == 0 and scores(again) == scores(rows)
    more = {**QUESTIONS, 20: Question("film 20 is", ANSWERS), 21: Question("film 3 is", ANSWERS)}
    assert ask(again, more) == 1
    assert set(server.prompts[sent:]) == {"film 20 is positive", "film 20 is"}, "the first to find out how it answers"


def fail(handler):
    handler.reply({"error": {"message": "out of memory"}}, 500)


def test_a_run_that_was_cut_off_asks_for_the_rest(server, tmp_path):
    rows = asked_rows(tmp_path, server)
    server.faults = [None] * 10 + [fail]
    with pytest.raises(SinkdError, match=r"^row \d+: .*out of memory"):
        ask(rows)
    about, altered, *kept = rows.path.read_text().splitlines()
    altered = altered.replace('"scores": [-', '"scores": [-1')
    rows.path.write_text("\n".join([about, altered, *kept, '{"question": "of a process that was kil']))
    answered = len(kept)
    assert answered >= 7
    again = asked_rows(tmp_path, server)
    assert ask(again) == 20 - answered
    assert scores(asked_rows_read(again)) == {row: pytest.approx(logs) for row, logs in EXPECTED.items()}
    assert {about, *kept} <= set(rows.path.read_text().splitlines())


def asked_rows_read(rows):
    """The same rows as a new process reads them."""
    read = AskedRows(rows.path.parent, rows.server, 1)
    assert not read.missing(map(AskedRows.key, QUESTIONS.values()))
    return read


def test_a_cap_on_requests(server, tmp_path):
    with pytest.raises(SinkdError, match="7 requests were sent, as many as --teacher_max_requests allows"):
        ask(asked_rows(tmp_path, server, max_requests=7))
    assert len(server.prompts) == 7
    assert ask(asked_rows(tmp_path, server)) < 20


def test_of_two_processes_one_asks_and_the_other_waits(server, tmp_path):
    server.delay = 0.01
    both = [asked_rows(tmp_path, server), asked_rows(tmp_path, server)]
    counts = []
    threads = [threading.Thread(target=lambda rows=rows: counts.append(ask(rows))) for rows in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(counts) == [0, 20] and scores(both[0]) == scores(both[1])


def test_another_model_of_the_same_name_is_refused_before_anything_is_sent(server, tmp_path):
    ask(asked_rows(tmp_path, server), {0: QUESTIONS[0]})
    server.model = {"id": "small", "root": "another"}
    sent = len(server.prompts)
    with pytest.raises(SinkdError, match="keeps the answers of another model of this name"):
        ask(asked_rows(tmp_path, server))
    assert len(server.prompts) == sent


def test_ctrl_c_ends_the_requests(server, tmp_path):
    rows = asked_rows(tmp_path, server)

    def interrupt():
        raise KeyboardInterrupt

    started = time.monotonic()
    server.delay = 0.05
    with pytest.raises(KeyboardInterrupt):
        rows.ask(QUESTIONS, interrupt)
    assert time.monotonic() - started < 2
    assert len(server.prompts) < 20
