"""A server with the OpenAI completions API on a port of this machine, with faults on demand.

Its model reads words with the space before them, and knows a log-probability of every word after every text.
"""

import hashlib
import json
import math
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

WORDS = [" positive", " negative", " very", " good", " bad", " film", " the"]


def tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+", text)


def next_words(text: str) -> dict[str, float]:
    """The log-probabilities of all words after a text."""
    scores = {word: hashlib.sha256(f"{text}|{word}".encode()).digest()[0] / 50 for word in WORDS}
    total = math.log(sum(map(math.exp, scores.values())))
    return {word: score - total for word, score in scores.items()}


def log_likelihood(text: str, answer: str) -> float:
    logs = []
    for token in tokens(answer):
        logs.append(next_words(text).get(token, -30.0))
        text += token
    return sum(logs)


class CompletionsServer(ThreadingHTTPServer):
    """Use as a context manager.

    Attributes:
        way: What it can do: "prompt" (echo), "next token" (listed as OpenAI does), "chat" (as llama.cpp does).
        limit: How many next tokens it lists.
        faults: Functions that take a request's handler in place of an answer, for the next requests in turn.
        prompts: Every prompt that it answered.
        busiest: The most requests that were under way at a time.
        delay: Seconds that it takes to answer.
        model: What it tells of its model.
    """

    daemon_threads = True

    def __init__(self, way="prompt", limit=10**9, faults=(), delay=0.0):
        super().__init__(("127.0.0.1", 0), CompletionsHandler)
        self.way, self.limit, self.faults, self.delay = way, limit, list(faults), delay
        self.prompts, self.keys, self.busy, self.busiest = [], [], 0, 0
        self.model = {"id": "small", "created": 1}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()

    def handle_error(self, request, client_address):
        pass  # clients that hung up


class CompletionsHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.server.keys.append(self.headers["Authorization"])
        self.reply({"object": "list", "data": [self.server.model]})

    def do_POST(self):
        server, asked = self.server, json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            fault = server.faults.pop(0) if server.faults else None
            server.busy += 1
            server.busiest = max(server.busy, server.busiest)
        try:
            time.sleep(server.delay)
            if fault is not None:
                return fault(self)
            if asked["logprobs"] > server.limit:
                return self.reply({"error": {"message": f"logprobs must be at most {server.limit}"}}, 400)
            with server.lock:
                server.prompts.append(asked["prompt"])
            self.reply({"choices": [self.choice(asked)]})
        finally:
            with server.lock:
                server.busy -= 1

    def choice(self, asked):
        text, way = asked["prompt"], self.server.way
        after = next_words(text)
        word = max(after, key=after.get)
        listed = dict(sorted(after.items(), key=lambda item: -item[1])[: asked["logprobs"]])
        if way == "chat":
            tops = [{"token": token, "logprob": log} for token, log in listed.items()]
            return {"text": word, "logprobs": {"content": [{"token": word, "top_logprobs": tops}]}}
        if way == "next token" or not asked.get("echo"):
            return {"text": word, "logprobs": {"tokens": [word], "token_logprobs": [1], "top_logprobs": [listed]}}
        read = tokens(text)
        logs = [None] + [log_likelihood("".join(read[:k]), read[k]) for k in range(1, len(read))]
        return {"text": text + word, "logprobs": {"tokens": [*read, word], "token_logprobs": [*logs, after[word]]}}
