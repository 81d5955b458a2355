//! What else is known of a file: names and values that become the object's metadata.

use std::sync::Arc;

/// Names and values, in the strict order of the names.
pub type Attributes = Arc<[(String, String)]>;

/// Bytes that all attributes of a file may take in its record. S3 takes 2 KiB of metadata, and time, mode and token need some of that.
pub const ATTRIBUTES_BYTES_MAX: usize = 1536;
/// Longest name, bytes.
const ATTRIBUTE_NAME_BYTES_MAX: usize = 63;
/// Bytes of an attribute beside its name and value.
const ATTRIBUTE_OVERHEAD: usize = 3;

/// Why attributes cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AttributeError {
    /// A name that is no name of metadata everywhere.
    #[error("an attribute's name is not 1 to 63 of a-z, 0-9, '-', '_', '.'")]
    Name,
    /// A value that a header of HTTP cannot carry as it is.
    #[error("an attribute's value is not visible ASCII, or begins or ends with a space")]
    Value,
    /// Not sorted, or a name twice.
    #[error("attributes are not in the strict order of their names")]
    Order,
    /// Too many or too long.
    #[error("a file's attributes take more than {ATTRIBUTES_BYTES_MAX} bytes")]
    TooLong,
}

/// Bytes that attributes take in a record.
#[must_use]
pub fn attribute_bytes(attributes: &[(String, String)]) -> usize {
    attributes.iter().map(|(name, value)| ATTRIBUTE_OVERHEAD + name.len() + value.len()).sum()
}

/// Checks what a record may carry.
///
/// # Errors
/// [`AttributeError`].
pub fn check_attributes(attributes: &[(String, String)]) -> Result<(), AttributeError> {
    let is_name_byte = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.');
    for (name, value) in attributes {
        if !(1..=ATTRIBUTE_NAME_BYTES_MAX).contains(&name.len()) || !name.strip_prefix(':').unwrap_or(name).bytes().all(is_name_byte) {
            return Err(AttributeError::Name);
        }
        if !value.bytes().all(|byte| (b' '..=b'~').contains(&byte)) || value.starts_with(' ') || value.ends_with(' ') {
            return Err(AttributeError::Value);
        }
    }
    if !attributes.is_sorted_by(|(one, _), (other, _)| one < other) {
        return Err(AttributeError::Order);
    }
    if attribute_bytes(attributes) > ATTRIBUTES_BYTES_MAX { Err(AttributeError::TooLong) } else { Ok(()) }
}

/// Writes each attribute: `name_bytes u8, name, value_bytes u16, value`.
pub(super) fn write(attributes: &[(String, String)], mut put: impl FnMut(&[u8])) {
    for (name, value) in attributes {
        put(&[name.len() as u8]);
        put(name.as_bytes());
        put(&(value.len() as u16).to_be_bytes());
        put(value.as_bytes());
    }
}

/// Reads what [`write`] wrote; `None` if it is anything else.
pub(super) fn read(mut bytes: &[u8]) -> Option<Attributes> {
    if bytes.is_empty() {
        // Most files have none, and an empty slice of its own is an allocation.
        return Some(Attributes::default());
    }
    let mut attributes = Vec::new();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).ok();
    while let Some((&name_bytes, rest)) = bytes.split_first() {
        let (name, rest) = rest.split_at_checked(name_bytes.into())?;
        let (value_bytes, rest) = rest.split_first_chunk::<2>()?;
        let (value, rest) = rest.split_at_checked(u16::from_be_bytes(*value_bytes).into())?;
        attributes.push((text(name)?, text(value)?));
        bytes = rest;
    }
    check_attributes(&attributes).ok()?;
    Some(attributes.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(pairs: &[(&str, &str)]) -> Attributes {
        pairs.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn written(attributes: &[(String, String)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(attributes, |more| bytes.extend_from_slice(more));
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        let attributes = of(&[(":way", "v"), ("a", ""), ("b.c-d_9", "x y~"), ("uid", "1000")]);
        let bytes = written(&attributes);
        assert_eq!(bytes.len(), attribute_bytes(&attributes));
        assert_eq!(read(&bytes), Some(attributes));
        assert_eq!(read(&[]), Some(Attributes::default()));
        for cut in 1..bytes.len() {
            if let Some(fewer) = read(&bytes[..cut]) {
                assert!(fewer.len() < 4, "cut at {cut}");
            }
        }
    }

    #[test]
    fn what_a_header_cannot_carry_is_refused() {
        use AttributeError::{Name, Order, TooLong, Value};
        let long = "v".repeat(ATTRIBUTES_BYTES_MAX - ATTRIBUTE_OVERHEAD - 1);
        assert_eq!(check_attributes(&of(&[("a", &long)])), Ok(()));
        assert_eq!(check_attributes(&of(&[("a", &(long + "v"))])), Err(TooLong));
        let name = "n".repeat(ATTRIBUTE_NAME_BYTES_MAX);
        assert_eq!(check_attributes(&of(&[(&name, "")])), Ok(()));
        for bad in ["", "A", "a b", "a:b", "::a", "\u{e4}", &(name + "n")] {
            assert_eq!(check_attributes(&of(&[(bad, "")])), Err(Name), "{bad}");
        }
        for bad in ["a\r\nb", "\0", "\u{e4}", " a", "a ", "\x7f"] {
            assert_eq!(check_attributes(&of(&[("a", bad)])), Err(Value), "{bad}");
        }
        for bad in [&[("b", ""), ("a", "")], &[("a", "1"), ("a", "2")]] {
            assert_eq!(check_attributes(&of(bad)), Err(Order));
            assert_eq!(read(&written(&of(bad))), None);
        }
    }
}
