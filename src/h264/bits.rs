//! Bits of a raw byte sequence payload: fixed-length and Exp-Golomb codes (ITU-T H.264 §9.1),
//! and the emulation prevention bytes around it (§7.4.1). Pure.

/// Removes the emulation prevention bytes: `00 00 03` → `00 00`.
#[must_use]
pub fn unescape(nal_unit: &[u8]) -> Vec<u8> {
    let mut rbsp = Vec::with_capacity(nal_unit.len());
    let mut zeros = 0;
    for &byte in nal_unit {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        rbsp.push(byte);
    }
    rbsp
}

/// Inserts emulation prevention bytes, so that no start code appears inside a NAL unit.
#[must_use]
pub fn escape(rbsp: &[u8]) -> Vec<u8> {
    let mut nal_unit = Vec::with_capacity(rbsp.len() + 4);
    let mut zeros = 0;
    for &byte in rbsp {
        if zeros >= 2 && byte <= 3 {
            nal_unit.push(3);
            zeros = 0;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        nal_unit.push(byte);
    }
    nal_unit
}

/// Reads bits, most significant first. Every read past the end is `None`.
#[derive(Clone, Debug)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> BitReader<'a> {
    /// Starts at the first bit of `bytes`, which hold no emulation prevention.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Returns how many bits were read.
    #[must_use]
    pub const fn position(&self) -> usize {
        self.position
    }

    /// Reads one bit: `u(1)`.
    pub fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.position / 8)?;
        let bit = byte >> (7 - self.position % 8) & 1;
        self.position += 1;
        Some(bit == 1)
    }

    /// Reads `count` bits, at most 32: `u(n)`.
    pub fn bits(&mut self, count: u32) -> Option<u32> {
        let mut value = 0;
        for _ in 0..count {
            value = value << 1 | u32::from(self.flag()?);
        }
        Some(value)
    }

    /// Reads an unsigned Exp-Golomb code: `ue(v)`. `None` also where it exceeds 32 bits.
    pub fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        let suffix = self.bits(zeros)?;
        Some((1_u32 << zeros) - 1 + suffix)
    }

    /// Reads a signed Exp-Golomb code: `se(v)`.
    pub fn se(&mut self) -> Option<i64> {
        let code = i64::from(self.ue()?);
        Some(if code % 2 == 0 {
            -code / 2
        } else {
            (code + 1) / 2
        })
    }
}

/// Writes bits, most significant first.
#[derive(Clone, Debug, Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    used: usize,
}

impl BitWriter {
    /// Starts with nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            used: 0,
        }
    }

    /// Writes one bit.
    pub fn flag(&mut self, bit: bool) {
        if self.used.is_multiple_of(8) {
            self.bytes.push(0);
        }
        if bit && let Some(last) = self.bytes.last_mut() {
            *last |= 0x80 >> (self.used % 8);
        }
        self.used += 1;
    }

    /// Writes an unsigned Exp-Golomb code. `value` is below 2³²−1.
    pub fn ue(&mut self, value: u32) {
        let code = u64::from(value) + 1;
        let length = 64 - code.leading_zeros();
        for _ in 1..length {
            self.flag(false);
        }
        for bit in (0..length).rev() {
            self.flag(code >> bit & 1 == 1);
        }
    }

    /// Writes the stop bit and pads to a byte: `rbsp_trailing_bits` (§7.3.2.11).
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.flag(true);
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_survive_a_round_trip() {
        let values = [0, 1, 2, 3, 7, 8, 254, 255, 65_535, u32::MAX - 1];
        let mut writer = BitWriter::new();
        for v in values {
            writer.ue(v);
        }
        let bytes = writer.finish();
        let mut reader = BitReader::new(&bytes);
        for v in values {
            assert_eq!(reader.ue(), Some(v));
        }
    }

    #[test]
    fn signed_codes_alternate_around_zero() {
        // 1 010 011 00100 00101: the first five code words of Table 9-3.
        let mut reader = BitReader::new(&[0b1010_0110, 0b0100_0010, 0b1000_0000]);
        let values: Vec<_> = (0..5).map(|_| reader.se()).collect();
        assert_eq!(values, [Some(0), Some(1), Some(-1), Some(2), Some(-2)]);
    }

    #[test]
    fn reading_past_the_end_is_no_value() {
        assert_eq!(BitReader::new(&[]).flag(), None);
        assert_eq!(BitReader::new(&[0, 0, 0, 0, 0, 0]).ue(), None);
        assert_eq!(BitReader::new(&[0xff]).bits(9), None);
    }

    #[test]
    fn emulation_prevention_survives_a_round_trip() {
        let rbsp = [0, 0, 0, 0, 0, 1, 0, 0, 2, 0, 0, 3, 0, 0, 4];
        let escaped = escape(&rbsp);
        assert!(
            !escaped
                .windows(3)
                .any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3)
        );
        assert_eq!(unescape(&escaped), rbsp);
    }
}
