"""Figures, their rivals and their targets."""

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """One measured value beside a rival's from the same run."""

    name: str
    value: float
    unit: str
    rival: str
    rival_value: float
    at_most: float | None = None
    at_least: float | None = None
    setting: str = ""

    @property
    def ok(self) -> bool:
        """Whether the target is met."""
        low = self.at_least is None or self.value >= self.at_least
        return low and (self.at_most is None or self.value <= self.at_most)

    @property
    def target(self) -> str:
        """The target in words."""
        return f"<= {self.at_most:g}" if self.at_most is not None else f">= {self.at_least:g}"

    @property
    def ratio(self) -> float:
        """The value over the rival's."""
        return self.value / self.rival_value if self.rival_value else float("nan")


def show(figures: list[Figure], console: Console) -> None:
    """Print a table for people."""
    table = Table(title="Benchmarks (medians)", title_justify="left", box=box.SIMPLE, padding=(0, 1))
    for heading in ("what", "mesh", "rival", "ratio", "target"):
        table.add_column(heading, justify="left" if heading == "what" else "right", no_wrap=heading != "what")
    for figure in figures:
        verdict = "[green]ok[/]" if figure.ok else "[yellow]short[/]"
        table.add_row(
            f"{figure.name}, against {figure.rival}",
            _value(figure.value, figure.unit),
            _value(figure.rival_value, figure.unit),
            f"{figure.ratio:.2f}",
            f"{figure.target} {verdict}",
        )
    console.print(table)
    for figure in figures:
        console.print(f"[dim]{figure.name}: {figure.setting}[/]")


def check(figures: list[Figure]) -> None:
    """Print one line a target, for programs."""
    for figure in figures:
        verdict = "ok" if figure.ok else "short"
        print(f"{figure.name}: {figure.value:.4g} {figure.unit} (target {figure.target}) {verdict}")


def _value(value: float, unit: str) -> str:
    return f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}"
