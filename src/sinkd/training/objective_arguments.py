"""The flags of an objective: its text and weights, and one flag for each option of each term in `TERMS`."""

from dataclasses import dataclass, make_dataclass
from typing import Any, Literal, TypeVar

from sinkd.errors import SinkdError
from sinkd.losses.objective import TERMS, Objective
from sinkd.losses.option_flags import Flag, flags_of
from sinkd.losses.top_k_cache import kept_for
from sinkd.tasks import Task
from sinkd.training.parser import flag

KindT = TypeVar("KindT", bound=type)


def term_flags() -> dict[str, Flag]:
    """The flags of all terms by name. Raises TypeError if two terms share a flag with different meanings."""
    found: dict[str, Flag] = {}
    for term, kind in TERMS.items():
        for name, option in flags_of(term, kind.Options).items():
            if found.setdefault(name, option)[1:] != option[1:]:
                raise TypeError(f"the flag --{name} of {term} and that of another term differ in type, default or help")
    return found


def with_term_flags(kind: KindT) -> KindT:
    """The dataclass with an additional field for every flag of `term_flags`."""
    added = [(name, option.type, flag(option.default, option.help)) for name, option in term_flags().items()]
    namespace = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    return make_dataclass(kind.__name__, added, bases=(kind,), namespace=namespace)  # type: ignore[return-value]


@with_term_flags
@dataclass
class ObjectiveArguments:
    """The flags of the student's objective."""

    distill_loss: str = flag("kd", "The terms: kd+sinkhorn, or with weights ce:0.1+kd:0.9. All have a weight or none.")
    alpha: float = flag(0.8, "Weight of the row term: hard labels get the rest.")
    beta: float = flag(1.0, "Weight of each other term. These are sinkhorn, sinkhorn_hidden, infonce and saliency.")
    mgskd_w: float = flag(
        1.0, "Weight of the relation loss. Its token states are too large to cache, so the teacher runs live."
    )
    only_mgskd: bool = flag(
        False,
        "Train with the relation loss only (the classifier is not trained). Not cached: see --mgskd_w.",
    )
    transport_scope: Literal["window", "rank", "micro"] = flag(
        "window", "Rows that a batch term compares. Those of an update, of one process, or of one micro-batch."
    )
    curvature_lr: float | None = flag(
        None, "Learning rate of curvature, scale and projectors. Default: 10 times the model's."
    )
    teacher_cache_top_k: int | None = flag(
        None, "Cache a language model's k most probable entries at each token. The rest's mass is one more."
    )

    def check_cache(self) -> None:
        """Raise SinkdError if `teacher_cache_top_k` keeps fewer entries than the transport reads."""
        kept, read = self.teacher_cache_top_k, self.options_of("sinkhorn")["top_k"]
        if kept is not None and kept < max(1, read or 1):
            least = f"--sinkhorn_top_k, {read}" if read else "1"
            raise SinkdError(f"--teacher_cache_top_k is {kept}; it must be at least {least}")

    def options_of(self, term: str) -> dict[str, Any]:
        """The options that a term's flags set, by name."""
        options = {option.field: getattr(self, name) for name, option in flags_of(term, TERMS[term].Options).items()}
        if term == "sinkhorn" and self.teacher_cache_top_k is not None:
            options["top_k_of"] = "teacher"  # the cache has no other entries
        return options

    def parse_objective(self, text: str | None = None) -> Objective:
        """Parse `text`, by default `distill_loss`, with the weights and options of these arguments."""
        options: dict[str, Any] = {term: self.options_of(term) for term in TERMS}
        objective = Objective.parse(
            "mgskd:1" if self.only_mgskd else text or self.distill_loss,
            alpha=self.alpha,
            beta=self.beta,
            mgskd_w=self.mgskd_w,
            **options,
        )
        if self.teacher_cache_top_k is not None:
            kept_for(objective, self.teacher_cache_top_k)  # refuses terms that the cache cannot serve
        return objective

    def objective_for(self, task: Task) -> Objective:
        """The objective on a task: terms that need hard labels are left out if no training row has one."""
        objective = self.parse_objective()
        return objective if task.labelled else objective.without_labels()

    def objective_flags(self, objective: Objective) -> list[str]:
        """The flags that set options of the objective's terms."""
        names = {term.name.partition("/")[0] for term in objective}
        return [flag for term in TERMS if term in names for flag in flags_of(term, TERMS[term].Options)]
