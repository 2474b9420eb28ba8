//! Mutations that a seed reproduces.

/// SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub struct Seeded(u64);

impl Seeded {
    /// The sequence of this seed.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The next number below `limit`; 0 where that is 0.
    pub const fn below(&mut self, limit: usize) -> usize {
        if limit == 0 { 0 } else { (self.number() % limit as u64) as usize }
    }
}

/// What a mutation does, for the message of a failure.
pub type Mutation = String;

/// One small change somewhere: a bit, a byte, a field of 2 or 4 bytes, bytes cut out, added, doubled or exchanged.
pub fn mutate(bytes: &[u8], seed: &mut Seeded) -> (Vec<u8>, Mutation) {
    let mut changed = bytes.to_vec();
    let at = seed.below(bytes.len());
    let what = match seed.below(10) {
        0..=3 => {
            let bit = seed.below(8);
            changed[at] ^= 1 << bit;
            format!("bit {bit} of byte {at}")
        }
        4 => {
            let value = [0, 1, 0x7f, 0x80, 0xff][seed.below(5)];
            changed[at] = value;
            format!("byte {at} is {value:#x}")
        }
        5 => {
            let value = [0, 1, 5, 6, 0xffff, 0x7fff_ffff, 0xffff_ffff_u32][seed.below(7)];
            let size = [2, 4][seed.below(2)].min(bytes.len() - at);
            changed[at..at + size].copy_from_slice(&value.to_le_bytes()[..size]);
            format!("{size} bytes at {at} are {value:#x}")
        }
        6 => {
            changed.truncate(at);
            format!("cut at {at}")
        }
        7 => {
            let size = seed.below(64).min(bytes.len() - at);
            changed.drain(at..at + size);
            format!("{size} bytes at {at} are gone")
        }
        8 => {
            let tail: Vec<u8> = (0..=seed.below(16)).map(|_| (seed.number() & 0xff) as u8).collect();
            let place = if seed.below(2) == 0 { bytes.len() } else { at };
            changed.splice(place..place, tail.iter().copied());
            format!("{} bytes added at {place}", tail.len())
        }
        _ => {
            let other = seed.below(bytes.len());
            changed.swap(at, other);
            format!("bytes {at} and {other} exchanged")
        }
    };
    (changed, what)
}
