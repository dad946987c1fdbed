"""The flags of a teacher on a server."""

from dataclasses import dataclass, fields
from typing import Any

from sinkd.errors import SinkdError
from sinkd.training.parser import flag


@dataclass
class ServedArguments:
    """The flags of a teacher on a server."""

    teacher_url: str | None = flag(
        None,
        "Ask a language model on this server, as in http://127.0.0.1:8080/v1. It has the OpenAI completions API.",
    )
    teacher_model: str | None = flag(None, "Its name on the server.")
    teacher_concurrency: int = flag(8, "How many requests to send to the server at a time.")
    teacher_timeout: float = flag(60.0, "Seconds until a request is given up and tried again.")
    teacher_max_requests: int | None = flag(None, "Send the server at most this many requests, repeated ones included.")

    def check_served(self, args: Any) -> None:
        """Raise SinkdError for flags, among all of `args`, that a teacher on a server does not go with."""
        if self.teacher_url is None:
            for field in fields(ServedArguments):
                if getattr(self, field.name) != field.default:
                    raise SinkdError(f"--{field.name} is for a teacher on a server; give its address in --teacher_url")
            return
        if self.teacher_model is None:
            raise SinkdError("--teacher_model is missing; name the model on the server of --teacher_url")
        if args.teacher_path is not None:
            raise SinkdError("--teacher_path and --teacher_url name two teachers; give one")
        if args.teacher_prompt is None:
            raise SinkdError("--teacher_url needs --teacher_prompt and --teacher_answers, which say how to ask it")
        if args.teacher_cache == "off":
            raise SinkdError("a teacher on a server is asked once, before training; leave out --teacher_cache off")
        if args.length_normalize:
            raise SinkdError("a teacher on a server scores whole answers; leave out --length_normalize")
        for name in ("teacher_concurrency", "teacher_max_requests"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SinkdError(f"--{name} is {value}; it must be at least 1")
        if not 0 < self.teacher_timeout < float("inf"):
            raise SinkdError(f"--teacher_timeout is {self.teacher_timeout:g}; it must be above 0")
