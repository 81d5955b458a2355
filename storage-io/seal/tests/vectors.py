"""Another writer of sealed files, in Python: docs/spec/sealed-format.md and nothing else.

Prints the vectors of section 6. Needs `cryptography` 45 or later (AES-GCM-SIV and Argon2id of OpenSSL 3.2).
"""

import base64
import hashlib
import hmac
import struct

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

FRAME = 65536


def derive(master, info, length):
    prk = hmac.new(b"tradewind-seal-1", master, hashlib.sha256).digest()
    return HKDFExpand(hashes.SHA256(), length, info).derive(prk)


def seal(master, identity, plain, cost=None):
    size = struct.pack(">Q", len(plain))
    source = bytes([1]) + bytes(29) if cost is None else bytes([2, 0]) + struct.pack(">III", *cost[:3]) + cost[3]
    nonce = derive(master, b"wrap nonce" + identity + size, 12)
    clear = b"tradewind-sealed" + struct.pack(">H", 1) + source + derive(master, b"key id", 16) + nonce + bytes(4) + size
    key = derive(master, b"file" + identity + size, 32)
    sealed = clear + AESGCMSIV(derive(master, b"wrap", 32)).encrypt(nonce, key, clear)
    sealed += hashlib.sha256(sealed).digest()[:8]
    frames = max(1, -(-len(plain) // FRAME))
    for frame in range(frames):
        nonce = struct.pack(">Q", frame) + bytes([0, 0, 0, frame + 1 == frames])
        sealed += AESGCMSIV(key).encrypt(nonce, plain[frame * FRAME : (frame + 1) * FRAME], None)
    return sealed


def seal_name(master, path):
    sealed, above = [], b""
    for component in path.split(b"/"):
        spread = hmac.new(derive(master, b"name nonces", 32), above + component, hashlib.sha256).digest()[:4]
        box = AESGCMSIV(derive(master, b"names", 32)).encrypt(spread + bytes(8), component, None)
        sealed.append(b"tws-" + base64.b32encode(spread + box).rstrip(b"=").lower())
        above += component + b"/"
    return b"/".join(sealed)


def main():
    master, identity, salt = bytes(range(32)), bytes(range(16, 32)), bytes(range(32, 48))
    text = b"The quick brown fox jumps over the lazy dog.\n"
    pattern = bytes(at * 31 % 251 for at in range(2 * FRAME + 1))
    by_passphrase = Argon2id(salt=salt, length=32, iterations=3, lanes=4, memory_cost=65536).derive(b"correct horse battery staple")
    identity_of = hashlib.sha256(struct.pack(">Qq", 45, 1_700_000_000_000_000_005) + b"films/day 1.mxf").digest()[:16]
    print("# The sealed file of 'The quick brown fox jumps over the lazy dog.' and a line end.")
    print("fox =", seal(master, identity, text).hex())
    print("# The same, sealed with the passphrase.")
    print("fox-passphrase =", seal(by_passphrase, identity, text, (65536, 3, 4, salt)).hex())
    print("# SHA-256 of the sealed file of 131,073 bytes, of which byte i is 31 · i mod 251.")
    print("pattern-sha256 =", hashlib.sha256(seal(master, identity, pattern)).hexdigest())
    print("# The sealed name of 'films/day 1.mxf'.")
    print("name =", seal_name(master, b"films/day 1.mxf").decode())
    print("# Identity of 'films/day 1.mxf' of 45 bytes, changed 1,700,000,000.000000005 s after 1970.")
    print("identity =", identity_of.hex())


if __name__ == "__main__":
    main()
