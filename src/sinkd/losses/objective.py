"""An `Objective`: a weighted sum of named terms, read from text such as `"kd+sinkhorn"`.

Names without weights take the published ones: `alpha` on a row term, `1 - alpha` on the hard labels, and `beta` on
every other term. Names with weights, `"ce:1+kl:0.1+sinkhorn:1"`, mean exactly what they say.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sinkd.errors import SinkdError, unknown
from sinkd.losses.attribution import AttributionLoss, IntegratedAttributionLoss
from sinkd.losses.divergence import Divergence
from sinkd.losses.feature import LOGITS, Feature, Stack
from sinkd.losses.hidden import HiddenTransport
from sinkd.losses.infonce import InfoNCE
from sinkd.losses.labels import HardLabels
from sinkd.losses.option_flags import Options, flags_of, read_options
from sinkd.losses.relation_terms import Relation
from sinkd.losses.semantic import SemanticTransport
from sinkd.losses.sinkhorn_term import SinkhornTerm
from sinkd.losses.term import BatchTerm, Progress, RowTerm, Term, View

TERMS: dict[str, type[Term]] = {
    "ce": HardLabels,
    "kd": Divergence,
    "kd_anneal": Divergence,
    "kl": Divergence,
    "reverse_kl": Divergence,
    "js": Divergence,
    "tvd": Divergence,
    "sinkhorn": SinkhornTerm,
    "semantic": SemanticTransport,
    "sinkhorn_hidden": HiddenTransport,
    "infonce": InfoNCE,
    "saliency": AttributionLoss,
    "integrated_saliency": IntegratedAttributionLoss,
    "mgskd": Relation,
}


@dataclass(frozen=True)
class ObjectiveValue:
    """An objective's value for a batch: the weighted sum, and each term's unweighted value by name."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """A weighted sum of terms.

    >>> objective = Objective.parse("kd+sinkhorn", alpha=0.9, beta=0.8, temperature=1.0)
    >>> str(objective)
    'ce:0.1+kd:0.9+sinkhorn:0.8'

    Call it with the `View` of student and teacher, the batch (with `labels` if a term needs them) and the `Progress`;
    it returns an `ObjectiveValue`. It is an `nn.Module` with the parameters of its terms, and iterates over the terms
    that apply to the models it is bound to.
    """

    def __init__(self, terms: Iterable[Term], weights: Iterable[float]):
        super().__init__()
        terms = list(terms)
        for term in terms:
            if not isinstance(term, RowTerm | BatchTerm):
                raise TypeError(f"{type(term).__name__} must be a RowTerm or a BatchTerm, to be part of an objective")
        self.terms = nn.ModuleDict({term.name: term for term in terms})
        self.weights = dict(zip(self.terms, map(float, weights), strict=True))

    @classmethod
    def parse(
        cls,
        text: str,
        *,
        alpha: float = 0.8,
        beta: float = 1.0,
        temperature: float = 2.0,
        mgskd_w: float = 1.0,
        **options: Mapping[str, Any],
    ) -> "Objective":
        """Read `"kd+sinkhorn"` or `"ce:1+kl:0.1+sinkhorn:1"`.

        Args:
            text: The terms, joined by `+`: all with weights, or none.
            alpha, beta, mgskd_w: Weights of terms without one (alpha from 0 to 1, the others >= 0).
            temperature: Temperature of the row terms, above 0.
            options: A term's options under its name, `sinkhorn={"cost": "l1"}`. They are checked even if the term is
                not in the sum.

        Raises:
            SinkdError: for an unknown or repeated name, an option that is unknown or out of range, or a sum whose
                weights are not determined.
        """
        weights = _read_weights(text)
        for name in options:
            if name not in TERMS:
                raise unknown(f'"{name}" is no term of an objective', name, TERMS)
        read = {name: _read_options(name, options.get(name, {}), temperature) for name in TERMS}
        made = {name: TERMS[name].make(name, read[name]) for name in dict.fromkeys(["ce", *weights, *options])}
        unweighted = [name for name, weight in weights.items() if weight is None]
        if unweighted and len(unweighted) < len(weights):
            raise SinkdError(
                f'in the objective "{text}" {", ".join(unweighted)} has no weight; write all weights or none'
            )
        if unweighted:
            weights = _published_weights(unweighted, alpha, beta, mgskd_w, text)
        kept = [(term, weight) for name, weight in weights.items() if weight for term in made[name]]
        if not kept:
            raise SinkdError(f'the objective "{text}" weighs every term with 0; nothing would be learned')
        return cls(*zip(*kept, strict=True))

    def bind(self, student: Stack, teacher: Stack) -> None:
        """Bind the terms to a student and its teacher, or rebind them; see `Term.bind`."""
        for term in self._all:
            term.bind(student, teacher)

    def embed(self, embedding: Tensor) -> None:
        """Give the teacher's input embedding (V, d) to the terms that read it, on the student's device."""
        for term in self._all:
            if term.reads_embedding:
                term.embedding = embedding

    def without_labels(self) -> "Objective":
        """Return the sum of the terms that need no hard labels. Raises SinkdError if there is none."""
        kept = [term for term in self._all if not term.needs_labels]
        if not kept:
            raise SinkdError(
                f"the objective {self} learns from hard labels, and no training row has one; name a term that learns "
                "from a teacher, as in kd"
            )
        return Objective(kept, [self.weights[term.name] for term in kept])

    def __iter__(self) -> Iterator[Term]:
        return (term for term in self._all if term.applies)

    @property
    def _all(self) -> list[Term]:
        return list(self.terms.values())  # type: ignore[arg-type]

    @property
    def row_terms(self) -> list[RowTerm]:
        return [term for term in self if isinstance(term, RowTerm)]

    @property
    def batch_terms(self) -> list[BatchTerm]:
        return [term for term in self if isinstance(term, BatchTerm)]

    @property
    def student_needs(self) -> frozenset[Feature]:
        return frozenset().union(*(term.student_needs for term in self))

    @property
    def teacher_needs(self) -> frozenset[Feature]:
        """The features that the terms read from the teacher; empty if no teacher is needed."""
        return frozenset().union(*(term.teacher_needs for term in self))

    @property
    def needs_ahead(self) -> frozenset[Feature]:
        """The student's features that batch terms read before the others run, plus the prediction, which is checked.

        Attributions are left out: their extra passes draw no random numbers.
        """
        needed = frozenset().union(*(term.student_needs for term in self.batch_terms))
        return needed | self.student_needs & {LOGITS}

    @property
    def compares_layers(self) -> bool:
        """True if the objective must be bound to both models before its needs are known."""
        return any(term.compares_layers for term in self._all)

    @property
    def reads_embedding(self) -> bool:
        """True if the teacher's input embedding must be given to `embed`."""
        return any(term.reads_embedding for term in self)

    @property
    def cacheable(self) -> bool:
        """True if everything that is needed from the teacher can be computed once and cached."""
        return all(feature.keepable for feature in self.teacher_needs)

    @property
    def kept(self) -> list[Feature]:
        """The teacher's features that are computed once and cached.

        If any feature cannot be cached, the teacher runs live, and that pass gives all features except attributions.
        """
        keepable = [feature for feature in self.teacher_needs if feature.keepable]
        return keepable if self.cacheable else [feature for feature in keepable if "embeddings" in feature.captures]

    def forward(
        self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress | None = None
    ) -> ObjectiveValue:
        progress = progress or Progress()
        parts = {term.name: term(student, teacher, batch, progress) for term in self.row_terms}
        for batch_term in self.batch_terms:
            points = (batch_term.points(view, batch) for view in (student, teacher))
            parts[batch_term.name] = batch_term(*points, progress)
        return self.weigh(parts)

    def weigh(self, parts: Mapping[str, Tensor]) -> ObjectiveValue:
        """Sum the terms' values, given by name."""
        ordered = {term.name: parts[term.name] for term in self}
        total: Any = sum(self.weights[name] * value for name, value in ordered.items())
        return ObjectiveValue(total, ordered)

    def __str__(self) -> str:
        # Terms that share a name before the slash are one term in the text, with one weight.
        weights = {name.partition("/")[0]: weight for name, weight in self.weights.items()}
        return "+".join(f"{name}:{weight:.15g}" for name, weight in weights.items())


