"""Samples one after the other, as they stand in a file: what was captured is neither shuffled nor split."""

from __future__ import annotations

__all__ = ["read_in_order"]

from collections.abc import Iterator
from pathlib import Path

from mopt.datasets.completion import complete
from mopt.datasets.mapping import Binding
from mopt.datasets.readers._base import Reader
from mopt.datasets.spec import DataSpec, SourceDefaults
from mopt.datasets.split import find_reader
from mopt.model.signature import Feed, Signature
from mopt.system.store import Store


def read_in_order(spec: DataSpec, signature: Signature, store: Store, defaults: SourceDefaults) -> Iterator[Feed]:
    """Yield each sample of a source; the recipe's preprocessing is left out where the columns are the model's inputs already.

    A NaN stays in it: what users send is looked at, not run.

    Raises:
        UserError: When the data is missing, damaged or does not fit the model.
    """
    path = Path(spec.path)
    _, reader_class = find_reader(path)
    with store.scratch() as scratch:
        reader: Reader = reader_class(path, spec, signature.inputs, scratch)
        names = {tensor.name for tensor in signature.inputs}
        if names <= set(reader.columns):
            spec = DataSpec(path=spec.path)
            reader = reader_class(path, spec, signature.inputs, scratch)
            binding = Binding.of(reader, signature, spec, Path())
        else:
            binding = Binding.of(reader, signature, complete(reader, signature, spec, defaults).spec, Path())
        for index in range(len(reader)):
            yield binding.feed(index, finite=False)
