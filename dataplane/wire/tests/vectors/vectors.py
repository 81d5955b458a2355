#!/usr/bin/env python3
"""Writes the golden vectors, by an implementation of docs/spec/protocol.md that shares no code with the product.

Needs the `cryptography` package. `python3 vectors.py` rewrites the .txt files beside it; `git diff` must stay empty.
"""
import pathlib
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives import hmac

HERE = pathlib.Path(__file__).parent
SECRET = bytes(range(32))
LANE = 0x0123456789ABCDEF
DIRECTIONS = {"forward": 0, "reverse": 1}
SUITES = {"aes-128-gcm": 16, "aes-256-gcm": 32}
KINDS = {"data": 1, "feedback": 2, "control": 3, "probe": 4}


def keys(secret, lane, direction, suite, epoch):
    mac = hmac.HMAC(b"tradewind lane v1", hashes.SHA256())
    mac.update(secret)
    prk = mac.finalize()
    size = SUITES[suite]

    def expand(label, length):
        info = label + struct.pack(">QBBI", lane, DIRECTIONS[direction], size, epoch)
        return HKDFExpand(hashes.SHA256(), length, info).derive(prk)

    return expand(b"key", size), expand(b"iv", 12)


def header(kind, flags, number, lane=LANE):
    return bytes([1 << 4 | KINDS[kind], flags]) + number.to_bytes(6, "big") + lane.to_bytes(8, "big")


def data_header(sent_us, train, floor, block, chunk):
    return struct.pack(">IBHIH", sent_us, train, floor, block, chunk)


def seal(suite, direction, number, clear, plain):
    key, iv = keys(SECRET, LANE, direction, suite, number >> 22)
    nonce = bytes(a ^ b for a, b in zip(iv, bytes(4) + number.to_bytes(8, "big")))
    return clear + AESGCM(key).encrypt(nonce, plain, clear)


def fin(blocks):
    return b"\x01" + struct.pack(">I", blocks)


def done(receipt):
    return b"\x02" + struct.pack(">Q", receipt)


def close(code, text):
    return b"\x03" + struct.pack(">HH", code, len(text)) + text


STATE = dict(round_trip_us=100_250, rate_kbps=293_900, sent_kbps=290_001, wanted_kbps=4_294_967_295, orders=9, limiter=4)
GROUP = dict(number=3, share_kbps=146_950, lanes=2)
ORDERS = dict(number=9, policy=2, target_kbps=4_294_967_295, minimum_kbps=1_000, lease_kbps=293_900)


def state(s):
    return b"\x04" + struct.pack(">IIIIIB", s["round_trip_us"], s["rate_kbps"], s["sent_kbps"], s["wanted_kbps"], s["orders"], s["limiter"])


def group(g):
    return b"\x06" + struct.pack(">IIH", g["number"], g["share_kbps"], g["lanes"])


def orders(o):
    return b"\x05" + struct.pack(">IBIII", o["number"], o["policy"], o["target_kbps"], o["minimum_kbps"], o["lease_kbps"])


SUMMARY = dict(flags=3, now_us=4_000_000_000, hold_us=1234, echo_us=3_999_900_000, largest=5_000_000_001, closed=4_999_999_990,
               blocks_allowed=300, blocks_completed=44, blocks_durable=43, storage_kbps=2_500_000, received=4_900_000_000,
               congestion_experienced=7, dropped_locally=9, interval_us=12_500)
TRAIN = dict(train=17, received=250, first_packet=1000, last_packet=1260, first_sent_us=10, last_sent_us=25_010,
             first_arrival_us=4_294_967_290, last_arrival_us=25_100, least_one_way_us=4_294_967_280)


