"""A saved sequence of llama.cpp, made longer by repeating it: reaches a depth in a second that takes minutes to compute.

The time of a step depends on how many keys there are, not on what they say. Layout of a saved sequence, as
``llama_state_seq_get_data`` writes it (little-endian; C cells, L layers):

    header                       ends with u32 1 (streams), u32 C
    C records of one length      i32 position, then the sequences that own the cell
    u32 values transposed        u32 L
    L x keys                     i32 type, u64 bytes of a row, C rows
    L x values                   the same; or, transposed: i32 type, u32 bytes of an element, u32 columns,
                                 then each column's C elements
    rest

The header's length and the record's differ between versions of the library, so they are found, not known.
"""

import struct

from whimbrel.errors import FormatError

_LONGEST_HEADER, _LONGEST_RECORD = 256, 64


def repeated(state: bytes, cells: int, times: int) -> bytearray:
    """The state of ``cells`` tokens as one of ``cells * times``, positions counted on.

    Raises ``FormatError`` where the bytes are not as described above.
    """
    at = _find_header(state, cells)
    record = _find_record(state, at, cells)
    out = bytearray(state[: at - 4]) + struct.pack("<I", cells * times)
    cell = bytearray(state[at : at + record])
    for position in range(cells * times):
        struct.pack_into("<i", cell, 0, position)
        out += cell
    at += record * cells
    transposed, layers = struct.unpack_from("<II", state, at)
    if transposed > 1 or not 0 < layers < 1000:
        raise FormatError(f"a saved sequence of llama.cpp has {layers} layers, values transposed: {transposed}")
    out += state[at : at + 8]
    at += 8
    for part in ("keys", "values"):
        for _ in range(layers):
            at = (
                _repeat_columns(state, at, cells, times, out)
                if part == "values" and transposed
                else (_repeat_rows(state, at, cells, times, out))
            )
    return out + state[at:]


def _find_header(state: bytes, cells: int) -> int:
    """Where the records begin."""
    for at in range(0, min(len(state), _LONGEST_HEADER) - 8, 4):
        if struct.unpack_from("<II", state, at) == (1, cells):
            return at + 8
    raise FormatError(
        f"a saved sequence of llama.cpp does not say that it has {cells} cells; its layout is unknown here"
    )


def _find_record(state: bytes, at: int, cells: int) -> int:
    """Bytes from one cell's position to the next one's."""
    for length in range(4, _LONGEST_RECORD, 4):
        if all(struct.unpack_from("<i", state, at + length * i)[0] == i for i in range(min(cells, 16))):
            return length
    raise FormatError("a saved sequence of llama.cpp does not count its positions; its layout is unknown here")


def _repeat_rows(state: bytes, at: int, cells: int, times: int, out: bytearray) -> int:
    _, row = struct.unpack_from("<iQ", state, at)
    end = at + 12 + row * cells
    out += state[at : at + 12] + state[at + 12 : end] * times
    return int(end)


def _repeat_columns(state: bytes, at: int, cells: int, times: int, out: bytearray) -> int:
    _, element, columns = struct.unpack_from("<iII", state, at)
    out += state[at : at + 12]
    at += 12
    for _ in range(columns):
        out += state[at : at + element * cells] * times
        at += element * cells
    return at
