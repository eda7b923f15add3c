"""The fp16 loss scalers, which no CPU runs: what is read from one restores another."""

from types import SimpleNamespace

from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler

from fpm_cli.engine.flat_partitions import loss_scaler_state, set_loss_scaler
from fpm_cli.engine.world import distributed_world


def dynamic() -> DynamicLossScaler:
    """As DeepSpeed makes it."""
    return DynamicLossScaler(2.0**16, 4, 1.0, delayed_shift=2, consecutive_hysteresis=False)


def test_a_loss_scaler_goes_on_from_its_numbers() -> None:
    through, parted = dynamic(), dynamic()
    with distributed_world(60):  # they ask who leads
        compare(through, parted)


def compare(through: DynamicLossScaler, parted: DynamicLossScaler) -> None:
    overflows = [False, True, True, False, False, False, False, False, True, False, False]
    for overflow in overflows[:5]:
        through.update_scale(overflow)
    numbers = loss_scaler_state(SimpleNamespace(loss_scaler=through))
    assert numbers["cur_scale"] != parted.cur_scale
    set_loss_scaler(SimpleNamespace(loss_scaler=parted), numbers)
    for overflow in overflows[5:]:
        through.update_scale(overflow)
        parted.update_scale(overflow)
    assert vars(parted) == vars(through)


def test_other_precisions_have_none() -> None:
    assert loss_scaler_state(SimpleNamespace()) == {}
