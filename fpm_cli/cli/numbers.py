"""The upper ends of the ranges of number flags; with both ends given, typer refuses `nan` and `inf`."""

MAX_PRICE = 1e9  # per device-hour, any currency
MAX_PROCESSES = 1024  # of one machine
MAX_DEVICES = 1_000_000
MAX_HOST_GIB = 1e6
