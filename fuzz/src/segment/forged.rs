//! Segments whose checksums are right and whose fields need not be. The layout
//! is told here once more, independent of the log's own code, as the log's
//! format documents it.

use arbitrary::{Result, Unstructured};

use omnirelay_wal::FORMAT_VERSION;

use super::{Files, OPTIONS, SECTOR, name};

const HEADER_PAGE: usize = 4096;
const HEADER_COPY: usize = 2048;
const HEADER_CRC_AT: usize = 48;

/// A few segments, mostly as a log would have them.
pub(super) fn files(u: &mut Unstructured<'_>) -> Result<Files> {
    let mut files = Files::new();
    let mut next_batch = 1;
    for nth in 1..=u.int_in_range(1..=4)? {
        let number = odd(u, nth)?.max(1);
        let contents = segment(u, number, &mut next_batch)?;
        files.insert(name(number), contents);
        if u.is_empty() {
            break;
        }
    }
    Ok(files)
}

/// Mostly what is expected.
fn odd<'a, T: arbitrary::Arbitrary<'a>>(u: &mut Unstructured<'a>, expected: T) -> Result<T> {
    match u.arbitrary::<u8>()? >= 240 {
        true => u.arbitrary(),
        false => Ok(expected),
    }
}

fn segment(u: &mut Unstructured<'_>, number: u32, next_batch: &mut u64) -> Result<Vec<u8>> {
    // Segments that begin with a batch again are common after crashes.
    if u.arbitrary::<u8>()? % 4 == 3 {
        *next_batch = next_batch.saturating_sub(1).max(1);
    }
    let generation: u64 = odd(u, 77)?;
    let mut header = vec![0; SECTOR];
    header[..8].copy_from_slice(b"ORSEGMNT");
    header[8..12].copy_from_slice(&odd(u, FORMAT_VERSION)?.to_le_bytes());
    header[12..14].copy_from_slice(&odd(u, OPTIONS.log)?.to_le_bytes());
    header[16..20].copy_from_slice(&odd(u, number)?.to_le_bytes());
    header[24..32].copy_from_slice(&generation.to_le_bytes());
    header[32..40].copy_from_slice(&odd(u, *next_batch)?.to_le_bytes());
    header[14..16].copy_from_slice(&odd(u, 0_u16)?.to_le_bytes());
    header[20..24].copy_from_slice(&odd(u, 0_u32)?.to_le_bytes());
    header[40..48].copy_from_slice(&odd(u, 1_u64)?.to_le_bytes());
    let crc = crc32c::crc32c(&header[..HEADER_CRC_AT]);
    header[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());

    let mut file = vec![0; HEADER_PAGE];
    let copies: u8 = u.arbitrary()?;
    if copies % 8 != 6 {
        file[..SECTOR].copy_from_slice(&header);
    }
    if copies % 8 != 7 {
        file[HEADER_COPY..HEADER_COPY + SECTOR].copy_from_slice(&header);
    }
    if copies == 255 {
        file[HEADER_COPY] ^= 1;
    }
    let seed = crc32c::crc32c(&generation.to_le_bytes());
    let seed = crc32c::crc32c_append(seed, &number.to_le_bytes());
    for _ in 0..u.int_in_range(0..=5)? {
        batch(u, seed, next_batch, &mut file)?;
    }
    let end = file.len();
    match u.arbitrary::<u8>()? % 4 {
        0 => {}
        1 => file.truncate(u.int_in_range(0..=end)?),
        _ => file.resize(end + usize::from(u.arbitrary::<u16>()?), 0),
    }
    Ok(file)
}

fn batch(
    u: &mut Unstructured<'_>,
    seed: u32,
    next_batch: &mut u64,
    file: &mut Vec<u8>,
) -> Result<()> {
    let shape: u8 = u.arbitrary()?;
    if shape >= 250 {
        // A hole.
        file.resize(file.len() + SECTOR, 0);
    }
    let mut payload = Vec::new();
    let mut records: u32 = 0;
    if shape % 8 == 7 {
        payload = u.arbitrary::<&[u8]>()?.to_vec();
        records = u.arbitrary()?;
    } else {
        // None makes the marker of a clean end.
        for _ in 0..(shape % 8) {
            record(u, &mut payload)?;
            records += 1;
        }
    }
    let payload_crc = crc32c::crc32c_append(seed, &payload);
    let mut header = [0; 32];
    header[..4].copy_from_slice(b"ORBT");
    let payload_bytes = u32::try_from(payload.len()).expect("a short payload");
    header[4..8].copy_from_slice(&odd(u, payload_bytes)?.to_le_bytes());
    header[8..16].copy_from_slice(&odd(u, *next_batch)?.to_le_bytes());
    header[16..20].copy_from_slice(&odd(u, records)?.to_le_bytes());
    header[20..24].copy_from_slice(&odd(u, payload_crc)?.to_le_bytes());
    let crc = crc32c::crc32c_append(seed, &header[..24]);
    header[24..28].copy_from_slice(&odd(u, crc)?.to_le_bytes());
    file.extend_from_slice(&header);
    file.extend_from_slice(&payload);
    file.resize(file.len().next_multiple_of(SECTOR), 0);
    *next_batch += 1;
    Ok(())
}

fn record(u: &mut Unstructured<'_>, payload: &mut Vec<u8>) -> Result<()> {
    if u.arbitrary::<u8>()? >= 240 {
        return floor(u, payload);
    }
    let body_bytes = u32::from(u.arbitrary::<u8>()?);
    let fields: [u8; 25] = u.arbitrary()?;
    payload.extend_from_slice(&odd(u, body_bytes)?.to_le_bytes());
    payload.extend_from_slice(&fields);
    payload.resize(payload.len() + body_bytes as usize, fields[0]);
    Ok(())
}

/// The log's own record, of the first segment that is needed.
fn floor(u: &mut Unstructured<'_>, payload: &mut Vec<u8>) -> Result<()> {
    payload.extend_from_slice(&12_u32.to_le_bytes());
    payload.push(odd(u, 1)?);
    payload.extend_from_slice(&u32::MAX.to_le_bytes());
    payload.extend_from_slice(&[0; 20]);
    let segment: u8 = u.int_in_range(0..=4)?;
    payload.extend_from_slice(&odd(u, u32::from(segment))?.to_le_bytes());
    let first_batch: u8 = u.int_in_range(1..=8)?;
    payload.extend_from_slice(&odd(u, u64::from(first_batch))?.to_le_bytes());
    Ok(())
}
