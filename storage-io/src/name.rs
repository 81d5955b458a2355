//! Names of files as keys of stores that take only text.
//!
//! File names are bytes. Where a store takes only UTF-8, bytes that are none are written as rclone writes them: U+201B and the byte as two
//! hexadecimal digits, and U+201B itself twice (rclone docs, "Encoding": InvalidUtf8). All other names stay as they are.

const QUOTE: &str = "\u{201b}";

/// The key of a file's name.
#[must_use]
pub fn encode(name: &[u8]) -> Vec<u8> {
    let mut key = String::with_capacity(name.len());
    for chunk in name.utf8_chunks() {
        key.push_str(&chunk.valid().replace(QUOTE, &[QUOTE, QUOTE].concat()));
        for byte in chunk.invalid() {
            key.push_str(&format!("{QUOTE}{byte:02X}"));
        }
    }
    key.into_bytes()
}

/// The file's name of a key: the reverse of `encode`. Keys that it never makes stay as they are.
#[must_use]
pub fn decode(key: &[u8]) -> Vec<u8> {
    let quote = QUOTE.as_bytes();
    let (mut name, mut rest) = (Vec::with_capacity(key.len()), key);
    while let Some((&first, behind)) = rest.split_first() {
        let quoted = rest.strip_prefix(quote);
        let byte = quoted.and_then(|quoted| {
            let digits = str::from_utf8(quoted.get(..2)?).ok()?;
            let upper = digits.bytes().all(|digit| digit.is_ascii_digit() || (b'A'..=b'F').contains(&digit));
            u8::from_str_radix(digits, 16).ok().filter(|byte| upper && !byte.is_ascii())
        });
        match (quoted, byte) {
            (Some(quoted), Some(byte)) => {
                name.push(byte);
                rest = &quoted[2..];
            }
            (Some(quoted), None) if quoted.starts_with(quote) => {
                name.extend_from_slice(quote);
                rest = &quoted[quote.len()..];
            }
            _ => {
                name.push(first);
                rest = behind;
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_as_rclone_writes_them() {
        let key = |name: &[u8]| String::from_utf8(encode(name)).unwrap();
        assert_eq!(key(b"plain/\xc3\xbc \n%"), "plain/\u{fc} \n%");
        assert_eq!(key(b"caf\xe9"), "caf\u{201b}E9");
        assert_eq!(key(b"\xff\xfe/x"), "\u{201b}FF\u{201b}FE/x");
        assert_eq!(key("\u{201b}E9".as_bytes()), "\u{201b}\u{201b}E9");
        assert_eq!(decode("\u{201b}41 \u{201b}".as_bytes()), "\u{201b}41 \u{201b}".as_bytes(), "of others' making");
    }

    proptest! {
        #[test]
        fn every_name_comes_back(name in prop::collection::vec(prop_oneof![any::<u8>(), Just(0xe2), Just(0x80), Just(0x9b), Just(b'E')], 0..40)) {
            let key = encode(&name);
            prop_assert!(str::from_utf8(&key).is_ok());
            prop_assert_eq!(decode(&key), name);
        }
    }
}
