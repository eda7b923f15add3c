"""Which documents are held out for validation: by their digest, so that it depends on the text alone."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt


def validation_bound(digests: Iterable[npt.NDArray[np.uint64]], fraction: float) -> int:
    """Documents whose digest is below the bound are held out: about `fraction`, but never none or all.

    `digests` are chunks of the kept documents' 64-bit digests. Raises ValueError where fewer than two
    documents are to be divided.
    """
    if not fraction:
        return 0
    least, most, count = 2**64, -1, 0
    for chunk in digests:
        if len(chunk):
            least, most = min(least, int(chunk.min())), max(most, int(chunk.max()))
            count += len(chunk)
    if count < 2:
        raise ValueError(f"{count} documents do not fill two splits")
    return min(max(int(fraction * 2**64), least + 1), most)
