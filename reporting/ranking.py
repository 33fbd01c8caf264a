"""Rankings: which model is best on a built set, among the runs of a report and the cards of other people.

There is a ranking for each name of a built set; other versions of the set stand apart in it. It has a section for each
group of candidates (candidates.py): the largest group comes first, and the others stand apart, each with the reason.
Within a group stand apart, without a rank: models that may have been trained on the test images, and models whose NLL,
or whose score that ranks, is not defined. References have no rank; they stand where their score puts them.
`make_rankings` arranges the rankings, `arrange` turns them into grids for the tables.
"""
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any, NamedTuple, get_args

from scipy.stats import rankdata

from corruptions import SEVERITIES
from evaluation.image_scores import HARD, SOFT, WITHOUT
from evaluation.summary import DEMO
from metrics import METRICS
from reporting.candidates import CLEAN, Candidate, Group, name_apart
from reporting.cells import cells_left, words_left_out
from reporting.notes import plain
from reporting.options import RankedBy
from reporting.tables import Entry, Grid, GridLine, Section, best_value

RANKED_BY = get_args(RankedBy)
OVERLAP_REASONS = {
    "unknown": "overlap with the test images unknown",
    "some": "trained on some of the test images",
    "all": "trained on the test images"}
MAIN_GROUP = "main group"
REFERENCE_MARK = "–"  # in place of a rank


class Column(NamedTuple):
    """A column of numbers of a ranking."""

    heading: tuple[str, str]
    """the widest first; {count}: the number of cells without brightness, contrast and snow"""
    variant: str
    """as in `Candidate.scores`; empty for the change from clean to corrupted images"""
    metric: str
    """empty for the change: it is of the metric that ranks"""
    name: str
    """in the CSV file and in the data of the page"""


COLUMNS = (
    Column(("corrupted images", "NLL"), SOFT, "nll", "nll"),
    Column(("corrupted images", "change"), "", "", "change"),
    Column(("corrupted images", "acc."), SOFT, "accuracy", "accuracy"),
    Column(("corrupted images", "Brier"), SOFT, "brier", "brier"),
    Column(("ECE, labels", "soft"), SOFT, "ece", "ece"),
    Column(("ECE, labels", "hard"), HARD, "ece", "ece_hard"),
    Column(("ECE, labels", "{count} cells"), WITHOUT, "ece", "ece_without"),
)
ECE_COLUMNS = {SOFT: "soft labels", HARD: "hard labels", WITHOUT: "soft labels without {words}"}
TITLE = "Ranking on {set}: {metric} on corrupted images"
# Placeholders: see `for_sets` of cells.py.
LEGEND = """Ranking: mean over the seeds of a row; cards are single models. Change: corrupted minus clean, of the score
that ranks. ECE against soft labels, against hard labels, and against soft labels in \
[cells_left|the 70 cells without brightness,
contrast and snow], whose soft labels contradict what classifiers still see (docs/method.md). Bold: best of its section,
references left out. References look at no image and have no rank (–)."""


@dataclass(frozen=True, eq=False)
class RankingSection:
    """Candidates of one group that stand together."""

    group: Group
    heading: str
    ranks: dict[Candidate, int]
    """empty where they are not ranked; references have none"""
    candidates: list[Candidate]
    """best first"""
    reason_of_group: str = ""
    """why its group is not ranked with the main one, in words; empty for the main group"""


@dataclass(frozen=True, eq=False)
class Ranking:
    """The ranking on one built set."""

    set_name: str
    metric: str
    """that ranks"""
    sections: list[RankingSection]
    names: dict[Candidate, str]
    """what the ranking calls its candidates: each name once"""
    is_demo: bool
    sentences: list[str] = field(default_factory=list)
    """what a reader has to know; the first says what was ranked"""

    @property
    def groups(self) -> list[Group]:
        """The groups, the main one first."""
        return list(dict.fromkeys(section.group for section in self.sections))

    @property
    def corruptions(self) -> tuple[str, ...]:
        """The corruptions of the set of the main group."""
        return self.members(self.groups[0])[0].corruptions

    def is_main(self, group: Group) -> bool:
        """Whether a group is the main one."""
        return group == self.groups[0]

    def heading_of(self, group: Group) -> str:
        """What tables call a group as a whole."""
        if self.is_main(group):
            return MAIN_GROUP
        return f"apart: {next(section.reason_of_group for section in self.sections if section.group == group)}"

    def ranked(self, group: Group) -> list[Candidate]:
        """The candidates of a group that have a rank, best first."""
        return [candidate for section in self.sections if section.group == group
                for candidate in section.candidates if candidate in section.ranks]

    def members(self, group: Group) -> list[Candidate]:
        """All candidates of a group."""
        return [candidate for section in self.sections if section.group == group for candidate in section.candidates]


# --- which candidates stand where ---


