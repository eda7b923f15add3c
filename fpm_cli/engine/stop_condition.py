"""When training ends: after the last step of the schedule or budget, or on a shutdown request."""

from fpm_cli.engine.time_budget import TimeBudget
from fpm_cli.engine.world import World
from fpm_cli.launch.shutdown import ShutdownRequest


class StopCondition:
    """What all ranks agree on after each step, from the main rank's budget and any rank's signals."""

    def __init__(self, budget: TimeBudget, shutdown: ShutdownRequest, world: World):
        self.budget, self.shutdown, self.world = budget, shutdown, world
        self.is_last_step = False
        self.shutdown_requested = False

    def update(self, step: int) -> None:
        """Decide after optimizer step `step`; every rank calls this."""
        proposed = self.budget.propose_last_step(step) if self.world.is_main_process else 0
        requests, last_step = self.world.sum([float(self.shutdown.requested), float(proposed)])
        self.is_last_step = self.budget.set_last_step(step, int(last_step))
        self.shutdown_requested = requests > 0 and not self.is_last_step

    @property
    def reached(self) -> bool:
        """Whether this launch ends after this step."""
        return self.is_last_step or self.shutdown_requested

    @property
    def run_state(self) -> str:
        """The state of the run for its manifest."""
        return "finished" if self.is_last_step else "stopped" if self.shutdown_requested else "running"