def _read_weights(text: str) -> dict[str, float | None]:
    """Each term of an objective's text with its weight, or None if it has none."""
    weights: dict[str, float | None] = {}
    for part in text.replace(" ", "").split("+"):
        name, colon, weight = part.partition(":")
        if name not in TERMS:
            raise unknown(f'"{name}" is no term of an objective', name, TERMS)
        if name in weights:
            raise SinkdError(f'the objective "{text}" names {name} twice; give each term once, with its weight')
        try:
            weights[name] = float(weight) if colon else None
        except ValueError:
            weights[name] = -1.0
        if colon and not 0 <= weights[name] < float("inf"):  # type: ignore[operator]
            raise SinkdError(
                f'in the objective "{text}" the weight of {name} is "{weight}"; it must be a number from 0 up'
            )
    return weights


def _read_options(name: str, given: Mapping[str, Any], temperature: float) -> Options:
    """The options of a term; options that share the flag --temperature default to the objective's."""
    shared = flags_of(name, TERMS[name].Options).get("temperature")
    begin = {shared.field: temperature} if shared else {}
    return read_options(name, TERMS[name].Options, begin | dict(given))


def _published_weights(
    names: list[str], alpha: float, beta: float, mgskd_w: float, text: str
) -> dict[str, float | None]:
    """The weights of SinKD, hard labels included."""
    if not 0 <= alpha <= 1:
        raise SinkdError(f"alpha is {alpha}; it must lie between 0 (labels alone) and 1 (no labels)")
    for name, weight in (("beta", beta), ("mgskd_w", mgskd_w)):
        if not 0 <= weight < float("inf"):
            raise SinkdError(f"{name} is {weight}; it must be a number from 0 up")
    by_alpha = [name for name in names if TERMS[name].weighted_by == "alpha"]
    if len(by_alpha) > 1:
        raise SinkdError(
            f'alpha cannot weigh {" and ".join(by_alpha)} of the objective "{text}" at once; '
            "write the weights out, as in ce:0.1+kd:0.5+js:0.4"
        )
    weights = {"1 - alpha": 1 - alpha if by_alpha else 1.0, "alpha": alpha, "beta": beta, "mgskd_w": mgskd_w}
    # 1 - 0.9 is 0.09999999999999998: rounding keeps what the user wrote legible in logs and manifests
    return {name: round(weights[TERMS[name].weighted_by], 12) for name in dict.fromkeys(["ce", *names])}
