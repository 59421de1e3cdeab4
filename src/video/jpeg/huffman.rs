//! Huffman tables (ITU-T T.81, annex C and F.2.2) and what is read with them.
//!
//! A code of a coefficient is followed by the bits of its value. Where both together are short, one look
//! into a table gives the value. A table is built anew only when a frame brings another one. Pure.

use super::Damage;
use super::bits::Bits;

/// How many bits are looked up at once: nine of ten coefficients of a camera's frame fit.
const LOOKUP_BITS: u32 = 10;

/// Longest code, in bits.
const LONGEST: usize = 16;

/// Longest code with its value, in bits.
const LONGEST_READ: u32 = 16 + LARGEST_SIZE as u32;

/// Largest size of a value, in bits: of a difference of means, which is the largest.
const LARGEST_SIZE: u8 = 11;

/// What is read in one go.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Coded {
    /// Of a mean, the difference to the one before.
    pub(super) value: i16,
    /// How many coefficients further it is, from 1; [`END_OF_BLOCK`] where there are no more.
    pub(super) advance: u8,
    /// How many bits it takes. Zero: they have to be looked for.
    bits: u8,
}

/// An advance beyond every block.
pub(super) const END_OF_BLOCK: u8 = 64;

/// One table.
#[derive(Debug)]
pub(super) struct Table {
    counts: [u8; LONGEST],
    /// As many as there are codes.
    values: Vec<u8>,
    lookup: [Coded; 1 << LOOKUP_BITS],
    /// For each length: where codes of it end, as the first 16 bits.
    ends: [u32; LONGEST],
    /// For each length: what is added to a code to find its value.
    offsets: [i32; LONGEST],
}

impl Table {
    /// Creates a table without codes.
    pub(super) fn new() -> Self {
        Self {
            counts: [0; LONGEST],
            values: Vec::with_capacity(256),
            lookup: [Coded::default(); 1 << LOOKUP_BITS],
            ends: [0; LONGEST],
            offsets: [0; LONGEST],
        }
    }

    /// Brings the table to these codes: how many there are of each length, and their values.
    ///
    /// # Errors
    ///
    /// [`Damage::Malformed`], where there are more codes than there can be.
    pub(super) fn set(&mut self, counts: &[u8; LONGEST], values: &[u8]) -> Result<(), Damage> {
        if self.counts == *counts && self.values == values {
            return Ok(());
        }
        // Should something be wrong, the next frame is to find out again.
        self.values.clear();
        self.lookup.fill(Coded::default());
        let mut rest = values;
        let mut code = 0_u32;
        let mut index = 0_i32;
        let lengths = (1_u8..).zip(counts);
        for ((length, count), (end, offset)) in
            lengths.zip(self.ends.iter_mut().zip(&mut self.offsets))
        {
            let (these, others) = rest
                .split_at_checked(usize::from(*count))
                .ok_or(Damage::Malformed)?;
            rest = others;
            *offset = index - code.cast_signed();
            for value in these {
                if code >> length != 0 {
                    return Err(Damage::Malformed);
                }
                fill(&mut self.lookup, code, length, *value);
                code += 1;
                index += 1;
            }
            *end = code << (16 - length);
            code <<= 1;
        }
        self.counts = *counts;
        self.values.extend_from_slice(values);
        Ok(())
    }

    /// Reads one value; `None` where there is no such code, or none that a picture of eight bits has.
    #[inline]
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Option<Coded> {
        bits.refill();
        let at = usize::try_from(bits.peek(LOOKUP_BITS)).unwrap_or_default();
        let mut found = self.lookup.get(at).copied().unwrap_or_default();
        if found.bits == 0 {
            found = self.find(bits.peek(LONGEST_READ))?;
        }
        bits.skip(found.bits.into());
        Some(found)
    }

    /// Finds what the next bits stand for, length by length.
    #[inline(never)]
    fn find(&self, next: u64) -> Option<Coded> {
        let code = u32::try_from(next >> (LONGEST_READ - 16)).unwrap_or_default();
        let lengths = (1_u8..).zip(self.ends.iter().zip(&self.offsets));
        let mut fitting = lengths.filter(|(_, (end, _))| code < **end);
        let (length, (_, offset)) = fitting.next()?;
        let index = (code >> (16 - length)).cast_signed() + offset;
        let symbol = *self.values.get(usize::try_from(index).ok()?)?;
        let (run, size) = (symbol >> 4, symbol & 15);
        if size == 0 {
            return no_value(run, length);
        }
        if size > LARGEST_SIZE {
            return None;
        }
        let behind = next >> (LONGEST_READ - u32::from(length + size));
        Some(Coded {
            value: extended(behind, size),
            advance: run + 1,
            bits: length + size,
        })
    }
}

