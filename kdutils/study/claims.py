"""A paper's claim as a statement that can fail, graded from our seeds with an interval.

>>> gain = Claim("R1", "R-Drop reaches a higher test BLEU than the baseline.",
...              paper="+2.61 BLEU", source="Table 1", unit="BLEU",
...              measure=lambda records: paired_difference(records, "test_bleu", "r_drop", "baseline"))
>>> board([grade(gain, records)])

One number a seed goes in; the mean, its 95 % interval and a verdict come out. A claim with two halves ("lower
dev loss and higher training loss") is two claims. Each claim is graded at 95 % on its own: among twenty
intervals one is expected to miss, so a board is read as a whole and not by its best line.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from kdutils.core.errors import UserError, unknown
from kdutils.study.measures import Record, Values, as_float, with_last_weights
from kdutils.study.results import for_claim

SUPPORTED, CONTRADICTED, INCONCLUSIVE = "supported", "contradicted", "inconclusive"
NOT_TESTABLE, NOT_RUN = "not testable here", "not run"
SYMBOLS = {SUPPORTED: "✓", CONTRADICTED: "✗", INCONCLUSIVE: "?", NOT_TESTABLE: "∅", NOT_RUN: "–"}
DIRECTIONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}
KINDS = ("direction", "equivalence", "exact")
RANKS = ("headline", "table", "further")
BEDS = ("grammar", "small")  # the presets whose records decide the claims
MINIMUM_SEEDS = 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Need:
    """What must hold of the records before a claim can be graded on them: "the baseline has reached its plateau".

    The mean over seeds of what `measure` returns must be `better` than `bound`; where it is not, the runs could not
    have decided the claim. `remedy`: what it would take, as the end of a sentence ("train it longer").
    """

    statement: str
    measure: Callable[[list[Record]], Mapping]
    better: str = ">"
    bound: float = 0.0
    unit: str = ""
    remedy: str = ""

    def __post_init__(self) -> None:
        if self.better not in DIRECTIONS:
            raise unknown("direction", self.better, DIRECTIONS)


@dataclass(frozen=True)
class Claim:
    """A falsifiable statement: "the quantity that `measure` returns is `better` than `bound`".

    `measure` takes the records and returns one number a seed, or a pair (a, b) a seed, read as a - b.
    `kind` "direction" compares the interval with `bound`; "equivalence" wants it wholly within `margin` of
    `bound`; "exact" asks every seed for |quantity - bound| <= `tolerance` and needs no interval.
    `every_seed`: the claimed sign must also hold in each seed. `over`: the overrides that a sweep varies, so
    that the report puts their records together. `task`: the only task it speaks of, if it is one. `scale`: what the
    live scale cannot show. `published`: the paper's number in the same unit, for figures and as the effect that the
    runs must be able to see. `needs`: what must hold before a verdict means anything. `rank`: the paper's one headline,
    the few others of the table, or further ones, which stand folded. `words`: the comparison in a sentence, "at equal
    updates". Raises UserError if it cannot be graded.
    """

    id: str
    statement: str
    measure: Callable[[list[Record]], Mapping]
    paper: str = "not stated"
    source: str = ""
    unit: str = ""
    better: str = ">"
    bound: float = 0.0
    kind: str = "direction"
    margin: float = 0.0
    tolerance: float = 0.0
    every_seed: bool = False
    over: tuple[str, ...] = ()
    task: str = ""
    scale: str = ""
    published: float | None = None
    needs: tuple[Need, ...] = ()
    rank: str = "further"
    words: str = ""

    def __post_init__(self) -> None:
        if self.better not in DIRECTIONS:
            raise unknown("direction", self.better, DIRECTIONS)
        if self.rank not in RANKS:
            raise unknown("rank", self.rank, RANKS)
        if self.kind not in KINDS:
            raise unknown("kind of claim", self.kind, KINDS)
        if self.kind == "equivalence" and not self.margin > 0:
            raise UserError(f"Claim {self.id} is an equivalence: give it a margin above 0, such as margin=0.3.")

    @property
    def cited(self) -> str:
        """The paper's number with the table or figure that it stands in."""
        return f"{self.paper} ({self.source})" if self.source else self.paper

    @property
    def condition(self) -> str:
        """What the quantity must satisfy, as text: "> 0 BLEU", "within 0.3 of 0 BLEU"."""
        if self.kind == "direction":
            text = f"{self.better} {self.bound:g}"
        elif self.kind == "equivalence":
            text = f"within {self.margin:g} of {self.bound:g}"
        else:
            text = f"exactly {self.bound:g}" + (f" up to {self.tolerance:g}" if self.tolerance else "")
        return f"{text} {self.unit}".strip()


