//! How fields are read from JSON where serde's own reading would be too lax or too strict.
//!
//! The functions are named by the attributes that `build.rs` puts on the generated fields.

use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

use super::{BATCH_ITEMS_MAX, JSON_INTEGER_MAX};

/// A message, which in JSON is an object and nothing else: serde's derive would also take an
/// array with the fields in order.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(fields)).map(Object)
            }
        }

        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// An optional message; `null` is absent.
pub(crate) fn object<'de, T, D>(deserializer: D) -> Result<Option<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    let found = Option::<Object<T>>::deserialize(deserializer)?;
    Ok(found.map(|Object(message)| message))
}

/// A list of messages; `null` is empty.
pub(crate) fn objects<'de, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    list(deserializer, |Object(message)| message)
}

/// A list of integers of at most [`JSON_INTEGER_MAX`]; `null` is empty.
pub(crate) fn integers<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u64>, D::Error> {
    struct Integer(u64);

    impl<'de> Deserialize<'de> for Integer {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            exact(u64::deserialize(deserializer)?).map(Integer)
        }
    }

    list(deserializer, |Integer(value)| value)
}

/// A list; `null` is empty. One more than [`BATCH_ITEMS_MAX`] is kept, so that validation sees
/// the excess while a hostile list cannot fill the memory.
fn list<'de, E, T, D>(deserializer: D, take: fn(E) -> T) -> Result<Vec<T>, D::Error>
where
    E: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct ListVisitor<E, T>(fn(E) -> T);

    impl<'de, E: Deserialize<'de>, T> Visitor<'de> for ListVisitor<E, T> {
        type Value = Vec<T>;

        fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
            out.write_str("an array")
        }

        fn visit_unit<F: Error>(self) -> Result<Self::Value, F> {
            Ok(Vec::new())
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut entries: A) -> Result<Self::Value, A::Error> {
            let mut list = Vec::new();
            while list.len() <= BATCH_ITEMS_MAX {
                match entries.next_element::<E>()? {
                    Some(entry) => list.push((self.0)(entry)),
                    None => return Ok(list),
                }
            }
            while entries.next_element::<serde::de::IgnoredAny>()?.is_some() {}
            Ok(list)
        }
    }

    deserializer.deserialize_any(ListVisitor(take))
}

/// A plain field; `null` is its zero value.
pub(crate) fn or_default<'de, T, D>(deserializer: D) -> Result<T, D::Error>
where
    T: Deserialize<'de> + Default,
    D: Deserializer<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// An integer of at most [`JSON_INTEGER_MAX`]; `null` is 0.
pub(crate) fn integer<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    Ok(integer_option(deserializer)?.unwrap_or(0))
}

/// An optional integer of at most [`JSON_INTEGER_MAX`]; `null` is absent.
pub(crate) fn integer_option<'de, D>(deserializer: D) -> Result<Option<u64>, D::Error>
where
    D: Deserializer<'de>,
{
    Option::<u64>::deserialize(deserializer)?
        .map(exact)
        .transpose()
}

fn exact<E: Error>(value: u64) -> Result<u64, E> {
    if value > JSON_INTEGER_MAX {
        return Err(E::custom(format_args!(
            "integer `{value}` is above {JSON_INTEGER_MAX}, the largest that JSON carries exactly"
        )));
    }
    Ok(value)
}

/// Bytes as padded base64 in the standard alphabet; `null` is empty.
pub(crate) mod base64 {
    use std::fmt;

    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use bytes::Bytes;
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub(crate) fn serialize<S: Serializer>(
        bytes: &Bytes,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(bytes))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Bytes, D::Error> {
        struct Base64Visitor;

        impl<'de> Visitor<'de> for Base64Visitor {
            type Value = Bytes;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a string of padded base64")
            }

            fn visit_none<E: Error>(self) -> Result<Bytes, E> {
                Ok(Bytes::new())
            }

            fn visit_unit<E: Error>(self) -> Result<Bytes, E> {
                Ok(Bytes::new())
            }

            fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<Bytes, D::Error> {
                inner.deserialize_str(self)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Bytes, E> {
                match STANDARD.decode(text) {
                    Ok(bytes) => Ok(Bytes::from(bytes)),
                    Err(error) => Err(E::custom(format_args!("not padded base64: {error}"))),
                }
            }
        }

        deserializer.deserialize_option(Base64Visitor)
    }
}

/// Times as RFC 3339, written in UTC with as many fractional digits as it takes (0, 3, 6 or 9),
/// read with any offset.
pub(crate) mod timestamp {
    use prost_types::Timestamp;
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;

    /// 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z: what RFC 3339 and protobuf can both say.
    const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

    pub(crate) fn serialize<S>(time: &Option<Timestamp>, serializer: S) -> Result<S::Ok, S::Error>
    where
        S: Serializer,
    {
        match time {
            Some(time) => serializer.collect_str(time),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D>(deserializer: D) -> Result<Option<Timestamp>, D::Error>
    where
        D: Deserializer<'de>,
    {
        let Some(text) = Option::<String>::deserialize(deserializer)? else {
            return Ok(None);
        };
        let parsed = parse(&text);
        parsed.map(Some).ok_or_else(|| {
            D::Error::custom(format_args!(
                "`{}` is not an RFC 3339 time such as 2026-01-31T12:00:00Z",
                text.chars().take(64).collect::<String>()
            ))
        })
    }

    /// prost-types also takes bare dates and times without an offset; RFC 3339 does not.
    fn parse(text: &str) -> Option<Timestamp> {
        const SHORTEST: usize = "2026-01-31T12:00:00Z".len();
        let bytes = text.as_bytes();
        let zoned = bytes.len() >= SHORTEST
            && (bytes.ends_with(b"Z")
                || bytes.ends_with(b"z")
                || matches!(bytes[bytes.len() - 6], b'+' | b'-'));
        let time: Timestamp = text.parse().ok().filter(|_| zoned)?;
        SECONDS.contains(&time.seconds).then_some(time)
    }
}
