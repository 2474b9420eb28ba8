//! The framing of DER (X.690, 8 and 10): one element after the other, minimal lengths only, nothing left at the end.

/// Not DER, or not the element that belongs there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotDer;

/// Universal tags, and the context tags that certificates use.
pub(crate) mod tag {
    pub(crate) const BOOLEAN: u8 = 0x01;
    pub(crate) const INTEGER: u8 = 0x02;
    pub(crate) const BIT_STRING: u8 = 0x03;
    pub(crate) const OCTET_STRING: u8 = 0x04;
    pub(crate) const OID: u8 = 0x06;
    pub(crate) const IA5_STRING: u8 = 0x16;
    pub(crate) const UTC_TIME: u8 = 0x17;
    pub(crate) const GENERALIZED_TIME: u8 = 0x18;
    pub(crate) const SEQUENCE: u8 = 0x30;
    pub(crate) const CONTEXT_0: u8 = 0xa0;
    pub(crate) const CONTEXT_1: u8 = 0xa1;
    pub(crate) const CONTEXT_2: u8 = 0xa2;
    pub(crate) const CONTEXT_3: u8 = 0xa3;
    pub(crate) const PRIMITIVE_1: u8 = 0x81;
    pub(crate) const PRIMITIVE_2: u8 = 0x82;
}

/// One element: its tag, its content, and all of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Element<'a> {
    pub(crate) tag: u8,
    pub(crate) content: &'a [u8],
    pub(crate) whole: &'a [u8],
}

/// Reads elements front to back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Der<'a> {
    left: &'a [u8],
}

impl<'a> Der<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { left: bytes }
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.left.is_empty()
    }

    /// The tag of the next element, if there is one.
    pub(crate) fn peek(&self) -> Option<u8> {
        self.left.first().copied()
    }

    /// The next element, whatever its tag.
    pub(crate) fn any(&mut self) -> Result<Element<'a>, NotDer> {
        let (&tag, rest) = self.left.split_first().ok_or(NotDer)?;
        // Tag numbers above 30 take more octets; no structure read here has one.
        if tag & 0x1f == 0x1f {
            return Err(NotDer);
        }
        let (&first, rest) = rest.split_first().ok_or(NotDer)?;
        let (length, rest) = if first < 0x80 { (usize::from(first), rest) } else { long_length(first, rest)? };
        let (content, after) = rest.split_at_checked(length).ok_or(NotDer)?;
        let taken = self.left.len().checked_sub(after.len()).ok_or(NotDer)?;
        let whole = self.left.get(..taken).ok_or(NotDer)?;
        self.left = after;
        Ok(Element { tag, content, whole })
    }

    /// The next element, which has this tag.
    pub(crate) fn element(&mut self, tag: u8) -> Result<Element<'a>, NotDer> {
        self.any().and_then(|element| if element.tag == tag { Ok(element) } else { Err(NotDer) })
    }

    /// The content of the next element, which has this tag.
    pub(crate) fn content(&mut self, tag: u8) -> Result<&'a [u8], NotDer> {
        self.element(tag).map(|element| element.content)
    }

    /// A reader of the next element's content, which has this tag.
    pub(crate) fn inner(&mut self, tag: u8) -> Result<Self, NotDer> {
        self.content(tag).map(Self::new)
    }

    /// A reader of the next element's content where that has this tag, nothing where it has another.
    pub(crate) fn optional(&mut self, tag: u8) -> Result<Option<Self>, NotDer> {
        if self.peek() == Some(tag) { self.inner(tag).map(Some) } else { Ok(None) }
    }

    /// A BIT STRING of whole octets.
    pub(crate) fn octet_bits(&mut self) -> Result<&'a [u8], NotDer> {
        match self.content(tag::BIT_STRING)?.split_first() {
            Some((0, octets)) => Ok(octets),
            Some(_) | None => Err(NotDer),
        }
    }

    /// A non-negative INTEGER of at most 64 bits, in its shortest form.
    pub(crate) fn u64(&mut self) -> Result<u64, NotDer> {
        integer_u64(self.content(tag::INTEGER)?)
    }

    /// A BOOLEAN: DER knows 00 and FF only (X.690, 11.1).
    pub(crate) fn boolean(&mut self) -> Result<bool, NotDer> {
        match self.content(tag::BOOLEAN)? {
            [0x00] => Ok(false),
            [0xff] => Ok(true),
            _ => Err(NotDer),
        }
    }

    /// Ends the reading: nothing may be left.
    pub(crate) const fn finish(self) -> Result<(), NotDer> {
        if self.left.is_empty() { Ok(()) } else { Err(NotDer) }
    }
}