@dataclass(frozen=True)
class Grade:
    """A graded claim. `mean`, `low` and `high` (95 % interval) are NaN where the seeds cannot give them."""

    claim: Claim
    verdict: str
    reason: str
    values: Values = field(default_factory=dict)
    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.values)

    @property
    def ours(self) -> str:
        """The mean with its interval and unit, +0.31 [+0.12, +0.50] BLEU; empty when nothing was run."""
        if not math.isfinite(self.mean):
            return "not finite" if self.values else ""
        signed = self.claim.bound == 0  # a difference; a ratio or a score is read without its plus
        return f"{format_interval(self.mean, self.low, self.high, signed)} {self.claim.unit}".strip()


# ---------------------------------------------------------------- grading


def interval(values: Iterable[float], confidence: float = CONFIDENCE) -> tuple[float, float, float]:
    """Mean and Student's t interval: (mean, low, high). Identical values give a point.

    One value has no interval and an empty or non-finite set has nothing: NaN there.
    """
    numbers = np.array(list(values), dtype=float)
    if numbers.size == 0 or not np.isfinite(numbers).all():
        return math.nan, math.nan, math.nan
    if numbers.size == 1:
        return float(numbers[0]), math.nan, math.nan
    if (numbers == numbers[0]).all():
        return (float(numbers[0]),) * 3
    half = stats.t.ppf((1 + confidence) / 2, numbers.size - 1) * stats.sem(numbers)
    return float(numbers.mean()), float(numbers.mean() - half), float(numbers.mean() + half)


def grade(claim: Claim, records: Sequence[Record]) -> Grade:
    """Grades a claim from the records of one group of settings (or of one sweep).

    "supported": the whole 95 % interval lies on the claimed side. "contradicted": it lies wholly on the
    other side. "inconclusive": neither, or fewer than three seeds, or a seed without a finite number, or only one of
    the two selections (the weights that the validation chose, and the last) shows it. "not testable here": a need
    fails, or the interval is wider than the paper's effect. "not run": the records do not hold what the claim needs.
    The reason says which, in one sentence.
    """
    try:
        values = _values(claim.measure, records)
        unmet = next(filter(None, (_unmet(need, records) for need in claim.needs if values)), "")
        last = _values(claim.measure, with_last_weights(records))
    except UserError as error:
        return Grade(claim, NOT_RUN, str(error))
    except KeyError as error:
        return Grade(claim, NOT_RUN, f"The records do not hold {error}.")
    except (AttributeError, LookupError, TypeError, ValueError, ArithmeticError) as error:  # a record from elsewhere
        return Grade(claim, NOT_RUN, f"The records do not hold what this claim reads ({error}).")
    if not values:
        return Grade(claim, NOT_RUN, "No run has what this claim needs.")
    mean, low, high = interval(values.values())
    verdict, reason = _judge(claim, values, low, high)
    if unmet:
        verdict, reason = NOT_TESTABLE, unmet
    elif verdict == INCONCLUSIVE and _too_wide(claim, low, high):
        verdict = NOT_TESTABLE
        reason = f"These runs can see differences of {(high - low) / 2:.2g} {claim.unit} or more, the paper's is "
        reason += f"{abs(claim.published - claim.bound):.2g}: more seeds or quieter measures would be needed."
    elif last and last != values:
        found = interval(last.values())
        if _judge(claim, last, *found[1:])[0] != verdict:
            signed = format_interval(*found, claim.bound == 0)
            reason += f" The two selections disagree: with the last weights it is {signed} {claim.unit}".rstrip() + "."
            verdict = INCONCLUSIVE
    return Grade(claim, verdict, reason, values, mean, low, high)