def feedback(summary, trains, segments):
    s = summary
    out = bytes([s["flags"], len(trains), len(segments), 0])
    out += struct.pack(">III", s["now_us"], s["hold_us"], s["echo_us"])
    out += s["largest"].to_bytes(6, "big") + s["closed"].to_bytes(6, "big")
    out += struct.pack(">IIII", s["blocks_allowed"], s["blocks_completed"], s["blocks_durable"], s["storage_kbps"])
    out += s["received"].to_bytes(6, "big")
    out += struct.pack(">HII", s["congestion_experienced"], s["dropped_locally"], s["interval_us"])
    assert len(out) == 60
    for t in trains:
        out += struct.pack(">IIIIIIII", t["train"] << 24 | t["received"], *list(t.values())[2:])
    for index, received in segments:
        words = (len(received) + 63) // 64
        bits = sum(1 << (words * 64 - 1 - i) for i, bit in enumerate(received) if bit)
        out += struct.pack(">IH", index, len(received)) + bits.to_bytes(words * 8, "big")
    return out


def crc64_nvme(data):
    crc = (1 << 64) - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x9A6C9329AC4BC9B5 if crc & 1 else 0)
    return crc ^ (1 << 64) - 1


assert crc64_nvme(b"123456789") == 0xAE8B14860A799888


def block(files):
    payload = b"".join(text for _, text in files)
    table = struct.pack(">I", len(files))
    for number, (path, text) in enumerate(files):
        table += struct.pack(">IQqIH", number, len(text), 1_700_000_000_000_000_000, 0o644, len(path)) + path
    table += struct.pack(">I", len(files))
    for number, (_, text) in enumerate(files):
        table += struct.pack(">IQIQ", number, 0, len(text), crc64_nvme(text))
    lengths = struct.pack(">II", len(payload), len(table))
    return payload + table + lengths + struct.pack(">QI", crc64_nvme(table + lengths), 1) + b"TWBK"


def write(name, about, sections):
    lines = [f"# {line}" for line in about]
    for section in sections:
        lines += [""] + [f"{key} = {value.hex() if isinstance(value, bytes) else value}" for key, value in section.items()]
    (HERE / name).write_text("\n".join(lines) + "\n")


pattern = [i % 7 != 3 for i in range(100)]
full = [i not in (0, 63, 64, 1023) for i in range(1024)]
FEEDBACK = feedback(SUMMARY, [TRAIN, dict(TRAIN, train=18, received=0xFFFFFF)], [(4_882_811, full), (4_882_812, pattern)])
EMPTY = feedback(dict.fromkeys(SUMMARY, 0), [], [])
CHUNK = bytes((i * 5 + 3) % 256 for i in range(64))
PLAIN = [
    ("data, first chunk", "data", 0, "forward", 0, data_header(1, 0, 0, 0, 0), CHUNK),
    ("data, last chunk", "data", 1, "forward", 70_000, data_header(4_294_967_295, 255, 65, 7, 734), b"x"),
    ("data of the second epoch", "data", 0, "forward", 4_194_304 + 5, data_header(77, 12, 4000, 5000, 3), CHUNK),
    ("feedback, empty", "feedback", 0, "reverse", 0, b"", EMPTY),
    ("feedback, two trains and two segments", "feedback", 0, "reverse", 65_537, b"", FEEDBACK),
    ("fin", "control", 0, "forward", 12, b"", fin(300)),
    ("done", "control", 0, "reverse", 13, b"", done(0x1122334455667788)),
    ("close without text", "control", 0, "forward", 14, b"", close(0, b"")),
    ("close with text", "control", 0, "reverse", 15, b"", close(5, "the store answered 403: größer".encode())),
    ("state", "control", 0, "forward", 16, b"", state(STATE)),
    ("orders", "control", 0, "reverse", 18, b"", orders(ORDERS)),
    ("group", "control", 0, "reverse", 19, b"", group(GROUP)),
    ("probe", "probe", 0, "forward", 17, b"", bytes(32)),
]

write("keys.txt", ["Key derivation: docs/spec/protocol.md, section 4."],
      [dict(lane_secret=SECRET, lane_id=f"{LANE:016x}", suite=suite, direction=direction, epoch=epoch,
            key=keys(SECRET, LANE, direction, suite, epoch)[0], iv=keys(SECRET, LANE, direction, suite, epoch)[1])
       for suite in SUITES for direction in DIRECTIONS for epoch in (0, 1, 67_108_863)])
