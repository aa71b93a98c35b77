//! Events of a worker, converted to and from the wire.

use std::sync::Arc;

use bytes::Bytes;
use prb_core::{
    primitives::{Hash, ParaNumber},
    worker::{Command, Event, EventKind, Operation, State},
};

use super::{bounded_text, millis, time, worker};
use crate::proto::detail::{self as wire, EventKind as Kind};

pub(super) fn encode(event: &Event) -> wire::Event {
    let mut message = encode_kind(&event.kind);
    (message.number, message.at_ms) = (event.number, millis(event.at));
    message
}

fn empty(kind: Kind) -> wire::Event {
    wire::Event { kind: kind.into(), ..wire::Event::default() }
}

fn encode_kind(kind: &EventKind) -> wire::Event {
    match kind {
        EventKind::State { before, after, reason, message } => wire::Event {
            before: before.to_string(),
            after: after.to_string(),
            subject: (*reason).to_owned(),
            text: bounded_text(message),
            ..empty(Kind::State)
        },
        EventKind::Commanded(command) => {
            wire::Event { subject: command.to_string(), ..empty(Kind::Commanded) }
        }
        EventKind::Edited => empty(Kind::Edited),
        EventKind::Initialised => empty(Kind::Initialised),
        EventKind::LostState => empty(Kind::LostState),
        EventKind::KeyChanged { last, now } => {
            wire::Event { before: hex::encode(last), after: hex::encode(now), ..empty(Kind::KeyChanged) }
        }
        EventKind::Goal { before, after } => wire::Event {
            before: worker::goal_name(*before),
            after: worker::goal_name(*after),
            ..empty(Kind::Goal)
        },
        EventKind::OperationSent { operation } => {
            wire::Event { subject: (*operation).to_owned(), ..empty(Kind::OperationSent) }
        }
        EventKind::OperationWithdrawn { operation } => {
            wire::Event { subject: (*operation).to_owned(), ..empty(Kind::OperationWithdrawn) }
        }
        EventKind::OperationDone { operation, block, extrinsic } => wire::Event {
            subject: (*operation).to_owned(),
            block: Some(block.0),
            extrinsic: extrinsic.map(|hash| Bytes::copy_from_slice(&hash.0)).unwrap_or_default(),
            ..empty(Kind::OperationDone)
        },
        EventKind::OperationFailed { operation, error } => wire::Event {
            subject: (*operation).to_owned(),
            text: bounded_text(error),
            ..empty(Kind::OperationFailed)
        },
        EventKind::Checkpoint(Ok(block)) => wire::Event { block: Some(block.0), ..empty(Kind::Checkpoint) },
        EventKind::Checkpoint(Err(error)) => {
            wire::Event { text: bounded_text(error), ..empty(Kind::Checkpoint) }
        }
        EventKind::Stalled => empty(Kind::Stalled),
        EventKind::Panicked { text } => wire::Event { text: bounded_text(text), ..empty(Kind::Panicked) },
        // Readers skip it, as they do kinds added by later versions.
        _ => empty(Kind::Unknown),
    }
}

/// Returns `None` if the kind, or a name in it, is unknown to this version.
pub(super) fn read(message: &wire::Event) -> Option<Event> {
    let text = || Arc::<str>::from(bounded_text(&message.text));
    let kind = match message.kind() {
        Kind::Unknown => return None,
        Kind::State => EventKind::State {
            before: state(&message.before)?,
            after: state(&message.after)?,
            reason: worker::reason(&message.subject)?,
            message: text(),
        },
        Kind::Commanded => {
            EventKind::Commanded(Command::ALL.into_iter().find(|known| known.as_str() == message.subject)?)
        }
        Kind::Edited => EventKind::Edited,
        Kind::Initialised => EventKind::Initialised,
        Kind::LostState => EventKind::LostState,
        Kind::KeyChanged => {
            EventKind::KeyChanged { last: message.before.parse().ok()?, now: message.after.parse().ok()? }
        }
        Kind::Goal => {
            EventKind::Goal { before: worker::goal(&message.before)?, after: worker::goal(&message.after)? }
        }
        Kind::OperationSent => EventKind::OperationSent { operation: operation(message)? },
        Kind::OperationWithdrawn => EventKind::OperationWithdrawn { operation: operation(message)? },
        Kind::OperationDone => EventKind::OperationDone {
            operation: operation(message)?,
            block: ParaNumber(message.block?),
            extrinsic: message.extrinsic.as_ref().try_into().ok().map(Hash),
        },
        Kind::OperationFailed => EventKind::OperationFailed { operation: operation(message)?, error: text() },
        Kind::Checkpoint => EventKind::Checkpoint(message.block.map(ParaNumber).ok_or_else(text)),
        Kind::Stalled => EventKind::Stalled,
        Kind::Panicked => EventKind::Panicked { text: text() },
    };
    Some(Event::new(message.number, time(message.at_ms), kind))
}

fn state(name: &str) -> Option<State> {
    State::ALL.into_iter().find(|known| known.as_str() == name)
}

fn operation(message: &wire::Event) -> Option<&'static str> {
    Operation::NAMES.into_iter().find(|known| *known == message.subject)
}
