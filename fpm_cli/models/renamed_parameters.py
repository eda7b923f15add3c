"""Current names of parameters that older checkpoints have under other names."""

RENAMED_MODULES = {"tokens": "token_embedding", "positions": "position_embedding"}
BACKBONE = "backbone."  # what a classifier's names of the pretrained network begin with


def current_parameter_name(name: str) -> str:
    """The name in today's models of a parameter that a checkpoint calls `name`; most are the same."""
    prefix = BACKBONE if name.startswith(BACKBONE) else ""
    module, dot, rest = name.removeprefix(prefix).partition(".")
    return f"{prefix}{RENAMED_MODULES.get(module, module)}{dot}{rest}"
