//! The job's JSON as bee-queue 1.4 stores it in the hash `jobs`, its events, and our additional fields.

use std::borrow::Cow;

use prb_core::queue::{
    JobFailure, JobOutcome,
    admin::{Step, push_step},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, value::RawValue};

/// Maximum number of error texts that a job's JSON keeps, and of characters in each.
const MAX_STACKTRACES: usize = 8;
const MAX_STACKTRACE_CHARS: usize = 4096;

/// A job's JSON. Unknown fields survive in `data` and `options`.
#[derive(Debug)]
pub(super) struct Record {
    /// Never changed, and large; kept undecoded.
    pub(super) data: Box<RawValue>,
    pub(super) tail: Tail,
}

/// The fields of a job's JSON that change.
#[derive(Clone, Debug)]
pub(super) struct Tail {
    options: Box<RawValue>,
    known: Known,
    status: Cow<'static, str>,
    pub(super) progress: Value,
    /// Extension: the outcome, if one of our traders carried the job out.
    pub(super) outcome: Option<JobOutcome>,
    /// Extension: its states so far.
    pub(super) history: Vec<Step>,
}

/// The options that this crate knows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Known {
    timestamp: Value,
    retries: Value,
    stacktraces: Value,
}

#[derive(Deserialize)]
struct Read {
    data: Box<RawValue>,
    options: Option<Box<RawValue>>,
    #[serde(default)]
    status: String,
    #[serde(default)]
    progress: Value,
    #[serde(default)]
    outcome: Option<JobOutcome>,
    #[serde(default)]
    history: Vec<Step>,
}

#[derive(Serialize)]
struct Written<'a> {
    data: &'a RawValue,
    options: &'a RawValue,
    status: &'a str,
    progress: &'a Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<&'a JobOutcome>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    history: &'a [Step],
}

