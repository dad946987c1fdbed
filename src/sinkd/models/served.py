"""A language model on a server with the OpenAI completions API.

It gives the log-likelihoods of answers after a prompt, in the better of two ways that the server supports:

- "prompt": the server echoes prompt and answer with the log-probability of each token, one request an answer;
- "next token": the server lists the most probable next tokens, one request a prompt. An answer is scored by its first
  token, so answers must differ in it.
"""

from __future__ import annotations

import json
import logging
import math
import os
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, Literal
from urllib.parse import urlsplit

from sinkd.errors import SinkdError
from sinkd.models.answer_span import answer_span, letters

logger = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"
RETRIES = 6  # the client waits 0.5, 1, 2, 4, 8 and 8 s between tries, or as the server asks, up to 120 s
# How many next tokens to ask for. Servers limit it to 5 (OpenAI), 20 (vLLM), or the vocabulary (llama.cpp).
LISTS = (1_000, 20, 5)
EVERY_TOKEN = 1_000_000

TOLERANCE = 0.2  # of log-probabilities: a model in bfloat16 does not repeat them exactly
NO_JSON = (json.JSONDecodeError, UnicodeDecodeError)

Way = Literal["prompt", "next token"]


class ServedModel:
    """A model on a server. `score` may be called from several threads once `probe` has returned.

    Args:
        url: The address up to the version, http://127.0.0.1:8080/v1. The key is read from $OPENAI_API_KEY.
        timeout: Seconds until a request is given up and tried again.
        max_requests: Requests to send at most, repeated ones included; None for no limit.
        retries: How often a request is repeated that the server did not answer, or answered with 408, 409, 429 or 5xx.

    Attributes:
        way: How answers are scored.

    Raises:
        SinkdError: if the client is not installed, the URL is none or contains a secret, or the key is malformed.
    """

    def __init__(
        self, url: str, name: str, *, timeout: float = 60.0, max_requests: int | None = None, retries: int = RETRIES
    ):
        if find_spec("openai") is None:
            raise SinkdError("--teacher_url needs the OpenAI client; install it with .venv/bin/pip install openai")
        import openai

        parts = urlsplit(url)
        if parts.username or parts.password or parts.query:
            # The URL is written to the manifest and the card.
            raise SinkdError(f"--teacher_url contains a user, a password or a query; give the key in {KEY} instead")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise SinkdError(f"--teacher_url is {url}; give an address such as http://127.0.0.1:8080/v1")
        self.url, self.name, self.timeout, self.max_requests = url, name, timeout, max_requests
        self.way: Way | None = None
        self.sent = 0
        self._listed, self._first = LISTS[0], dict[str, str]()
        self._lock = threading.Lock()
        self._key = os.environ.get(KEY, "").strip()
        if not all("!" <= sign <= "~" for sign in self._key):  # the client would quote it in an error
            raise SinkdError(f"{KEY} is no key; set it to one of printable ASCII characters without white space")
        self._client = openai.OpenAI(
            base_url=url,
            api_key=self._key or "none",
            timeout=timeout,
            max_retries=retries,
            http_client=openai.DefaultHttpxClient(event_hooks={"request": [self._count]}),
        )

    def close(self) -> None:
        """Close the connections; requests under way fail."""
        self._client.close()

    def identity(self) -> str:
        """Describe the model behind the name by what the server tells of it: its root, size and type.

        Raises:
            SinkdError: if there is no such server, or it has no model of this name.
        """
        import openai

        try:
            reply: Any = self._client.with_options(max_retries=2).get("/models", cast_to=object)
        except openai.NotFoundError:
            return self.name  # not every server lists its models
        except openai.APIError as error:
            raise self._refusal(error) from None
        except NO_JSON:
            reply = None
        models = reply.get("data") if isinstance(reply, dict) else None
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise SinkdError(f"{self.url} does not speak the OpenAI API; --teacher_url ends in /v1 with most servers")
        found = [model for model in models if self.name in (model.get("id"), *(model.get("aliases") or ()))]
        if models and not found:
            names = ", ".join(str(model.get("id")) for model in models[:5])
            raise SinkdError(f"{self.url} has no model {self.name}; --teacher_model can be {names}")
        if not found:
            return self.name
        told = {name: found[0][name] for name in ("id", "root", "meta") if name in found[0]}
        if isinstance(told.get("meta"), dict):
            told["meta"] = {name: value for name, value in told["meta"].items() if name != "n_ctx"}  # a setting
        return json.dumps(told, sort_keys=True)

    def probe(self, prompt: str, answers: Sequence[str]) -> list[float]:
        """Find out how the server can score answers, and score these."""
        refusal: SinkdError = _NotGiven("")
        try:
            self.way = "prompt"
            scores = self.score(prompt, answers)
            if self._is_consistent(prompt):
                return scores
            logger.warning("%s gives log-probabilities of prompts that contradict those of next tokens", self.url)
        except _NotGiven as error:
            refusal = error
        self.way = "next token"
        for self._listed in LISTS:
            try:
                return self.score(prompt, answers)
            except _NotGiven as error:
                refusal = error
        raise refusal

    def score(self, prompt: str, answers: Sequence[str]) -> list[float]:
        """Return the log-likelihood of each answer after the prompt.

        Args:
            answers: Text that follows it directly, so that most begin with a space.

        Raises:
            SinkdError: if the server refuses, or cannot score an answer.
        """
        if self.way == "prompt":
            return [self._from_prompt(prompt, answer) for answer in answers]
        return self._from_next_token(prompt, answers)

    def _is_consistent(self, prompt: str) -> bool:
        """Return whether the two ways agree on most of the likeliest next tokens: some servers are one token off."""
        try:
            listed = self._next_tokens(prompt, LISTS[-1])
        except SinkdError:
            return True  # there is nothing to compare with
        agree = 0
        for token in (visible := [token for token in listed if letters(token)]):
            with suppress(SinkdError):
                agree += abs(self._from_prompt(prompt, token) - self._number(listed[token], token)) < TOLERANCE
        return 2 * agree >= len(visible)

    # Two ways to score

    def _from_prompt(self, prompt: str, answer: str) -> float:
        text = prompt + answer
        choice = self._complete(text, logprobs=1, echo=True)
        given, seen = choice.get("logprobs"), choice.get("text")
        if not isinstance(given, dict) or not isinstance(seen, str) or not seen.startswith(text):
            raise _NotGiven(f"{self.url} gives no log-probabilities of a prompt")
        tokens, logs = given.get("tokens") or [], given.get("token_logprobs") or []
        if len(tokens) != len(logs):
            raise _NotGiven(f"{self.url} gives no log-probabilities of a prompt")
        return math.fsum(self._number(log, answer) for log in logs[answer_span(tokens, answer, seen[len(text) :])])

    def _from_next_token(self, prompt: str, answers: Sequence[str]) -> list[float]:
        listed = self._next_tokens(prompt, self._listed)
        if self._listed == LISTS[0] and any(self._first_token(answer, listed) not in listed for answer in answers):
            with suppress(_NotGiven):
                listed = self._next_tokens(prompt, EVERY_TOKEN)
        firsts = [self._first_token(answer, listed) for answer in answers]
        missing = [answer for answer, first in zip(answers, firsts, strict=True) if first not in listed]
        if missing:
            raise SinkdError(
                f"the answer {missing[0]!r} is not among the {len(listed)} most probable next tokens, and "
                f"{self.url} gives no log-probabilities of a prompt; choose answers of one token that the model expects"
            )
        for first in firsts:
            if firsts.count(first) > 1:
                same = [answer for answer, other in zip(answers, firsts, strict=True) if other == first]
                raise SinkdError(
                    f"the answers {same[0]!r} and {same[1]!r} begin with the same token {first!r}, and {self.url} gives"
                    " the log-probabilities of the next token alone; choose answers that differ in their first token"
                )
        return [self._number(listed[first], answer) for first, answer in zip(firsts, answers, strict=True)]

    def _first_token(self, answer: str, listed: Mapping[str, float]) -> str:
        """Return the first token of an answer: all of it, or its longest beginning in the whole vocabulary."""
        if answer not in self._first:
            if answer in listed:
                self._first[answer] = answer
            elif len(listed) > LISTS[0]:
                begins = (answer[:end] for end in range(len(answer), 0, -1))
                self._first[answer] = next((begin for begin in begins if begin in listed), answer)
        return self._first.get(answer, answer)

    def _next_tokens(self, prompt: str, count: int) -> dict[str, Any]:
        """Ask for the log-probabilities of the most probable next tokens; a server may list fewer."""
        given: Any = self._complete(prompt, logprobs=count).get("logprobs")
        if isinstance(given, dict) and (content := given.get("content")):  # llama.cpp's server, as in chats
            tops = content[0].get("top_logprobs") or ()
            # The first of equal texts is the most probable.
            return {top.get("token"): top.get("logprob") for top in reversed(tops)}
        if isinstance(given, dict) and (listed := given.get("top_logprobs")) and listed[0]:
            return dict(listed[0])
        raise SinkdError(f"{self.url} gives no log-probabilities of {self.name}, of a prompt or of the next token")

    # Requests

    def _complete(self, prompt: str, **wanted: Any) -> dict[str, Any]:
        """Send a request, and return its one choice. Raises _NotGiven if the server refuses what is wanted."""
        import openai

        body = {"model": self.name, "prompt": prompt, "max_tokens": 1, "temperature": 1.0, **wanted}
        try:
            reply: Any = self._client.post("/completions", body=body, cast_to=object)
        except openai.APIError as error:
            raise self._refusal(error) from None
        except NO_JSON:
            reply = None
        choices = reply.get("choices") if isinstance(reply, dict) else None
        if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
            raise SinkdError(f"{self.url} does not speak the OpenAI completions API; its answer has no choices")
        return choices[0]

    def _count(self, request: Any) -> None:
        if request.method != "POST":
            return
        with self._lock:
            if self.max_requests is not None and self.sent >= self.max_requests:
                raise SinkdError(
                    f"{self.sent} requests were sent, as many as --teacher_max_requests allows; the same command "
                    "asks for the remaining rows"
                )
            self.sent += 1

    def _refusal(self, error: Exception) -> SinkdError:
        """Describe an error of the client in one sentence, which never contains the key."""
        import openai

        if isinstance(error, openai.APITimeoutError):
            return SinkdError(
                f"{self.url} gave no answer within {self.timeout:g} s; raise --teacher_timeout, or lower "
                "--teacher_concurrency"
            )
        if not isinstance(error, openai.APIStatusError):
            return SinkdError(f"there is no connection to {self.url} ({self._clean(error.__cause__ or error)})")
        code, said = error.status_code, self._clean(error)
        if code in (401, 403):
            return SinkdError(f"{self.url} refuses the key; set {KEY} to one that it accepts ({said})")
        if code in (404, 405):
            return SinkdError(f"{self.url} has no model {self.name}, or no completions API ({said})")
        kind = _NotGiven if code in (400, 422) else SinkdError
        return kind(f"{self.url} did not accept a request ({said})")

    def _clean(self, error: BaseException) -> str:
        text = " ".join(str(error).split()) or type(error).__name__
        text = text.replace(self._key, "...") if self._key else text
        return text if len(text) <= 200 else f"{text[:200]}..."

    def _number(self, value: Any, answer: str) -> float:
        if isinstance(value, int | float) and math.isfinite(value):
            return float(value)
        raise SinkdError(f"{self.url} gave the log-probability {value} for the answer {answer!r}, expected a number")


class _NotGiven(SinkdError):
    """The server does not give what was asked for; it may give something else."""
