//! The certificate table that a host hands its SEV-SNP guest beside a report (GHCB specification 2.03, 4.1.8.1).
//! The host is not trusted: every offset is checked against the blob.

use countersign_attestation::reader::Reader;

/// Entries looked at; hosts carry up to six kinds of certificate.
const ENTRIES_MAX: usize = 64;

/// Which key signed a report (KEY_INFO.SIGNING_KEY, SNP ABI 1.58, table 23).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vek {
    /// Versioned Chip Endorsement Key.
    Vcek,
    /// Versioned Loaded Endorsement Key.
    Vlek,
}

impl Vek {
    /// The GUID of the key's certificate, in the byte order of RFC 4122 as AMD's tools write it.
    const fn guid(self) -> [u8; 16] {
        match self {
            // 63da758d-e664-4564-adc5-f4b93be8accd
            Self::Vcek => *b"\x63\xda\x75\x8d\xe6\x64\x45\x64\xad\xc5\xf4\xb9\x3b\xe8\xac\xcd",
            // a8074bc2-a25a-483e-aae6-39c045a0b8a1
            Self::Vlek => *b"\xa8\x07\x4b\xc2\xa2\x5a\x48\x3e\xaa\xe6\x39\xc0\x45\xa0\xb8\xa1",
        }
    }
}

/// What a table says about one certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// The certificate's bytes.
    Found(&'a [u8]),
    /// The table is whole and does not name it. Hosts may hand over an empty table.
    Absent,
    /// The table points outside itself, does not end, or names the certificate twice.
    Malformed(&'static str),
}

/// Looks for the certificate of `vek` in `table`.
#[must_use]
pub fn certificate(table: &[u8], vek: Vek) -> Entry<'_> {
    if table.is_empty() {
        return Entry::Absent;
    }
    let mut reader = Reader::new(table);
    let mut found = Entry::Absent;
    for _ in 0..ENTRIES_MAX {
        let (Ok(guid), Ok(offset), Ok(length)) = (reader.array::<16>(), reader.u32_le(), reader.u32_le()) else {
            return Entry::Malformed("the table ends without its closing entry");
        };
        if guid == [0; 16] {
            return found;
        }
        let range = usize::try_from(offset).ok().zip(usize::try_from(length).ok());
        let bytes = range.and_then(|(start, count)| table.get(start..)?.get(..count));
        let Some(bytes) = bytes else { return Entry::Malformed("an entry points outside the table") };
        if guid == vek.guid() {
            if found != Entry::Absent {
                return Entry::Malformed("two certificates of one kind");
            }
            found = Entry::Found(bytes);
        }
    }
    Entry::Malformed("more entries than there are kinds of certificate")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::{Entry, Vek, certificate};

    /// A table with these certificates.
    pub(crate) fn table(entries: &[([u8; 16], &[u8])]) -> Vec<u8> {
        let mut offset = 24 * (entries.len() + 1);
        let (mut head, mut body) = (Vec::new(), Vec::new());
        for (guid, bytes) in entries {
            head.extend_from_slice(guid);
            head.extend_from_slice(&u32::try_from(offset).unwrap().to_le_bytes());
            head.extend_from_slice(&u32::try_from(bytes.len()).unwrap().to_le_bytes());
            body.extend_from_slice(bytes);
            offset += bytes.len();
        }
        head.extend_from_slice(&[0; 24]);
        [head, body].concat()
    }

    #[test]
    fn the_certificate_of_the_signing_key_is_found() {
        let both = table(&[([9; 16], b"ark"), (Vek::Vcek.guid(), b"vcek"), (Vek::Vlek.guid(), b"vlek")]);
        assert_eq!(certificate(&both, Vek::Vcek), Entry::Found(b"vcek"));
        assert_eq!(certificate(&both, Vek::Vlek), Entry::Found(b"vlek"));
        assert_eq!(certificate(&table(&[([9; 16], b"ark")]), Vek::Vcek), Entry::Absent);
        assert_eq!(certificate(&table(&[]), Vek::Vcek), Entry::Absent);
        assert_eq!(certificate(&[], Vek::Vcek), Entry::Absent);
    }

    #[test]
    fn a_hostile_table_is_refused() {
        let good = table(&[(Vek::Vcek.guid(), b"vcek")]);
        let outside = "an entry points outside the table";
        let mut long = good.clone();
        long[20..24].copy_from_slice(&5_u32.to_le_bytes());
        assert_eq!(certificate(&long, Vek::Vcek), Entry::Malformed(outside));
        let mut far = good.clone();
        far[16..20].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(certificate(&far, Vek::Vlek), Entry::Malformed(outside));
        assert_eq!(certificate(&good[..24], Vek::Vlek), Entry::Malformed(outside));
        let open = [&good[..24], &[1]].concat();
        let open = [&open[..16], &[0; 8], &open[24..]].concat();
        let unclosed = "the table ends without its closing entry";
        assert_eq!(certificate(&open, Vek::Vlek), Entry::Malformed(unclosed));
        let twice = table(&[(Vek::Vcek.guid(), b"one"), (Vek::Vcek.guid(), b"two")]);
        assert_eq!(certificate(&twice, Vek::Vcek), Entry::Malformed("two certificates of one kind"));
        let endless = vec![1_u8; 16].into_iter().chain([0; 8]).collect::<Vec<_>>().repeat(65);
        let many = "more entries than there are kinds of certificate";
        assert_eq!(certificate(&endless, Vek::Vcek), Entry::Malformed(many));
    }
}