def _values(measure: Callable, records: Sequence[Record]) -> Values:
    raw = measure(list(records)) if records else {}
    return {seed: _difference(number) for seed, number in sorted(raw.items())}


def _unmet(need: Need, records: Sequence[Record]) -> str:
    """Why a need does not hold, as a sentence with its number; "" where it does."""
    mean = interval(_values(need.measure, records).values())[0]
    if DIRECTIONS[need.better](mean, need.bound):
        return ""
    number = f"{mean:.3g} {need.unit}".strip() if math.isfinite(mean) else "not measured"
    remedy = f": {need.remedy}" if need.remedy else ""
    return f"It needs that {need.statement} ({need.better} {need.bound:g}), which is {number} here{remedy}."


def _too_wide(claim: Claim, low: float, high: float) -> bool:
    """Whether an effect of the size that the paper reports could hide in the interval."""
    return claim.published is not None and (high - low) / 2 > abs(claim.published - claim.bound) > 0


def about(claims: Iterable[Claim], task: str) -> list[Claim]:
    """The claims that speak of a task."""
    return [claim for claim in claims if claim.task in ("", task)]


def ranked(claims: Iterable[Claim], *ranks: str) -> list[Claim]:
    """The claims of these ranks: the headline first, then in their order."""
    return sorted((claim for claim in claims if claim.rank in ranks), key=lambda claim: RANKS.index(claim.rank))


def on_beds(
    claims: Iterable[Claim], records: Sequence[Record], task: str, presets: Sequence[str] = BEDS
) -> list[tuple[str, Grade]]:
    """Each claim graded on every bed that has records of it: [(name of the bed, grade), ...], claim by claim.

    A bed is a preset with its data: "grammar", or the name of the corpus, such as "multi30k". Claims that speak of
    another task are graded on that one; `task` is for those that speak of all.
    """
    graded = []
    for claim in claims:
        for preset in presets:
            found = for_claim(claim.over, records, claim.task or task, preset)
            if found:
                graded.append((bed_name(found), grade(claim, found)))
    return graded


def bed_name(records: Sequence[Record]) -> str:
    """What the bed of some records is called: by its corpus, the embedded one by its preset."""
    corpus, preset = records[0]["provenance"].get("data", {}).get("corpus", "demo"), records[0]["preset"]
    return preset if corpus.partition(":")[0] == "demo" else corpus if preset in BEDS else f"{corpus}, {preset}"


def sentence(graded: Sequence[tuple[str, Grade]]) -> str:
    """What came of it, bed by bed: "grammar: +2.1 [+1.2, +3.0] BLEU at equal updates (supported), ..."."""
    beds: dict[str, list[str]] = {}
    for bed, one in graded:
        if one.ours:
            beds.setdefault(bed, []).append(f"{one.ours} {one.claim.words}".strip() + f" ({one.verdict})")
    return "; ".join(f"{bed}: {', '.join(found)}" for bed, found in beds.items()) or "Nothing is recorded yet"


def _difference(number) -> float:
    if isinstance(number, Sequence):
        return as_float(number[0]) - as_float(number[1])
    return as_float(number)


