"""A plan as a table for a terminal."""

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from crosstune.planning.plan import StudyPlan
from crosstune.report.text import visible


def plan_table(plan: StudyPlan, study_file: str) -> Group:
    """One line a group of runs, the totals, and how an estimate is had where there is none."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", padding=(0, 1, 0, 0))
    for name in ("Model", "Task", "Method"):
        table.add_column(name, overflow="fold")
    for name in ("Trained", "Runs", "Done", "Failed", "To do", "Time left", "Memory"):
        table.add_column(name, justify="right")
    above: tuple[str, str] = ("", "")
    for group in plan.groups:
        model, task = group.model, group.task
        table.add_row(
            Text("" if model == above[0] else visible(model)),
            Text("" if (model, task) == above else visible(task)),
            Text(visible(group.method, 60) + ("" if group.kind == "result" else f", {group.kind}")),
            "?" if group.parameters is None else f"{group.parameters:,}",
            str(group.runs),
            str(group.done),
            "refused" if group.refused else str(group.failed or ""),
            str(group.to_do or ""),
            "" if not group.to_do else "?" if group.seconds is None else duration(group.seconds),
            "" if not group.to_do else "?" if group.peak_bytes is None else gibibytes(group.peak_bytes),
        )
        above = (model, task)
    shown: list[RenderableType] = [table, Text(visible(totals(plan), 1000))]
    shown += [Text(visible(f"refused: {text}", 1000), style="red") for text in plan.refused]
    shown += [Text(visible(text, 1000), style="yellow") for text in plan.broken]
    if plan.hints:
        shown.append(Text("sizes that are off their budget:", style="yellow"))
        shown += [Text(visible(f"  {text}", 1000)) for text in plan.hints]
    if plan.unknown:
        text = (
            f"nothing is known of {plan.unknown} runs yet; for an estimate: "
            f"crosstune plan {study_file} --calibrate"
        )
        shown.append(Text(visible(text, 1000), style="yellow"))
    return Group(*shown)


def totals(plan: StudyPlan) -> str:
    """Such as "40 runs on cpu in bfloat16: 10 finished, 30 to do (2 failed before); about 2 h 10 min"."""
    left = sum(group.to_do for group in plan.groups)
    text = f"{plan.runs} runs on {plan.device} in {plan.dtype}: {plan.done} finished, {left} to do"
    if plan.refused:
        text += f", {plan.runs - plan.done - left} refused"
    if plan.failed:
        text += f" ({plan.failed} failed before)"
    if left and plan.unknown < left:
        text += f"; about {duration(plan.seconds)}"
        if plan.unknown:
            text += f" for {left - plan.unknown} of them"
        if plan.peak_bytes is not None:
            text += f", {gibibytes(plan.peak_bytes)} of memory at most"
    return text


def duration(seconds: float) -> str:
    """Such as "45 s", "12 min", "2 h 10 min", "3 d 4 h"."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 120:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    return f"{hours} h {rest} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def gibibytes(size: int) -> str:
    """Such as "3.1 GiB"."""
    return f"{size / 2**30:.1f} GiB"
