"""Settings that are allowed and most likely a mistake."""

from fpm_cli.config.schema import RunConfig


def find_doubtful_settings(config: RunConfig) -> list[str]:
    """A line for each, to be shown before training."""
    train, lines = config.train, []
    if train.warmup_steps >= train.steps:
        highest = train.lr * train.steps / train.warmup_steps
        short = (
            "" if highest == train.lr else f" reaches {highest:.3g} at most, not train.lr {train.lr:.3g}, and"
        )
        lines.append(
            f"train.warmup_steps {train.warmup_steps} is not below train.steps {train.steps}: the learning "
            f"rate{short} never decays"
        )
    return lines
