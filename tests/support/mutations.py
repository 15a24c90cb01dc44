"""Damaged and hostile files: real ones with something in them changed, drawn by Hypothesis."""

import json
import math
import re
import signal
import struct
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from .pack import part

OURS = (
    part("easyanimate_models.files.checkpoint").CheckpointError,
    part("easyanimate_models.files.toml_settings").RecipeError,
    part("easyanimate_models.data.dataset_file").DatasetError,
)
WORK, WAITING = 5, 60  # seconds of processor time, and of waiting for a file that never ends
DEEP = "[" * 100_000

# the same examples every time: what CI finds, everyone finds
fuzzed = settings(
    derandomize=True, max_examples=40, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)

numbers = st.one_of(
    st.sampled_from([0, -1, 1, 2, 7, 2**31, 10**9, 2**63, 10**400, math.nan, math.inf, -0.5, 1e300]), st.integers()
)
words = st.sampled_from(["", "4", "many", "\0", "../x", "\ud800", "ü" * 300, "Temporal_Self", "grid"])
values = st.recursive(
    st.none() | st.booleans() | numbers | words,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)


def answered(read: Callable[[], object]) -> str:
    """The error of `read`, "" when there is none. Anything but one of our own errors is a failure."""
    try:
        with _in_time():
            read()
    except OURS as error:
        message = str(error)
        assert message.endswith(".") and len(message) < 1200, message
        return message
    return ""


@contextmanager
def _in_time():
    """Fails where it takes more than `WORK` seconds of the processor, or waits for ever."""
    began = time.process_time()
    if not hasattr(signal, "setitimer"):
        yield
        assert time.process_time() - began < WORK
        return

    def stop(*_):
        raise AssertionError("reading hangs")

    kinds = ((signal.ITIMER_PROF, signal.SIGPROF, WORK), (signal.ITIMER_REAL, signal.SIGALRM, WAITING))
    before = [(kind, signal.signal(of, stop), of) for kind, of, _ in kinds]
    for kind, _, seconds in kinds:
        signal.setitimer(kind, seconds)
    try:
        yield
    finally:
        for kind, handler, of in before:
            signal.setitimer(kind, 0)
            signal.signal(of, handler)


# --- safetensors --------------------------------------------------------------------------------------------------


def parts_of(file: Path) -> tuple[dict, bytes]:
    """Header and data of a safetensors file."""
    whole = file.read_bytes()
    (size,) = struct.unpack("<Q", whole[:8])
    return json.loads(whole[8 : 8 + size]), whole[8 + size :]


def joined(header: bytes, data: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + data


@st.composite
def safetensors(draw, header: dict, data: bytes, probes: tuple[str, ...] = ()) -> bytes:
    """The file with its header changed: so that it still can be read, so that it can't, or anywhere."""
    changed = json.loads(json.dumps(header))
    names = sorted(name for name in changed if name != "__metadata__")
    named = st.sampled_from([name for name in probes if name in changed] * 8 + names)
    for _ in range(draw(st.integers(0, 2))):
        draw(st.sampled_from(READABLE))(draw, changed, draw(named), names)
    if draw(st.booleans()):
        return joined(json.dumps(changed).encode(), data)
    draw(st.sampled_from(LYING))(draw, changed, draw(named), names)
    raw = json.dumps(changed).encode()
    return draw(st.sampled_from(BROKEN))(draw, raw, data)


def _reshaped(draw, header: dict, name: str, names) -> None:
    """As many numbers in other dimensions."""
    if name in header:
        count = math.prod(header[name]["shape"])
        shapes = [[count], [1, count], [count, 1], [count, 1, 1], [1, 1, 1, count], [1] * 6 + [count]]
        header[name]["shape"] = draw(st.sampled_from(shapes))


def _hollow(draw, header: dict, name: str, names) -> None:
    """A tensor without numbers in place of one, however wide it says that it is."""
    if name in header:
        end = header[name]["data_offsets"][1]
        header[f"{name}.else"] = header[name]
        shape = draw(st.sampled_from([[0], [2**40, 0], [0, 0, 0, 0], [10**6, 0, 2, 2], [10**9, 0, 3, 3, 3]]))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [end, end]}


def _renamed(draw, header: dict, name: str, names) -> None:
    other = draw(st.sampled_from([*names, "", "x", f"{name}.0", "transformer_blocks.999.x", "encoder.block.-1.x"]))
    if name in header and other not in header:
        header[other] = header.pop(name)


def _swapped(draw, header: dict, name: str, names) -> None:
    other = draw(st.sampled_from(names))
    if {name, other} <= header.keys():
        header[name], header[other] = header[other], header[name]


def _retyped(draw, header: dict, name: str, names) -> None:
    """Bytes taken for numbers of another kind, as many of them."""
    same = {"F16": ["BF16", "I16", "U16"], "BF16": ["F16", "I16"], "F32": ["I32", "U32"]}
    if name in header and header[name]["dtype"] in same:
        header[name]["dtype"] = draw(st.sampled_from(same[header[name]["dtype"]]))


