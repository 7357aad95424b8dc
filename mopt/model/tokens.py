"""Token numbers on disk: the windows of real text that calibration sees."""

from __future__ import annotations

__all__ = ["TokenWindows", "write_windows"]

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from mopt.system.digests import digest, file_digest

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

_NAME = "windows.npy"


@dataclasses.dataclass(frozen=True)
class TokenWindows:
    """Windows of one length, cut from text by the model's own tokenizer.

    Attributes:
        folder: That holds them.
        digest: Of their content.
        count: Of windows.
        length: Tokens in each.
    """

    folder: Path
    digest: str
    count: int
    length: int

    @classmethod
    def at(cls, folder: Path) -> TokenWindows:
        """Describe windows that lie in a folder."""
        import numpy as np

        count, length = np.load(folder / _NAME, mmap_mode="r", allow_pickle=False).shape
        return cls(folder, file_digest(folder / _NAME), count, length)

    def load(self) -> npt.NDArray[np.int32]:
        """Return token numbers, shape [count, length]."""
        import numpy as np

        windows: npt.NDArray[np.int32] = np.load(self.folder / _NAME, allow_pickle=False)[: self.count]
        return windows

    def first(self, count: int) -> TokenWindows:
        """Return the first ``count`` windows, or all where there are no more."""
        if count >= self.count:
            return self
        return dataclasses.replace(self, count=count, digest=digest([self.digest, count]))


def write_windows(folder: Path, windows: npt.NDArray[np.int32]) -> TokenWindows:
    """Write windows, shape [count, length], into a folder."""
    import numpy as np

    np.save(folder / _NAME, windows.astype(np.int32), allow_pickle=False)
    return TokenWindows.at(folder)
