"""An `Objective`: `"kd+sinkhorn"` as a named, weighted sum of terms that reports its parts.

Two ways to write one. Names alone take the published weights: hard labels, plus `alpha` on what compares row by row
(and `1 - alpha` left for the labels), plus `beta` on every other term. Names with weights, `"ce:1+kl:0.1+sinkhorn:1"`,
mean exactly what they say. A new term is one class in a file of its own and one line in `TERMS`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sinkd.errors import SinkdError
from sinkd.losses import divergence
from sinkd.losses.attribution import AttributionLoss
from sinkd.losses.feature import LOGITS, Feature, Stack
from sinkd.losses.hidden import HiddenTransport
from sinkd.losses.labels import HardLabels
from sinkd.losses.relation_term import relations
from sinkd.losses.sinkhorn import SinkhornLoss
from sinkd.losses.term import Progress, Term, View


class Divergence(Term):
    """A row-by-row comparison of the two predictions: `kd`, `kl`, `reverse_kl`, `js` or `tvd` at a temperature."""

    family = "paired"

    def __init__(self, name: str, temperature: float):
        super().__init__()
        self.name = name
        self.temperature = temperature
        self.function = getattr(divergence, name)

    @property
    def softens_at(self) -> float | None:
        # reverse_kl is an expectation of the teacher's logarithms under the student, wherever that has mass
        return None if self.name == "reverse_kl" else self.temperature

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        return self.function(student.logits, teacher.softened(self.temperature), self.temperature)


class AnnealedKD(Term):
    """`kd_anneal`: `kd` whose temperature falls to 1 over the epochs."""

    name = "kd_anneal"
    family = "paired"

    def __init__(self, temperature: float):
        super().__init__()
        self.temperature = temperature

    def forward(self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        temperature = divergence.annealed_temperature(self.temperature, progress.epoch, progress.epochs)
        return divergence.kd(student.logits, teacher.logits, temperature)


class Transport(Term):
    """`sinkhorn`: the cost of transporting the batch of the student's predictions onto the teacher's.

    With group "sequence" each example's answer tokens are transported for themselves, so that the term is row by row:
    a mean over the examples that have any.
    """

    name = "sinkhorn"

    def __init__(self, **options: Any):
        super().__init__()
        self.loss = SinkhornLoss(**{"weight": 0.001, "reduction": "sum", **options})
        self.batchwise = self.loss.group == "batch"

    def count(self, teacher: View, batch: Mapping[str, Any]) -> Tensor | int:
        return (batch["counts"] > 0).sum() if "counts" in batch else super().count(teacher, batch)

    @property
    def softens_at(self) -> float | None:
        return self.loss.temperature if self.loss.representation == "probability" else None

    def points(self, view: View, batch: Mapping[str, Any]) -> Tensor:
        return view.softened(self.loss.temperature)

    def forward(self, student: Any, teacher: Any, batch: Mapping[str, Any], progress: Progress) -> Tensor:
        if self.batchwise:
            return self.loss(student, teacher)
        values = [self.loss(*pair) for pair in self._sequences(student, teacher, batch)]
        return torch.stack(values).mean() if values else self.points(student, batch).sum() * 0.0

    @torch.no_grad()
    def diagnostics(self, student: Any, teacher: Any, batch: Mapping[str, Any]) -> dict[str, float]:
        pairs = [(student, teacher)] if self.batchwise else self._sequences(student, teacher, batch)
        errors = [float(self.loss.transport(*pair).marginal_error().mean()) for pair in pairs]
        figures = {"marginal_error": sum(errors) / max(len(errors), 1)}
        if self.loss.curvature is not None:
            figures["curvature"] = float(self.loss.curvature)
        return figures

    def _sequences(self, student: View, teacher: View, batch: Mapping[str, Any]) -> list[tuple[Tensor, Tensor]]:
        """Both sides' points of each example that has any; of all at once where the batch does not count them."""
        ours, theirs = self.points(student, batch), self.points(teacher, batch)
        if "counts" not in batch:
            return [(ours, theirs)]
        counts = batch["counts"].tolist()
        return [pair for pair in zip(ours.split(counts), theirs.split(counts), strict=True) if len(pair[0])]