write("sealed.txt", ["Sealed packets of every kind: datagram = clear | ciphertext | tag."],
      [dict(name=name, suite=suite, direction=direction, lane_secret=SECRET, lane_id=f"{LANE:016x}", packet_number=number,
            clear=header(kind, flags, number) + clear, plaintext=plain,
            datagram=seal(suite, direction, number, header(kind, flags, number) + clear, plain))
       for suite in SUITES for name, kind, flags, direction, number, clear, plain in PLAIN])
write("plain.txt", ["Plaintexts and what they mean."],
      [dict(name="feedback", bytes=FEEDBACK, **SUMMARY, **{f"train_{k}": v for k, v in TRAIN.items()}),
       dict(name="fin", bytes=fin(300), blocks=300),
       dict(name="done", bytes=done(0x1122334455667788), receipt=0x1122334455667788),
       dict(name="close", bytes=close(5, b"the store answered 403"), code=5, text="the store answered 403"),
       dict(name="state", bytes=state(STATE), **STATE),
       dict(name="orders", bytes=orders(ORDERS), **ORDERS),
       dict(name="group", bytes=group(GROUP), **GROUP),
       dict(name="data", bytes=data_header(4_294_967_295, 255, 65, 7, 734), sent_us=4_294_967_295, train=255, floor_segment=65, block=7, chunk=734)])
hostile = []


def bad(name, parser, data, error):
    hostile.append(dict(name=name, parser=parser, bytes=data, error=error))


good = header("data", 0, 5) + data_header(1, 2, 3, 4, 5) + bytes(17)
bad("empty datagram", "header", b"", "truncated")
bad("one byte less than header and tag", "header", good[:31], "truncated")
bad("version 0", "header", bytes([0x01]) + good[1:], "version")
bad("version 2", "header", bytes([0x21]) + good[1:], "version")
bad("version 15", "header", bytes([0xF1]) + good[1:], "version")
bad("kind 0", "header", bytes([0x10]) + good[1:], "kind")
bad("kind 5", "header", bytes([0x15]) + good[1:], "kind")
bad("kind 15", "header", bytes([0x1F]) + good[1:], "kind")
bad("data without a payload byte", "data", good[:45], "truncated")
bad("control of type 0", "control", b"\0" + bytes(8), "kind")
bad("control of type 7", "control", b"\7" + bytes(24), "kind")
bad("state one byte short", "control", state(STATE)[:-1], "truncated")
bad("group one byte short", "control", group(GROUP)[:-1], "truncated")
bad("orders one byte short", "control", orders(ORDERS)[:-1], "truncated")
bad("close text one byte too long", "control", close(1, bytes(513)), "limit")
bad("close text longer than the packet", "control", close(1, b"abc")[:-1], "truncated")
bad("nine trains", "feedback", b"\0\x09\0\0" + FEEDBACK[4:] + bytes(400), "limit")
bad("nine segments", "feedback", b"\0\0\x09\0" + FEEDBACK[4:] + bytes(400), "limit")
bad("segment without verdicts", "feedback", b"\0\0\x01\0" + bytes(56) + struct.pack(">IH", 1, 0), "limit")
bad("segment with 1025 verdicts", "feedback", b"\0\0\x01\0" + bytes(56) + struct.pack(">IH", 1, 1025) + bytes(136), "limit")
bad("segment cut short", "feedback", b"\0\0\x01\0" + bytes(56) + struct.pack(">IH", 1, 65) + bytes(15), "truncated")
write("hostile.txt", ["What must be refused, and why. Besides these, every golden packet cut short at any length."], hostile)
write("block.txt", ["A block image of three files: payload | table | footer."],
      [dict(name="three files", image=block([(b"hello.txt", b"Hello"), (b"empty", b""), (b"dir/world", b"World!")]))])
