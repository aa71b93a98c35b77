//! Encodes and decodes the envelopes of requests and answers.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use prost::Message;
use uuid::Uuid;

use super::{Method, ResponseError};
use crate::proto::{Request, Response};

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