# name -> how to make the term, or the terms that share its weight, from the objective's temperature and the options
# given under that name
TERMS: dict[str, Callable[..., Term | list[Term]]] = {
    "ce": lambda temperature, options: HardLabels(**options),
    "kd": lambda temperature, options: Divergence("kd", temperature, **options),
    "kd_anneal": lambda temperature, options: AnnealedKD(temperature, **options),
    "kl": lambda temperature, options: Divergence("kl", temperature, **options),
    "reverse_kl": lambda temperature, options: Divergence("reverse_kl", temperature, **options),
    "js": lambda temperature, options: Divergence("js", temperature, **options),
    "tvd": lambda temperature, options: Divergence("tvd", temperature, **options),
    "sinkhorn": lambda temperature, options: Transport(**options),
    "sinkhorn_hidden": lambda temperature, options: HiddenTransport(**options),
    "saliency": lambda temperature, options: AttributionLoss("saliency", **options),
    "integrated_saliency": lambda temperature, options: AttributionLoss("integrated_saliency", **options),
    "mgskd": lambda temperature, options: relations(**options),
}


@dataclass(frozen=True)
class Value:
    """What an objective gives for a batch: the weighted `total`, and each term's own value before its weight."""

    total: Tensor
    parts: dict[str, Tensor]


class Objective(nn.Module):
    """A weighted sum of terms.

    >>> objective = Objective.parse("kd+sinkhorn", alpha=0.9, beta=0.8, temperature=1.0)
    >>> str(objective)
    'ce:0.1+kd:0.9+sinkhorn:0.8'

    Called with the student's and the teacher's `View`, the batch (its `labels` where a term needs them) and the
    `Progress`, it gives a `Value`. It is an `nn.Module`: its parameters are those of its terms.
    """

    def __init__(self, terms: Iterable[Term], weights: Iterable[float]):
        super().__init__()
        terms = list(terms)
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

        alpha (0 to 1), beta and mgskd_w (>= 0) weigh terms that carry no weight of their own; temperature (> 0) softens
        the row-by-row terms. `options` are a term's own keywords under its name: `sinkhorn={"cost": "l1"}`.
        Raises SinkdError for an unknown or repeated name, and for a sum whose weights are not determined.
        """
        written = [_read_part(part, text) for part in text.replace(" ", "").split("+")]
        names = [name for name, _ in written]
        for name in names:
            if names.count(name) > 1:
                raise SinkdError(f'the objective "{text}" names {name} twice; give each term once, with its weight')
        for name in options:
            if name not in TERMS:
                raise SinkdError(f'options were given for "{name}", which is no term of an objective: {_known()}')
        if not 0 < temperature < float("inf"):
            raise SinkdError(f"the temperature is {temperature}; it must be above 0")
        make = partial(_make_terms, temperature=temperature, options=options)
        weighted = [weight is not None for _, weight in written]
        if all(weighted):
            given = [(term, weight or 0.0) for name, weight in written for term in make(name)]
        elif any(weighted):
            missing = ", ".join(name for name, weight in written if weight is None)
            raise SinkdError(f'in the objective "{text}" {missing} has no weight; write all weights or none')
        else:
            terms = [term for name in names for term in make(name)]
            given = _published_weights(terms, make, alpha, beta, mgskd_w, text)
        kept = [(term, weight) for term, weight in given if weight != 0]
        if not kept:
            raise SinkdError(f'the objective "{text}" weighs every term with 0; nothing would be learned')
        return cls(*zip(*kept, strict=True))

    def meet(self, student: Stack, teacher: Stack) -> None:
        """Tell the terms of both models; those that then have nothing to compare are left out. See `Term.meet`."""
        for term in list(self):
            term.meet(student, teacher)
            if not term.student_needs:
                del self.terms[term.name], self.weights[term.name]

    @property
    def student_needs(self) -> frozenset[Feature]:
        """What the terms need of the student."""
        return frozenset().union(*(term.student_needs for term in self))

    @property
    def needs_ahead(self) -> frozenset[Feature]:
        """What batchwise terms need of the student before the others are computed, and the prediction that is checked.

        An attribution is left out, whose further passes draw no random numbers.
        """
        needed = frozenset().union(*(term.student_needs for term in self.batchwise))
        return needed | self.student_needs & {LOGITS}

    @property
    def teacher_needs(self) -> frozenset[Feature]:
        """What the terms need of the teacher; empty when it teaches nothing."""
        return frozenset().union(*(term.teacher_needs for term in self))

    @property
    def compares_layers(self) -> bool:
        """Must it `meet` both models before its needs are known?"""
        return any(term.compares_layers for term in self)

    @property
    def kept(self) -> list[Feature]:
        """What of the teacher's needs is computed once.

        Where something cannot be, the teacher answers live, and its one pass gives all but attributions for nothing.
        """
        keepable = [feature for feature in self.teacher_needs if feature.keepable]
        return keepable if self.cacheable else [feature for feature in keepable if "embeddings" in feature.captures]

    @property
    def cacheable(self) -> bool:
        """Can everything that is needed of the teacher be computed once?"""
        return all(feature.keepable for feature in self.teacher_needs)

    @property
    def batchwise(self) -> list[Term]:
        """The terms that see all rows of an update at once."""
        return [term for term in self if term.batchwise]

    def forward(
        self, student: View, teacher: View, batch: Mapping[str, Any], progress: Progress | None = None
    ) -> Value:
        progress = progress or Progress()
        parts = {term.name: term(*self._sides(term, student, teacher, batch), batch, progress) for term in self}
        return self.weigh(parts)

    def weigh(self, parts: Mapping[str, Tensor]) -> Value:
        """The weighted sum of the terms' values, given by name."""
        total: Any = sum(self.weights[name] * value for name, value in parts.items())
        return Value(total, dict(parts))

    @staticmethod
    def _sides(term: Term, student: View, teacher: View, batch: Mapping[str, Any]) -> tuple[Any, Any]:
        """What the term's call takes of either side."""
        if not term.batchwise:
            return student, teacher
        return term.points(student, batch), term.points(teacher, batch)

    def __iter__(self):
        return iter(self.terms.values())

    def __str__(self) -> str:
        # Terms that share a name before the slash were one in the text, and have one weight.
        weights = {name.partition("/")[0]: weight for name, weight in self.weights.items()}
        return "+".join(f"{name}:{weight:.15g}" for name, weight in weights.items())


