"""Figures: what was measured, beside its baseline and its goal."""

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec


class Figure(msgspec.Struct, kw_only=True):
    """One measured work; `value` and `baseline` are medians of their rounds, in `unit`.

    `ratio` is the median of the rounds' ratios, for a round's two halves share the machine's mood;
    `ratios` are all of them. `met` is None where there is no goal. `notes` hold what else was seen.
    """

    name: str
    work: str
    unit: str
    value: float
    baseline: float | None = None
    baseline_work: str | None = None
    ratio: float | None = None
    ratios: list[float] = []
    goal: str | None = None
    met: bool | None = None
    notes: dict[str, Any] = {}


def compared(
    name: str,
    work: str,
    unit: str,
    rounds: Sequence[tuple[float, float]],
    *,
    baseline_work: str,
    at_least: float | None = None,
    later: float | None = None,
    stretch: float | None = None,
    notes: dict[str, Any] | None = None,
) -> Figure:
    """Make a figure of `rounds`, each (ours, baseline); goals are ratios."""
    ratios = [ours / baseline for ours, baseline in rounds]
    ratio = median(ratios)
    words = [f">= {at_least:g} x"] if at_least is not None else []
    if later is not None:
        words.append(f"later {later:g} x")
    if stretch is not None:
        words.append(f"stretch {stretch:g} x")
    return Figure(
        name=name,
        work=work,
        unit=unit,
        value=median(ours for ours, _ in rounds),
        baseline=median(baseline for _, baseline in rounds),
        baseline_work=baseline_work,
        ratio=ratio,
        ratios=ratios,
        goal=", ".join(words) or None,
        met=None if at_least is None else ratio >= at_least,
        notes=notes or {},
    )


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table for people, and below it what else was seen."""
    heads = ("work", "unit", "huizhi", "baseline", "ratio", "of rounds", "goal", "met")
    rows = [heads, *(_cells(figure) for figure in figures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads))]
    left = {0, 1, 6}
    lines = [
        "  ".join(
            cell.ljust(width) if column in left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    lines.insert(1, "-" * max(map(len, lines)))
    for figure in figures:
        lines += ["", f"{figure.name}: {figure.work}"]
        if figure.baseline_work is not None:
            lines.append(f"  baseline: {figure.baseline_work}")
        lines += [f"  {name}: {_plain(value)}" for name, value in figure.notes.items()]
    return "\n".join(lines)


def write(file: Path, machine: dict[str, Any], figures: Sequence[Figure]) -> None:
    """Write the figures and what they were measured on as JSON."""
    encoded = msgspec.json.encode({"machine": machine, "figures": figures})
    file.write_bytes(msgspec.json.format(encoded, indent=2) + b"\n")


def _cells(figure: Figure) -> tuple[str, ...]:
    spread = f"{min(figure.ratios):.2f}-{max(figure.ratios):.2f}" if figure.ratios else ""
    return (
        figure.name,
        figure.unit,
        _number(figure.value),
        "" if figure.baseline is None else _number(figure.baseline),
        "" if figure.ratio is None else f"{figure.ratio:.2f}",
        spread,
        figure.goal or "",
        "" if figure.met is None else "yes" if figure.met else "no",
    )


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}"


def _plain(value: object) -> str:
    match value:
        case float():
            return _number(value)
        case list():
            return ", ".join(map(_plain, value))
        case dict():
            return ", ".join(f"{name} {_plain(inner)}" for name, inner in value.items())
        case _:
            return str(value)
