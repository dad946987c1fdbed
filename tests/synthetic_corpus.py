"""A small English grammar that writes acceptability corpora in CoLA's file layout.

- There are twelve phenomena, from word pairs (these lamp) through verb frames (the king yawned the violin) to relations
  across a clause (the pilot that no clerk trusted has ever laughed). A file's first column names the phenomenon.
- Each phenomenon produces a minimal pair. A corpus takes one side of each pair at random, so half of its rows are
  acceptable, and guessing has an MCC of 0.
- Most determiners show number (this, these). A small model learns agreement between these few words first; the number
  of nouns, agreement across other nouns and verb frames take more capacity.
- The same seed writes the same bytes, and no sentence occurs twice in any split.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import NamedTuple

# Short lists on purpose: an untrained model must see each word often enough.
MEN = "king uncle monk waiter wizard".split()
WOMEN = "queen aunt nun actress princess".split()
PEOPLE = "doctor pilot farmer teacher clerk".split()
THINGS = "lamp letter kettle ladder violin".split()

LAUGH = "laugh sneeze yawn smile faint".split()  # never with an object
REPAIR = "remove discover mention damage destroy".split()  # never without
RELY = "rely/on depend/on listen/to stare/at sympathize/with".split()
CLAIM = "claim believe suspect insist hope".split()  # that ..., never whether
WONDER = "wonder inquire investigate discuss debate".split()  # whether ..., never that
ADMIRE = "admire blame defend trust scold".split()  # a person does it, to a person
FELL = "fell vanished arrived".split()  # a thing may have done it

ANY = "the my".split()
ONE = "this every".split()
MANY = "these many".split()
ADJECTIVES = "old tall quiet famous young".split()
FORMS = [("is", "are"), ("was", "were"), ("has been", "have been")]  # singular, plural
PLACES = "near behind beside with".split()

Words = list[str]
Pair = tuple[Words, Words]  # acceptable, unacceptable


def third(verb: str) -> str:
    """Return the third person singular of a regular verb, or the plural of a regular noun."""
    if verb.endswith(("sh", "ch", "s", "x")):
        return verb + "es"
    return verb[:-1] + "ies" if verb.endswith("y") and verb[-2] not in "aeiou" else verb + "s"


def past(verb: str) -> str:
    """Return the past, and past participle, of a regular verb."""
    if verb.endswith("y") and verb[-2] not in "aeiou":
        return verb[:-1] + "ied"
    return verb + ("d" if verb.endswith("e") else "ed")


def progressive(verb: str) -> str:
    """Return the -ing form of a regular verb."""
    return (verb[:-1] if verb.endswith("e") else verb) + "ing"


class Noun(NamedTuple):
    """A noun phrase: its words, whether it is plural, and the reflexive pronoun that goes with it."""

    words: Words
    plural: bool
    reflexive: str


class Grammar:
    """Pairs of sentences, as word lists, drawn with one random generator."""

    def __init__(self, random: Random):
        self.random = random

    def maybe(self, chance: float = 0.5) -> bool:
        return self.random.random() < chance

    def noun(self, lexicon: Words | None = None, plural: bool | None = None, determiners: Words | None = None) -> Noun:
        lexicon = lexicon or self.random.choice([MEN, WOMEN, PEOPLE])
        plural = self.maybe() if plural is None else plural
        noun = self.random.choice(lexicon)
        own = "himself" if noun in MEN else "herself" if noun in WOMEN else "itself"
        if determiners is None:
            determiners = ANY if self.maybe(0.2) else MANY if plural else ONE
        words = [self.random.choice(determiners)]
        if self.maybe(0.1):
            words.append(self.random.choice(ADJECTIVES))
        return Noun([*words, third(noun) if plural else noun], plural, "themselves" if plural else own)

    def thing(self) -> Words:
        return ["the", *self.noun(THINGS, determiners=ANY).words[-1:]]

    def laughed(self) -> str:
        """Return a verb in the past, which agrees with any subject."""
        return past(self.random.choice(LAUGH))

    def laughing(self, subject: Words, plural: bool) -> Pair:
        """Add a verb of two words that agrees with the subject, and one that does not."""
        forms, verb = self.random.choice(FORMS), progressive(self.random.choice(LAUGH))
        return [*subject, forms[plural], verb], [*subject, forms[not plural], verb]

    def between(self) -> Words:
        """Return words between a subject and its verb, with a noun that the verb must not agree with."""
        if self.maybe():
            return [self.random.choice(PLACES), *self.noun().words]
        other = self.noun()
        verb = self.random.choice(ADMIRE)
        return ["that", *other.words, verb if other.plural else third(verb)]

    def determiner(self) -> Pair:
        """these lamps vanished / these lamp vanished"""
        plural = self.maybe()
        right, wrong = (MANY, ONE) if plural else (ONE, MANY)
        lexicon, verb = (THINGS, self.random.choice(FELL)) if self.maybe(0.3) else (None, self.laughed())
        noun = self.noun(lexicon, plural, right).words
        return [*noun, verb], [self.random.choice(wrong), *noun[1:], verb]

    def agreement(self) -> Pair:
        """the king laughs / the king laugh"""
        subject = self.noun()
        pair = self.laughing(subject.words, subject.plural)
        if not self.maybe(0.3):
            return pair
        verb = self.random.choice(LAUGH)
        forms = (third(verb), verb)
        return [*subject.words, forms[subject.plural]], [*subject.words, forms[not subject.plural]]

    def attractor(self) -> Pair:
        """the king near the nuns is old / the king near the nuns are old"""
        subject = self.noun()
        return self.laughing(subject.words + self.between(), subject.plural)

    def coordination(self) -> Pair:
        """the king and the nun are laughing / the king and the nun is laughing"""
        plain = [*ANY, "this"]  # "every king and every nun" would be singular
        one, other = (self.noun(plural=False, determiners=plain).words for _ in range(2))
        plural = self.maybe()  # "with" in place of "and" leaves the singular
        return self.laughing([*one, "and" if plural else "with", *other], plural)

    def auxiliary(self) -> Pair:
        """the king has laughed / the king will laughed"""
        subject = self.noun()
        forms = [
            (["will", "must"], lambda verb: verb),
            (["have" if subject.plural else "has"], past),
            (["are" if subject.plural else "is"], progressive),
        ]
        (right, form), (wrong, _) = self.random.sample(forms, 2)
        rest = [form(self.random.choice(LAUGH))]
        return [*subject.words, self.random.choice(right), *rest], [*subject.words, self.random.choice(wrong), *rest]

    def negation(self) -> Pair:
        """the king does not laugh / the king does not laughs, the king do not laugh, the king not laughs"""
        subject = self.noun()
        verb, do = self.random.choice(LAUGH), ("does", "do")
        wrong = self.random.choice(
            [
                [do[not subject.plural], "not", verb],
                [do[subject.plural], "not", self.random.choice([third, past])(verb)],
                ["not", verb if subject.plural else third(verb)],
            ]
        )
        return [*subject.words, do[subject.plural], "not", verb], subject.words + wrong

    def transitivity(self) -> Pair:
        """the king repaired the lamp / the king vanished the lamp"""
        subject = self.noun().words
        alone, taking = self.laughed(), past(self.random.choice(REPAIR))
        if self.maybe():
            return [*subject, alone], [*subject, taking]
        thing = self.thing()
        return [*subject, taking, *thing], [*subject, alone, *thing]

    def preposition(self) -> Pair:
        """the king relied on the nun / the king relied to the nun"""
        subject = self.noun().words
        verb, own = self.random.choice(RELY).split("/")
        other = self.random.choice([word for word in ("on", "to", "at", "") if word != own])
        noun, start = self.noun().words, [*subject, past(verb)]
        return [*start, own, *noun], [*start, *other.split(), *noun]

    def clause(self) -> Pair:
        """the king wondered whether the nun laughed / the king wondered that the nun laughed"""
        verb, right, wrong = self.random.choice(CLAIM), "that", "whether"
        if self.maybe():
            verb, right, wrong = self.random.choice(WONDER), "whether", "that"
        start, rest = [*self.noun().words, past(verb)], [*self.noun().words, self.laughed()]
        return [*start, right, *rest], [*start, wrong, *rest]

    def reflexive(self) -> Pair:
        """the queen near the monks admired herself / the queen near the monks admired themselves"""
        subject = self.noun(self.random.choice([MEN, WOMEN]))
        start = subject.words + (self.between() if self.maybe(0.6) else []) + [past(self.random.choice(ADMIRE))]
        others = {"himself", "herself", "themselves"} - {subject.reflexive}
        return [*start, subject.reflexive], [*start, self.random.choice(sorted(others))]

    def polarity(self) -> Pair:
        """no pilot that the clerk admired has ever laughed / the pilot that no clerk admired has ever laughed"""
        no = self.noun(plural=False, determiners=["no"]).words
        other = self.noun(plural=False, determiners=ANY + ONE).words
        rest = ["has", "ever", self.laughed()]
        if self.maybe(0.35):
            return no + rest, [self.random.choice(ANY + ONE), *no[1:], *rest]
        middle = past(self.random.choice(ADMIRE))
        swapped = ([*other[:1], *no[1:]], [*no[:1], *other[1:]])
        return [*no, "that", *other, middle, *rest], [*swapped[0], "that", *swapped[1], middle, *rest]

    def gap(self) -> Pair:
        """the lamp that the king repaired is old / the lamp that the king repaired the violin is old"""
        inner, thing = [*self.noun().words, past(self.random.choice(REPAIR))], self.thing()
        if self.maybe():  # after "claimed that" the object must be there
            start = [*self.noun().words, past(self.random.choice(CLAIM)), "that", *inner]
            return start + thing, start
        start = [*self.noun(THINGS, plural=False).words, "that", *inner]
        rest = self.random.choice([["was", self.random.choice(ADJECTIVES)], ["stood", "near", *self.thing()]])
        return start + rest, start + thing + rest


PHENOMENA: dict[str, Callable[[Grammar], Pair]] = {
    name: getattr(Grammar, name)
    for name in "determiner agreement attractor coordination auxiliary negation "
    "transitivity preposition clause reflexive polarity gap".split()
}


def sentences(seed: int = 0) -> Iterator[tuple[str, int, str]]:
    """Yield rows (phenomenon, 1 for acceptable or 0, sentence) without end, each sentence once; phenomena alternate."""
    random = Random(seed)
    grammar = Grammar(random)
    seen: set[str] = set()
    for name, phenomenon in cycle(PHENOMENA.items()):
        sentence = ""
        while not sentence or sentence in seen:
            pair = phenomenon(grammar)
            label = int(random.random() < 0.5)
            sentence = " ".join(pair[0] if label else pair[1])
        seen.add(sentence)
        yield name, label, f"{sentence[0].upper()}{sentence[1:]}."


def write_corpus(folder: str | Path, n_train: int, n_dev: int, seed: int = 0) -> Path:
    """Write <folder>/CoLA/train.tsv, dev.tsv and test.tsv (n_dev rows without labels) in CoLA's layout.

    The same arguments write the same bytes.

    Returns:
        `folder`, for `load_task("cola", folder)`.
    """
    folder = Path(folder)
    (folder / "CoLA").mkdir(parents=True, exist_ok=True)
    rows = sentences(seed)
    for split, count in (("train", n_train), ("dev", n_dev)):
        lines = [f"{name}\t{label}\t{'' if label else '*'}\t{text}" for name, label, text in islice(rows, count)]
        _write_lines(folder / "CoLA" / f"{split}.tsv", lines)
    lines = [f"{number}\t{text}" for number, (_, _, text) in enumerate(islice(rows, n_dev))]
    _write_lines(folder / "CoLA" / "test.tsv", ["index\tsentence", *lines])
    return folder


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
