//! `PhalaMq`: the message queue between chain and workers.

mod sequence;

pub use pallet::*;
pub use sequence::CheckMqSequence;

/// Receives off-chain messages.
pub trait OnMessage {
    /// Handles a message; unknown topics are ignored.
    fn on_message(message: &crate::types::Message);
}

/// Verifies senders' signatures.
pub trait CheckSignature {
    /// Checks a message's signature.
    ///
    /// # Errors
    /// The sender has no key, or the signature is not its own.
    fn check_signature(message: &crate::types::SignedMessage) -> sp_runtime::DispatchResult;
}

/// Whether a destination is the topic, with or without the caret of on-chain topics.
#[must_use]
pub fn is_topic(destination: &[u8], topic: &[u8]) -> bool {
    let bare = |bytes: &[u8]| bytes.strip_prefix(b"^").unwrap_or(bytes).to_vec();
    bare(destination) == bare(topic)
}

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use codec::Encode;
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;

    use super::{CheckSignature, OnMessage};
    use crate::{
        pallets::weight,
        types::{Message, MessageOrigin, SYSTEM_EVENT_TOPIC, SignedMessage, SystemEvent},
    };

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> + weight::Config {
        /// Receives the workers' messages.
        type Handler: OnMessage;
        /// Verifies senders' signatures.
        type Signatures: CheckSignature;
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The next expected sequence number of each sender.
    #[pallet::storage]
    pub type OffchainIngress<T> = StorageMap<_, Twox64Concat, MessageOrigin, u64>;

    /// This block's messages to the workers.
    #[pallet::storage]
    pub type OutboundMessages<T> = StorageValue<_, Vec<Message>, ValueQuery>;

    /// Events.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// An off-chain message was accepted in its sender's sequence. Only on the devnet.
        #[codec(index = 100)]
        MessageDelivered {
            /// The sender.
            sender: MessageOrigin,
            /// The message's sequence number.
            sequence: u64,
        },
    }

    /// Errors, with the indexes of the real pallet. A wrong signature is an error of the registry.
    #[pallet::error]
    pub enum Error<T> {
        /// The sender is not an off-chain one.
        BadSender,
        /// The sequence number is not the next one.
        BadSequence,
        /// The destination is empty.
        BadDestination,
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(_: BlockNumberFor<T>) -> Weight {
            // Workers read the messages of each block from its storage changes: those of the last one are not repeated.
            OutboundMessages::<T>::kill();
            Weight::zero()
        }
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Delivers a worker's message; any account may submit it.
        #[pallet::call_index(0)]
        #[pallet::weight(weight::OFFCHAIN_MESSAGE)]
        pub fn sync_offchain_message(origin: OriginFor<T>, signed_message: SignedMessage) -> DispatchResult {
            ensure_signed(origin)?;
            let sender = &signed_message.message.sender;
            ensure!(sender.is_offchain(), Error::<T>::BadSender);
            ensure!(!signed_message.message.destination.is_empty(), Error::<T>::BadDestination);
            let expected = OffchainIngress::<T>::get(sender).unwrap_or(0);
            // Before the signature, as in the real pallet, so that a message with both faults fails with the
            // same error.
            ensure!(signed_message.sequence == expected, Error::<T>::BadSequence);
            T::Signatures::check_signature(&signed_message)?;
            let SignedMessage { message, sequence, .. } = signed_message;
            OffchainIngress::<T>::insert(&message.sender, expected.saturating_add(1));
            Self::deposit_event(Event::MessageDelivered { sender: message.sender.clone(), sequence });
            T::Handler::on_message(&message);
            // On-chain topics, with a caret, are not for the workers.
            if !message.destination.starts_with(b"^") {
                OutboundMessages::<T>::append(message);
            }
            Ok(())
        }
    }

    impl<T: Config> Pallet<T> {
        /// Queues a pallet's system event for the workers.
        pub fn push_system_event(pallet: &[u8], event: SystemEvent) {
            OutboundMessages::<T>::append(Message {
                sender: MessageOrigin::Pallet(pallet.to_vec()),
                destination: SYSTEM_EVENT_TOPIC.to_vec(),
                payload: event.encode(),
            });
        }
    }
}
