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

import html
import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

from kdutils.errors import UserError, unknown

Record = dict
Values = dict[int, float]  # seed -> number

SUPPORTED, CONTRADICTED, INCONCLUSIVE, NOT_RUN = "supported", "contradicted", "inconclusive", "not run"
SYMBOLS = {SUPPORTED: "✓", CONTRADICTED: "✗", INCONCLUSIVE: "?", NOT_RUN: "–"}
# Background and text of a verdict: dark enough text on a light ground, so it reads on light and dark pages.
VERDICT_COLOURS = {
    SUPPORTED: ("#cfeee3", "#00523b"),
    CONTRADICTED: ("#fbdccb", "#7a3000"),
    INCONCLUSIVE: ("#e6e6e6", "#333333"),
    NOT_RUN: ("#f7f7f7", "#555555"),
}
DIRECTIONS = {">": operator.gt, "<": operator.lt, ">=": operator.ge, "<=": operator.le}
KINDS = ("direction", "equivalence", "exact")
MINIMUM_SEEDS = 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Claim:
    """A falsifiable statement: "the quantity that `measure` returns is `better` than `bound`".

    `measure` takes the records and returns one number a seed, or a pair (a, b) a seed, read as a - b.
    `kind` "direction" compares the interval with `bound`; "equivalence" wants it wholly within `margin` of
    `bound`; "exact" asks every seed for |quantity - bound| <= `tolerance` and needs no interval.
    `every_seed`: the claimed sign must also hold in each seed. `over`: the overrides that a sweep varies, so
    that the report puts their records together. `task`: the only task it speaks of, if it is one. `scale`: what the
    live scale cannot show. `published`: the paper's number in the same unit, for figures. Raises UserError if it
    cannot be graded.
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

    def __post_init__(self) -> None:
        if self.better not in DIRECTIONS:
            raise unknown("direction", self.better, DIRECTIONS)
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


# ---------------------------------------------------------------- one number a seed


def value(records: Sequence[Record], arm: str, metric: str) -> Values:
    """The final `metric` of `arm` in each seed: {seed: number}; {} when there are no records.

    A number that is missing in some seeds is NaN there, so that a diverged run stays visible. Raises
    UserError when no record has the arm or the metric, or when two records of one seed disagree.
    """
    metrics = [(record["seed"], record["arms"][arm].get("metrics", {})) for record in _with_arm(records, arm)]
    known = sorted({name for _, scores in metrics for name in scores})
    if metrics and metric not in known:
        raise unknown("metric", metric, known)
    return by_seed(((seed, _number(scores.get(metric))) for seed, scores in metrics), f"{arm}'s {metric}")


def paired_difference(records: Sequence[Record], metric: str, arm_a: str, arm_b: str) -> Values:
    """`metric` of arm_a minus that of arm_b, seed by seed, over the seeds that have both."""
    return paired(value(records, arm_a, metric), value(records, arm_b, metric))


def paired(a: Values, b: Values, how: Callable[[float, float], float] = operator.sub) -> Values:
    """Combines two quantities seed by seed (difference by default, operator.truediv for a ratio)."""
    return {seed: _safely(how, a[seed], b[seed]) for seed in sorted(a.keys() & b.keys())}


def history(record: Record, arm: str, metric: str, kind: str = "eval") -> tuple[list[int], list[float]]:
    """Updates at which `metric` was logged in rows of `kind` ("train" or "eval"), and its values there."""
    rows = record["arms"][arm].get("history", [])
    rows = [row for row in rows if row.get("kind") == kind and metric in row]
    return [int(row["update"]) for row in rows], [_number(row[metric]) for row in rows]


def from_history(
    records: Sequence[Record],
    arm: str,
    metric: str,
    summary: Callable[[list[float]], float],
    kind: str = "eval",
) -> Values:
    """One number a seed from a curve: `min` (best loss), `lambda v: v[-1] - min(v)` (rise after the minimum).

    A seed without the curve, or with a value in it that is not finite, gives NaN. Raises UserError when no
    record logged the metric.
    """
    curves = [(record["seed"], history(record, arm, metric, kind)[1]) for record in _with_arm(records, arm)]
    if records and not any(curve for _, curve in curves):
        raise unknown(f"logged {kind} metric", metric, logged(records, arm, kind))
    numbers = ((seed, _safely(summary, c) if c and np.isfinite(c).all() else math.nan) for seed, c in curves)
    return by_seed(numbers, f"{arm}'s {metric}")


def sweep(records: Sequence[Record], metric: str, arms: Mapping[float, str]) -> dict[float, Values]:
    """A sweep whose points are arms: {x: {seed: number}} from {x: arm name}."""
    return {x: value(records, arm, metric) for x, arm in arms.items()}


def sweep_setting(records: Sequence[Record], metric: str, arm: str, setting: str) -> dict[float, Values]:
    """A sweep whose points are runs with different settings: {x: {seed: number}}, x read from `setting`."""
    groups: dict[float, list[Record]] = {}
    for record in records:
        if setting in record.get("settings", {}) and arm in record["arms"]:
            groups.setdefault(record["settings"][setting], []).append(record)
    return {x: value(groups[x], arm, metric) for x in sorted(groups)}


def trend(points: Mapping[float, Values]) -> Values:
    """Spearman's rank correlation of a sweep's x with its value, seed by seed: 1 rises, -1 falls throughout.

    A constant sweep has trend 0. Needs three points; fewer give {} (not run).
    """
    return {seed: _rank_correlation(list(points), column) for seed, column in _columns(points).items()}


def peak_inside(points: Mapping[float, Values], low: float, high: float) -> Values:
    """Highest value with low <= x <= high minus the highest outside, seed by seed: above 0 if inside wins."""
    inside = np.array([low <= x <= high for x in points])
    if inside.all() or not inside.any():
        return {}
    columns = {seed: np.array(column) for seed, column in _columns(points).items()}
    return {seed: float(c[inside].max() - c[~inside].max()) for seed, c in columns.items()}


def _columns(points: Mapping[float, Values]) -> dict[int, list[float]]:
    """Seed -> its values in the order of x, for the seeds that have every point of three or more."""
    seeds = set.intersection(*map(set, points.values())) if len(points) >= 3 else set()
    return {seed: [points[x][seed] for x in points] for seed in sorted(seeds)}


def _rank_correlation(x: list[float], y: list[float]) -> float:
    if not all(map(math.isfinite, y)):
        return math.nan
    return float(stats.spearmanr(x, y).statistic) if len(set(y)) > 1 else 0.0


def _with_arm(records: Sequence[Record], arm: str) -> list[Record]:
    having = [record for record in records if arm in record["arms"]]
    if records and not having:
        raise unknown("arm", arm, sorted({name for record in records for name in record["arms"]}))
    return having


def logged(records: Sequence[Record], arm: str, kind: str) -> list[str]:
    """Names of the metrics in the history rows of `kind` of an arm."""
    rows = [row for r in _with_arm(records, arm) for row in r["arms"][arm].get("history", [])]
    names = {name for row in rows if row.get("kind") == kind for name in row}
    return sorted(names - {"update", "kind", "seconds"})


def by_seed(pairs: Iterable[tuple[int, float]], what: str) -> Values:
    """Refuses two different numbers for one seed: they come from different settings and must not be mixed."""
    found: Values = {}
    for seed, number in pairs:
        if repr(found.setdefault(seed, number)) != repr(number):  # repr, because NaN differs from itself
            raise UserError(f"Two records of seed {seed} disagree on {what}: grade one setting at a time.")
    return found


def _number(value) -> float:
    return math.nan if value is None else float(value)


def _safely(function: Callable[..., float], *arguments) -> float:
    try:
        return float(function(*arguments))
    except ZeroDivisionError:
        return math.nan


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
    other side. "inconclusive": neither, or fewer than three seeds, or a seed without a finite number.
    "not run": the records do not hold what the claim needs. The reason says which, in one sentence.
    """
    try:
        raw = claim.measure(list(records)) if records else {}
    except UserError as error:
        return Grade(claim, NOT_RUN, str(error))
    except KeyError as error:
        return Grade(claim, NOT_RUN, f"The records do not hold {error}.")
    values = {seed: _difference(number) for seed, number in sorted(raw.items())}
    if not values:
        return Grade(claim, NOT_RUN, "No run has what this claim needs.")
    mean, low, high = interval(values.values())
    verdict, reason = _judge(claim, values, low, high)
    return Grade(claim, verdict, reason, values, mean, low, high)


