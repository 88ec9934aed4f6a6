//! What an event leaves to be done for a flow, once the event or the batch is over.

/// See the [module's documentation](self).
#[derive(Debug, Default)]
pub struct Due {
    /// The guest is to get an acknowledgement.
    pub ack: bool,
    /// The guest is to get a SYN or SYN-ACK.
    pub syn: bool,
    /// The guest's closed window is to be probed.
    pub probe: bool,
    /// The flow is to be removed.
    pub end: Option<End>,
}

/// Why a flow is to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Both directions ended in order.
    Closed,
    /// The guest reset it: the host's peer gets a reset.
    ByGuest,
    /// The host's side failed: the guest gets a reset.
    ByHost,
    /// Neither wanted it, or there is no room for it: both get a reset.
    Both,
}

impl Due {
    /// True if the guest is to get something other than data.
    pub fn is_for_guest(&self) -> bool {
        self.ack || self.syn || self.probe
    }
}
