//! Serde helpers for values without a portable representation.

/// SCALE values as hexadecimal text.
pub(crate) mod scale_hex {
    use codec::{DecodeAll, Encode};
    use serde::{Deserializer, Serializer, de::Error};

    pub(crate) fn serialize<T: Encode, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
        hex::serde::serialize(value.encode(), serializer)
    }

    pub(crate) fn deserialize<'de, T: DecodeAll, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let bytes: Vec<u8> = hex::serde::deserialize(deserializer)?;
        T::decode_all(&mut &*bytes).map_err(D::Error::custom)
    }
}

/// Amounts as decimal strings: many formats have no 128-bit integers, and JavaScript rounds above 2^53.
pub(crate) mod decimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::primitives::Balance;

    pub(crate) fn serialize<S: Serializer>(amount: &Balance, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(amount)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Balance, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Optional amounts as decimal strings.
pub(crate) mod decimal_option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::primitives::Balance;

    #[expect(clippy::ref_option, reason = "the signature that serde requires")]
    pub(crate) fn serialize<S: Serializer>(amount: &Option<Balance>, to: S) -> Result<S::Ok, S::Error> {
        match amount {
            Some(amount) => to.collect_str(amount),
            None => to.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Balance>, D::Error> {
        let text = Option::<String>::deserialize(from)?;
        text.map(|text| text.parse().map_err(D::Error::custom)).transpose()
    }
}
