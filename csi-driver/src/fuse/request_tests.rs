use proptest::prelude::*;

use super::*;

fn request(code: u32, unique: u64, body: &[u8]) -> Vec<u8> {
    let header = abi::InHeader {
        len: (size_of::<abi::InHeader>() + body.len()) as u32,
        opcode: code,
        unique,
        nodeid: 7,
        uid: 1,
        gid: 2,
        pid: 3,
        total_extlen: 0,
        padding: 0,
    };
    let mut bytes = bytemuck::bytes_of(&header).to_vec();
    bytes.extend_from_slice(body);
    bytes
}

/// Reads everything a request borrows, so that a wrong length is met here and not later.
fn walk(operation: &Operation<'_>) -> usize {
    match operation {
        Operation::BatchForget { items } => {
            items.map(|(node, count)| (node ^ count) as usize % 2).sum()
        }
        Operation::Write { data, .. } => data.iter().map(|b| usize::from(*b)).sum(),
        Operation::SetXattr { name, value, .. } => name.len() + value.len(),
        Operation::Rename { name, new_name, .. } => name.len() + new_name.len(),
        other => other.name().len(),
    }
}

#[test]
fn a_rename_with_flags_is_decoded() {
    let mut body = bytemuck::bytes_of(&abi::Rename2In {
        newdir: 9,
        flags: 2,
        padding: 0,
    })
    .to_vec();
    body.extend_from_slice(b"old\0new name\0");
    let bytes = request(opcode::RENAME2, 12, &body);
    let request = decode(&bytes).unwrap();
    assert_eq!(
        (request.unique, request.resent, request.node),
        (12, false, 7)
    );
    let Operation::Rename {
        new_parent,
        flags,
        name,
        new_name,
    } = request.operation
    else {
        panic!("not a rename")
    };
    assert_eq!(
        (new_parent, flags, name, new_name),
        (9, 2, &b"old"[..], &b"new name"[..])
    );
}

#[test]
fn the_resend_bit_is_taken_out_of_the_unique_and_put_into_the_reply() {
    let bytes = request(opcode::GETATTR, 34 | abi::UNIQUE_RESEND, &[0; 16]);
    let request = decode(&bytes).unwrap();
    assert_eq!((request.unique, request.resent), (34, true));
    assert_eq!(request.reply_unique(), 34 | abi::UNIQUE_RESEND);
}

#[test]
fn a_write_that_claims_more_than_it_carries_is_refused_with_its_unique() {
    let fixed = abi::WriteIn {
        fh: 0,
        offset: 0,
        size: 5,
        write_flags: 0,
        lock_owner: 0,
        flags: 0,
        padding: 0,
    };
    let mut body = bytemuck::bytes_of(&fixed).to_vec();
    body.extend_from_slice(b"four");
    let error = decode(&request(opcode::WRITE, 8, &body)).unwrap_err();
    assert_eq!(error.unique, Some(8));
}

#[test]
fn a_cut_off_forget_is_not_answered() {
    assert_eq!(
        decode(&request(opcode::FORGET, 8, &[0; 4]))
            .unwrap_err()
            .unique,
        None
    );
}

#[test]
fn extensions_are_cut_off_and_not_taken_for_names() {
    let mut bytes = request(opcode::LOOKUP, 8, b"abc");
    bytes[36..38].copy_from_slice(&1u16.to_ne_bytes());
    bytes.extend_from_slice(&[0; 8]);
    let length = bytes.len() as u32;
    bytes[..4].copy_from_slice(&length.to_ne_bytes());
    assert_eq!(decode(&bytes).unwrap_err().reason, "a name has no end");
}

#[test]
fn init_flags_of_both_halves_are_joined() {
    let mut body = bytemuck::bytes_of(&abi::InitIn {
        major: 7,
        minor: 45,
        max_readahead: 1,
        flags: abi::init::INIT_EXT as u32,
    })
    .to_vec();
    body.extend_from_slice(&(1u32 << 7).to_ne_bytes());
    body.extend_from_slice(&[0; 44]);
    let bytes = request(opcode::INIT, 2, &body);
    let Operation::Init { flags, .. } = decode(&bytes).unwrap().operation else {
        panic!("not an init")
    };
    assert_eq!(flags, abi::init::INIT_EXT | abi::init::HAS_RESEND);
}

proptest! {
    #[test]
    fn any_bytes_are_decoded_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(request) = decode(&bytes) {
            walk(&request.operation);
        }
    }

    #[test]
    fn any_body_of_any_opcode_is_decoded_or_refused(
        code in 0u32..60, unique: u64, extensions in 0u16..6, lie in -9i32..9, body in proptest::collection::vec(any::<u8>(), 0..300),
    ) {
        let mut bytes = request(code, unique, &body);
        let length = (bytes.len() as i32 + if lie > 3 { lie } else { 0 }) as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[36..38].copy_from_slice(&extensions.to_ne_bytes());
        match decode(&bytes) {
            Ok(request) => {
                prop_assert_eq!(request.reply_unique(), unique);
                walk(&request.operation);
            }
            Err(error) => prop_assert!(error.unique.is_none_or(|u| u == unique)),
        }
    }
}
