"""A minimal MP4 file of PNG frames.

A real worker sends H.264. This file has the same container (ISO/IEC 14496-12 and -14) with one video track whose frames
are PNG images: object type 0x6D in the registry of https://mp4ra.org/registered-types/object-types. FFmpeg and players
built on it show it; browsers do not.
"""

import struct
from collections.abc import Sequence

PNG_OBJECT_TYPE = 0x6D
VISUAL_STREAM = 0x04
MATRIX = struct.pack(">9I", 0x10000, 0, 0, 0, 0x10000, 0, 0, 0, 0x40000000)


def encode(frames: Sequence[bytes], *, width: int, height: int, fps: int) -> bytes:
    """Write PNG files as the frames of a video."""
    ftyp = _box(b"ftyp", b"isom", struct.pack(">I", 0x200), b"isomiso2mp41")
    first_frame = len(ftyp) + 8
    mdat = _box(b"mdat", *frames)
    return ftyp + mdat + _movie([len(frame) for frame in frames], first_frame, width, height, fps)


def _movie(sizes: list[int], first_frame: int, width: int, height: int, fps: int) -> bytes:
    count = len(sizes)
    mvhd = _full_box(
        b"mvhd", 0, struct.pack(">IIIIIH10x", 0, 0, fps, count, 0x10000, 0x100), MATRIX, bytes(24), struct.pack(">I", 2)
    )
    tkhd = _full_box(
        b"tkhd",
        3,
        struct.pack(">IIIII8xHHHxx", 0, 0, 1, 0, count, 0, 0, 0),
        MATRIX,
        struct.pack(">II", width << 16, height << 16),
    )
    mdhd = _full_box(b"mdhd", 0, struct.pack(">IIIIHH", 0, 0, fps, count, 0x55C4, 0))
    hdlr = _full_box(b"hdlr", 0, bytes(4), b"vide", bytes(12), b"VideoHandler\0")
    dinf = _box(b"dinf", _full_box(b"dref", 0, struct.pack(">I", 1), _full_box(b"url ", 1)))
    stbl = _box(
        b"stbl",
        _full_box(b"stsd", 0, struct.pack(">I", 1), _sample_entry(width, height)),
        _full_box(b"stts", 0, struct.pack(">III", 1, count, 1)),
        _full_box(b"stsc", 0, struct.pack(">IIII", 1, 1, count, 1)),
        _full_box(b"stsz", 0, struct.pack(">II", 0, count), struct.pack(f">{count}I", *sizes)),
        _full_box(b"stco", 0, struct.pack(">II", 1, first_frame)),
    )
    minf = _box(b"minf", _full_box(b"vmhd", 1, bytes(8)), dinf, stbl)
    return _box(b"moov", mvhd, _box(b"trak", tkhd, _box(b"mdia", mdhd, hdlr, minf)))


def _sample_entry(width: int, height: int) -> bytes:
    config = _descriptor(0x04, struct.pack(">BBBHII", PNG_OBJECT_TYPE, VISUAL_STREAM << 2 | 1, 0, 0, 0, 0))
    esds = _full_box(b"esds", 0, _descriptor(0x03, struct.pack(">HB", 1, 0), config, _descriptor(0x06, b"\x02")))
    head = struct.pack(">6xH16xHHIIIH", 1, width, height, 0x480000, 0x480000, 0, 1)
    return _box(b"mp4v", head, bytes(32), struct.pack(">Hh", 24, -1), esds)


def _descriptor(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return bytes([tag, len(body)]) + body


def _full_box(kind: bytes, flags: int, *parts: bytes) -> bytes:
    return _box(kind, struct.pack(">I", flags), *parts)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body
