//! Encodes and decodes the envelopes of requests and answers.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::{Method, ResponseError, fields};
use crate::proto::{Request, Response};

/// The tag of [`Response::error`].
const ERROR: u32 = 6;
/// Most bytes of errors.
const MAX_ERROR_BYTES: usize = 256 * 1024;

/// The current time, in ms since the Unix epoch.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn nonce() -> String {
    Uuid::new_v4().to_string()
}

/// Encodes a request; also returns the nonce that its answer must repeat.
pub(crate) fn request(method: Method, data: Bytes) -> (Bytes, String) {
    let nonce = nonce();
    let request =
        Request { created_at: now_ms(), nonce: nonce.clone(), data, method: method.name().to_owned() };
    (request.encode_to_vec().into(), nonce)
}

/// Encodes an answer to the request with that nonce, which is empty if the request could not be decoded.
pub(crate) fn response(request_nonce: String, result: Result<Bytes, ResponseError>) -> Bytes {
    let (data, error) = match result {
        Ok(data) => (data, None),
        Err(e) => (Bytes::new(), Some(e.into())),
    };
    let (created_at, has_error) = (now_ms(), error.is_some());
    Response { created_at, request_nonce, nonce: nonce(), data, has_error, error }.encode_to_vec().into()
}

/// Decodes an answer; the outer error is for a malformed one.
pub(crate) fn open(answer: Bytes, nonce: &str) -> Result<Result<Bytes, ResponseError>, String> {
    read(answer, nonce).map(Response::into_result)
}

/// Decodes an answer with its envelope, and makes `has_error` and the error agree.
pub(crate) fn read(answer: Bytes, nonce: &str) -> Result<Response, String> {
    let mut error_bytes = 0;
    fields::each(answer.clone(), |tag, value| {
        if tag == ERROR {
            error_bytes += value.len();
        }
    })
    .ok_or("it has too many fields")?;
    if error_bytes > MAX_ERROR_BYTES {
        return Err(format!("its error has more than {MAX_ERROR_BYTES} bytes"));
    }
    let mut response = Response::decode(answer).map_err(|e| e.to_string())?;
    if response.has_error || response.error.is_some() {
        // Its nonce is not compared: a peer that could not decode the request does not know it.
        response.has_error = true;
        response.error.get_or_insert_default();
        return Ok(response);
    }
    if response.request_nonce != nonce {
        return Err(format!("it is for the request {:.64}", response.request_nonce));
    }
    Ok(response)
}

impl Response {
    pub(crate) fn into_result(self) -> Result<Bytes, ResponseError> {
        match self.error {
            Some(error) => Err(error.into()),
            None => Ok(self.data),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn answers_with_too_many_fields_are_not_decoded() {
        let answer = response("n".into(), Ok(vec![0x12; 1 << 20].into()));
        assert_eq!(read(answer.clone(), "n").map(|read| read.data.len()), Ok(1 << 20));
        let junk =
            |junk: &[u8], count| read([&junk.repeat(count), &*answer].concat().into(), "n").unwrap_err();
        assert!(junk(&[0x12, 0], fields::MAX_FIELDS).contains("too many fields"));
        // An empty error that is repeated, and one with many fields.
        assert!(junk(&[0x32, 0], fields::MAX_FIELDS).contains("too many fields"));
        let large = ResponseError::server("x".repeat(MAX_ERROR_BYTES));
        assert!(read(response("n".into(), Err(large)), "n").unwrap_err().contains("its error has more than"));
        let small = ResponseError::server("x".repeat(1000));
        assert!(read(response("n".into(), Err(small)), "n").is_ok_and(|read| read.has_error));
    }
}
