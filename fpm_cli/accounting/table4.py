"""Table 4 of the paper, recomputed and audited: its FLOPs column, and the batch affordable within it."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from fpm_cli.accounting.devices import PAPER_DEVICE, find_device
from fpm_cli.accounting.flops import peak_budget_flops, published_step_flops, tokens_per_sample
from fpm_cli.config.schema import RunConfig

EXA = 1e18
REALISTIC_FRACTION = 0.40  # of the dense peak, which well-tuned runs of that time reached
PLAIN_SENTENCE = (
    "An implied utilisation above 100 % is impossible: with the batch of section 4.1 (512 sequences for the "
    "encoder-decoders, whose batch it does not state), those rows need more model FLOPs than their GPUs can "
    "compute at peak in the printed time, so that batch, steps and hours cannot all be as printed."
)


@dataclass(frozen=True)
class Row:
    """A row of Table 4. One EFLOP is 10^18 floating-point operations: a total, not a rate."""

    model: str
    hours: float
    steps: int
    gpus: int
    eflops_printed: int
    eflops_recomputed: float  # peak budget: seconds x GPUs x dense peak
    agrees: bool
    agreement: str  # truncated, rounded, both or none
    explanation: str | None  # of a row whose figures do not agree
    hours_for_printed: float  # whose peak budget is the printed figure
    model_flops_per_token: float
    model_flops_per_step: int
    model_eflops_at_stated_batch: float
    tokens_per_step_stated: int
    tokens_per_step_affordable: int  # at 100 % of the peak
    tokens_per_step_affordable_realistic: int  # at 40 %
    implied_mfu_at_stated_batch: float

    @property
    def difference(self) -> float:
        """Printed minus recomputed EFLOP."""
        return self.eflops_printed - self.eflops_recomputed

    def document(self) -> dict[str, Any]:
        """The row as printed by `--json`."""
        return {**asdict(self), "difference": self.difference}


def audit_row(config: RunConfig) -> Row:
    """Recompute the row of one of the twenty presets."""
    paper = config.paper
    assert paper is not None, "only the twenty presets have a row in Table 4"
    peak = find_device(PAPER_DEVICE).peak("bf16")
    assert peak is not None
    budget = peak_budget_flops(paper.hours * 3600, paper.gpus, peak)
    recomputed = budget / EXA
    truncated, rounded = math.floor(recomputed) == paper.eflops, round(recomputed) == paper.eflops
    per_step = published_step_flops(config)
    tokens = config.train.global_batch * tokens_per_sample(config)
    per_token = per_step / tokens
    affordable = budget / (paper.steps * per_token)
    per_hour = recomputed / paper.hours
    agrees = truncated or rounded
    return Row(
        model=config.name,
        hours=paper.hours,
        steps=paper.steps,
        gpus=paper.gpus,
        eflops_printed=paper.eflops,
        eflops_recomputed=recomputed,
        agrees=agrees,
        agreement={(True, True): "both", (True, False): "truncated", (False, True): "rounded"}.get(
            (truncated, rounded), "none"
        ),
        explanation=None if agrees else _explain(paper.hours, paper.eflops, per_hour),
        hours_for_printed=paper.eflops / per_hour,
        model_flops_per_token=per_token,
        model_flops_per_step=per_step,
        model_eflops_at_stated_batch=per_step * paper.steps / EXA,
        tokens_per_step_stated=tokens,
        tokens_per_step_affordable=int(affordable),
        tokens_per_step_affordable_realistic=int(affordable * REALISTIC_FRACTION),
        implied_mfu_at_stated_batch=per_step * paper.steps / budget,
    )


def _explain(hours: float, printed: int, eflops_per_hour: float) -> str:
    """The hours that give the printed figure: the exact value, and the half hours that round to it."""
    halves = [
        half / 2
        for half in range(1, round(4 * hours) + 2)
        if printed in (math.floor(half / 2 * eflops_per_hour), round(half / 2 * eflops_per_hour))
    ]
    nearest = f", as {' or '.join(f'{h:g} h' for h in halves)} would round" if halves else ""
    return (
        f"{hours:g} h gives {hours * eflops_per_hour:.2f}; {printed} needs "
        f"{printed / eflops_per_hour:.2f} h{nearest}"
    )
