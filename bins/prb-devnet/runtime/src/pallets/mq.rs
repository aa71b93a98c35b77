//! `PhalaMq`: the message queue between chain and workers.

pub use pallet::*;

/// Receives the messages that came from off the chain.
pub trait OnMessage {
    /// Handles one message; unknown topics are left alone.
    fn on_message(message: &crate::types::Message);
}

/// Tells whether a destination is the topic, with or without the caret of on-chain topics.
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
    use sp_core::sr25519;

    use super::OnMessage;
    use crate::types::{Message, MessageOrigin, SYSTEM_EVENT_TOPIC, SignedMessage, SystemEvent};

    /// Configuration.
    #[pallet::config]
    pub trait Config: frame_system::Config<RuntimeEvent: From<Event<Self>>> {
        /// Who receives the workers' messages.
        type Handler: OnMessage;
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The next sequence wanted of each sender.
    #[pallet::storage]
    pub type OffchainIngress<T> = StorageMap<_, Twox64Concat, MessageOrigin, u64>;

    /// This block's messages to the workers.
    #[pallet::storage]
    pub type OutboundMessages<T> = StorageValue<_, Vec<Message>, ValueQuery>;

    /// Events.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A message from off the chain took its place in the sender's sequence.
        MessageDelivered {
            /// The sender.
            sender: MessageOrigin,
            /// The message's place.
            sequence: u64,
        },
    }

    /// Errors.
    #[pallet::error]
    pub enum Error<T> {
        /// The sequence is not the one wanted.
        BadSequence,
        /// The sender is not one from off the chain.
        BadSender,
        /// The signature is not the sender's.
        InvalidSignature,
    }

    #[pallet::hooks]
    impl<T: Config> Hooks<BlockNumberFor<T>> for Pallet<T> {
        fn on_initialize(_: BlockNumberFor<T>) -> Weight {
            OutboundMessages::<T>::kill();
            Weight::zero()
        }
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Delivers a worker's message; anybody may carry it.
        #[pallet::call_index(0)]
        #[pallet::weight(Weight::from_parts(100_000_000, 0))]
        pub fn sync_offchain_message(origin: OriginFor<T>, signed_message: SignedMessage) -> DispatchResult {
            ensure_signed(origin)?;
            let SignedMessage { message, sequence, signature } = signed_message;
            ensure!(message.sender.is_offchain(), Error::<T>::BadSender);
            let expected = OffchainIngress::<T>::get(&message.sender).unwrap_or(0);
            ensure!(sequence == expected, Error::<T>::BadSequence);
            let bytes = SignedMessage::signed_bytes(&message, sequence);
            ensure!(signed_by(&message.sender, &signature, &bytes), Error::<T>::InvalidSignature);
            OffchainIngress::<T>::insert(&message.sender, expected.saturating_add(1));
            Self::deposit_event(Event::MessageDelivered { sender: message.sender.clone(), sequence });
            T::Handler::on_message(&message);
            if !message.destination.starts_with(b"^") {
                OutboundMessages::<T>::append(message);
            }
            Ok(())
        }
    }

    fn signed_by(sender: &MessageOrigin, signature: &[u8], bytes: &[u8]) -> bool {
        let MessageOrigin::Worker(key) = sender else { return false };
        let Ok(signature) = sr25519::Signature::try_from(signature) else { return false };
        sp_io::crypto::sr25519_verify(&signature, bytes, key)
    }

    impl<T: Config> Pallet<T> {
        /// Queues a system event of a pallet for the workers.
        pub fn push_system_event(pallet: &[u8], event: SystemEvent) {
            OutboundMessages::<T>::append(Message {
                sender: MessageOrigin::Pallet(pallet.to_vec()),
                destination: SYSTEM_EVENT_TOPIC.to_vec(),
                payload: event.encode(),
            });
        }
    }
}