def _judge(claim: Claim, values: Values, low: float, high: float) -> tuple[str, str]:
    broken = [seed for seed, number in values.items() if not math.isfinite(number)]
    if broken:
        return INCONCLUSIVE, f"{_seeds(broken)} gave no finite number (diverged, or not logged)."
    if claim.kind == "exact":
        return _judge_exact(claim, values)
    if len(values) < MINIMUM_SEEDS:
        return INCONCLUSIVE, f"Only {_count(len(values))}: an interval needs at least {MINIMUM_SEEDS}."
    if claim.kind == "equivalence":
        return _judge_equivalence(claim, low, high)
    return _judge_direction(claim, values, low, high)


def _judge_exact(claim: Claim, values: Values) -> tuple[str, str]:
    off = [seed for seed, number in values.items() if not abs(number - claim.bound) <= claim.tolerance]
    if off:
        return CONTRADICTED, f"Not {claim.condition}: {_seeds(off).lower()}."
    return SUPPORTED, f"Every seed is {claim.condition}."


def _judge_equivalence(claim: Claim, low: float, high: float) -> tuple[str, str]:
    bottom, top = claim.bound - claim.margin, claim.bound + claim.margin
    if bottom < low and high < top:
        return SUPPORTED, f"The whole interval lies {claim.condition}."
    if high <= bottom or low >= top:
        return CONTRADICTED, f"The whole interval lies outside: it is not {claim.condition}."
    return INCONCLUSIVE, f"The interval crosses an edge of the margin ({bottom:g} to {top:g})."


def _judge_direction(claim: Claim, values: Values, low: float, high: float) -> tuple[str, str]:
    holds, opposite = DIRECTIONS[claim.better], DIRECTIONS["<" if claim.better[0] == ">" else ">"]
    agreeing = [seed for seed, number in values.items() if holds(number, claim.bound)]
    share = f"{len(agreeing)} of {_count(len(values))} on the claimed side"
    if holds(low, claim.bound) and holds(high, claim.bound):
        if claim.every_seed and len(agreeing) < len(values):
            return INCONCLUSIVE, f"The interval is {claim.condition}, but not every seed is ({share})."
        return SUPPORTED, f"The whole interval is {claim.condition} ({share})."
    if opposite(low, claim.bound) and opposite(high, claim.bound):
        return CONTRADICTED, f"The whole interval lies on the other side of {claim.bound:g} ({share})."
    if low == high:
        return INCONCLUSIVE, f"Every seed gives exactly {claim.bound:g}: a measure at its floor or ceiling?"
    return INCONCLUSIVE, f"The interval contains {claim.bound:g} ({share})."


def _seeds(seeds: Sequence[int]) -> str:
    *most, last = map(str, seeds)
    return f"Seeds {', '.join(most)} and {last}" if most else f"Seed {last}"


def _count(n: int) -> str:
    return "1 seed" if n == 1 else f"{n} seeds"


# ---------------------------------------------------------------- showing


def format_interval(mean: float, low: float, high: float, sign: bool = True) -> str:
    """Text like +0.31 [+0.12, +0.50], to two digits of the half-width; the mean alone without an interval."""
    if not math.isfinite(mean):
        return "not finite"
    half = (high - low) / 2
    plus = "+" if sign and mean else ""
    if not math.isfinite(half) or half == 0:
        whole = float(mean).is_integer() and abs(mean) < 1e12
        return f"{mean:{plus}{',.0f' if whole else '.4g'}}" + (" (identical)" if half == 0 else "")
    decimals = 1 - math.floor(math.log10(half))
    if abs(mean) >= 1e6 or not -3 <= decimals <= 7:
        return f"{mean:{plus}.3g} [{low:{plus}.3g}, {high:{plus}.3g}]"
    style = f"{plus}z.{max(decimals, 0)}f"  # z: no minus before a rounded zero
    return f"{mean:{style}} [{low:{style}}, {high:{style}}]"


def marked(verdict: str) -> str:
    """A verdict with its symbol: "✓ supported"."""
    return f"{SYMBOLS[verdict]} {verdict}"