/// Enters a code wherever the next bits start with it, as far as they tell its value.
fn fill(lookup: &mut [Coded], code: u32, length: u8, symbol: u8) {
    let (run, size) = (symbol >> 4, symbol & 15);
    let Some(spare) = LOOKUP_BITS.checked_sub(length.into()) else {
        return;
    };
    let Some(unused) = spare.checked_sub(size.into()) else {
        return;
    };
    let first = usize::try_from(code << spare).unwrap_or_default();
    let entries = lookup.iter_mut().skip(first).take(1 << spare);
    for (behind, entry) in (0_u64..).zip(entries) {
        *entry = if size == 0 {
            no_value(run, length).unwrap_or_default()
        } else {
            Coded {
                value: extended(behind >> unused, size),
                advance: run + 1,
                bits: length + size,
            }
        };
    }
}

/// What a symbol without a value means: the end, sixteen zeros, or nothing that sequential pictures have.
/// Of a mean, the first says that it is the one before.
const fn no_value(run: u8, bits: u8) -> Option<Coded> {
    let advance = match run {
        0 => END_OF_BLOCK,
        15 => 16,
        _ => return None,
    };
    Some(Coded {
        value: 0,
        advance,
        bits,
    })
}

/// Returns the value that the last `size` of `bits` stand for (F.2.2.1).
fn extended(bits: u64, size: u8) -> i16 {
    let bits = i16::try_from(bits & ((1 << size) - 1)).unwrap_or_default();
    if bits < 1 << (size - 1) {
        bits - (1 << size) + 1
    } else {
        bits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Codes 0, 10, 110, … and, of sixteen bits, one more, with the values as given.
    fn ladder(values: [u8; 17]) -> Table {
        let mut counts = [1; LONGEST];
        counts[15] = 2;
        let mut table = Table::new();
        table.set(&counts, &values).unwrap();
        table
    }

    /// Reads what `text` says in zeros and ones; returns how many it took, too.
    fn read(table: &Table, text: &str) -> Option<(i16, u8, usize)> {
        let mut bytes = [0; 16];
        for (at, digit) in text.bytes().enumerate() {
            bytes[at / 8] |= (digit - b'0') << (7 - at % 8);
        }
        let mut bits = Bits::new(&bytes);
        let before = bits.left().unwrap();
        let coded = table.read(&mut bits)?;
        Some((coded.value, coded.advance, before - bits.left().unwrap()))
    }

    #[test]
    fn short_and_long_codes_give_the_same_values() {
        // Three bits of value, after a run of two, at every length of code.
        let table = ladder([0x23; 17]);
        for ones in 0..16 {
            let code = "1".repeat(ones) + "0";
            for (bits, value) in [("000", -7), ("011", -4), ("100", 4), ("111", 7)] {
                let text = code.clone() + bits + "1101";
                assert_eq!(read(&table, &text), Some((value, 3, ones + 4)), "{text}");
            }
        }
    }

    #[test]
    fn symbols_without_a_value_are_the_end_or_sixteen_zeros() {
        for code in ["0", "1111111111110"] {
            let table = |symbol| ladder([symbol; 17]);
            let length = code.len();
            assert_eq!(read(&table(0x00), code), Some((0, END_OF_BLOCK, length)));
            assert_eq!(read(&table(0xf0), code), Some((0, 16, length)));
            assert_eq!(read(&table(0x50), code), None, "progressive alone has it");
            assert_eq!(read(&table(0x0c), code), None, "too large");
        }
    }

    #[test]
    fn a_code_that_is_not_there_is_no_value() {
        let mut table = Table::new();
        assert_eq!(read(&table, "0000"), None);
        let mut counts = [0; LONGEST];
        counts[1] = 3;
        table.set(&counts, &[1, 2, 3]).unwrap();
        assert_eq!(read(&table, "10000"), Some((-7, 1, 5)));
        assert_eq!(read(&table, "11"), None);
    }

    #[test]
    fn more_codes_than_there_can_be_are_damage() {
        let mut table = ladder([1; 17]);
        let mut counts = [0; LONGEST];
        counts[0] = 3;
        assert_eq!(table.set(&counts, &[1, 2, 3]), Err(Damage::Malformed));
        counts[0] = 2;
        assert_eq!(table.set(&counts, &[1]), Err(Damage::Malformed));
        assert_eq!(table.set(&counts, &[1, 2]), Ok(()));
        assert_eq!(read(&table, "110"), Some((2, 1, 3)));
        counts = [255; LONGEST];
        assert_eq!(table.set(&counts, &[0; 4_080]), Err(Damage::Malformed));
    }
}