def make_rankings(candidates: Sequence[Candidate], references: Mapping[Group, Sequence[Candidate]],
                  sentences: Mapping[Group, Sequence[str]], metric: str,
                  demo_versions: Iterable[str]) -> list[Ranking]:
    """The rankings of all sets, by name. references: of every group, as far as they are available. sentences: what a
    reader has to know of a group besides. metric: one of `RANKED_BY`. demo_versions: the versions of sets of drawn
    faces."""
    versions = names_of_versions(candidates)
    demo_versions = set(demo_versions)
    rankings = []
    for set_name in sorted(set(versions.values())):
        of_set = [candidate for candidate in candidates if versions[candidate.group.set_version] == set_name]
        groups = sorted({candidate.group for candidate in of_set}, key=lambda group: order_of_group(group, of_set))
        sections: list[RankingSection] = []
        for group in groups:
            of_group = [candidate for candidate in of_set if candidate.group == group]
            sections += sections_of_group(group, groups[0], of_group, references.get(group, ()), metric)
        names = name_apart([candidate for section in sections for candidate in section.candidates])
        ranking = Ranking(plain(set_name), metric, sections, names,
                          any(group.set_version in demo_versions for group in groups))
        ranking.sentences.extend(sentences_of(ranking, sentences))
        rankings.append(ranking)
    return rankings


def names_of_versions(candidates: Iterable[Candidate]) -> dict[str, str]:
    """{set_version: name of the set}: the one that most runs were scored under, without runs the one of most cards."""
    names: dict[str, Counter[tuple[bool, str]]] = {}
    for candidate in candidates:
        of_version = names.setdefault(candidate.group.set_version, Counter())
        of_version[candidate.kind == "run", candidate.set_name] += 1
    chosen = {}
    for version, counter in names.items():
        (_, name), _ = max(counter.items(), key=lambda item: (item[0][0], item[1], item[0][1]))
        chosen[version] = name
    return chosen


def order_of_group(group: Group, candidates: Iterable[Candidate]) -> tuple:
    """Sorts the groups of a set: all classes first, then by number of runs and of candidates, float32 first."""
    kinds = [candidate.kind for candidate in candidates if candidate.group == group]
    return bool(group.missing), -kinds.count("run"), -len(kinds), group.precision != "32", group


def sections_of_group(group: Group, main: Group, candidates: Sequence[Candidate], references: Sequence[Candidate],
                      metric: str) -> list[RankingSection]:
    """The sections of one group: those that are ranked, then the others by their reason. The references
    stand in the first of them."""
    reason_of_group = reason_against_group(group, main, candidates)
    reasons = {candidate: reason_against_rank(candidate, metric) for candidate in candidates}
    ranked = [candidate for candidate in candidates if not reasons[candidate]]
    label = METRICS[metric].label
    sections = []
    if ranked:
        heading = f"apart: {reason_of_group}; ranked among themselves" if reason_of_group else f"ranked by {label}"
        ordered = sort_by(metric, [*ranked, *references])
        sections.append(RankingSection(group, heading, ranks_by(metric, ranked), ordered, reason_of_group))
    for reason in sorted(set(reasons.values()) - {""}):
        of_reason = [candidate for candidate in candidates if reasons[candidate] == reason]
        heading = f"apart, no rank: {'; '.join(filter(None, (reason_of_group, reason)))}"
        shown = [] if sections else [one for one in references if (SOFT, metric) in one.scores]
        sections.append(RankingSection(group, heading, {}, sort_by(metric, [*of_reason, *shown]), reason_of_group))
    return sections


def reason_against_rank(candidate: Candidate, metric: str) -> str:
    """Why a candidate has no rank in its group, in words; "" where it has one."""
    if candidate.group.rule == "keep" or (SOFT, metric) not in candidate.scores:
        missing = f": it has no class {', '.join(candidate.group.missing)}" if candidate.group.missing else ""
        label = METRICS["nll" if candidate.group.rule == "keep" else metric].label
        return plain(f"{label} undefined{missing}")
    return OVERLAP_REASONS.get(candidate.overlap, "")


def reason_against_group(group: Group, main: Group, candidates: Iterable[Candidate]) -> str:
    """Why a group is not ranked with the main one, in words; "" for the main one."""
    reasons = []
    if group.set_version != main.set_version:
        reasons.append(f"another set version ({group.set_version[:8]})")
    if group.missing != main.missing or group.rule != main.rule:
        counts = {len(candidate.card.data["set"]["classes"]) for candidate in candidates if candidate.card}
        count = max(counts, default=0)
        scored = f"{count - len(group.missing)} of {count} classes" if count else "other classes"
        verb = "knows" if group.rule == "keep" else "scored on"
        reasons.append(f"{verb} {scored}" + (f" (without {', '.join(group.missing)})" if group.missing else ""))
    elif group.images != main.images:
        reasons.append(f"scored on {group.images} images")
    if group.precision != main.precision:
        reasons.append(f"scored in {'float32' if group.precision == '32' else group.precision}")
    return plain(", ".join(reasons))