impl Record {
    /// A new job.
    pub(super) fn new(data: Box<RawValue>, retries: u32, now_ms: u64) -> Result<Self, serde_json::Error> {
        let known = Known { timestamp: now_ms.into(), retries: retries.into(), stacktraces: Value::Null };
        let retries = if retries > 0 { format!(r#""retries":{retries},"#) } else { String::new() };
        let options = format!(r#"{{{retries}"stacktraces":[],"timestamp":{now_ms}}}"#);
        let tail = Tail {
            options: RawValue::from_string(options)?,
            known,
            status: "created".into(),
            progress: 0.into(),
            outcome: None,
            history: Vec::new(),
        };
        Ok(Self { data, tail })
    }

    pub(super) fn read(json: &[u8]) -> Result<Self, serde_json::Error> {
        let Read { data, options, status, progress, outcome, history } = serde_json::from_slice(json)?;
        let options = match options {
            Some(options) => options,
            None => RawValue::from_string("{}".into())?,
        };
        let known = serde_json::from_str(options.get())?;
        let status = status.into();
        Ok(Self { data, tail: Tail { options, known, status, progress, outcome, history } })
    }

    /// Returns the JSON with another tail.
    pub(super) fn write(&self, tail: &Tail) -> Result<String, serde_json::Error> {
        let Tail { options, status, progress, outcome, history, .. } = tail;
        serde_json::to_string(&Written {
            data: &self.data,
            options,
            status,
            progress,
            outcome: outcome.as_ref(),
            history,
        })
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().or_else(|| value.as_f64().map(|f| f as u64)).unwrap_or_default()
}

impl Tail {
    pub(super) fn retries(&self) -> u32 {
        u32::try_from(number(&self.known.retries)).unwrap_or(u32::MAX)
    }

    pub(super) fn created_ms(&self) -> u64 {
        number(&self.known.timestamp)
    }

    /// The newest error text.
    pub(super) fn error(&self) -> Option<&str> {
        self.known.stacktraces.as_array()?.first()?.as_str()
    }

    /// Whether any program has taken it before.
    pub(super) fn is_used(&self) -> bool {
        self.status != "created" || self.error().is_some()
    }

    /// Whether it has failed: then it was put back by hand.
    pub(super) fn is_failed(&self) -> bool {
        self.status == "failed"
    }

    /// Whether it has succeeded.
    pub(super) fn is_done(&self) -> bool {
        self.status == "succeeded"
    }

    pub(super) fn step(&mut self, step: Step) {
        push_step(&mut self.history, step);
    }

    pub(super) fn succeed(&mut self, outcome: JobOutcome) {
        self.status = "succeeded".into();
        self.progress = "RP_FINISHED".into();
        self.outcome = Some(outcome);
    }

    /// Records a failure; with `retry` it uses up one retry.
    pub(super) fn fail(&mut self, message: &str, retry: bool) -> Result<(), serde_json::Error> {
        let text: String = message.chars().take(MAX_STACKTRACE_CHARS).collect();
        let known = &mut self.known;
        if known.stacktraces.is_null() {
            known.stacktraces = Value::Array(Vec::new());
        }
        if let Value::Array(traces) = &mut known.stacktraces {
            // bee-queue's order: the newest first.
            traces.insert(0, text.into());
            traces.truncate(MAX_STACKTRACES);
        }
        // Through a map, so that options of other programs, which this crate does not know, survive.
        let mut options: Map<String, Value> = serde_json::from_str(self.options.get())?;
        options.insert("stacktraces".into(), known.stacktraces.clone());
        self.outcome = None;
        if retry {
            known.retries = number(&known.retries).saturating_sub(1).into();
            options.insert("retries".into(), known.retries.clone());
            self.status = "retrying".into();
            self.progress = "RP_SHOULD_RETRY".into();
        } else {
            self.status = "failed".into();
            self.progress = "RP_FAILED".into();
        }
        self.options = serde_json::value::to_raw_value(&options)?;
        Ok(())
    }

    /// Returns the outcome of an ended job: `None` if the program that ended it does not report its calls.
    pub(super) fn outcome(&self, succeeded: bool) -> Option<Result<JobOutcome, JobFailure>> {
        if succeeded {
            return self.outcome.clone().map(Ok);
        }
        let error = self.error().unwrap_or("its worker reported no reason");
        Some(Err(JobFailure { message: first_line(error).to_owned() }))
    }
}

/// Strips the stack from a JavaScript error.
fn first_line(text: &str) -> &str {
    match text.split_once("\n    at ") {
        Some((message, _)) => message.strip_prefix("Error: ").unwrap_or(message),
        None => text,
    }
}

/// A message of the channel `events`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Event<'a, D> {
    #[serde(borrow)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) event: Cow<'a, str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) data: Option<D>,
    /// Extension: the submitter's own id for the job.
    #[serde(borrow, default, skip_serializing_if = "Option::is_none")]
    pub(super) mark: Option<Cow<'a, str>>,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn record(json: &str) -> Record {
        Record::read(json.as_bytes()).unwrap()
    }

    #[test]
    fn new_job_has_bee_queues_format() {
        let data = RawValue::from_string(r#"{"action":"X","payload":{}}"#.into()).unwrap();
        let record = Record::new(data, 3, 1_700_000_000_000).unwrap();
        assert_eq!(
            record.write(&record.tail).unwrap(),
            r#"{"data":{"action":"X","payload":{}},"options":{"retries":3,"stacktraces":[],"timestamp":1700000000000},"status":"created","progress":0}"#
        );
    }

    #[test]
    fn unknown_fields_are_preserved() {
        let record = record(
            r#"{"data":{"big":123456789012345678901234567890,"x":[]},"options":{"timestamp":1,"stacktraces":[],"retries":1,"backoff":{"strategy":"fixed","delay":5}},"status":"created"}"#,
        );
        let mut tail = record.tail.clone();
        assert_eq!((tail.retries(), tail.is_used()), (1, false));
        tail.fail("first", true).unwrap();
        assert_eq!((tail.retries(), tail.is_used(), tail.error()), (0, true, Some("first")));
        tail.fail("second", false).unwrap();
        let text = record.write(&tail).unwrap();
        assert!(text.starts_with(r#"{"data":{"big":123456789012345678901234567890,"x":[]},"#), "{text}");
        let json: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(json["options"]["backoff"]["strategy"], "fixed");
        assert_eq!(json["options"]["stacktraces"], serde_json::json!(["second", "first"]));
        assert_eq!(json["status"], "failed");
    }

    #[test]
    fn outcomes_are_decoded() {
        let stack = r#"{"data":0,"options":{"stacktraces":["Error: no\n    at x (y.js:1)"]}}"#;
        assert_eq!(record(stack).tail.outcome(false), Some(Err(JobFailure { message: "no".into() })));
        let none = record(r#"{"data":0}"#).tail.outcome(false).unwrap().unwrap_err();
        assert_eq!(none.message, "its worker reported no reason");
        assert_eq!(record(r#"{"data":0}"#).tail.outcome(true), None, "the original reports no calls");
    }
}