def about(claims: Iterable[Claim], task: str) -> list[Claim]:
    """The claims that speak of a task."""
    return [claim for claim in claims if claim.task in ("", task)]


def grade_all(claims: Iterable[Claim], records: Sequence[Record]) -> list[Grade]:
    """Grades each claim from the same records."""
    return [grade(claim, records) for claim in claims]


def _difference(number) -> float:
    if isinstance(number, Sequence):
        return _number(number[0]) - _number(number[1])
    return _number(number)


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


def board(grades: Sequence[Grade]) -> pd.DataFrame:
    """The grades as a table; the column "ours" reads: mean [95 % interval] unit."""
    columns = ["claim", "statement", "paper", "ours", "seeds", "verdict", "why"]
    rows = [(g.claim.id, g.claim.statement, g.claim.cited, g.ours, g.n, marked(g.verdict), why(g)) for g in grades]
    return pd.DataFrame(rows, columns=columns)


def marked(verdict: str) -> str:
    """A verdict with its symbol: "✓ supported"."""
    return f"{SYMBOLS[verdict]} {verdict}"


def why(grade: Grade) -> str:
    """The reason of a verdict, followed by what the scale of these runs cannot show."""
    scale = grade.claim.scale.strip()
    sentence = scale[:1].upper() + scale[1:].rstrip(".") + "." if scale else ""
    return f"{grade.reason} {sentence}".strip()


