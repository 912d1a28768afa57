//! Words: settings that are one of a few.

use serde::Deserializer;
use serde::de::value::Error as WordError;
use serde::de::{Deserialize as _, DeserializeOwned, Error as _, IntoDeserializer as _};

/// Reads one of several words. Which there are stands in the error; `config` by itself doesn't say them.
pub(super) fn word<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    let text = String::deserialize(deserializer)?;
    T::deserialize(text.into_deserializer()).map_err(|error: WordError| D::Error::custom(error))
}