def _read_part(part: str, text: str) -> tuple[str, float | None]:
    name, colon, weight = part.partition(":")
    if name not in TERMS:
        raise SinkdError(f'the objective "{text}" names "{name}", which this version does not have: {_known()}')
    try:
        value = float(weight) if colon else None
    except ValueError:
        value = -1.0
    if value is not None and not 0 <= value < float("inf"):
        raise SinkdError(f'in the objective "{text}" the weight of {name} is "{weight}"; it must be a number from 0 up')
    return name, value


def _make_terms(name: str, temperature: float, options: Mapping[str, Mapping[str, Any]]) -> list[Term]:
    made = TERMS[name](temperature, options.get(name, {}))
    return made if isinstance(made, list) else [made]


def _published_weights(
    terms: list[Term], make: Callable[[str], list[Term]], alpha: float, beta: float, mgskd_w: float, text: str
) -> list[tuple[Term, float]]:
    """Hard labels, alpha against 1 - alpha with a row-by-row term, and beta on the others, as in SinKD."""
    if not 0 <= alpha <= 1:
        raise SinkdError(f"alpha is {alpha}; it must lie between 0 (labels alone) and 1 (no labels)")
    for name, weight in (("beta", beta), ("mgskd_w", mgskd_w)):
        if not 0 <= weight < float("inf"):
            raise SinkdError(f"{name} is {weight}; it must be a number from 0 up")
    paired = [term.name for term in terms if term.family == "paired"]
    if len(paired) > 1:
        raise SinkdError(
            f'alpha cannot weigh {" and ".join(paired)} of the objective "{text}" at once; '
            "write the weights out, as in ce:0.1+kd:0.5+js:0.4"
        )
    label_weight = 1 - alpha if paired else 1.0
    weights = {"label": label_weight, "paired": alpha, "added": beta, "relation": mgskd_w}
    terms = [*make("ce"), *(term for term in terms if term.family != "label")]
    # 1 - 0.9 is 0.09999999999999998: rounding keeps what the user wrote legible in logs and manifests
    return [(term, round(weights[term.family], 12)) for term in terms]


def _known() -> str:
    return "the terms are " + ", ".join(TERMS)