def _about(draw, header: dict, name: str, names) -> None:
    """Other words in the file's header."""
    keys = st.sampled_from(["format", "num_attention_heads", "_quantization_metadata", "config", "modelspec.title"])
    texts = st.sampled_from(["", "pt", "0", "-1", "4", "x", "9" * 5000, "²", "{", DEEP, '{"layers": 3}'])
    header["__metadata__"] = draw(st.dictionaries(keys, texts, max_size=3))


def _untrue(draw, header: dict, name: str, names) -> None:
    """A dtype, a shape or offsets that can't be."""
    if name in header:
        key = draw(st.sampled_from(["dtype", "shape", "data_offsets"]))
        header[name][key] = draw(
            st.lists(numbers, max_size=4) | values | st.sampled_from(["F64", "F8_E4M3", "BOOL", "C64"])
        )


def _overlapping(draw, header: dict, name: str, names) -> None:
    other = draw(st.sampled_from(names))
    if {name, other} <= header.keys():
        header[name] = header[other]


def _no_entry(draw, header: dict, name: str, names) -> None:
    header[draw(st.sampled_from([name, "__metadata__"]))] = draw(values)


def _as_it_is(draw, raw: bytes, data: bytes) -> bytes:
    return joined(raw, data)


def _of_another_length(draw, raw: bytes, data: bytes) -> bytes:
    return joined(raw, data, draw(st.sampled_from([0, 1, len(raw) - 1, len(raw) + 1, 100_000_001, 2**60, 2**64 - 1])))


def _cut(draw, raw: bytes, data: bytes) -> bytes:
    whole = joined(raw, data)
    return whole[: draw(st.sampled_from([0, 7, 8, 9, len(raw), len(raw) + 8, len(whole) // 2, len(whole) - 1]))]


def _deep(draw, raw: bytes, data: bytes) -> bytes:
    return joined(b'{"a": ' + DEEP.encode() + b"}", data)


def _twice(draw, raw: bytes, data: bytes) -> bytes:
    return joined(raw[:-1] + b", " + raw[1:], data)


def _other_bytes(draw, raw: bytes, data: bytes) -> bytes:
    start, some = draw(st.integers(0, len(raw) - 1)), draw(st.binary(min_size=1, max_size=4))
    return joined(raw[:start] + some + raw[start + len(some) :], data)


READABLE = (_reshaped, _reshaped, _hollow, _hollow, _renamed, _swapped, _retyped, _about)
LYING = (_untrue, _overlapping, _no_entry)
BROKEN = (_as_it_is, _of_another_length, _cut, _deep, _twice, _other_bytes)


# --- text ---------------------------------------------------------------------------------------------------------


@st.composite
def objects(draw, good: dict, more: tuple[str, ...] = ()) -> bytes:
    """A JSON object with other values, or no JSON at all."""
    value, names = json.loads(json.dumps(good)), [*good, *more]
    for name in draw(st.lists(st.sampled_from(names), min_size=1, max_size=3)):
        inside = value.get(name)
        if isinstance(inside, dict) and inside and draw(st.booleans()):
            inside[draw(st.sampled_from(sorted(inside)))] = draw(values)
        else:
            value[name] = draw(values)
    return draw(spoilt(json.dumps(value).encode()))


@st.composite
def spoilt(draw, text: bytes) -> bytes:
    """Mostly the text itself; else cut, with other bytes in it, nested without end, or none at all."""
    way, start = draw(st.integers(0, 11)), draw(st.integers(0, max(0, len(text) - 1)))
    spoil = {
        0: lambda: text[:start],
        1: lambda: text[:start] + draw(st.binary(min_size=1, max_size=4)) + text[start + 1 :],
        2: lambda: draw(
            st.sampled_from([b"", b"null", b"[]", b"3", b"\xff\xfe{\0}\0", DEEP.encode(), b'{"a":' * 50_000])
        ),
    }
    return spoil.get(way, lambda: text)()


@st.composite
def tomls(draw, text: str) -> bytes:
    """A recipe with other values."""
    lines = text.splitlines()
    rows = [i for i, line in enumerate(lines) if re.match(r"\w+ = ", line)]
    for i in draw(st.lists(st.sampled_from(rows), min_size=1, max_size=3)):
        lines[i] = draw(st.sampled_from(["", f"{lines[i].split(' = ')[0]} = {draw(LITERALS)}", f"[{lines[i][:3]}]"]))
    return draw(spoilt("\n".join(lines).encode()))


LITERALS = st.sampled_from([
    "0", "-1", "1", "3", "10000000000000000000000", "0.5", "inf", "nan", "true", "false", "1979-05-27", "12:00:00",
    '""', '"4"', '"\\u0000"', '"../x"', "[]", "[1, 2]", "[1.0, 2.0, 3.0]", "{}", "{a = 1}",
    "[" * 3000, '"' + "x" * 5000 + '"',
])  # fmt: skip
