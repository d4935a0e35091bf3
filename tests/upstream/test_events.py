import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steer_server.upstream.cleaning import Cleaner
from steer_server.upstream.events import KEEP_ALIVE, MAX_EVENT_BYTES, EventReader, event, read_chunk

STREAM = (
    'data: {"a": "ü"}\n\n: still here\n\nevent: x\nid: 1\ndata: one\ndata: two\r\n\r\ndata:[DONE]\n\n'
).encode()
EVENTS = ['{"a": "ü"}', None, "one\ntwo", "[DONE]"]


def read(*pieces: bytes) -> list[str | None]:
    reader = EventReader()
    return [data for piece in pieces for data in reader.feed(piece)]


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_events_are_the_same_wherever_the_bytes_are_cut(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(STREAM)]
    assert read(*(STREAM[a:b] for a, b in itertools.pairwise(places))) == EVENTS


def test_an_event_that_is_not_whole_is_not_given() -> None:
    assert read(b"data: half") == read(b"data: half\n") == []


@pytest.mark.parametrize("garbage", [b"<html>\n", b'{"error": 1}\n', b"data: \xff\xfe\n\n"])
def test_what_is_no_event_stream_is_refused(garbage: bytes) -> None:
    with pytest.raises(ValueError):
        read(garbage)


@pytest.mark.parametrize("piece", [b"x" * 2**20, b"data: " + b"x" * 2**20 + b"\n"])
def test_an_event_without_end_fills_no_memory(piece: bytes) -> None:
    with pytest.raises(ValueError, match="without end"):
        read(*[piece] * (MAX_EVENT_BYTES // 2**20 + 1))


def test_many_small_events_are_no_large_one() -> None:
    small = b"data: " + b"x" * 2**20 + b"\n\n"
    assert len(read(*[small] * (2 * MAX_EVENT_BYTES // 2**20))) == 16


def test_our_own_keep_alive_is_a_comment() -> None:
    assert read(KEEP_ALIVE.encode()) == [None]


@pytest.mark.parametrize(
    "data",
    [
        "",
        "{",
        "[]",
        "1",
        "{}",
        '{"choices": 1}',
        '{"choices": [1]}',
        '{"choices": [], "x": NaN}',
        "[" * 100_000,
    ],
)
def test_data_that_is_no_chunk_is_refused(data: str) -> None:
    with pytest.raises(ValueError):
        read_chunk(data, Cleaner(None))


def test_a_chunk_and_an_error_are_taken() -> None:
    for data in ('{"choices": []}', '{"error": {"message": "m"}}'):
        assert read(event(read_chunk(data, Cleaner(None))).encode()) == [data]