def sort_by(metric: str, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Candidates by their score on corrupted images, best first; those without it last, by name."""
    sign = -1 if METRICS[metric].higher_is_better else 1

    def order(candidate: Candidate) -> tuple:
        value = candidate.scores.get((SOFT, metric))
        return value is None, sign * (value or 0), candidate.kind == "reference", candidate.name

    return sorted(candidates, key=order)


def ranks_by(metric: str, candidates: Sequence[Candidate], variant: str = SOFT) -> dict[Candidate, int]:
    """{candidate: rank} by a score that all of them have; equal scores have equal ranks."""
    sign = -1 if METRICS[metric].higher_is_better else 1
    values = [sign * candidate.scores[variant, metric] for candidate in candidates]
    return dict(zip(candidates, map(int, rankdata(values, method="min")), strict=True))


# --- what a reader has to know ---


def sentences_of(ranking: Ranking, of_groups: Mapping[Group, Sequence[str]]) -> list[str]:
    """The sentences of a ranking, on all that its numbers do not show. of_groups: what is known of its groups."""
    main = ranking.groups[0]
    precision = "float32" if main.precision == "32" else main.precision
    cells = len(SEVERITIES) * len(ranking.corruptions)
    sentences = [f"Mean over the {cells} cells, soft labels; set_version {main.set_version[:8]}, N = {main.images} "
                 f"images, {precision}" + (f"; {DEMO}." if ranking.is_demo else ".")]
    ranked = ranking.ranked(main)
    sentences += sentence_on_references(ranking, ranked)
    sentences += sentence_on_orders(ranking, ranked)
    for group in ranking.groups:
        sentences += of_groups.get(group, ())
    for section in ranking.sections:
        for candidate in section.candidates:
            if candidate.remarks:
                sentences.append(f"{ranking.names[candidate]}: {'; '.join(candidate.remarks)}.")
    return [plain(sentence) for sentence in dict.fromkeys(sentences)]


def sentence_on_references(ranking: Ranking, ranked: Sequence[Candidate]) -> list[str]:
    """How far the best model of the main group is ahead of predictions that look at no image."""
    metric = ranking.metric
    references = [one for one in ranking.members(ranking.groups[0]) if one.kind == "reference"]
    if not references or not ranked:
        return []
    best_reference = sort_by(metric, references)[0]
    best = ranked[0]
    label, sign = METRICS[metric].label, -1 if METRICS[metric].higher_is_better else 1
    ahead = sign * (best_reference.scores[SOFT, metric] - best.scores[SOFT, metric])
    text = (f"Soft labels reward low confidence, so predictions that look at no image already score well: the best of "
            f"them ({best_reference.name.removeprefix('reference: ')}) has {label} "
            f"{spell(metric, best_reference.scores[SOFT, metric])}, the best model ({ranking.names[best]}) "
            f"{spell(metric, best.scores[SOFT, metric])}; that is {spell(metric, abs(ahead))} "
            f"{'better' if ahead > 0 else 'worse'}")
    if metric != "ece":
        eces = [one.scores[SOFT, "ece"] for one in references if (SOFT, "ece") in one.scores]
        if eces and (SOFT, "ece") in best.scores:
            text += (f". ECE against soft labels is {spell('ece', min(eces))} for the best of them and "
                     f"{spell('ece', best.scores[SOFT, 'ece'])} for this model")
    return [f"{text}."]


def spell(metric: str, value: float) -> str:
    """A score as a sentence has it: percent, or nats."""
    return f"{100 * value:.1f} %" if METRICS[metric].percent else f"{value:.3f} nats"


def sentence_on_orders(ranking: Ranking, ranked: Sequence[Candidate]) -> list[str]:
    """A note where models are ordered differently by the three ECEs."""
    compared = [one for one in ranked if all((variant, "ece") in one.scores for variant in ECE_COLUMNS)]
    if len(compared) < 2:
        return []
    orders = {variant: ranks_by("ece", compared, variant) for variant in ECE_COLUMNS}
    sentences = []
    names = {variant: name.format(words=words_left_out(ranking.corruptions)) for variant, name in ECE_COLUMNS.items()}
    for variant in (HARD, WITHOUT):
        moved = sum(orders[SOFT][one] != orders[variant][one] for one in compared)
        if moved:
            best = min(compared, key=lambda one: orders[variant][one])
            sentences.append(f"By ECE against {names[variant]}, {moved} of {len(compared)} models have another "
                             f"place than by ECE against {names[SOFT]}; the best is {ranking.names[best]}")
    return [". ".join(sentences) + "."] if sentences else []


# --- as grids and as lines of CSV ---


def arrange(rankings: Iterable[Ranking]) -> list[Grid]:
    """A grid for each ranking."""
    grids = []
    for ranking in rankings:
        title = TITLE.format(set=ranking.set_name, metric=METRICS[ranking.metric].label)
        sections = []
        for section in ranking.sections:
            lines = [GridLine(line_title(ranking, section, candidate), entries_of(candidate, ranking.metric))
                     for candidate in section.candidates]
            is_reference = [candidate.kind == "reference" for candidate in section.candidates]
            sections.append(Section(section.heading, with_best(lines, is_reference, ranking.metric)))
        count = cells_left(ranking.corruptions)
        headings: list[tuple[str, ...]] = [(column.heading[0], column.heading[1].format(count=count))
                                           for column in COLUMNS]
        grids.append(Grid("ranking", title, headings, sections, [], ranking.sentences, {}))
    return grids


def line_title(ranking: Ranking, section: RankingSection, candidate: Candidate) -> str:
    """The rank and the name of a candidate."""
    rank = section.ranks.get(candidate)
    return f"{REFERENCE_MARK if rank is None else rank} {ranking.names[candidate]}"


def value_of(candidate: Candidate, column: Column, metric: str) -> float | None:
    """The number of a candidate in a column, as a fraction or in nats; None where it is not known. metric: that
    ranks."""
    if column.name == "change":
        return candidate.change(metric)
    return candidate.scores.get((column.variant, column.metric))


def entries_of(candidate: Candidate, metric: str) -> list[Entry]:
    """The entries of a candidate's line."""
    entries = []
    for column in COLUMNS:
        value = value_of(candidate, column, metric)
        percent = METRICS[column.metric or metric].percent
        scale, digits = (100, 1) if percent else (1, 3)
        entries.append(Entry(nan if value is None else scale * value, digits=digits, signed=column.name == "change"))
    return entries


def with_best(lines: Sequence[GridLine], is_reference: Sequence[bool], metric: str) -> list[GridLine]:
    """The lines with the best number of every column marked; references are left out, and so is the change."""
    best = []
    for number, column in enumerate(COLUMNS):
        compared = [line.entries[number] for line, skipped in zip(lines, is_reference, strict=True) if not skipped]
        best.append(None if column.name == "change" else best_value(compared, column.metric or metric))
    marked = []
    for line, skipped in zip(lines, is_reference, strict=True):
        entries = [entry._replace(best=not skipped and value is not None and round(entry.value, entry.digits) == value)
                   for entry, value in zip(line.entries, best, strict=True)]
        marked.append(GridLine(line.title, entries))
    return marked


CSV_COLUMNS = ["set", "set_version", "images", "precision", "missing_classes", "rule", "section", "rank", "model",
               "kind", "seeds", "nll", "nll_clean", "brier", "brier_clean", "accuracy", "accuracy_clean", "ece",
               "ece_clean", "ece_hard", "ece_without", "nll_hard", "brier_hard", "overlap", "training_data", "licence",
               "link", "source", "weights_sha256", "alarms", "changed", "notes"]


def csv_lines(rankings: Iterable[Ranking]) -> list[dict[str, Any]]:
    """A line for each candidate, with the names of `CSV_COLUMNS`; fractions and nats."""
    lines = []
    for ranking in rankings:
        for section in ranking.sections:
            for candidate in section.candidates:
                lines.append(csv_line(ranking, section, candidate))
    return lines


def csv_line(ranking: Ranking, section: RankingSection, candidate: Candidate) -> dict[str, Any]:
    """The line of one candidate."""
    group, scores = candidate.group, candidate.scores
    model = candidate.card.data["model"] if candidate.card is not None else {}
    line: dict[str, Any] = {
        "set": ranking.set_name, "set_version": group.set_version, "images": group.images,
        "precision": group.precision, "missing_classes": "; ".join(group.missing), "rule": group.rule,
        "section": section.heading, "rank": section.ranks.get(candidate), "model": ranking.names[candidate],
        "kind": candidate.kind, "seeds": candidate.seeds or None, "overlap": candidate.overlap,
        "alarms": "; ".join(candidate.alarms), "notes": "; ".join(candidate.notes),
        "changed": "; ".join(f"{name}: {text}" for name, text in candidate.changed.items()),
        "ece_hard": scores.get((HARD, "ece")), "ece_without": scores.get((WITHOUT, "ece")),
        "nll_hard": scores.get((HARD, "nll")), "brier_hard": scores.get((HARD, "brier"))}
    for metric in RANKED_BY:
        line |= {metric: scores.get((SOFT, metric)), f"{metric}_clean": scores.get((CLEAN, metric))}
    for name in ("training_data", "licence", "link", "source", "weights_sha256"):
        line[name] = model.get(name)
    return line
