"""The only writer and reader of `patches.zarr`, on a local disk or an object store.

Zarr v3, (N, size, size) uint8 or uint16 as the cleaned films are, one patch per chunk, whole shards of patches. zarr-python makes the array and its metadata, so that any
Zarr reader opens it; TensorStore encodes and reads the pixels, some thirty times faster for random patches.
"""

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mammo_etl.files import digest_of
from mammo_etl.places import Place, kvstore_of, name_below
from mammo_etl.settings import StoreSettings
from mammo_etl.workspace import DamagedFileError, write_bytes

# zarr and TensorStore are imported where they are used: that takes a second, which a build that finds nothing to do need not spend.


def shard_ranges(rows: int, shard_rows: int) -> list[range]:
    """Rows of each shard, in order; the last may be shorter."""
    return [range(start, min(start + shard_rows, rows)) for start in range(0, rows, shard_rows)]


def shard_path(array: Place, shard: int) -> Place:
    """File of a shard (Zarr v3 default chunk key encoding)."""
    return array / "c" / str(shard) / "0" / "0"


def create_patches(path: Place, rows: int, size: int, settings: StoreSettings, bits: int = 8) -> None:
    """Makes the empty array of `rows` patches of 8 or 16 `bits` a pixel; shards that are there already are kept, and damaged metadata mended."""
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.core.buffer import Buffer
    from zarr.storage import MemoryStore

    files: dict[str, Buffer] = {}
    zarr.create_array(
        MemoryStore(files),
        shape=(rows, size, size),
        chunks=(1, size, size),
        # A shard longer than the array would waste an index of empty entries.
        shards=(min(settings.shard_rows, rows), size, size),
        dtype=f"uint{bits}",
        compressors=ZstdCodec(level=settings.zstd_level),
        fill_value=0,
        dimension_names=("row", "y", "x"),
    )
    metadata, place = files["zarr.json"].to_bytes(), path / "zarr.json"
    if not place.exists() or place.read_bytes() != metadata:
        write_bytes(place, metadata)


def open_patches(path: Place) -> Any:
    """The array as a read-only TensorStore; see `read_rows` for what it raises.

    Raises FileNotFoundError if there is none.
    """
    if not (path / "zarr.json").exists():
        raise FileNotFoundError(f"{path}: no patch store here")
    import tensorstore as ts

    spec = {
        "driver": "zarr3",
        "kvstore": kvstore_of(path),
        "recheck_cached_data": "open",
        # A shard that is gone is a fault, not black patches.
        "fill_missing_data_reads": False,
    }
    with telling_faults():
        return ts.open(spec, open=True, read=True, write=False).result()


def layout_of(path: Place) -> tuple[np.dtype[Any], int]:
    """Type of a pixel, and rows of a shard, of the array at `path`."""
    metadata = json.loads((path / "zarr.json").read_bytes())
    return np.dtype(metadata["data_type"]), int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])


def read_rows(array: Any, rows: NDArray[np.int64]) -> Any:
    """Some rows of an array of `open_patches`, (len(rows), size, size).

    Raises ConnectionError where they are on an object store that fails for the moment, and DamagedFileError where they are damaged or gone.
    """
    with telling_faults():
        return array[rows].read().result()


@contextmanager
def telling_faults() -> Iterator[None]:
    """Raises ConnectionError where TensorStore tells of an object store that fails for the moment, and DamagedFileError of what is gone or cannot be decoded.

    TensorStore itself raises ValueError for everything, with a status in front (absl, "Status codes").
    """
    try:
        yield
    except ValueError as error:
        if re.match(r"(ABORTED|UNAVAILABLE|DEADLINE_EXCEEDED)\b", str(error)):
            raise ConnectionError(f"the object store failed: {error}") from error
        if re.match(r"(NOT_FOUND|DATA_LOSS|FAILED_PRECONDITION)\b", str(error)):
            raise DamagedFileError(
                f"the patch store is damaged; `mammo verify` tells what is, and `mammo build` mends it: {error}"
            ) from error
        raise


def decode_rows(path: Place, shard: int, content: bytes, rows: NDArray[np.int64]) -> Any:
    """Some rows of a shard whose file's content is at hand, (len(rows), size, size); `rows` are those of the whole array."""
    array = _in_memory(json.loads((path / "zarr.json").read_bytes()))
    array.kvstore[name_below(shard_path(path, shard), path)] = content
    return array[rows].read().result()


def _in_memory(metadata: dict[str, Any]) -> Any:
    import tensorstore as ts

    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "memory"},
        "metadata": metadata,
        # Else a shard of black patches would have no file, and look like one that was never written.
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, create=True, context=ts.Context()).result()


def write_shard(path: Place, rows: range, patches: NDArray[np.uint8] | NDArray[np.uint16]) -> str:
    """Writes one whole shard, whole or not at all; returns its file's SHA-256.

    `patches` is (len(rows), size, size), of the array's dtype. Raises ValueError if it is of another, which would be converted in silence, or
    unless the rows are exactly one shard: two writers of one shard would lose each other's rows. Raises OSError naming the shard if it cannot
    be written, as on a full disk.
    """
    array = _in_memory(json.loads((path / "zarr.json").read_bytes()))
    shard_rows = array.chunk_layout.write_chunk.shape[0]
    if rows.start % shard_rows or rows.stop != min(rows.start + shard_rows, array.shape[0]):
        raise ValueError(f"rows {rows.start} to {rows.stop} are not one whole shard of {shard_rows}")
    if patches.dtype != array.dtype.numpy_dtype:
        raise ValueError(f"patches are {patches.dtype}, {path} holds {array.dtype.name}")
    # Not copied, as nobody changes them before it is done.
    array[rows.start : rows.stop].write(patches, can_reference_source_data_indefinitely=True).result()
    file = shard_path(path, rows.start // shard_rows)
    content: bytes = array.kvstore[name_below(file, path)]
    write_bytes(file, content)
    return digest_of(content)