def note(grades: Sequence[Grade]) -> str:
    """The sentence that belongs under every board: how the verdicts were reached."""
    n = sum(g.low < g.high for g in grades)
    misses = f" Of {n} such intervals, {0.05 * n:.2g} are expected to miss the true value." if n > 1 else ""
    return f"Mean over seeds with a 95 % Student t interval, each claim graded on its own.{misses}"


class Styled:
    """A board in a notebook: a table with verdicts in words, symbols and colours; plain text elsewhere."""

    def __init__(self, grades: Sequence[Grade]) -> None:
        self.grades = list(grades)

    def _repr_html_(self) -> str:
        return board_html(self.grades)

    def __repr__(self) -> str:
        rows = [f"{g.claim.id:5} {marked(g.verdict):15} {g.ours or 'no number'}" for g in self.grades]
        return "\n".join([*rows, note(self.grades)])


def styled(grades: Sequence[Grade]) -> Styled:
    """The board for the end of a notebook cell; needs nothing beyond IPython."""
    return Styled(grades)


def board_html(grades: Sequence[Grade]) -> str:
    """The board as an HTML table with escaped text; colours stand beside their words, never alone."""
    table = board(grades)
    head = "".join(f'<th scope="col" style="text-align:left">{name}</th>' for name in table.columns)
    body = "".join(_row_html(g, row) for g, row in zip(grades, table.itertuples(index=False), strict=True))
    rows = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
    return f'<table class="claims">{rows}</table><p><small>{html.escape(note(grades))}</small></p>'


def _row_html(grade: Grade, row: Iterable) -> str:
    ground, ink = VERDICT_COLOURS[grade.verdict]
    badge = f"background:{ground};color:{ink};padding:2px 8px;border-radius:9px;white-space:nowrap"
    cells = [html.escape(str(cell)) for cell in row]
    cells[5] = f'<b style="{badge}">{cells[5]}</b>'
    styles = ["text-align:left;vertical-align:top"] * len(cells)
    styles[3] += ";white-space:nowrap"
    cells[3] = cells[3].replace(" [", "<br>[")  # an interval is read in one piece
    return "<tr>" + "".join(f'<td style="{s}">{c}</td>' for s, c in zip(styles, cells, strict=True)) + "</tr>"
