//! Objects as YAML, for people and for files.

use serde::Serialize;

/// Writes a value as one YAML document, in the order of its fields, without a document marker. Texts that another reader
/// could take for something else (`yes`, `1e3`) are quoted.
///
/// # Errors
/// When the value cannot be said in YAML, which the types of this crate always can.
pub fn to_string<T: Serialize>(value: &T) -> Result<String, String> {
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(value, options).map_err(|error| error.to_string())
}
