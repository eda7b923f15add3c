"""Stack samples into a batch."""

from collections.abc import Sequence

import numpy as np

from fpm_cli.objectives.base import Sample


def collate(samples: Sequence[Sample]) -> Sample:
    """Stack equal-shaped samples: every array (...) becomes (len(samples), ...), a copy."""
    return {key: np.stack([sample[key] for sample in samples]) for key in samples[0]}
