"""Write docs/combinations.md, the tables of compatible options, by the checks that runs make."""

from pathlib import Path
from typing import Any

from diffusion_lab.config.groups import (
    make_sampler,
    noise_schedules,
    predictions,
    refusal,
    spacings,
    words,
)
from diffusion_lab.system.atomic import replacing

SHORT = {"leading": "L", "linspace": "S", "trailing": "T", None: "yes"}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "sampler=ddim sampler.eta=1": ("ddim", {"eta": 1.0}),
    "sampler=dpm_solver sampler.use_karras_sigmas=true": (
        "dpm_solver",
        {"use_karras_sigmas": True, "num_steps": 50},
    ),
}


class _Notes:
    """Footnotes with reasons, numbered in the order in which the reasons first appear."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def mark(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return f"[{self.reasons.index(reason) + 1}]"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def combinations_page() -> str:
    """Return docs/combinations.md as Markdown: which options are compatible, and why others not."""
    notes = _Notes()
    schedules = noise_schedules()

    def targets(path: str) -> list[str]:
        reasons = (refusal(prediction, schedules[path]) for prediction in predictions().values())
        return ["yes" if reason is None else notes.mark(reason) for reason in reasons]

    def cell(word: str, path: str) -> str:
        marks = []
        for spacing in spacings(word):
            reason = refusal(make_sampler(word, spacing), schedules[path])
            marks.append(SHORT[spacing] if reason is None else notes.mark(reason))
        return " ".join(dict.fromkeys(marks))

    def case(word: str, settings: dict[str, Any], path: str) -> str:
        reason = refusal(make_sampler(word, **settings), schedules[path])
        return "yes" if reason is None else notes.mark(reason)

    by_target = _table(
        ["noise_schedule", *predictions()], [[path, *targets(path)] for path in schedules]
    )
    rows = [[word, *(cell(word, path) for path in schedules)] for word in words("sampler")]
    for title, (word, settings) in CASES.items():
        rows.append([title, *(case(word, settings, path) for path in schedules)])
    by_sampler = _table(["sampler", *schedules], rows)
    reasons = "\n".join(f"{i}. {reason}" for i, reason in enumerate(notes.reasons, 1))
    return f"""# Compatible options

Written by `make combinations` from the checks that every run makes before it starts; a test
compares the two. A number in brackets marks a rejected combination; the reasons are listed below.

Any prediction works with any sampler, because a sampler sees only the denoised image.

## prediction and noise_schedule

{by_target}

## sampler and noise_schedule

| mark | meaning |
|---|---|
| L, S, T | works with `sampler.timestep_spacing=` leading, linspace, trailing (the default) |
| yes | works; the sampler spaces its steps itself |

A sampler made for one noise schedule works with another: it visits the same noise levels
sigma / alpha with x rescaled, which is exact. Between the timesteps of a VP schedule the network is
evaluated at a fractional time.

{by_sampler}

## Reasons

{reasons}
"""


def write_combinations(path: Path) -> None:
    """Write the tables of compatible options to a Markdown file."""
    with replacing(path) as part:
        part.write_text(combinations_page())


if __name__ == "__main__":
    write_combinations(Path("docs/combinations.md"))