/// The content of a non-negative INTEGER.
pub(crate) fn integer_u64(content: &[u8]) -> Result<u64, NotDer> {
    let magnitude = match content {
        [0, next, ..] if *next < 0x80 => return Err(NotDer),
        [0, rest @ ..] if !rest.is_empty() => rest,
        [first, ..] if 0x80 <= *first => return Err(NotDer),
        [] => return Err(NotDer),
        whole => whole,
    };
    if 8 < magnitude.len() {
        return Err(NotDer);
    }
    Ok(magnitude.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// The long form of a length: as few octets as possible (X.690, 10.1).
fn long_length(first: u8, rest: &[u8]) -> Result<(usize, &[u8]), NotDer> {
    let count = usize::from(first & 0x7f);
    // 80 is the indefinite form; four octets reach further than any size limit here.
    if !(1..=4).contains(&count) {
        return Err(NotDer);
    }
    let (octets, rest) = rest.split_at_checked(count).ok_or(NotDer)?;
    if octets.first() == Some(&0) {
        return Err(NotDer);
    }
    let length = octets.iter().fold(0_usize, |length, octet| length << 8 | usize::from(*octet));
    if length < 0x80 { Err(NotDer) } else { Ok((length, rest)) }
}

#[cfg(test)]
mod tests {
    use super::{Der, NotDer, integer_u64, tag};

    #[test]
    fn lengths_are_minimal_and_bounded() {
        let content = |bytes: &'static [u8]| Der::new(bytes).content(tag::OCTET_STRING);
        assert_eq!(content(&[4, 2, 7, 8]), Ok(&[7, 8][..]));
        assert_eq!(content(&[4, 3, 7, 8]), Err(NotDer), "longer than what is there");
        assert_eq!(content(&[4, 0x81, 2, 7, 8]), Err(NotDer), "long form of a short length");
        assert_eq!(content(&[4, 0x80, 7, 8, 0, 0]), Err(NotDer), "indefinite form");
        assert_eq!(content(&[4, 0x82, 0, 0x80]), Err(NotDer), "leading zero in the length");
        assert_eq!(content(&[0x1f, 1, 0]), Err(NotDer), "a long tag");
        assert_eq!(content(&[]), Err(NotDer));
    }

    #[test]
    fn integers_and_booleans_have_one_form() {
        assert_eq!(integer_u64(&[0]), Ok(0));
        assert_eq!(integer_u64(&[0, 0xdb]), Ok(0xdb));
        assert_eq!(integer_u64(&[0, 0x7b]), Err(NotDer), "superfluous zero");
        assert_eq!(integer_u64(&[0xdb]), Err(NotDer), "negative");
        assert_eq!(integer_u64(&[]), Err(NotDer));
        assert_eq!(integer_u64(&[0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), Ok(u64::MAX));
        assert_eq!(integer_u64(&[1, 0, 0, 0, 0, 0, 0, 0, 0]), Err(NotDer));
        assert_eq!(Der::new(&[1, 1, 1]).boolean(), Err(NotDer));
        assert_eq!(Der::new(&[1, 1, 0xff]).boolean(), Ok(true));
    }
}
